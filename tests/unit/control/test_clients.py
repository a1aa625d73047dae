"""OAuth clients over the admin API."""

from typing import Any

import pytest
from joserfc import jwk

from smcp.identity.oauth import clients
from smcp.kernel import ids
from support import authorizing
from unit.control import world as worlds

ADMIN = f"{worlds.OWN}/admin"
HERE = f"/api/v1/tenants/{worlds.OWN}/clients"


@pytest.mark.requirement("oauth:admin:create")
async def test_an_administrator_makes_a_client_and_sees_its_secret_once(world: worlds.World) -> None:
    made = await world.ok("POST", HERE, ADMIN, json={"name": "nightly", "roles": ["mcp_user"]})
    client, secret = made["client"], made["secret"]
    assert (client["kind"], client["grant_types"], client["roles"]) == (
        "administrator",
        ["client_credentials"],
        ["mcp_user"],
    )
    known = await world.parts.clients.known(worlds.OWN, client["id"])
    assert world.parts.clients.proves(known, secret)
    assert await world.ok("GET", f"{HERE}/{client['ref']}", ADMIN) == client
    listed = await world.send("GET", HERE, ADMIN)
    assert secret not in listed.text
    assert client in listed.json()["items"]
    assert secret not in str(await world.trail(worlds.OWN))
    assert secret not in world.log.getvalue()


@pytest.mark.requirement("oauth:admin:create")
async def test_a_client_of_people_has_redirect_uris_and_one_with_keys_no_secret(world: worlds.World) -> None:
    said: dict[str, Any] = {"name": "desk", "redirect_uris": [authorizing.CALLBACK], "auth_method": "none"}
    made = await world.ok("POST", HERE, ADMIN, json=said)
    assert (made["secret"], made["client"]["grant_types"]) == (None, ["authorization_code", "refresh_token"])
    keys: dict[str, Any] = {"keys": [jwk.ECKey.generate_key("P-256").as_dict(private=False)]}
    order: dict[str, Any] = {"name": "signer", "roles": ["read_only"], "auth_method": "private_key_jwt", "jwks": keys}
    assert (await world.ok("POST", HERE, ADMIN, json=order))["secret"] is None


@pytest.mark.requirement("oauth:admin:create", "oauth:registration:keys-at")
async def test_a_clients_keys_may_be_at_an_address_and_the_list_says_where(world: worlds.World) -> None:
    uri = "https://app.example/keys.json"
    order: dict[str, Any] = {"name": "signer", "roles": ["read_only"], "auth_method": "private_key_jwt"}
    made = await world.ok("POST", HERE, ADMIN, json={**order, "jwks_uri": uri})
    assert (made["secret"], made["client"]["jwks_uri"]) == (None, uri)
    assert made["client"] in (await world.ok("GET", HERE, ADMIN))["items"]
    keys: dict[str, Any] = {"keys": [jwk.ECKey.generate_key("P-256").as_dict(private=False)]}
    other = "http://app.example/keys.json"
    for wrong in ({"jwks_uri": other}, {"jwks_uri": uri, "jwks": keys}, {"jwks_uri": "x" * 513}):
        assert (await world.send("POST", HERE, ADMIN, json={**order, **wrong})).status_code == 400, wrong
    assert (await world.send("POST", HERE, ADMIN, json={"name": "x", "roles": ["mcp_user"], "jwks_uri": uri})).is_error


@pytest.mark.requirement("oauth:admin:refused", "attack:oauth:role-escalation")
async def test_a_client_that_would_be_worth_more_than_its_maker_or_proves_nothing_is_refused(
    world: worlds.World,
) -> None:
    orders: tuple[tuple[dict[str, Any], int], ...] = (
        ({"name": "x", "roles": ["operator"]}, 403),
        ({"name": "x", "roles": ["nobody"]}, 403),
        ({"name": "x", "roles": ["mcp_user"], "auth_method": "none"}, 400),
        ({"name": "x"}, 400),
        ({"name": "", "roles": ["mcp_user"]}, 400),
        ({"name": "x", "redirect_uris": ["javascript:alert(1)"]}, 400),
        ({"name": "x", "redirect_uris": ["http://app.example/"]}, 400),
        ({"name": "x", "roles": ["mcp_user"], "auth_method": "private_key_jwt"}, 400),
        ({"name": "x", "roles": ["mcp_user"], "jwks": {"keys": []}}, 400),
    )
    for order, status in orders:
        assert (await world.send("POST", HERE, ADMIN, json=order)).status_code == status, order
    assert [one.kind for one in await world.parts.clients.list(worlds.OWN)] == [clients.Kind.BUILT_IN]


@pytest.mark.requirement("oauth:admin:revoke")
async def test_a_revoked_client_stays_in_the_list_and_is_on_record(world: worlds.World) -> None:
    issued = await world.parts.clients.register(worlds.OWN, authorizing.metadata(), request_id="req-1")
    revoked = await world.ok("DELETE", f"{HERE}/{issued.client.id}", ADMIN)
    assert revoked["revoked"] is not None
    assert revoked in (await world.ok("GET", HERE, ADMIN))["items"]
    told = [one for one in await world.trail(worlds.OWN) if one["event"] == "client_revoked"]
    assert [one["client"] for one in told] == [issued.client.id]
    with pytest.raises(clients.UnknownClient):
        await world.parts.clients.known(worlds.OWN, issued.client.id)


@pytest.mark.requirement("oauth:admin:revoke")
async def test_a_client_that_is_an_address_is_named_by_its_ref(world: worlds.World) -> None:
    url = "https://app.example/client.json"
    client = clients.Client(id=url, tenant=worlds.OWN, kind=clients.Kind.METADATA, name="App", host="app.example")
    await world.parts.clients.adopt(client, actor="user-1", request_id="req-1")
    shown = await world.ok("GET", f"{HERE}/{clients.ref(url)}", ADMIN)
    assert (shown["id"], shown["kind"]) == (url, "metadata")
    assert (await world.ok("DELETE", f"{HERE}/{clients.ref(url)}", ADMIN))["revoked"] is not None
    assert (await world.send("GET", f"/api/v1/tenants/{worlds.OTHER}/clients/{clients.ref(url)}", "operator")).is_error


@pytest.mark.requirement("oauth:admin:create")
async def test_operators_make_clients_of_the_platform(world: worlds.World) -> None:
    where = f"/api/v1/tenants/{ids.PLATFORM}/clients"
    made = await world.ok("POST", where, "operator", json={"name": "x", "roles": ["operator"]})
    assert made["client"]["tenant"] == ids.PLATFORM
