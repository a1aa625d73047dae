"""Decisions: pure, default deny, and no way over a tenant's border."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smcp.access import policy
from smcp.kernel import ids
from support import roles

TENANTS = [ids.PLATFORM, *(ids.tenant(name) for name in ("acme", "acme-2", "umbra"))]

tenants = st.sampled_from(TENANTS)
role_sets = st.lists(st.sampled_from(policy.Role), max_size=4).map(tuple)
principals = st.builds(policy.Principal, tenant=tenants, id=st.just("key-1"), kind=st.just("api_key"), roles=role_sets)
resources = st.builds(policy.Resource, tenant=tenants, kind=st.text(max_size=8), name=st.text(max_size=8))
actions = st.sampled_from(policy.Action)


@pytest.mark.requirement("access:policy:golden")
def test_the_role_table_is_the_one_that_was_reviewed() -> None:
    assert roles.table() == roles.GOLDEN.read_text(encoding="utf-8")


@pytest.mark.requirement("access:policy:border")
@given(principal=principals, action=actions, resource=resources)
def test_only_an_operator_of_the_platform_reaches_another_tenant(
    principal: policy.Principal, action: policy.Action, resource: policy.Resource
) -> None:
    operator = principal.tenant == ids.PLATFORM and policy.Role.OPERATOR in principal.roles
    if principal.tenant != resource.tenant and not operator:
        assert policy.decide(principal, action, resource) is policy.Decision.CONCEAL


@pytest.mark.requirement("access:policy:operator-outside")
@given(principal=principals.filter(lambda p: p.tenant != ids.PLATFORM), action=actions, resource=resources)
def test_the_operator_role_grants_nothing_outside_of_the_platform_tenant(
    principal: policy.Principal, action: policy.Action, resource: policy.Resource
) -> None:
    without = policy.Principal(
        principal.tenant,
        principal.id,
        principal.kind,
        tuple(role for role in principal.roles if role is not policy.Role.OPERATOR),
    )
    assert policy.decide(principal, action, resource) == policy.decide(without, action, resource)


@pytest.mark.requirement("access:policy:operator-tools")
@given(resource=resources)
def test_an_operator_does_not_use_or_read_what_a_tenant_hosts(resource: policy.Resource) -> None:
    operator = policy.Principal(ids.PLATFORM, "key-1", "api_key", (policy.Role.OPERATOR,))
    for action in (policy.Action.MCP_CALL, policy.Action.MCP_CONNECT, policy.Action.MCP_LIST, policy.Action.MCP_READ):
        assert policy.decide(operator, action, resource) is policy.Decision.DENY


@pytest.mark.requirement("access:policy:default-deny")
@given(action=actions, resource=resources, tenant=tenants)
def test_no_role_means_no_access_and_no_knowledge(
    action: policy.Action, resource: policy.Resource, tenant: ids.TenantId
) -> None:
    nobody = policy.Principal(tenant, "key-1", "api_key", ())
    assert policy.decide(nobody, action, resource) is policy.Decision.CONCEAL


@pytest.mark.requirement("access:policy:default-deny")
@given(unknown=st.text(max_size=20).filter(lambda text: text not in set(policy.Role)), action=actions)
def test_a_role_or_an_action_that_is_not_listed_grants_nothing(unknown: str, action: policy.Action) -> None:
    acme = ids.tenant("acme")
    # What a record of a newer or a damaged platform could hold: not of the type, but there at run time.
    odd_role: policy.Role = unknown  # pyright: ignore[reportAssignmentType]
    odd_action: policy.Action = unknown  # pyright: ignore[reportAssignmentType]
    stranger = policy.Principal(acme, "key-1", "api_key", (odd_role,))
    admin = policy.Principal(acme, "key-1", "api_key", (policy.Role.ADMIN,))
    assert policy.decide(stranger, action, policy.Resource(acme, "x")) is policy.Decision.CONCEAL
    if unknown not in set(policy.Action):
        assert policy.decide(admin, odd_action, policy.Resource(acme, "x")) is policy.Decision.DENY


@pytest.mark.requirement("access:policy:monotone")
@given(principal=principals, more=role_sets, action=actions, resource=resources)
def test_another_role_never_takes_a_permission_away(
    principal: policy.Principal, more: tuple[policy.Role, ...], action: policy.Action, resource: policy.Resource
) -> None:
    wider = policy.Principal(principal.tenant, principal.id, principal.kind, (*more, *principal.roles))
    if policy.decide(principal, action, resource) is policy.Decision.ALLOW:
        assert policy.decide(wider, action, resource) is policy.Decision.ALLOW
