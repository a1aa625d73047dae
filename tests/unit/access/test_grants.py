"""Who may hand out which role."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smcp.access import grants, policy
from smcp.kernel import errors, ids

ACME, UMBRA = ids.tenant("acme"), ids.tenant("umbra")
OPERATOR = policy.Principal(ids.PLATFORM, "key-1", "api_key", (policy.Role.OPERATOR,))
ADMIN = policy.Principal(ACME, "key-2", "api_key", (policy.Role.ADMIN,))

tenants = st.sampled_from([ids.PLATFORM, ACME, UMBRA])
role_sets = st.lists(st.sampled_from(policy.Role), max_size=4).map(tuple)
principals = st.builds(policy.Principal, tenant=tenants, id=st.just("key-1"), kind=st.just("api_key"), roles=role_sets)


@pytest.mark.requirement("access:grants:no-escalation")
@given(granter=principals, tenant=tenants)
def test_nobody_but_an_operator_makes_an_operator_or_reaches_another_tenant(
    granter: policy.Principal, tenant: ids.TenantId
) -> None:
    given_away = grants.grantable(granter, tenant)
    operator = granter.tenant == ids.PLATFORM and policy.Role.OPERATOR in granter.roles
    if policy.Role.OPERATOR in given_away:
        assert operator
        assert tenant == ids.PLATFORM
    if given_away and not operator:
        assert granter.tenant == tenant
        assert policy.Role.ADMIN in granter.roles


@pytest.mark.requirement("access:grants:no-escalation")
def test_an_operator_role_exists_in_the_platform_tenant_only() -> None:
    assert grants.grantable(OPERATOR, ids.PLATFORM) == {policy.Role.OPERATOR}
    assert policy.Role.OPERATOR not in grants.grantable(OPERATOR, ACME)
    assert policy.Role.OPERATOR not in grants.grantable(ADMIN, ACME)


@pytest.mark.requirement("access:grants:no-escalation")
def test_roles_that_may_not_be_given_are_refused_by_name() -> None:
    grants.require(ADMIN, ACME, [policy.Role.ADMIN, policy.Role.READ_ONLY])
    with pytest.raises(errors.Forbidden, match="operator"):
        grants.require(ADMIN, ACME, [policy.Role.OPERATOR, policy.Role.MCP_USER])
    with pytest.raises(errors.Forbidden, match="mcp_user"):
        grants.require(ADMIN, UMBRA, [policy.Role.MCP_USER])
