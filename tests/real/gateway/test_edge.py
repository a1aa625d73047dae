"""What the edge refuses before anybody is asked who they are: foreign hosts and origins, other forms of addresses."""

import asyncio
import json

import httpx2
import pytest

from support import wire
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_ROUTES = [
    "/t/acme/tool/mcp", "/t/nobody/nothing/mcp", "/t/", "/t", "/", "/healthz", "/readyz", "/version", "/metrics",
    "/api/v1/whoami", "/api/v1/tenants", "/api/v1/openapi.json", "/api/docs", "/nowhere",
]  # fmt: skip
_VERBS = ["GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "HEAD"]


def _bad(port: int) -> list[list[tuple[str, str]]]:
    """Host and Origin fields that no client of this platform sends."""
    good = ("host", f"127.0.0.1:{port}")
    return [
        [],
        [("host", "")],
        [("host", "null")],
        [("host", "evil.example")],
        [("host", f"evil.example:{port}")],
        [("host", "127.0.0.1")],
        [("host", f"127.0.0.1:{port}.evil.example")],
        [("host", f"127.0.0.1:{port}@evil.example")],
        [good, ("host", "evil.example")],
        [("host", "evil.example"), good],
        [good, good],
        [good, ("origin", "null")],
        [good, ("origin", "")],
        [good, ("origin", "http://evil.example")],
        [good, ("origin", f"http://evil.example:{port}")],
        [good, ("origin", f"https://127.0.0.1:{port}")],
        [good, ("origin", f"http://127.0.0.1:{port}.evil.example")],
        [good, ("origin", f"http://127.0.0.1:{port}"), ("origin", "http://evil.example")],
    ]


def _port(gate: Gate) -> int:
    return wire.address(gate.platform.base_url)[1]


@pytest.mark.requirement("gateway:edge:hosts")
@pytest.mark.parametrize("route", _ROUTES)
async def test_a_foreign_host_or_origin_is_refused_on_every_route_with_every_verb(gate: Gate, route: str) -> None:
    bearer = ("authorization", f"Bearer {gate.acme.key}")
    seen: dict[str, int] = {}
    for verb in _VERBS:
        for fields in _bad(_port(gate)):
            answer = await wire.raw(gate.platform.base_url, wire.request(verb, route, [*fields, bearer]))
            seen[f"{verb} {fields}"] = answer.status
            assert "access-control-allow-origin: http://evil" not in answer.head.lower()
    # 400: two fields where one may stand, which is refused before it could be judged.
    assert {name: status for name, status in seen.items() if status not in (400, 403)} == {}
    doubled = {name for name, status in seen.items() if status == 400}
    assert all(name.count("'host'") == 2 or name.count("'origin'") == 2 for name in doubled)


@pytest.mark.requirement("gateway:edge:websocket")
@pytest.mark.parametrize("route", _ROUTES)
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "own"])
async def test_a_websocket_is_never_opened(gate: Gate, route: str, origin: str) -> None:
    host = f"127.0.0.1:{_port(gate)}"
    fields = [
        ("host", host),
        ("origin", f"http://{host}" if origin == "own" else origin),
        ("authorization", f"Bearer {gate.acme.key}"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-version", "13"),
    ]
    head = f"GET {route} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in fields) + "connection: Upgrade\r\n\r\n"
    answer = await wire.raw(gate.platform.base_url, head.encode(), eof=True)
    assert answer.status != 101
    if origin != "own":
        assert answer.status == 403


@pytest.mark.requirement("gateway:edge:cors")
async def test_a_preflight_of_an_allowed_origin_needs_no_key_and_names_every_header(gate: Gate) -> None:
    origin = f"http://127.0.0.1:{_port(gate)}"
    asked = {"origin": origin, "access-control-request-headers": "authorization, mcp-param-region, x-evil"}
    async with httpx2.AsyncClient(timeout=120.0) as http:
        answer = await http.options(gate.acme.url, headers=asked)
    allowed = {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (204, origin)
    assert allowed >= {"authorization", "content-type", "accept", "mcp-protocol-version", "mcp-session-id",
                       "last-event-id", "mcp-method", "mcp-name", "traceparent", "mcp-param-region"}  # fmt: skip
    assert "x-evil" not in allowed


def _paths() -> list[str]:
    path = "/t/acme/tool/mcp"
    return [
        "//t/acme/tool/mcp", "/t//acme/tool/mcp", "/t/acme//tool/mcp", "/t/acme/tool//mcp", f"{path}/", f"{path}//",
        f"{path}/sse", f"{path}/messages", f"{path}.json", f"{path};x=1", f"{path}%00", f"{path}%20", f"{path}%2f",
        f"{path}?x=1", f"{path}?a", f"{path}#x", f"{path}?#x", "/t/acme/tool/%6dcp", "/t/%61cme/tool/mcp",
        "/t/acme/tool/%2e/mcp", "/t/acme/tool/./mcp", "/t/umbra/../acme/tool/mcp", "/t/acme/x/%2e%2e/tool/mcp",
        "/t/acme/tool%2fmcp", "/t/acme%2ftool/mcp", "/T/acme/tool/mcp", "/t/ACME/tool/mcp", "/t/acme/TOOL/mcp",
        "/t/acme/tool/MCP", "/t/acme/tool", "/t/acme/tool/", "/x/../t/acme/tool/mcp", "/t/acme/tool/mcp\\",
        "t/acme/tool/mcp",
        "/t/acme/tool/mcp/../mcp", "http://evil.example/t/acme/tool/mcp", "/t/acme/tool\u00ad/mcp",
        "/t/acm%c0%a5/tool/mcp",
    ]  # fmt: skip


@pytest.mark.requirement("gateway:edge:one-address")
@pytest.mark.parametrize("path", _paths())
async def test_another_spelling_of_an_address_reaches_no_server(gate: Gate, path: str) -> None:
    before = wire.vitals(gate.platform)
    bearer = {"authorization": f"Bearer {gate.acme.key}", "host": f"127.0.0.1:{_port(gate)}"}
    for fields, body in (wire.modern("tools/call", wire.call("echo")), wire.legacy(None, "initialize", wire.hello())):
        sent = [*{**bearer, **fields, "content-length": str(len(body))}.items()]
        answer = await wire.raw(gate.platform.base_url, wire.request("POST", path, sent, body))
        assert answer.status in (400, 404, 405), answer
        assert b"acme-tool" not in answer.body
        assert b"mcp-session-id" not in answer.head.lower().encode()
    assert wire.vitals(gate.platform).sessions <= before.sessions


@pytest.mark.requirement("gateway:edge:one-address")
async def test_the_one_spelling_does_reach_it(gate: Gate) -> None:
    fields, body = wire.modern("tools/call", wire.call("echo", text="hi"))
    host = f"localhost:{_port(gate)}"
    sent = [
        *{"authorization": f"Bearer {gate.acme.key}", "host": host, **fields, "content-length": str(len(body))}.items()
    ]
    answer = await wire.raw(gate.platform.base_url, wire.request("POST", "/t/acme/tool/mcp", sent, body))
    assert answer.status == 200
    assert wire.said(json.loads(answer.body))["canary"] == "acme-tool"


@pytest.mark.requirement("gateway:edge:one-answer")
async def test_without_a_valid_key_what_exists_looks_like_what_does_not(gate: Gate) -> None:
    fields, body = wire.modern("tools/list")
    seen: set[tuple[int, str, bytes]] = set()
    async with httpx2.AsyncClient(timeout=120.0) as http:
        for path in ("/t/acme/tool/mcp", "/t/acme/none/mcp", "/t/nobody/none/mcp", "/t/x", "/t/acme/tool/mcp/"):
            for bearer in (
                None,
                "Bearer x",
                f"Bearer {wire.miskeyed(gate.acme.key)}",
                "Basic YTpi",
                f"bearer  {gate.acme.key}x",
            ):
                sent = fields if bearer is None else {**fields, "authorization": bearer}
                answer = await http.post(f"{gate.platform.base_url}{path}", headers=sent, content=body)
                # 503: its store was slow just now (other tests share this disk), so it decided nothing. Asked again.
                for _ in range(20):
                    if answer.status_code != 503:
                        break
                    await asyncio.sleep(0.2)
                    answer = await http.post(f"{gate.platform.base_url}{path}", headers=sent, content=body)
                # What differs is what the caller wrote: the address, and whether there was a credential.
                told = answer.headers["www-authenticate"].replace(f'{path.removeprefix("/")}"', '…"')
                seen.add((answer.status_code, told.replace(', error="invalid_token"', ""), answer.content))
    about = f', resource_metadata="{gate.platform.base_url}/.well-known/oauth-protected-resource/…"'
    assert {told for _, told, _ in seen} == {
        f'Bearer realm="smcp"{where}, scope="mcp:read mcp:call"' for where in ("", about)
    }
    assert {(status, body) for status, _, body in seen} == {(401, seen.pop()[2])}
