"""Quirks 6 to 11: what clients of OAuth do to a platform that knows API keys.

They probe for metadata, register, refresh and step up whether or not there is anything to find. What they meet must be
short, clear, and not a circle.
"""

import asyncio
import json
from collections.abc import Callable

import httpx2
import pytest

from support import wire
from support.clients import Endpoint
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

Make = Callable[[Endpoint], wire.Caller]
_DOCUMENTS = ("oauth-protected-resource", "oauth-authorization-server", "openid-configuration")
_RESOURCE, *_SERVERS = _DOCUMENTS
_ABSENT = (
    *(
        form.format(name)
        for name in _DOCUMENTS
        for form in (
            "/.well-known/{0}",
            "/.well-known/{0}/",
            "/t/acme/tool/mcp/.well-known/{0}",
            "/t/acme/tool/.well-known/{0}",
            "/t/nobody/none/mcp/.well-known/{0}",
            "/t/acme/tool/mcp/.well-known/{0}/",
            "/t/.well-known/{0}",
        )
    ),
    *(f"/.well-known/{name}/t/acme/tool" for name in _SERVERS),
    f"/t/acme/.well-known/{_RESOURCE}",
    f"/.well-known/{_RESOURCE}/t/acme",
)
_SERVED = (
    *(
        (form.format(name), "issuer", "/t/acme")
        for name in _SERVERS
        for form in (
            "/.well-known/{0}/t/acme",
            "/.well-known/{0}/t/acme/",
            "/t/acme/.well-known/{0}",
            "/t/acme/.well-known/{0}/",
            "/.well-known/{0}/t/acme/tool/mcp",
        )
    ),
    (f"/.well-known/{_RESOURCE}/t/acme/tool/mcp", "resource", "/t/acme/tool/mcp"),
    (f"/.well-known/{_RESOURCE}/t/acme/tool/mcp/", "resource", "/t/acme/tool/mcp/"),
)


@pytest.mark.requirement("quirk:06:well-known")
@pytest.mark.parametrize("path", _ABSENT)
async def test_a_document_that_is_not_there_is_a_short_404_in_json_with_and_without_a_key(
    gate: Gate, http: httpx2.AsyncClient, path: str
) -> None:
    url = gate.platform.base_url + path
    for verb in ("GET", "HEAD", "OPTIONS"):
        for fields in ({}, {"authorization": f"Bearer {gate.acme.key}"}, {"mcp-protocol-version": "2025-11-25"}):
            answer = await http.request(verb, url, headers=fields, follow_redirects=False)
            # Never 401, which would send a client of OAuth after the next document, and never a page for people.
            assert answer.status_code in {"GET": (404,), "HEAD": (404, 405), "OPTIONS": (204, 404)}[verb], url
            assert "www-authenticate" not in answer.headers
            if verb == "GET":
                assert answer.headers["content-type"].partition(";")[0] == "application/json"
                assert "error" in json.loads(answer.content)


@pytest.mark.requirement("quirk:06:served")
@pytest.mark.parametrize(("path", "member", "told"), _SERVED)
async def test_a_document_is_served_wherever_it_is_looked_for_with_and_without_a_key(
    gate: Gate, http: httpx2.AsyncClient, path: str, member: str, told: str
) -> None:
    for fields in ({}, {"authorization": f"Bearer {gate.acme.key}"}, {"mcp-protocol-version": "2025-11-25"}):
        answer = await http.get(gate.platform.base_url + path, headers=fields, follow_redirects=False)
        assert answer.status_code == 200, answer.text
        assert answer.json()[member] == gate.platform.base_url + told
        servers = answer.json().get("authorization_servers", [answer.json().get("issuer")])
        assert servers == [f"{gate.platform.base_url}/t/acme"]


@pytest.mark.requirement("quirk:06:challenge")
@pytest.mark.parametrize("verb", ["GET", "POST", "DELETE"])
async def test_the_challenge_is_one_bearer_that_leads_to_the_servers_own_document(
    gate: Gate, http: httpx2.AsyncClient, verb: str
) -> None:
    for url in (gate.acme.url, gate.acme.url.replace("/tool/", "/none/")):
        for fields in ({}, {"authorization": "Bearer gone"}, {"mcp-session-id": "gone"}):
            answer = await http.request(verb, url, headers=fields)
            told = answer.headers.get_list("www-authenticate")
            shown = ', error="invalid_token"' if "authorization" in fields else ""
            about = url.replace("/t/", "/.well-known/oauth-protected-resource/t/")
            scopes = "mcp:read mcp:call"
            assert answer.status_code == 401
            assert told == [f'Bearer realm="smcp"{shown}, resource_metadata="{about}", scope="{scopes}"']
            assert answer.headers["content-type"].partition(";")[0] == "application/json"


@pytest.mark.requirement("quirk:07:typed-address")
async def test_a_mangled_address_is_never_another_servers_and_is_not_redirected(
    gate: Gate, http: httpx2.AsyncClient
) -> None:
    fields, body = wire.modern("tools/call", wire.call("echo"))
    sent = {**fields, "authorization": f"Bearer {gate.acme.key}"}
    base = gate.platform.base_url
    for url in (f"{gate.acme.url}/", base, f"{base}/", f"{gate.acme.url}?resource=x", f"{base}/t/acme/tool/"):
        answer = await http.post(url, headers=sent, content=body, follow_redirects=False)
        # A redirect would take the credential to wherever it leads, and some clients drop the body on the way.
        assert answer.status_code == 404, url
        assert "location" not in answer.headers
        assert answer.headers["content-type"].partition(";")[0] == "application/json"


@pytest.mark.requirement("quirk:08:loopback")
async def test_loopback_is_known_by_every_name_that_it_has(gate: Gate) -> None:
    _, port = wire.address(gate.platform.base_url)
    fields, body = wire.modern("tools/list")
    bearer = ("authorization", f"Bearer {gate.acme.key}")
    for name in ("127.0.0.1", "localhost", "LocalHost", "[::1]"):
        for origin in ((), (("origin", f"http://{name}:{port}"),)):
            length = ("content-length", str(len(body)))
            sent = [("host", f"{name}:{port}"), bearer, *fields.items(), *origin, length]
            answer = await wire.raw(gate.platform.base_url, wire.request("POST", "/t/acme/tool/mcp", sent, body))
            assert answer.status == 200, (name, origin)


@pytest.mark.requirement("quirk:09:registration")
async def test_clients_that_register_again_and_again_meet_404_and_leave_nothing(
    gate: Gate, http: httpx2.AsyncClient
) -> None:
    order = {"client_name": "churn", "redirect_uris": ["http://localhost:5555/callback"]}
    before = wire.vitals(gate.platform)
    for path in ("/register", "/oauth/register", "/authorize", "/token", "/revoke"):
        for _ in range(20):
            answer = await http.post(f"{gate.platform.base_url}{path}", json=order, follow_redirects=False)
            assert answer.status_code == 404
            assert "error" in answer.json()
    after = await wire.settled(gate.platform, before, files=3)
    assert (after.sessions, after.instances) <= (before.sessions, before.instances)
    # Nothing of it is on record but, late, that others were refused.
    trail = gate.platform.audit("platform")
    assert {one["event"]["event"] for one in trail if "churn" in json.dumps(one)} == set()


@pytest.mark.requirement("quirk:10:races")
async def test_a_storm_of_dead_credentials_does_not_keep_the_good_one_of_the_same_address_out(
    gate: Gate, acme: wire.Caller
) -> None:
    fields, body = wire.modern("tools/call", wire.call("echo", text="in"))
    session = await acme.open()

    async def dead() -> int:
        return (await acme.send(fields, body, authorization=f"Bearer {wire.miskeyed(gate.acme.key)}")).status_code

    async def good(number: int) -> None:
        call = wire.legacy(session, "tools/call", wire.call("echo", text="in"), number)
        assert wire.said(wire.messages(await acme.send(*call))[-1])["text"] == "in"

    # Some windows of one user refresh at once: those that lost keep on with what they have.
    refused, _ = await asyncio.gather(
        asyncio.gather(*(dead() for _ in range(60))), asyncio.gather(*(good(number) for number in range(60)))
    )
    assert set(refused) <= {401, 429}
    assert (await acme.legacy(session, "tools/list")).status_code == 200


@pytest.mark.requirement("quirk:11:scopes")
async def test_basic_use_needs_no_stepping_up_and_what_needs_it_says_so_once(gate: Gate, caller: Make) -> None:
    reader = caller(gate.reader)
    session = await reader.open()
    for method in ("tools/list", "prompts/list", "resources/list", "ping"):
        assert (await reader.legacy(session, method)).status_code == 200, method
    assert (await reader.modern("tools/list")).status_code == 200
    for answer in (
        await reader.legacy(session, "tools/call", wire.call("echo")),
        await reader.modern("tools/call", wire.call("echo")),
    ):
        told = answer.headers.get_list("www-authenticate")
        assert (answer.status_code, told) == (403, [])
        assert answer.json()["id"] == 1
    # The refusal costs the session nothing.
    assert (await reader.legacy(session, "tools/list")).status_code == 200
