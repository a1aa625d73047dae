"""Attacks with tokens, over the wire: for another server, forged, spent, revoked, of somebody else's session."""

import asyncio
import base64
import hmac
import json
import re
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from joserfc import jwk, jws

from support import byoauth, elsewhere, idp, visitors, wire
from support.clients import Endpoint
from support.idp import House

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

Make = Callable[[Endpoint], wire.Caller]


async def _asked(http: httpx2.AsyncClient, url: str, token: str, scheme: str = "Bearer") -> httpx2.Response:
    fields, body = wire.modern("tools/list")
    return await http.post(url, headers={**fields, "authorization": f"{scheme} {token}"}, content=body)


async def _admin(http: httpx2.AsyncClient, house: House, path: str, token: str) -> int:
    return (await http.get(f"{house.api}{path}", headers={"authorization": f"Bearer {token}"})).status_code


@pytest.mark.requirement("oauth:attacks:audience")
async def test_cve_2025_69196_a_token_for_one_server_is_none_at_any_other(
    house: House, http: httpx2.AsyncClient
) -> None:
    issuer = house.issuer(http)
    _, got = await idp.login(house, issuer, "ada", house.gate.acme.url)
    assert (await _asked(http, house.gate.acme.url, got.access)).status_code == 200
    for other in (house.gate.second.url, house.gate.umbra.url, house.gate.acme.url.replace("/tool/", "/none/")):
        answer = await _asked(http, other, got.access)
        assert answer.status_code == 401, other
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
    for path in ("/whoami", "/tenants/acme", "/tenants/acme/servers"):
        assert await _admin(http, house, path, got.access) == 401, path


@pytest.mark.requirement("oauth:attacks:audience")
async def test_a_token_for_the_admin_api_is_none_at_a_server(house: House, http: httpx2.AsyncClient) -> None:
    issuer = house.issuer(http)
    _, got = await idp.login(house, issuer, "ada", house.api, scope="api:admin")
    assert await _admin(http, house, "/tenants/acme/keys", got.access) == 200
    assert await _admin(http, house, "/tenants/umbra", got.access) == 404
    assert (await _asked(http, house.gate.acme.url, got.access)).status_code == 401


@pytest.mark.requirement("oauth:attacks:audience")
async def test_a_refresh_does_not_widen_what_was_agreed_to(house: House, http: httpx2.AsyncClient) -> None:
    issuer = house.issuer(http)
    client, got = await idp.login(house, issuer, "ada", house.gate.acme.url, scope="mcp:read")
    for changed, code in (
        ({"resource": house.gate.second.url}, "invalid_target"),
        ({"resource": house.api}, "invalid_target"),
        ({"scope": "mcp:read mcp:call"}, "invalid_scope"),
        ({"scope": "api:admin"}, "invalid_scope"),
    ):
        assert byoauth.refusal(await issuer.refresh(client, got.refresh, **changed)) == code, changed
    again = byoauth.pair(await issuer.refresh(client, got.refresh))
    assert again.said["scope"] == "mcp:read"


def _encoded(value: object) -> str:
    return byoauth.encoded(json.dumps(value).encode())


def _forged(token: str, keys: dict[str, Any]) -> dict[str, str]:
    """What attacks on JWT libraries are made of, with the claims of a token that is good."""
    header, claims = byoauth.parts(token)
    head, body, signature = token.split(".")
    mine = jwk.ECKey.generate_key("P-256")
    public = keys["keys"][0]
    pem = jwk.ECKey.import_key(public).as_pem(private=False)

    def signed(changed: dict[str, Any], key: Any, alg: str, told: dict[str, Any] | None = None) -> str:
        protected = {**header, "alg": alg, **changed}
        return jws.serialize_compact(protected, json.dumps(told or claims), key, algorithms=[alg])

    none = f"{_encoded({**header, 'alg': 'none'})}.{body}."
    found = {
        "alg none": none,
        "alg None": f"{_encoded({**header, 'alg': 'None'})}.{body}.",
        "alg none with the signature": f"{_encoded({**header, 'alg': 'none'})}.{body}.{signature}",
        "no signature": f"{head}.{body}.",
        "an ES256 signature of zeros": f"{head}.{body}.{byoauth.encoded(bytes(64))}",
        "another subject": f"{head}.{_encoded({**claims, 'sub': 'user-other'})}.{signature}",
        "another key": signed({}, mine, "ES256"),
        "another key in jwk": signed({"jwk": mine.as_dict(private=False)}, mine, "ES256"),
        "another key by jku": signed({"jku": "https://evil.example/jwks"}, mine, "ES256"),
        "another key by x5u": signed({"x5u": "https://evil.example/x5u"}, mine, "ES256"),
        "kid of a file": signed({"kid": "../../../../dev/null"}, mine, "ES256"),
        "kid of sql": signed({"kid": "x' UNION SELECT 'k"}, mine, "ES256"),
        "no kid": f"{_encoded({name: value for name, value in header.items() if name != 'kid'})}.{body}.{signature}",
        "crit": f"{_encoded({**header, 'crit': ['x'], 'x': 1})}.{body}.{signature}",
        "typ JWT": f"{_encoded({**header, 'typ': 'JWT'})}.{body}.{signature}",
        "a part more": f"{token}.{body}",
        "padding": f"{token}=",
        "upper case": token.upper(),
        "empty": "..",
    }
    for name, secret in (("pem", pem), ("x", base64.urlsafe_b64decode(public["x"] + "=")), ("empty", b"")):
        under = f"{_encoded({**header, 'alg': 'HS256'})}.{body}"
        mac = hmac.digest(secret, under.encode(), "sha256")
        found[f"HS256 with the public key ({name})"] = f"{under}.{byoauth.encoded(mac)}"
    return found


@pytest.mark.requirement("oauth:attacks:jwt")
async def test_jwt_tricks_alg_kid_jku_and_unsigned_tokens_are_refused(house: House, http: httpx2.AsyncClient) -> None:
    issuer = house.issuer(http)
    _, got = await idp.login(house, issuer, "ada", house.gate.acme.url)
    keys = (await http.get(issuer.at("jwks"))).json()
    assert all("d" not in key for key in keys["keys"])
    assert byoauth.parts(got.access)[0]["typ"] == "at+jwt"  # RFC 9068, 2.1
    for name, forged in _forged(got.access, keys).items():
        answer = await _asked(http, house.gate.acme.url, forged)
        assert answer.status_code == 401, name
        assert forged not in answer.text
    assert (await _asked(http, house.gate.acme.url, got.access)).status_code == 200


@pytest.mark.requirement("oauth:attacks:jwt")
async def test_another_tenants_issuer_signs_nothing_for_this_one(house: House, http: httpx2.AsyncClient) -> None:
    umbra = house.issuer(http, "umbra")
    _, got = await idp.login(house, umbra, "eve", house.gate.umbra.url)
    assert (await _asked(http, house.gate.umbra.url, got.access)).status_code == 200
    for url in (house.gate.acme.url, house.gate.second.url):
        assert (await _asked(http, url, got.access)).status_code == 401
    kids = [
        {key["kid"] for key in (await http.get(house.issuer(http, tenant).at("jwks"))).json()["keys"]}
        for tenant in ("acme", "umbra")
    ]
    assert kids[0].isdisjoint(kids[1])


@pytest.mark.requirement("oauth:attacks:audience")
async def test_a_token_in_the_query_or_in_the_body_is_no_credential(house: House, http: httpx2.AsyncClient) -> None:
    issuer = house.issuer(http)
    _, got = await idp.login(house, issuer, "ada", house.gate.acme.url)
    fields, body = wire.modern("tools/list")
    for url in (f"{house.gate.acme.url}?access_token={got.access}", house.gate.acme.url):
        answer = await http.post(url, headers=fields, content=body)
        assert answer.status_code in (401, 404), url
    assert (await http.get(f"{house.api}/whoami?access_token={got.access}")).status_code in (400, 401)
    answer = await _asked(http, house.gate.acme.url, got.refresh)
    assert answer.status_code == 401


@pytest.mark.requirement("oauth:attacks:sessions")
async def test_cve_2026_52869_a_session_belongs_to_whom_its_token_names(
    house: House, http: httpx2.AsyncClient, caller: Make
) -> None:
    issuer = house.issuer(http)
    client, mine = await idp.login(house, issuer, "ada", house.gate.acme.url)
    _, theirs = await idp.login(house, issuer, "bob", house.gate.acme.url, by=client)
    ada, bob = (caller(idp.at(house.gate.acme, one)) for one in (mine, theirs))
    keyed = caller(house.gate.acme)
    session = await ada.open()
    for other in (bob, keyed):
        assert (await other.legacy(session, "tools/list")).status_code == 404
        assert (
            await http.get(
                other.url, headers={**other.bearer, "mcp-session-id": session, "accept": "text/event-stream"}
            )
        ).status_code == 404
        assert await other.end(session) == 404
    assert (await ada.legacy(session, "tools/list")).status_code == 200
    # The next token of the same person and client goes on with it: a session outlives a token.
    fresh = byoauth.pair(await issuer.refresh(client, mine.refresh))
    assert (await caller(idp.at(house.gate.acme, fresh)).legacy(session, "tools/list")).status_code == 200


@pytest.mark.requirement("oauth:attacks:sessions")
async def test_ghsa_mvgg_jvj2_4frq_a_session_of_one_server_is_none_at_another(
    house: House, http: httpx2.AsyncClient, caller: Make
) -> None:
    issuer = house.issuer(http)
    client, first = await idp.login(house, issuer, "ada", house.gate.acme.url)
    _, second = await idp.login(house, issuer, "ada", house.gate.second.url, by=client)
    session = await caller(idp.at(house.gate.acme, first)).open()
    assert (await caller(idp.at(house.gate.second, second)).legacy(session, "tools/list")).status_code == 404


@pytest.mark.requirement("oauth:attacks:credentials-apart")
async def test_first_users_credential_is_not_the_second_ones(
    house: House, http: httpx2.AsyncClient, caller: Make
) -> None:
    issuer = house.issuer(http)
    client, mine = await idp.login(house, issuer, "ada", house.gate.acme.url)
    _, theirs = await idp.login(house, issuer, "bob", house.gate.acme.url, by=client, scope="mcp:read")
    ada, bob = (caller(idp.at(house.gate.acme, one)) for one in (mine, theirs))
    for _ in range(3):  # warm or not, in turns over the same connections
        assert (await ada.modern("tools/call", wire.call("echo", text="a"))).status_code == 200
        assert (await bob.modern("tools/call", wire.call("echo", text="b"))).status_code == 403


@pytest.mark.requirement("oauth:attacks:passthrough")
async def test_token_passthrough_a_server_elsewhere_never_sees_its_clients_token(
    house: House, http: httpx2.AsyncClient
) -> None:
    with elsewhere.Elsewhere(house.platform, "passing") as found:
        url = found["dual"].url
        issuer = house.issuer(http, "passing")
        async with await idp.invite(house.platform, "passing", "pat@passing.example", "mcp_user") as pat:
            client = await idp.client(house, issuer)
            attempt = issuer.begin(client, url)
            got = byoauth.pair(await issuer.redeem(attempt, (await pat.agree(attempt.address))["code"]))
        assert (await _asked(http, url, got.access)).status_code == 200
        received = bytes(found.running["dual"].received)
    assert b"tools/list" in received
    shown = re.findall(rb"^authorization: *bearer (\S+)", received, re.IGNORECASE | re.MULTILINE)
    assert set(shown) == {found.running["dual"].token.encode()}
    for secret in (got.access, got.refresh, got.access.rpartition(".")[2], client):
        assert secret.encode() not in received


@pytest.mark.requirement("oauth:attacks:revocation")
async def test_what_is_revoked_is_refused_at_the_next_request(house: House, http: httpx2.AsyncClient) -> None:
    issuer = house.issuer(http)
    url = house.gate.acme.url
    client, first = await idp.login(house, issuer, "ada", url)
    assert (await _asked(http, url, first.access)).status_code == 200
    # By the client, with the access token, and with the refresh token (RFC 7009, 2.1).
    assert (await issuer.revoke(client, first.access)).status_code == 200
    assert (await _asked(http, url, first.access)).status_code == 401
    _, second = await idp.login(house, issuer, "ada", url, by=client)
    assert (await _asked(http, url, second.access)).status_code == 200
    assert (await issuer.revoke(client, second.refresh)).status_code == 200
    assert (await _asked(http, url, second.access)).status_code == 401
    assert byoauth.refusal(await issuer.refresh(client, second.refresh)) == "invalid_grant"
    # By the person, on her page.
    _, third = await idp.login(house, issuer, "ada", url, by=client)
    assert (await _asked(http, url, third.access)).status_code == 200
    async with idp.signed_in(house, "ada") as ada:
        while held := [
            (one, button)
            for one in visitors.forms(await ada.open("/account/acme/clients"))
            for button in one.buttons
            if button[0] == "revoke"
        ]:
            form, (name, value) = held[0]
            await ada.send(form, {name: value})
    assert (await _asked(http, url, third.access)).status_code == 401
    assert byoauth.refusal(await issuer.refresh(client, third.refresh)) == "invalid_grant"


@pytest.mark.requirement("oauth:attacks:revocation")
async def test_nobody_revokes_or_looks_into_anothers_token(house: House, http: httpx2.AsyncClient) -> None:
    issuer = house.issuer(http)
    client, got = await idp.login(house, issuer, "ada", house.gate.acme.url)
    other = await idp.client(house, issuer, "Another")
    umbra = house.issuer(http, "umbra")
    theirs = await idp.client(house, umbra)
    for who, where in ((other, issuer), (theirs, umbra), (client, umbra), ("", issuer)):
        for token in (got.access, got.refresh):
            assert (await where.revoke(who, token)).status_code in (200, 400, 401)
            told = await where.send("introspect", {"client_id": who, "token": token})
            assert told.status_code in (400, 401, 403) or told.json() == {"active": False}
    assert (await _asked(http, house.gate.acme.url, got.access)).status_code == 200
    assert byoauth.pair(await issuer.refresh(client, got.refresh)).access


@pytest.mark.requirement("oauth:attacks:revocation")
async def test_a_closed_account_a_revoked_client_and_a_suspended_tenant_end_their_tokens(
    house: House, http: httpx2.AsyncClient
) -> None:
    platform = house.platform
    issuer = house.issuer(http)
    # A person of her own, whose account is closed.
    async with await idp.invite(platform, "acme", "cleo@acme.example", "mcp_user", key=house.gate.admin) as cleo:
        client = await idp.client(house, issuer)
        attempt = issuer.begin(client, house.gate.acme.url)
        got = byoauth.pair(await issuer.redeem(attempt, (await cleo.agree(attempt.address))["code"]))
        assert (await _asked(http, house.gate.acme.url, got.access)).status_code == 200
        found = platform.api("GET", "/tenants/acme/users", key=house.gate.admin)["items"]
        cleos = next(one["id"] for one in found if one["email"] == "cleo@acme.example")
        platform.api("POST", f"/tenants/acme/users/{cleos}/disable", key=house.gate.admin)
        assert (await _asked(http, house.gate.acme.url, got.access)).status_code == 401
        assert byoauth.refusal(await issuer.refresh(client, got.refresh)) == "invalid_grant"
        page = await cleo.open("/account/acme/sessions")
        assert visitors.form(page, "/login")
    # A client.
    client = await idp.client(house, issuer, "To be revoked")
    _, got = await idp.login(house, issuer, "ada", house.gate.acme.url, by=client)
    platform.api("DELETE", f"/tenants/acme/clients/{client}", key=house.gate.admin)
    assert (await _asked(http, house.gate.acme.url, got.access)).status_code == 401
    assert byoauth.refusal(await issuer.refresh(client, got.refresh)) in ("invalid_client", "invalid_grant")
    # A tenant.
    umbra = house.issuer(http, "umbra")
    client, got = await idp.login(house, umbra, "eve", house.gate.umbra.url)
    platform.api("POST", "/tenants/umbra/suspend")
    try:
        assert (await _asked(http, house.gate.umbra.url, got.access)).status_code in (401, 403)
        refused = await umbra.refresh(client, got.refresh)
        assert 400 <= refused.status_code < 500, refused.text
        assert (await http.get(f"{house.base_url}/account/umbra/login")).status_code in (403, 404)
    finally:
        platform.api("POST", "/tenants/umbra/resume")
    assert (await _asked(http, house.gate.umbra.url, got.access)).status_code == 200


@pytest.mark.requirement("oauth:races:refresh")
async def test_a_hundred_racing_refreshes_lose_no_login(house: House, http: httpx2.AsyncClient) -> None:
    issuer = house.issuer(http)
    client, got = await idp.login(house, issuer, "ada", house.gate.acme.url)
    answers = await asyncio.gather(*(issuer.refresh(client, got.refresh) for _ in range(100)))
    pairs = [byoauth.pair(answer) for answer in answers]
    # Every window of the client goes on with what it got, be it the first or the last.
    statuses = await asyncio.gather(*(_asked(http, house.gate.acme.url, one.access) for one in pairs))
    assert {one.status_code for one in statuses} == {200}
    later = await asyncio.gather(*(issuer.refresh(client, one.refresh) for one in pairs))
    assert {answer.status_code for answer in later} == {200}
