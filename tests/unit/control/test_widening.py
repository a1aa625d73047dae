"""Over the admin API nobody makes anything that is wider, or lasts longer, than the credential that makes it."""

from typing import Any, Final

import pytest

from smcp.access import policy
from smcp.access import roles as model
from smcp.control import clients, endpoint, keys, roles, users
from smcp.identity.authn import api_key
from smcp.kernel import errors
from unit.control import world as worlds

ALL: Final = frozenset({"api:admin", "mcp:call"})
MANAGING: Final = frozenset({"api:admin"})


def _admin(**narrowed: Any) -> policy.Principal:
    return policy.Principal(worlds.OWN, "key-1", "api_key", ("admin",), **narrowed)


def _token(scopes: frozenset[str] = ALL, who: str = "user-1") -> policy.Principal:
    """A client that acts for an administrator."""
    return policy.Principal(
        worlds.OWN, who, "user", ("admin",), client="https://app.example/client", audience=policy.API, scopes=scopes
    )


async def _ask(
    world: worlds.World, who: policy.Principal, one: endpoint.Endpoint, body: object = None, **path: str
) -> Any:
    """What an endpoint answers to somebody whom policy lets there: only what is made can be refused."""
    nothing, at = endpoint.Nothing(), {"tenant": worlds.OWN, **path}
    assert isinstance(one.access, policy.Action)
    assert policy.decide(who, one.access, one.resource(at)) is policy.Decision.ALLOW
    return await one.handler(
        endpoint.Call(
            services=world.parts,
            request_id="req-1",
            path=at,
            body=body or nothing,
            query=nothing,
            document={},
            ask_again=world.close,
            caller=who,
        )
    )


def _order(**more: Any) -> keys.KeyOrder:
    return keys.KeyOrder(roles=("admin",), **more)


@pytest.mark.requirement("oauth:grants:no-wider")
async def test_a_narrow_credential_makes_no_wider_key(world: worlds.World) -> None:
    """Attack: a token for an hour, or a key for one network, is turned into a key for everything."""
    home = _admin(networks=("10.1.0.0/16", "2001:db8::/32"))
    refused: list[tuple[policy.Principal, keys.KeyOrder]] = [
        (_admin(scopes=MANAGING), _order(scopes=("mcp:read",))),
        (_admin(scopes=MANAGING), _order(scopes=("api:admin", "mcp:call"))),
        (_token(MANAGING), _order(scopes=("mcp:call",))),
        (home, _order(networks=("10.0.0.0/8",))),
        (home, _order(networks=("10.1.2.0/24", "192.0.2.0/24"))),
        (home, _order(networks=("::/0",))),
    ]
    for who, order in refused:
        with pytest.raises(errors.Forbidden, match="wider"):
            await _ask(world, who, keys.create, order)
    # What is not said is the maker's own, and not everything.
    assert (await _ask(world, _admin(scopes=MANAGING), keys.create, _order())).key.scopes == ["api:admin"]
    assert (await _ask(world, home, keys.create, _order())).key.networks == ["10.1.0.0/16", "2001:db8::/32"]
    assert (await _ask(world, home, keys.create, _order(networks=("10.1.2.0/24",)))).key.networks == ["10.1.2.0/24"]
    assert (await _ask(world, _token(), keys.create, _order(scopes=("mcp:read",)))).key.scopes == ["mcp:read"]
    assert (await _ask(world, _admin(), keys.create, _order())).key.scopes is None


@pytest.mark.requirement("oauth:grants:no-wider")
async def test_what_an_access_token_makes_has_an_end(world: worlds.World) -> None:
    """Attack: a client outlives its grant by a key, a secret or an account that never ends."""
    for days in (None, 91.0, 3650.0):
        with pytest.raises(errors.Forbidden, match="90 days"):
            await _ask(world, _token(), keys.create, _order(expires_in_days=days))
    made = (await _ask(world, _token(), keys.create, _order())).key
    assert made.expires - made.created == pytest.approx(api_key.LIFE_S)
    for roles_ in (("mcp_user",), ("read_only",)):
        with pytest.raises(errors.Forbidden, match="API key"):
            await _ask(world, _token(), clients.create, clients.ClientOrder(name="x", roles=roles_))
    # One that people let act for them is worth nothing without them.
    order = clients.ClientOrder(name="x", redirect_uris=("https://app.example/cb",))
    assert (await _ask(world, _token(), clients.create, order)).client.roles == []
    ada = await world.person(worlds.OWN, "admin")
    with pytest.raises(errors.Forbidden, match="own person"):
        await _ask(world, _token(who=ada.id), users.again, user=ada.id)
    assert (await _ask(world, _token(), users.again, user=ada.id)).code


@pytest.mark.requirement("oauth:grants:no-wider")
async def test_only_keys_that_one_could_make_are_rotated(world: worlds.World) -> None:
    """Attack: the successor of somebody else's wider key is shown to who asked for it."""
    make = world.parts.keys.create
    wide = (await make(worlds.OWN, ("admin",), "", expires_in_s=60.0)).key
    lasting = (await make(worlds.OWN, ("admin",), "", expires_in_s=None, scopes=["api:admin"])).key
    homely = (await make(worlds.OWN, ("admin",), "", expires_in_s=60.0, networks=["10.0.0.0/8"])).key
    for who, key in (
        (_admin(scopes=MANAGING), wide),
        (_admin(networks=("10.0.0.0/8",)), wide),
        (_admin(networks=("10.1.0.0/16",)), homely),
        (_token(), lasting),
    ):
        with pytest.raises(errors.Forbidden):
            await _ask(world, who, keys.rotate, keys.Rotation(), key=key.id)
        assert (await world.parts.keys.find(worlds.OWN, key.id)).successor == ""
    for who, key in (
        (_token(), wide),
        (_admin(scopes=MANAGING), lasting),
        (_admin(networks=("10.0.0.0/8",)), homely),
    ):
        assert (await _ask(world, who, keys.rotate, keys.Rotation(), key=key.id)).secret


@pytest.mark.requirement("oauth:grants:no-wider")
async def test_a_narrow_credential_makes_no_account_and_no_role_that_is_wider(world: worlds.World) -> None:
    """Attack: somebody who may only manage invites themselves as an administrator, and has tools and data."""
    ada, user = await world.person(worlds.OWN, "admin"), await world.person(worlds.OWN, "read_only")
    invited = users.InvitationOrder(email="eve@example.org", roles=("admin",))
    raised = users.RolesOrder(roles=("mcp_user",))
    written = roles.RoleOrder(actions=("mcp:call",))
    for who in (_token(MANAGING), _admin(scopes=MANAGING), _admin(networks=("10.0.0.0/8",))):
        for one, body, path in (
            (users.invite, invited, {}),
            (users.roles, raised, {"user": user.id}),
            (users.again, None, {"user": ada.id}),
            (roles.put, written, {"role": "caller"}),
        ):
            with pytest.raises(errors.Forbidden, match="wider"):
                await _ask(world, who, one, body, **path)
    assert (await world.parts.people.users.require(worlds.OWN, user.id)).roles == ("read_only",)
    assert await _ask(world, _token(), users.invite, invited)
    assert await _ask(world, _token(), users.roles, raised, user=user.id)
    assert await _ask(world, _token(), roles.put, written, role="caller")


@pytest.mark.requirement("oauth:grants:no-wider")
async def test_a_client_is_no_wider_than_who_makes_it_and_has_the_tenants_own_roles(world: worlds.World) -> None:
    order = clients.ClientOrder(name="nightly", roles=("mcp_user",))
    made = await _ask(world, _admin(scopes=frozenset({"api:admin", "mcp:read"})), clients.create, order)
    kept = await world.parts.clients.known(worlds.OWN, made.client.id)
    assert kept.scope == "mcp:read api:admin"
    with pytest.raises(errors.Forbidden, match="wider"):
        await _ask(world, _admin(networks=("10.0.0.0/8",)), clients.create, order)
    rule = model.Custom(name="looking", actions=("mcp:connect", "mcp:list"), servers=("time",))
    await world.parts.roles.set(worlds.OWN, rule)
    own = await _ask(world, _admin(), clients.create, clients.ClientOrder(name="looker", roles=("looking",)))
    assert own.client.roles == ["looking"]
    with pytest.raises(errors.Forbidden):
        await _ask(world, _admin(), clients.create, clients.ClientOrder(name="x", roles=("looking", "nobody")))
