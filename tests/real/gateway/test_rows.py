"""What each wire answers, version by version: status, code and header fields."""

from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

import httpx2
import pytest

from support import wire
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
_REMOVED = ("initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe")


class Opened(NamedTuple):
    """A session of one version."""

    version: str
    session: str

    def fields(self) -> dict[str, str]:
        """What a client of that version sends: the two older ones know no version header."""
        told = {"mcp-protocol-version": self.version} if self.version >= "2025-06-18" else {}
        return {
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "mcp-session-id": self.session,
            **told,
        }


@pytest.fixture(params=VERSIONS)
async def opened(request: pytest.FixtureRequest, acme: wire.Caller) -> AsyncGenerator[Opened]:
    """A session of each legacy version."""
    answer = await acme.legacy(None, "initialize", wire.hello(request.param))
    assert answer.json()["result"]["protocolVersion"] == request.param
    yield Opened(request.param, answer.headers["mcp-session-id"])
    await acme.end(answer.headers["mcp-session-id"])


def _body(method: str, params: wire.Json | None = None, id_: Any = 1) -> bytes:
    return wire.legacy(None, method, params, id_)[1]


@pytest.mark.requirement("gateway:wire:legacy-rows")
async def test_a_legacy_request_is_answered_200_whatever_the_server_makes_of_it(
    acme: wire.Caller, opened: Opened
) -> None:
    ok = await acme.send(opened.fields(), _body("ping"))
    assert (ok.status_code, ok.json()["id"], ok.headers["content-type"]) == (200, 1, "application/json")
    unknown = await acme.send(opened.fields(), _body("made/up"))
    assert (unknown.status_code, unknown.json()["error"]["code"], unknown.json()["id"]) == (200, -32601, 1)
    level = await acme.send(opened.fields(), _body("logging/setLevel", {"level": "info"}))
    assert (level.status_code, "result" in level.json()) == (200, True)


@pytest.mark.requirement("gateway:wire:legacy-rows")
async def test_a_legacy_notification_and_a_legacy_response_are_202_without_a_body(
    acme: wire.Caller, opened: Opened
) -> None:
    response = b'{"jsonrpc":"2.0","id":"nobody asked","result":{}}'
    for body in (_body("notifications/initialized", id_=None), _body("notifications/made_up", id_=None), response):
        answer = await acme.send(opened.fields(), body)
        assert (answer.status_code, answer.content) == (202, b"")


@pytest.mark.requirement("gateway:wire:legacy-rows")
async def test_headers_of_the_modern_wire_mean_nothing_on_the_legacy_one(acme: wire.Caller, opened: Opened) -> None:
    odd = {"mcp-method": "tools/list", "mcp-name": "other", "mcp-param-x": "=?base64?no?=", "last-event-id": "x"}
    answer = await acme.send({**opened.fields(), **odd}, _body("tools/call", wire.call("echo", text="x")))
    assert (answer.status_code, wire.said(answer.json())["text"]) == (200, "x")


@pytest.mark.requirement("gateway:wire:version-header")
async def test_a_version_header_agrees_with_the_session_or_is_missing(acme: wire.Caller, opened: Opened) -> None:
    fields = {**opened.fields(), "mcp-protocol-version": opened.version}
    assert (await acme.send(fields, _body("ping"))).status_code == 200
    del fields["mcp-protocol-version"]
    assert (await acme.send(fields, _body("ping"))).status_code == 200
    for other in VERSIONS:
        answer = await acme.send({**fields, "mcp-protocol-version": other}, _body("ping"))
        assert answer.status_code == (200 if other == opened.version else 400), answer.text
        got = await acme.http.get(
            acme.url, headers={**acme.bearer, **fields, "accept": "application/json", "mcp-protocol-version": other}
        )
        assert got.status_code == 406
    for unknown in ("2025-01-01", "1.0", "latest", "2025-11-25, 2025-11-25", ""):
        answer = await acme.send({**fields, "mcp-protocol-version": unknown}, _body("ping"))
        assert answer.status_code == 400, (unknown, answer.text)
    assert (await acme.send(fields, _body("ping"))).status_code == 200


@pytest.mark.requirement("gateway:wire:modern-rows")
async def test_modern_errors_have_the_status_of_their_code(acme: wire.Caller) -> None:
    for method in (*_REMOVED, "made/up"):
        answer = await acme.modern(method)
        assert (answer.status_code, answer.json()["error"]["code"], answer.json()["id"]) == (404, -32601, 1)
    fields, body = wire.modern("tools/list")
    for name, value in (
        ("mcp-protocol-version", "2031-01-01"),
        ("mcp-method", "tools/call"),
        ("mcp-method", "TOOLS/LIST"),
    ):
        answer = await acme.send({**fields, name: value}, body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32020)
    other = body.replace(wire.MODERN.encode(), b"2031-01-01")
    answer = await acme.send({**fields, "mcp-protocol-version": "2031-01-01"}, other)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32022)
    assert answer.json()["error"]["data"] == {"supported": [wire.MODERN], "requested": "2031-01-01"}
    lacking: list[wire.Json] = [{}, {"_meta": {}}, {"_meta": {"io.modelcontextprotocol/protocolVersion": wire.MODERN}}]
    for params in lacking:
        answer = await acme.send(fields, _body("tools/list", params))
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602)


@pytest.mark.requirement("gateway:wire:modern-rows")
async def test_the_modern_wire_takes_notifications_and_no_responses_and_has_one_verb(acme: wire.Caller) -> None:
    fields = {"content-type": "application/json", "mcp-protocol-version": wire.MODERN}
    answer = await acme.send(fields, _body("notifications/made_up", id_=None))
    assert (answer.status_code, answer.content) == (202, b"")
    response = await acme.send(fields, b'{"jsonrpc":"2.0","id":1,"result":{}}')
    assert response.status_code == 400
    for verb in ("GET", "DELETE"):
        refused = await acme.http.request(verb, acme.url, headers={**acme.bearer, "mcp-protocol-version": wire.MODERN})
        assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    fields, body = wire.modern("tools/list")
    session = await acme.open()
    for told in (session, "x"):  # a session id means nothing here
        assert (await acme.send({**fields, "mcp-session-id": told, "last-event-id": "x"}, body)).status_code == 200


@pytest.mark.requirement("gateway:wire:both-rows")
@pytest.mark.parametrize("version", [*VERSIONS, wire.MODERN, None])
async def test_json_that_is_none_and_verbs_that_are_none_are_refused_alike_on_both_wires(
    acme: wire.Caller, version: str | None
) -> None:
    told = {} if version is None else {"mcp-protocol-version": version}
    fields = {"content-type": "application/json", **told}
    answer = await acme.send(fields, b"{nonsense")
    assert (answer.status_code, answer.json()["error"]["code"], answer.json()["id"]) == (400, -32700, None)
    assert (await acme.send({**fields, "content-type": "text/plain"}, b"{}")).status_code == 415
    assert (await acme.send({**fields, "accept": "image/png"}, b"{}")).status_code == 406
    for verb in ("PUT", "PATCH", "HEAD", "TRACE"):
        refused = await acme.http.request(verb, acme.url, headers={**acme.bearer, **told})
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, POST, DELETE, OPTIONS")


@pytest.mark.requirement("gateway:wire:challenges")
async def test_challenges_say_what_is_missing_on_both_wires(
    gate: Gate, acme: wire.Caller, http: httpx2.AsyncClient
) -> None:
    reader = wire.Caller(http, gate.reader)
    session = (await reader.legacy(None, "initialize", wire.hello())).headers["mcp-session-id"]
    for fields, body in (
        wire.modern("tools/call", wire.call("echo")),
        wire.legacy(session, "tools/call", wire.call("echo")),
    ):
        for bearer in ({}, {"authorization": "Bearer x"}, {"authorization": "Basic eDp5"}):
            answer = await http.post(acme.url, headers={**fields, **bearer}, content=body)
            shown = ', error="invalid_token"' if bearer else ""
            about = f"{gate.platform.base_url}/.well-known/oauth-protected-resource/t/acme/tool/mcp"
            assert (answer.status_code, answer.headers["www-authenticate"]) == (
                401,
                f'Bearer realm="smcp"{shown}, resource_metadata="{about}", scope="mcp:read mcp:call"',
            )
        answer = await reader.send(fields, body)
        assert answer.status_code == 403
        assert "www-authenticate" not in answer.headers
    await reader.end(session)
