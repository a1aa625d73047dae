"""Who may hand out which role. Pure, as `policy` is.

`policy.decide` says whether somebody may create a credential in a tenant at all; this says how much that credential may
be worth. Nobody hands out more than they could be given: an administrator can't make an operator, a tenant can't
hold one, and who holds a role of the tenant's own gives, and writes into roles, no more than that.

Neither is what somebody makes wider than the credential that makes it (`within`): else a token for an hour, or a key
for one network, would be worth all that its holder could ever be given.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from smcp.access import addresses, policy, scopes
from smcp.access.actions import Action
from smcp.kernel import errors, ids

_TENANT_ROLES: Final = frozenset({policy.Role.ADMIN, policy.Role.MCP_USER, policy.Role.READ_ONLY})
_PLATFORM_ROLES: Final = frozenset({policy.Role.OPERATOR})


def possible(tenant: ids.TenantId) -> frozenset[policy.Role]:
    """The roles of `policy.Role` that a credential of `tenant` can have at all, beside the tenant's own."""
    return _PLATFORM_ROLES if tenant == ids.PLATFORM else _TENANT_ROLES


def grantable(
    granter: policy.Principal, tenant: ids.TenantId, action: Action = Action.KEY_CREATE
) -> frozenset[policy.Role]:
    """The roles that `granter` may give by `action` to somebody of `tenant`; empty where they may not do it."""
    if not _may(granter, tenant, action):
        return frozenset()
    if _operates(granter):
        return possible(tenant)
    own = _whole(granter, tenant)
    return frozenset(role for role in possible(tenant) if policy.GRANTS[role] <= own)


def require(
    granter: policy.Principal,
    tenant: ids.TenantId,
    roles: Iterable[str],
    rules: Iterable[policy.Rule] = (),
    action: Action = Action.KEY_CREATE,
) -> None:
    """Raises `errors.Forbidden` unless `granter` may give every one of `roles` in `tenant`, by `action`.

    `rules` are what those of the tenant's own give (`identity.roles.Roles.rules`); one without is refused.
    """
    given = {rule.role for rule in rules if _may(granter, tenant, action) and covers(granter, tenant, rule)}
    missing = {str(role) for role in roles} - {str(role) for role in grantable(granter, tenant, action)} - given
    if missing:
        names = ", ".join(sorted(missing))
        raise errors.Forbidden(f"You can't give these roles in this tenant: {names}.", detail="grants")


class Bounds(msgspec.Struct, frozen=True):
    """What narrows a credential, beside its roles. The default is one that nothing narrows: a person's account."""

    scopes: frozenset[str] | None = None
    servers: frozenset[str] | None = None
    networks: tuple[str, ...] = ()


_UNBOUND: Final = Bounds()


def within(
    granter: policy.Principal, roles: Iterable[str], rules: Iterable[policy.Rule], made: Bounds = _UNBOUND
) -> None:
    """Raises `errors.Forbidden` where a credential with `roles` and `made` would be wider than that of `granter`.

    `rules` are what those roles give that are the tenant's own. Of scopes without a limit only those count that the
    roles have a use for. Servers and networks that the granter's credential is bound to bind all that it makes.
    """
    if granter.scopes is not None:
        held = scopes.whole(granter.scopes)
        given = frozenset[Action]().union(
            *(policy.GRANTS[policy.Role(role)] for role in roles if role in set(policy.Role)),
            *(rule.actions for rule in rules),
        )
        wanted = {scopes.NEEDS[action] for action in given} if made.scopes is None else scopes.whole(made.scopes)
        _refuse("scopes", wanted - held)
    if granter.servers is not None:
        _refuse("servers", {"all"} if made.servers is None else made.servers - granter.servers)
    if granter.networks and not addresses.inside(made.networks, granter.networks):
        _refuse("networks", made.networks or {"all"})


def _refuse(what: str, wider: Iterable[str]) -> None:
    names = ", ".join(sorted(wider))
    if names:
        message = f"What your credential makes can't be wider than itself is, in its {what}: {names}."
        raise errors.Forbidden(message, detail="wider")


def covers(granter: policy.Principal, tenant: ids.TenantId, rule: policy.Rule) -> bool:
    """Does `granter` have all that `rule` gives, under conditions no narrower?"""
    if _operates(granter):
        return True
    missing = rule.actions - _whole(granter, tenant)
    return all(
        any(action in own.actions and _no_narrower(own, rule) for own in _own(granter, tenant)) for action in missing
    )


def _no_narrower(own: policy.Rule, rule: policy.Rule) -> bool:
    return (
        (not own.servers or (bool(rule.servers) and rule.servers <= own.servers))
        # Whether one pattern is within another is not worked out: only the same ones count.
        and (not own.tools or (bool(rule.tools) and set(rule.tools) <= set(own.tools)))
        and (rule.read_only or not own.read_only)
    )


def _may(granter: policy.Principal, tenant: ids.TenantId, action: Action) -> bool:
    resource = policy.Resource(tenant, action.value.partition(":")[0])
    return policy.decide(granter, action, resource) is policy.Decision.ALLOW


def _operates(granter: policy.Principal) -> bool:
    return granter.tenant == ids.PLATFORM and policy.Role.OPERATOR in granter.roles


def _own(granter: policy.Principal, tenant: ids.TenantId) -> tuple[policy.Rule, ...]:
    return granter.rules if granter.tenant == tenant else ()


def _whole(granter: policy.Principal, tenant: ids.TenantId) -> frozenset[Action]:
    """What `granter` may do in all of `tenant`, under no condition."""
    found = policy.given(granter, policy.Resource(tenant, "tenant"))
    for rule in _own(granter, tenant):
        if not rule.servers and not rule.some_tools:
            found |= rule.actions
    return found
