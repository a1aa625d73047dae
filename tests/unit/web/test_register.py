"""Registration over HTTP: what a client sends, gets and can do with it later."""

import json
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from smcp.identity.oauth import clients
from smcp.stores import shares
from smcp.web import register
from support import authorizing
from unit.control import world as worlds

HERE = "/oauth/acme/register"
CLIENT = {"client_name": "App", "redirect_uris": [authorizing.CALLBACK]}


@pytest.fixture
async def world(tmp_path: pathlib.Path) -> AsyncIterator[worlds.World]:
    """The whole ASGI application behind the platform's edge."""
    async with worlds.opened(tmp_path) as opened:
        yield opened


async def registered(world: worlds.World, **more: Any) -> dict[str, Any]:
    answer = await world.send("POST", HERE, json=CLIENT | more)
    assert answer.status_code == 201, answer.text
    return answer.json()


def path(made: dict[str, Any]) -> str:
    return str(made["registration_client_uri"]).removeprefix(worlds.BASE)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.requirement("oauth:register:made")
async def test_a_client_registers_and_learns_all_that_was_decided(world: worlds.World) -> None:
    answer = await world.send("POST", HERE, json=CLIENT | {"logo_uri": "http://169.254.169.254/x"})
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    made = answer.json()
    assert made["client_id"].startswith("client-")
    assert made["token_endpoint_auth_method"] == "client_secret_basic"
    assert (made["client_secret_expires_at"], made["application_type"]) == (0, "web")
    assert "logo_uri" not in made
    client = await world.parts.clients.known(worlds.OWN, made["client_id"])
    assert world.parts.clients.proves(client, made["client_secret"])
    public = await registered(world, token_endpoint_auth_method="none")
    assert "client_secret" not in public


@pytest.mark.requirement("oauth:register:refused")
@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ({"json": {}}, 400, "invalid_redirect_uri"),
        ({"json": {**CLIENT, "redirect_uris": ["http://app.example/cb"]}}, 400, "invalid_redirect_uri"),
        ({"json": {**CLIENT, "grant_types": ["client_credentials"]}}, 400, "invalid_client_metadata"),
        ({"json": []}, 400, "invalid_client_metadata"),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "invalid_request"),
        ({"content": b'{"a":1,"a":2}', "headers": {"Content-Type": "application/json"}}, 400, "invalid_request"),
        ({"content": json.dumps(CLIENT).encode(), "headers": {"Content-Type": "text/plain"}}, 415, "invalid_request"),
        ({"data": {"redirect_uris": "x"}}, 415, "invalid_request"),
        ({"json": CLIENT | {"x": "y" * register.MAX_BYTES}}, 413, "invalid_request"),
    ],
)
async def test_what_is_wrong_is_told_in_oauths_words_and_nothing_is_kept(
    world: worlds.World, sent: dict[str, Any], status: int, code: str
) -> None:
    answer = await world.send("POST", HERE, **sent)
    assert (answer.status_code, answer.json()["error"]) == (status, code)
    assert answer.json()["error_description"].isascii()
    assert len(await world.parts.clients.list(worlds.OWN)) == 1


@pytest.mark.requirement("oauth:register:size", "attack:oauth:strangers-storage")
async def test_what_is_kept_of_a_stranger_is_small_whatever_it_sends(world: worlds.World) -> None:
    """Attack: descriptions as long as the body may be, each kept for as long as there is room."""
    uris = [f"https://app.example/{number:02}{'x' * 217}" for number in range(32)]
    assert len(json.dumps(CLIENT | {"redirect_uris": uris})) < register.MAX_BYTES
    answer = await world.send("POST", HERE, json=CLIENT | {"redirect_uris": uris})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_client_metadata")
    assert str(clients.MAX_RECORD) in answer.json()["error_description"]
    made = await registered(world, redirect_uris=uris[:14])
    token, new = bearer(made["registration_access_token"]), CLIENT | {"client_id": made["client_id"]}
    # Nor later, by who registered it, also once somebody has approved it.
    for _ in range(2):
        answer = await world.send("PUT", path(made), headers=token, json=new | {"redirect_uris": uris})
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_client_metadata")
        client = await world.parts.clients.known(worlds.OWN, made["client_id"])
        assert client.redirect_uris == tuple(uris[:14])
        await world.parts.clients.adopt(client, actor="user-1", request_id="")
    # What is kept within the share has its place there.
    assert shares.SHARES[shares.CLIENT].bytes - 64 > clients.MAX_RECORD


@pytest.mark.requirement("oauth:register:no-tenant")
async def test_where_there_is_no_tenant_nobody_registers(world: worlds.World) -> None:
    await world.parts.tenants.suspend(worlds.OTHER)
    told: set[tuple[int, str]] = set()
    for tenant in ("nobody", "globex", "ACME", "a--b"):
        answer = await world.send("POST", f"/oauth/{tenant}/register", json=CLIENT)
        told.add((answer.status_code, answer.text))
    assert len(told) == 1
    assert told.pop()[0] == 404


@pytest.mark.requirement("oauth:register:rate", "attack:oauth:registration-flood")
async def test_an_address_registers_so_often_a_minute_and_the_next_minute_again(world: worlds.World) -> None:
    statuses = [(await world.send("POST", HERE, json=CLIENT)).status_code for _ in range(12)]
    assert statuses == [201] * register.ADDRESS_PER_MINUTE + [429] * 2
    answer = await world.send("POST", HERE, json=CLIENT)
    assert answer.json()["error"] == "temporarily_unavailable"
    assert int(answer.headers["retry-after"]) >= 1
    # Another tenant has its own, and what is wrong counts as well.
    assert (await world.send("POST", "/oauth/globex/register", json=CLIENT)).status_code == 201
    world.clients.time.advance(61)
    assert (await world.send("POST", HERE, json=CLIENT)).status_code == 201


@pytest.mark.requirement("oauth:register:managed")
async def test_a_client_reads_and_changes_its_registration(world: worlds.World) -> None:
    made = await registered(world)
    token = bearer(made["registration_access_token"])
    read = (await world.send("GET", path(made), headers=token)).json()
    assert "client_secret" not in read
    assert read.items() <= made.items()
    new = {**CLIENT, "client_id": made["client_id"], "client_name": "Renamed"}
    answer = await world.send("PUT", path(made), headers=token, json=new)
    assert (answer.status_code, answer.json()["client_name"]) == (200, "Renamed")
    for wrong in (
        CLIENT,
        new | {"client_id": "client-00000000000000000000000000"},
        new | {"client_secret": "other"},
        new | {"redirect_uris": ["javascript:alert(1)"]},
    ):
        answer = await world.send("PUT", path(made), headers=token, json=wrong)
        assert answer.status_code == 400
    kept = await world.parts.clients.known(worlds.OWN, made["client_id"])
    assert kept.name == "Renamed"
    assert world.parts.clients.proves(kept, made["client_secret"])


@pytest.mark.requirement("oauth:register:managed")
async def test_a_client_that_goes_is_unknown(world: worlds.World) -> None:
    made = await registered(world)
    token = bearer(made["registration_access_token"])
    assert (await world.send("DELETE", path(made), headers=token)).status_code == 204
    assert (await world.send("GET", path(made), headers=token)).status_code == 401
    told = [one["event"] for one in await world.trail(worlds.OWN)]
    assert told.count("client_revoked") == 1


@pytest.mark.requirement("oauth:register:token", "attack:oauth:registration-takeover")
async def test_only_the_registration_access_token_manages_and_every_refusal_is_alike(world: worlds.World) -> None:
    made, other = await registered(world), await registered(world)
    seen: set[tuple[int, str, str]] = set()

    def note(answer: httpx2.Response) -> None:
        seen.add((answer.status_code, answer.headers["www-authenticate"], answer.text))

    key = world.keys[f"{worlds.OWN}/admin"]
    tried: list[tuple[str, dict[str, Any]]] = [("GET", {}), ("PUT", {"json": CLIENT}), ("DELETE", {})]
    for verb, sent in tried:
        for token in ("", "x", other["registration_access_token"], made["client_secret"], key):
            note(await world.send(verb, path(made), headers=bearer(token), **sent))
        note(await world.send(verb, path(made), **sent))
        note(await world.send(verb, f"{HERE}/client-00000000000000000000000000", headers=bearer("x"), **sent))
        note(await world.send(verb, f"{HERE}/smcp-cli", headers=bearer("x"), **sent))
        note(
            await world.send(
                verb,
                path(made).replace("acme", "globex"),
                headers=bearer(made["registration_access_token"]),
                **sent,
            )
        )
    assert len(seen) == 1
    assert (await world.parts.clients.known(worlds.OWN, made["client_id"])).name == "App"


@pytest.mark.requirement("oauth:register:audit")
async def test_registrations_and_refusals_are_on_record_without_anything_secret(world: worlds.World) -> None:
    made = await registered(world)
    await world.send("POST", HERE, json={**CLIENT, "redirect_uris": ["javascript:alert(document.cookie)"]})
    # Another address for its answers is no less than a new client (RFC 7592, 2.2), and a guess at its token is a login.
    other = {**CLIENT, "client_id": made["client_id"], "redirect_uris": ["https://other.example/cb"]}
    token = bearer(made["registration_access_token"])
    assert (await world.send("PUT", path(made), headers=token, json=other)).status_code == 200
    assert (await world.send("GET", path(made), headers=bearer("guess"))).status_code == 401
    told = await world.trail(worlds.OWN)
    assert [one["how"] for one in told if one["event"] == "client_registered"] == ["dynamic", "amended"]
    refused = [one for one in told if one["event"] == "token_refused"]
    assert [(one["why"], one["detail"]) for one in refused] == [
        ("invalid_redirect_uri", "redirect"),
        ("invalid_token", "token"),
    ]
    for secret in (made["client_secret"], made["registration_access_token"], "document.cookie"):
        assert secret not in str(told) + world.log.getvalue()


@pytest.mark.requirement("oauth:register:verbs")
async def test_other_verbs_are_told_which_there_are(world: worlds.World) -> None:
    answer = await world.send("GET", HERE)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST, OPTIONS")
    assert answer.json()["error"] == "invalid_request"
