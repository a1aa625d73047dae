"""Roles of a tenant's own, scopes, servers and tools: what narrows narrows, whatever else there is."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smcp.access import addresses, explain, grants, patterns, policy, scopes, tools
from smcp.access import roles as model
from smcp.access.actions import Action
from smcp.identity.authn import base, binding
from smcp.kernel import errors, ids

ACME, UMBRA = ids.tenant("acme"), ids.tenant("umbra")
SERVERS = ("time", "notes")

tenants = st.sampled_from([ids.PLATFORM, ACME, UMBRA])
actions = st.sampled_from(Action)
action_sets = st.frozensets(actions, max_size=8)
names = st.sampled_from(["get_time", "set_time", "look", "x"])
rules = st.builds(
    policy.Rule,
    role=st.sampled_from(["one", "two", "three"]),
    actions=action_sets,
    servers=st.frozensets(st.sampled_from(SERVERS), max_size=2),
    tools=st.lists(st.sampled_from(["get_*", "*_time", "look", "*"]), max_size=2).map(tuple),
    read_only=st.booleans(),
)
rule_sets = st.lists(rules, max_size=3).map(tuple)
built_in = st.lists(st.sampled_from([role.value for role in policy.Role]), max_size=2).map(tuple)
scope_sets = st.none() | st.frozensets(st.sampled_from([*scopes.WORDS, "unknown"]), max_size=4)
principals = st.builds(
    policy.Principal,
    tenant=tenants,
    id=st.just("usr-1"),
    kind=st.sampled_from(["user", "client", "api_key"]),
    roles=built_in,
    rules=rule_sets,
    scopes=scope_sets,
    servers=st.none() | st.frozensets(st.sampled_from(SERVERS), max_size=2),
)
resources = st.builds(
    policy.Resource, tenant=tenants, kind=st.just("any"), name=st.just(""), server=st.sampled_from(["", *SERVERS])
)


_with = msgspec.structs.replace


@pytest.mark.requirement("oauth:scopes:narrow", "oauth:keys:narrowed")
@given(principal=principals, action=actions, resource=resources)
def test_scopes_and_servers_only_take_away(
    principal: policy.Principal, action: Action, resource: policy.Resource
) -> None:
    free = _with(principal, scopes=None, servers=None)
    if policy.decide(principal, action, resource) is policy.Decision.ALLOW:
        assert policy.decide(free, action, resource) is policy.Decision.ALLOW
        assert principal.scopes is None or scopes.NEEDS[action] in scopes.whole(principal.scopes)
        assert principal.servers is None or resource.server in principal.servers


@pytest.mark.requirement("oauth:scopes:step-up")
@given(principal=principals, action=actions, resource=resources)
def test_stepping_up_is_offered_only_where_it_would_help(
    principal: policy.Principal, action: Action, resource: policy.Resource
) -> None:
    decision = policy.decide(principal, action, resource)
    if decision is policy.Decision.STEP_UP:
        assert principal.kind != "api_key"
        wanted = scopes.parse(scopes.step_up(principal.scopes or frozenset(), action))
        assert wanted is not None
        assert wanted >= (principal.scopes or frozenset()) & scopes.WORDS.keys()
        assert policy.decide(_with(principal, scopes=wanted), action, resource) is policy.Decision.ALLOW
    elif decision is not policy.Decision.ALLOW and principal.kind != "api_key":
        assert policy.decide(_with(principal, scopes=None), action, resource) is not policy.Decision.ALLOW


@pytest.mark.requirement("oauth:roles:border")
@given(
    principal=principals.filter(lambda one: policy.Role.OPERATOR not in one.roles), action=actions, resource=resources
)
def test_no_role_of_a_tenants_own_crosses_the_border_or_reaches_another_server(
    principal: policy.Principal, action: Action, resource: policy.Resource
) -> None:
    decision = policy.decide(principal, action, resource)
    if principal.tenant != resource.tenant:
        assert decision is policy.Decision.CONCEAL
    if decision is policy.Decision.ALLOW and action not in policy.given(principal, resource):
        assert any(
            action in rule.actions and (not rule.servers or resource.server in rule.servers) for rule in principal.rules
        )


@pytest.mark.requirement("oauth:roles:border")
@pytest.mark.parametrize("tenant", [ACME, ids.PLATFORM])
def test_a_role_holds_nothing_that_the_widest_role_of_its_tenant_does_not(tenant: ids.TenantId) -> None:
    widest = policy.GRANTS[policy.Role.OPERATOR if tenant == ids.PLATFORM else policy.Role.ADMIN]
    for action in Action:
        wanted = model.Custom(name="some", actions=(action.value,))
        if action in widest:
            assert model.checked(tenant, wanted).rule().actions == {action}
        else:
            with pytest.raises(errors.InvalidParams, match="no action that a role of this tenant can hold"):
                model.checked(tenant, wanted)


@pytest.mark.requirement("oauth:roles:checked")
def test_a_role_has_one_form() -> None:
    made = model.checked(
        ACME,
        model.Custom(
            name="some", actions=("volume:*", "mcp:list", "mcp:list"), servers=("b", "a", "b"), tools=("x*", "a", "x*")
        ),
    )
    assert made.actions == ("mcp:list", "volume:delete", "volume:read", "volume:restore", "volume:snapshot")
    assert (made.servers, made.tools) == (("a", "b"), ("a", "x*"))
    for name in ("", "A", "admin", "operator", "x", "a_b", "-ab", "ab-", "x" * 41):
        with pytest.raises(errors.InvalidParams, match="role's name"):
            model.checked(ACME, model.Custom(name=name, actions=("mcp:list",)))
    # What a later platform wrote gives nothing here, and breaks nothing.
    assert model.Custom(name="some", actions=("mcp:fly", "mcp:list")).rule().actions == {Action.MCP_LIST}


@pytest.mark.requirement("oauth:tools:pure")
@given(principal=principals, more=rule_sets, resource=resources, tool=names, read_only=st.booleans())
def test_more_roles_never_hide_a_tool_and_what_may_be_called_can_be_seen(
    principal: policy.Principal, more: tuple[policy.Rule, ...], resource: policy.Resource, tool: str, read_only: bool
) -> None:
    def has(one: policy.Principal) -> tuple[bool, bool]:
        """Seen, and called, as the gateway decides it."""
        choice = tools.choice(one, resource)
        listing = policy.decide(one, Action.MCP_LIST, resource) is policy.Decision.ALLOW
        calling = policy.decide(one, Action.MCP_CALL, resource) is policy.Decision.ALLOW
        shown = choice is None or choice.shows(tool, read_only=read_only)
        called = choice is None or (shown and choice.calls(tool, read_only=read_only))
        return listing and shown, calling and called

    wider = _with(principal, rules=(*principal.rules, *more))
    for before, after in zip(has(principal), has(wider), strict=True):
        assert after or not before
    choice = tools.choice(principal, resource)
    if choice is not None and choice.calls(tool, read_only=read_only):
        assert choice.shows(tool, read_only=read_only)


@pytest.mark.requirement("oauth:tools:pure")
@given(principal=principals, resource=resources, tool=names, read_only=st.booleans())
def test_a_tool_that_is_called_is_one_that_some_role_gives(
    principal: policy.Principal, resource: policy.Resource, tool: str, read_only: bool
) -> None:
    choice = tools.choice(principal, resource)
    if policy.decide(principal, Action.MCP_CALL, resource) is not policy.Decision.ALLOW:
        return
    if choice is not None and not choice.calls(tool, read_only=read_only):
        return
    assert Action.MCP_CALL in policy.given(principal, resource) or any(
        Action.MCP_CALL in rule.actions
        and (not rule.servers or resource.server in rule.servers)
        and (not rule.tools or patterns.any_fits(rule.tools, tool))
        and (read_only or not rule.read_only)
        for rule in principal.rules
    )


@pytest.mark.requirement("oauth:roles:no-escalation")
@given(
    granter=principals, rule=rules, tenant=tenants, action=actions, resource=resources, tool=names, reads=st.booleans()
)
def test_nobody_writes_more_into_a_role_than_they_may_do(
    granter: policy.Principal,
    rule: policy.Rule,
    tenant: ids.TenantId,
    action: Action,
    resource: policy.Resource,
    tool: str,
    reads: bool,
) -> None:
    operates = granter.tenant == ids.PLATFORM and policy.Role.OPERATOR in granter.roles
    if operates or not grants.covers(granter, tenant, rule):
        return
    # Whoever has the role alone can do nothing that the granter, with all scopes and servers, could not.
    holder = policy.Principal(tenant, "usr-2", "user", (rule.role,), rules=(rule,))
    whole = _with(granter, scopes=None, servers=None)
    if policy.decide(holder, action, resource) is policy.Decision.ALLOW:
        assert policy.decide(whole, action, resource) is policy.Decision.ALLOW
        if action is Action.MCP_CALL:
            theirs, mine = tools.choice(holder, resource), tools.choice(whole, resource)
            if theirs is None or theirs.calls(tool, read_only=reads):
                assert mine is None or mine.calls(tool, read_only=reads)


@pytest.mark.requirement("oauth:roles:no-escalation")
def test_who_may_make_keys_by_a_role_of_their_own_gives_no_more_than_that_role() -> None:
    rule = policy.Rule("keeper", frozenset({Action.KEY_CREATE, Action.MCP_CALL, Action.MCP_LIST}))
    keeper = policy.Principal(ACME, "usr-1", "user", ("keeper",), rules=(rule,))
    assert grants.grantable(keeper, ACME) == frozenset()
    grants.require(keeper, ACME, ["keeper"], [rule])
    for role in ("admin", "mcp_user", "unknown"):
        with pytest.raises(errors.Forbidden, match=role):
            grants.require(keeper, ACME, ["keeper", role], [rule])
    with pytest.raises(errors.Forbidden, match="keeper"):
        grants.require(keeper, UMBRA, ["keeper"], [rule])
    with pytest.raises(errors.Forbidden, match="keeper"):
        grants.require(keeper, ACME, ["keeper"], [rule], Action.USER_ROLES)


_networks = st.lists(st.ip_addresses(v=4).map(lambda one: f"{one}/32"), max_size=2) | st.lists(
    st.sampled_from(["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/17", "::/0", "2001:db8::/32", "10.1.2.3/32"]),
    max_size=3,
)


@pytest.mark.requirement("oauth:grants:no-wider")
@given(narrow=_networks, wide=_networks, address=st.sampled_from(["10.1.2.3", "10.2.0.1", "2001:db8::1", "192.0.2.1"]))
def test_no_request_comes_from_networks_inside_others_and_not_from_those(
    narrow: list[str], wide: list[str], address: str
) -> None:
    inner, outer = addresses.parse(narrow), addresses.parse(wide)
    if addresses.inside(inner, outer) and (not inner or addresses.within(inner, address)):
        assert not outer or addresses.within(outer, address)
    assert addresses.inside(inner, inner)


@pytest.mark.requirement("oauth:grants:no-wider")
@given(granter=principals, made=principals, action=actions, resource=resources)
def test_what_is_within_a_credential_may_nothing_that_its_scopes_and_servers_leave_out(
    granter: policy.Principal, made: policy.Principal, action: Action, resource: policy.Resource
) -> None:
    try:
        grants.within(granter, made.roles, made.rules, grants.Bounds(made.scopes, made.servers))
    except errors.Forbidden:
        return
    if policy.decide(made, action, resource) is policy.Decision.ALLOW:
        assert granter.scopes is None or action in scopes.actions(granter.scopes)
        assert granter.servers is None or resource.server in granter.servers


@pytest.mark.requirement("oauth:scopes:every-action")
def test_every_action_needs_one_scope_and_wide_scopes_imply_narrow_ones() -> None:
    assert set(scopes.NEEDS) == set(Action)
    assert set(scopes.NEEDS.values()) == set(scopes.WORDS)
    assert scopes.actions(frozenset(scopes.WORDS)) == frozenset(Action)
    assert scopes.actions(frozenset({"mcp:call"})) > scopes.actions(frozenset({"mcp:read"}))
    admin, write, read = (scopes.actions(frozenset({f"api:{word}"})) for word in ("admin", "write", "read"))
    assert admin > write > read
    for kind in ("key", "user", "client", "role"):
        assert {action for action in Action if action.startswith(f"{kind}:")} <= admin - write
    # Tools are nobody's business who may only use the admin API.
    assert not any(action.startswith("mcp:") for action in admin)


@pytest.mark.requirement("oauth:scopes:every-action")
def test_a_scope_parameter_is_read_in_one_way() -> None:
    assert scopes.parse("mcp:call offline_access") == {"mcp:call"}
    assert scopes.parse("") == frozenset()
    assert scopes.parse("openid") is None
    assert scopes.parse("mcp:call\tmcp:read") is None
    assert scopes.parse("MCP:CALL") is None
    assert scopes.text({"api:admin", "mcp:read"}) == "mcp:read api:admin"
    assert scopes.actions(frozenset({"unknown"})) == frozenset()


@pytest.mark.requirement("oauth:roles:checked")
@given(pattern=st.text(alphabet="ab*", max_size=8), name=st.text(alphabet="ab", max_size=10))
def test_a_pattern_fits_as_the_plainest_reading_of_it_does(pattern: str, name: str) -> None:
    def plainly(left: str, right: str) -> bool:
        if not left:
            return not right
        if left[0] == "*":
            return any(plainly(left[1:], right[at:]) for at in range(len(right) + 1))
        return bool(right) and left[0] == right[0] and plainly(left[1:], right[1:])

    assert patterns.fits(pattern, name) == plainly(pattern, name)


@pytest.mark.requirement("oauth:roles:checked")
def test_the_worst_pattern_is_answered_in_one_walk() -> None:
    # A matcher that goes back would take some 10¹⁵ steps here, and the test's time limit would end it.
    pattern = "*".join("a" * 12 for _ in range(patterns.MOST_STARS)) + "*b"
    assert not patterns.fits(pattern, "a" * 100_000)
    assert not patterns.valid("*" * (patterns.MOST_STARS + 1))


@pytest.mark.requirement("oauth:audience:refused", "oauth:keys:networks")
def test_a_credential_is_good_at_its_own_door_and_from_its_own_networks() -> None:
    token = policy.Principal(ACME, "usr-1", "user", ("admin",), audience="time")
    binding.check(token, ACME, "time", "192.0.2.1")
    for tenant, audience in ((ACME, "notes"), (UMBRA, "time"), (ACME, None), (None, policy.API), (None, None)):
        with pytest.raises(errors.Unauthenticated) as refused:
            binding.check(token, tenant, audience, "192.0.2.1")
        assert refused.value.detail == base.Reason.AUDIENCE
    for_api = _with(token, audience=policy.API)
    binding.check(for_api, None, policy.API, "")
    with pytest.raises(errors.Unauthenticated):
        binding.check(for_api, ACME, "time", "")

    key = policy.Principal(ACME, "key-1", "api_key", ("admin",), networks=("192.0.2.0/24", "2001:db8::/32"))
    for good in ("192.0.2.200", "::ffff:192.0.2.7", "2001:db8::5", "2001:db8::5%eth0"):
        binding.check(key, ACME, "time", good)
    for bad in ("192.0.3.1", "::1", "", "unix", "::ffff:192.0.3.7", "2001:db9::1", "192.0.2.1, 10.0.0.1"):
        with pytest.raises(errors.Unauthenticated) as refused:
            binding.check(key, ACME, "time", bad)
        assert refused.value.detail == base.Reason.ADDRESS


@pytest.mark.requirement("oauth:policy:explained")
@given(principal=principals, action=actions, resource=resources, tool=st.just("") | names, read_only=st.booleans())
def test_what_is_explained_is_what_is_decided(
    principal: policy.Principal, action: Action, resource: policy.Resource, tool: str, read_only: bool
) -> None:
    found = explain.verdict(principal, action, resource, tool, read_only=read_only)
    decision = policy.decide(principal, action, resource)
    assert found.because
    assert not found.allowed or decision is policy.Decision.ALLOW
    if not tool:
        assert found.decision is decision
    for role in principal.roles:
        assert any(role in line for line in found.because)
