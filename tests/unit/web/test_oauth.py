"""The endpoints for programs, over HTTP: what they take, what they answer, and what is said to nobody."""

import base64
import json
import pathlib
from collections.abc import AsyncGenerator
from typing import Any

import httpx2
import pytest
from joserfc import jwk, jwt
from starlette import routing

from smcp.app import authorization
from smcp.app import tokens as composed
from smcp.identity.oauth import client_auth, clients, lifetimes, registration, room
from smcp.kernel import settings
from smcp.stores import shares
from smcp.stores.kv import base as kv
from smcp.tenancy import limits, plans
from smcp.web import oauth, oauth_document
from support import storage, tokens
from support.tokens import ACME, PUBLIC

KEY = jwk.ECKey.generate_key("P-256")
FORM = "application/x-www-form-urlencoded"


class Site:
    """The endpoints of a room."""

    def __init__(self, room: tokens.Room, app: Any) -> None:
        self.room = room
        self.app = app
        transport = httpx2.ASGITransport(app=app, client=("203.0.113.7", 1))
        self.http = httpx2.AsyncClient(transport=transport, base_url=PUBLIC)

    async def post(self, path: str, form: Any = None, **more: Any) -> httpx2.Response:
        return await self.http.post(path, data=form, **more)


@pytest.fixture
async def site(tmp_path: pathlib.Path) -> AsyncGenerator[Site]:
    """A site with limits of its own."""
    async with storage.opened(tmp_path) as store, tokens.around(store, lifetimes.Lifetimes()) as room:
        config = settings.Settings()
        known = plans.Plans(store, room.tenants, config)
        await known.start()
        limiter = limits.Limiter(config.limits, known, room.time)
        parts = composed.edge(room.time, "0", room.made, room.asking, room.tenants, limiter, room.trail)
        made = Site(room, routing.Router(oauth.routes(parts)))
        yield made
        await made.http.aclose()


@pytest.mark.requirement("oauth:edge:token")
async def test_a_code_becomes_tokens_that_nobody_keeps_a_copy_of(site: Site) -> None:
    answer = await site.post("/oauth/acme/token", site.room.with_code(await site.room.code()))
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["pragma"] == "no-cache"
    told = answer.json()
    assert {*told} == {"access_token", "token_type", "expires_in", "refresh_token", "scope"}
    assert (await site.room.who(told["access_token"])).id == site.room.user.id


@pytest.mark.requirement("oauth:edge:refusal")
async def test_a_refusal_is_oauths_json_and_stands_in_the_trail_with_its_reason(site: Site) -> None:
    answer = await site.post("/oauth/acme/token", site.room.with_code("smca_acme_x"))
    assert answer.status_code == 400
    assert answer.json()["error"] == "invalid_grant"
    robot = await site.room.machine()
    wrong = "Basic " + base64.b64encode(f"{robot.client.id}:wrong".encode()).decode()
    answer = await site.post(
        "/oauth/acme/token", {"grant_type": "client_credentials"}, headers={"Authorization": wrong}
    )
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert answer.headers["www-authenticate"].startswith("Basic")
    told = [one for one in await site.room.told() if one["event"] == "token_refused"]
    whys = [(one["why"], one["detail"]) for one in told]
    assert whys == [("invalid_grant", "malformed"), ("invalid_client", "secret")]
    assert "203.0.113.7" not in json.dumps(told)


@pytest.mark.requirement("oauth:edge:form")
@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b'{"grant_type":"authorization_code"}', {"Content-Type": "application/json"}, 415),
        (b"grant_type=authorization_code", {}, 415),
        (b"grant_type=a&grant_type=b", {"Content-Type": FORM}, 400),
        (b"grant_type=%ff", {"Content-Type": FORM}, 400),
        (b"a=b&" * 100, {"Content-Type": FORM}, 400),
        (b"a" * 40_000, {"Content-Type": FORM}, 413),
        (b"", {"Content-Type": FORM}, 400),
    ],
)
async def test_what_is_no_form_is_refused(site: Site, body: bytes, headers: dict[str, str], status: int) -> None:
    answer = await site.http.post("/oauth/acme/token", content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (status, "invalid_request")


@pytest.mark.requirement("oauth:edge:form")
async def test_parameters_in_the_address_and_headers_that_come_twice_are_refused(site: Site) -> None:
    form = site.room.with_code(await site.room.code())
    answer = await site.post("/oauth/acme/token?client_secret=a", form)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    for name in ("DPoP", "Authorization"):
        answer = await site.http.post("/oauth/acme/token", data=form, headers=[(name, "a"), (name, "b")])
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert (await site.post("/oauth/acme/token", form)).status_code == 200


@pytest.mark.requirement("oauth:edge:tenant")
async def test_a_tenant_that_is_none_or_suspended_has_no_endpoints(site: Site) -> None:
    form = site.room.with_code(await site.room.code())
    for path in ("token", "introspect", "revoke", "device_authorization"):
        assert (await site.post(f"/oauth/nobody/{path}", form)).status_code == 404
        assert (await site.post(f"/oauth/NOBODY/{path}", form)).status_code == 404
        assert (await site.http.get(f"/oauth/acme/{path}")).status_code == 405
    assert (await site.http.get("/oauth/nobody/jwks")).status_code == 404
    await site.room.tenants.suspend(ACME)
    answer = await site.post("/oauth/acme/token", form)
    assert (answer.status_code, answer.json()["error"]) == (403, "invalid_request")


@pytest.mark.requirement("oauth:edge:keys")
async def test_the_key_set_verifies_what_was_signed_and_is_each_tenants_own(site: Site) -> None:
    held = await site.room.log_in()
    answer = await site.http.get("/oauth/acme/jwks")
    assert answer.headers["cache-control"] == "public, max-age=600"
    kid = json.loads(base64.urlsafe_b64decode(held.access.split(".")[0] + "=="))["kid"]
    assert [one["kid"] for one in answer.json()["keys"]] == [kid]
    assert "d" not in answer.json()["keys"][0]
    other = await site.http.get("/oauth/umbra/jwks")
    assert other.json()["keys"][0]["x"] != answer.json()["keys"][0]["x"]


@pytest.mark.requirement("oauth:edge:dpop")
async def test_a_proof_in_the_header_binds_the_tokens(site: Site) -> None:
    key = tokens.Key()
    form = site.room.with_code(await site.room.code())
    wrong = key.proof(site.room, path="/oauth/umbra/token").text
    answer = await site.post("/oauth/acme/token", form, headers={"DPoP": wrong})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_dpop_proof")
    shown = key.proof(site.room).text
    answer = await site.post("/oauth/acme/token", form, headers={"DPoP": shown})
    assert answer.json()["token_type"] == "DPoP"
    again = await site.post(
        "/oauth/acme/token", site.room.with_refresh(answer.json()["refresh_token"]), headers={"DPoP": shown}
    )
    assert again.json()["error"] == "invalid_dpop_proof"


@pytest.mark.requirement("oauth:edge:device")
async def test_a_device_is_told_where_a_person_types_its_code(site: Site) -> None:
    form = {"client_id": site.room.client.id, "resource": f"{PUBLIC}/t/acme/files/mcp", "scope": "mcp:read"}
    told = (await site.post("/oauth/acme/device_authorization", form)).json()
    assert told["verification_uri"] == f"{PUBLIC}/account/acme/device"
    assert told["verification_uri_complete"].endswith(f"?user_code={told['user_code']}")
    assert (told["expires_in"], told["interval"]) == (600, 5)
    poll = {"grant_type": clients.DEVICE_CODE, "client_id": site.room.client.id, "device_code": told["device_code"]}
    answer = await site.post("/oauth/acme/token", poll)
    assert (answer.status_code, answer.json()["error"]) == (400, "authorization_pending")
    # What a client is meant to hear is no attack.
    assert not [one for one in await site.room.told() if one["event"] == "token_refused"]


@pytest.mark.requirement("oauth:edge:rates")
async def test_strangers_can_neither_guess_nor_fill_the_store_without_end(site: Site) -> None:
    form = {"client_id": site.room.client.id, "resource": f"{PUBLIC}/t/acme/files/mcp"}
    seen = [(await site.post("/oauth/acme/device_authorization", form)).status_code for _ in range(31)]
    assert seen == [200] * oauth.ADDRESS_PER_MINUTE + [429]
    most = settings.Settings().limits.unauthenticated_per_minute
    guess = site.room.with_refresh("smcr_acme_x")
    seen = [(await site.post("/oauth/acme/token", guess)).status_code for _ in range(most + 1)]
    assert seen[:-1] == [400] * most
    answer = await site.post("/oauth/acme/token", guess)
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json()["error"] == "temporarily_unavailable"


async def signer(room: tokens.Room, *, own: bool) -> clients.Client:
    """A client with a key: of an administrator, or one that anybody can have registered."""
    said = {
        "client_name": "Signer",
        "redirect_uris": [tokens.BACK],
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks": {"keys": [KEY.as_dict(private=False)]},
    }
    described = registration.read(said, secrets=True)
    if own:
        made = await room.clients.create(ACME, described, grant_types=(clients.CLIENT_CREDENTIALS,), roles=())
    else:
        made = await room.clients.register(ACME, described, request_id="")
    return made.client


def assertion(room: tokens.Room, client: clients.Client, jti: str) -> dict[str, str]:
    """The parameters with which it proves itself."""
    claims = {
        "iss": client.id,
        "sub": client.id,
        "aud": room.resources.issuer(ACME),
        "exp": int(room.time.now()) + 600,
        "jti": jti,
    }
    text = jwt.encode({"alg": "ES256"}, claims, KEY, algorithms=["ES256"])
    return {"client_assertion_type": client_auth.ASSERTION_TYPE, "client_assertion": text}


@pytest.mark.requirement("oauth:keys:strangers", "oauth:keys:fail-closed")
@pytest.mark.parametrize("path", ["device_authorization", "introspect", "revoke", "token"])
async def test_keys_of_a_strangers_client_are_read_for_the_address_that_asks(site: Site, path: str) -> None:
    said = {
        "redirect_uris": [tokens.BACK],
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks_uri": "https://client.example/keys",
    }
    made = await site.room.clients.register(ACME, registration.read(said, secrets=True), request_id="")
    more = {"grant_type": clients.AUTHORIZATION_CODE, "code": "x", "token": "x"}
    answer = await site.post(f"/oauth/acme/{path}", assertion(site.room, made.client, "j") | more)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert site.room.paid == ["203.0.113.7"]


async def filled(room: tokens.Room, kind: str, left: int) -> None:
    """A share with room for so many more."""
    handle = room.store.tenant(ACME)
    there = (await handle.kv.size(shares.prefix(kind))).keys
    count = shares.SHARES[kind].records - left - there
    for first in range(0, count, 500):
        names = [f"n{number}" for number in range(first, min(first + 500, count))]
        await handle.kv.apply([kv.Put((*shares.prefix(kind), name), b"x", 600.0) for name in names])


@pytest.mark.requirement("oauth:edge:strangers", "attack:oauth:strangers-storage")
@pytest.mark.parametrize("path", ["introspect", "revoke", "token"])
async def test_a_flood_of_assertions_fills_nothing_but_the_strangers_share(site: Site, path: str) -> None:
    """Attack: register a client with a key, and have each right assertion kept, at each endpoint that takes one."""
    room, where = site.room, f"/oauth/acme/{path}"
    stranger, own = await signer(room, own=False), await signer(room, own=True)
    await filled(room, shares.ASSERTION, left=20)
    before = await room.store.tenant(ACME).usage()
    form = {"token": "x", "grant_type": clients.REFRESH_TOKEN, "refresh_token": "smcr_acme_x"}
    seen = [
        (await site.post(where, form | assertion(room, stranger, f"j{number}"))).status_code for number in range(21)
    ]
    good = 400 if path == "token" else 200  # the client has proved itself, and its token is none
    assert seen == [good] * 20 + [429]
    refused = await site.post(where, form | assertion(room, stranger, "again"))
    assert refused.json()["error"] == "temporarily_unavailable"
    assert "approve" in refused.json()["error_description"]
    assert int(refused.headers["retry-after"]) > 0
    # Not one byte of the tenant's, and its own clients, people and administrators go on.
    assert await room.store.tenant(ACME).usage() == before
    assert (await site.post(where, form | assertion(room, own, "mine"))).status_code in (200, 400)
    again = await site.post(where, form | assertion(room, own, "mine"))
    assert (again.status_code, again.json()["error"]) == (401, "invalid_client")
    answer = await site.post("/oauth/acme/token", room.with_code(await room.code()))
    assert answer.status_code == 200
    assert (await room.store.tenant(ACME).usage()).keys > before.keys


@pytest.mark.requirement("oauth:client-auth:once", "attack:oauth:assertion-replay")
async def test_an_assertion_is_not_good_again_when_its_client_is_approved_meanwhile(site: Site) -> None:
    """Attack: show an assertion again once its client's records are kept elsewhere."""
    room = site.room
    client = await signer(room, own=False)
    form = {"token": "x"} | assertion(room, client, "once")
    assert (await site.post("/oauth/acme/revoke", form)).status_code == 200
    await room.clients.adopt(client, actor=room.user.id, request_id="")
    assert (await site.post("/oauth/acme/revoke", form)).status_code == 401
    assert (await site.post("/oauth/acme/revoke", {"token": "x"} | assertion(room, client, "two"))).status_code == 200


@pytest.mark.requirement("oauth:edge:strangers", "attack:oauth:strangers-storage")
@pytest.mark.parametrize("kind", [shares.DEVICE, shares.USER_CODE])
async def test_devices_that_nobody_answers_fill_the_strangers_share_only(site: Site, kind: str) -> None:
    """Attack: begin logins of devices without end, with the id of a public client."""
    room = site.room
    await filled(room, kind, left=5)
    before = await room.store.tenant(ACME).usage()
    form = {"client_id": room.client.id, "resource": f"{PUBLIC}/t/acme/files/mcp"}
    answers = [await site.post("/oauth/acme/device_authorization", form) for _ in range(6)]
    assert [one.status_code for one in answers] == [200] * 5 + [429]
    assert answers[-1].json()["error"] == "temporarily_unavailable"
    assert "browser" in answers[-1].json()["error_description"]
    assert await room.store.tenant(ACME).usage() == before
    # Those that wait are answered, and everybody else signs in as before.
    found = await room.made.devices.find(ACME, answers[0].json()["user_code"], room.user.id)
    assert await room.made.devices.allow(ACME, found.id, room.user.id, room.user.epoch)
    answer = await site.post("/oauth/acme/token", room.with_code(await room.code()))
    assert answer.status_code == 200


@pytest.mark.requirement("oauth:edge:strangers")
def test_the_rates_let_through_less_than_there_is_room_for() -> None:
    """So a full share is no way to keep others out, as long as a process runs."""
    lives = lifetimes.Lifetimes()
    minutes = (client_auth.LIFE_S + 3 * client_auth.SKEW_S) / 60
    assert authorization.ASSERTIONS_PER_MINUTE * minutes < shares.SHARES[shares.ASSERTION].records
    waiting = oauth.TENANT_PER_MINUTE * lives.device_s / 60
    assert waiting < shares.SHARES[shares.USER_CODE].records
    assert waiting + oauth.TENANT_PER_MINUTE * lives.used_s / 60 < shares.SHARES[shares.DEVICE].records
    assert shares.SHARES[shares.CLIENT].records == room.MOST_LOOSE


@pytest.mark.requirement("oauth:edge:looking")
async def test_introspection_and_revocation_over_http(site: Site) -> None:
    held, robot = await site.room.log_in(), await site.room.machine()
    proof = "Basic " + base64.b64encode(f"{robot.client.id}:{robot.secret}".encode()).decode()

    async def look() -> dict[str, Any]:
        answer = await site.post("/oauth/acme/introspect", {"token": held.access}, headers={"Authorization": proof})
        assert answer.status_code == 200
        return answer.json()

    assert (await look())["active"] is True
    form = {"token": held.refresh, "client_id": site.room.client.id}
    answer = await site.post("/oauth/acme/revoke", form)
    assert (answer.status_code, answer.json()) == (200, {})
    assert await look() == {"active": False}
    assert (await site.post("/oauth/acme/revoke", {"token": "x"})).status_code == 401


@pytest.mark.requirement("oauth:edge:document")
async def test_the_document_describes_every_endpoint_that_is_served_and_no_other(site: Site) -> None:
    document = (await site.http.get("/oauth/openapi.json")).json()
    served = {route.path for route in site.app.routes} - {"/oauth/openapi.json"}
    assert {*document["paths"]} == served
    assert document == json.loads(json.dumps(oauth_document.document("0")))
