"""Who may hand out which role. Pure, as `policy` is.

`policy.decide` says whether somebody may create a credential in a tenant at all; this says how much that credential may
be worth. Nobody hands out more than they could be given: an administrator can't make an operator, a tenant can't
hold one, and the platform tenant holds nothing else.
"""

from collections.abc import Iterable
from typing import Final

from smcp.access import policy
from smcp.kernel import errors, ids

_TENANT_ROLES: Final = frozenset({policy.Role.ADMIN, policy.Role.MCP_USER, policy.Role.READ_ONLY})
_PLATFORM_ROLES: Final = frozenset({policy.Role.OPERATOR})


def possible(tenant: ids.TenantId) -> frozenset[policy.Role]:
    """The roles that a credential of `tenant` can have at all."""
    return _PLATFORM_ROLES if tenant == ids.PLATFORM else _TENANT_ROLES


def grantable(granter: policy.Principal, tenant: ids.TenantId) -> frozenset[policy.Role]:
    """The roles that `granter` may give to a new credential of `tenant`; empty where they may create none."""
    resource = policy.Resource(tenant, "key")
    if policy.decide(granter, policy.Action.KEY_CREATE, resource) is not policy.Decision.ALLOW:
        return frozenset()
    if tenant == ids.PLATFORM and policy.Role.OPERATOR not in granter.roles:
        return frozenset()
    return possible(tenant)


def require(granter: policy.Principal, tenant: ids.TenantId, roles: Iterable[policy.Role]) -> None:
    """Raises `errors.Forbidden` unless `granter` may give every one of `roles` in `tenant`."""
    missing = set(roles) - grantable(granter, tenant)
    if missing:
        names = ", ".join(sorted(missing))
        raise errors.Forbidden(f"You can't give these roles in this tenant: {names}.", detail="grants")
