"""Behind reverse proxies: whose address counts, what arrives, and what is compressed on the way."""

import contextlib
import gzip
import itertools
import json
import pathlib
from collections.abc import Callable

import httpx2
import pytest

from real.edge.conftest import FAILURES, Behind
from support import clients, proxy, wire

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

# Each test comes from addresses of its own: what one has used up must not be missing to another.
_STRANGERS = (f"127.0.0.{number}" for number in itertools.count(10))
_CLIENTS = (f"198.51.100.{number}" for number in itertools.count(1))


@contextlib.contextmanager
def _from(behind: Behind, address: str, path: str):
    """A caller without a valid key whose connections come from `address`."""
    with httpx2.Client(transport=httpx2.HTTPTransport(local_address=address, verify=False), timeout=120.0) as http:

        def fail(**fields: str) -> int:
            told = {name.replace("_", "-"): value for name, value in fields.items()}
            return http.get(f"{behind.platform.base_url}{path}", headers=told).status_code

        yield fail


_PATHS = pytest.mark.parametrize("path", ["/t/acme/tool/mcp", "/api/v1/tenants"])


@_PATHS
@pytest.mark.requirement("gateway:proxies:rate", "kernel:proxies:untrusted")
@pytest.mark.parametrize("header", ["X_Forwarded_For", "Forwarded"])
def test_a_stranger_evades_no_limit_with_headers_and_takes_it_from_nobody_else(
    behind: Behind, path: str, header: str
) -> None:
    form = "{}" if header == "X_Forwarded_For" else "for={}"
    with _from(behind, next(_STRANGERS), path) as fail:
        found = [fail(**{header: form.format(f"203.0.113.{number}")}) for number in range(FAILURES + 3)]
    assert found == [401] * FAILURES + [429] * 3
    with _from(behind, next(_STRANGERS), path) as fail:
        assert fail() == 401


@_PATHS
@pytest.mark.requirement("gateway:proxies:rate", "kernel:proxies:client")
def test_behind_a_proxy_each_client_has_its_own_limit_and_none_evades_it(behind: Behind, path: str) -> None:
    client, other = next(_CLIENTS), next(_CLIENTS)
    with _from(behind, proxy.ADDRESS, path) as fail:
        # What the client itself has sent stands left of what the proxy appends.
        found = [fail(X_Forwarded_For=f"203.0.113.{number}, {client}") for number in range(FAILURES + 3)]
        assert found == [401] * FAILURES + [429] * 3
        assert fail(Forwarded=f"for=1.1.1.1, for={client}") == 429
        assert fail(X_Forwarded_For=f"{client}:4711") == 429
        assert fail(X_Forwarded_For=other) == 401


@_PATHS
@pytest.mark.requirement("gateway:proxies:host")
def test_a_forwarded_host_opens_nothing(behind: Behind, path: str) -> None:
    ours = behind.platform.base_url.partition("//")[2]
    with _from(behind, proxy.ADDRESS, path) as fail:
        assert fail(X_Forwarded_For=next(_CLIENTS), X_Forwarded_Host=ours) == 401
        assert fail(X_Forwarded_For=next(_CLIENTS), X_Forwarded_Host="evil.example") == 403
        assert fail(Forwarded=f"for={next(_CLIENTS)};host=evil.example") == 403
        assert fail(Host="evil.example", X_Forwarded_For=next(_CLIENTS), X_Forwarded_Host=ours) == 403
    with _from(behind, next(_STRANGERS), path) as fail:
        assert fail(Host="evil.example", X_Forwarded_Host=ours) == 403
        assert fail(X_Forwarded_Host="evil.example", X_Forwarded_Proto="https") == 401


Front = Callable[[pathlib.Path, int, int], contextlib.AbstractContextManager[None]]
_INSTALLED = pytest.mark.skipif(proxy.NGINX is None, reason="nginx is not installed")


@pytest.mark.requirement("gateway:proxies:whole", "gateway:proxies:rate")
@pytest.mark.parametrize("front", [proxy.small, pytest.param(proxy.nginx, marks=_INSTALLED)])
async def test_through_a_proxy_calls_are_answered_and_streams_arrive_event_by_event(
    behind: Behind, front: Front, tmp_path: pathlib.Path
) -> None:
    path = behind.server.url.partition("/t/")[2]
    at = clients.Endpoint(f"http://127.0.0.1:{behind.front}/t/{path}", behind.server.key)
    with front(tmp_path, behind.front, behind.port):
        async with httpx2.AsyncClient(timeout=120.0) as http:
            await _use(wire.Caller(http, at))
            stranger = {"X-Forwarded-For": next(_CLIENTS)}
            codes = [(await http.get(at.url, headers=stranger)).status_code for _ in range(FAILURES + 1)]
            assert codes[-1] == 429, "the proxy appends the address that it sees"
        # That address has used up its own; nobody else has lost anything.
        transport = httpx2.AsyncHTTPTransport(local_address=next(_STRANGERS), verify=False)
        async with httpx2.AsyncClient(transport=transport, timeout=120.0) as other:
            assert (await other.get(at.url)).status_code == 401


async def _use(caller: wire.Caller) -> None:
    for number in range(20):
        assert (await caller.act("echo", text=number))["text"] == number
    session = await caller.open()
    assert (await caller.act("echo", session, text="kept"))["text"] == "kept"
    # The end comes a second and more after the beginning: a proxy that gathers would hold that back.
    lines: list[str] = []
    for seconds in (1.5, 6, 20):  # a machine that stands still for all of that time hears no silence
        async with caller.streaming(*wire.modern("tools/call", wire.call("sleep", seconds=seconds))) as stream:
            lines = [await stream.line(), *await stream.end()]
        if lines[0] == ": keep-alive":
            break
    assert lines[0] == ": keep-alive"
    assert "awake" in " ".join(lines)
    async with caller.listening(session) as stream:
        assert [(await stream.line()).partition(":")[0] for _ in range(3)] == ["id", "retry", "data"]
        assert [await stream.line() for _ in range(3)] == [": keep-alive"] * 3
    await caller.close()


@pytest.mark.requirement("gateway:compress:answers", "protocol:compress:whole")
async def test_large_answers_of_a_hosted_server_are_compressed_on_request(behind: Behind) -> None:
    async with httpx2.AsyncClient(timeout=120.0) as http:
        caller = wire.Caller(http, behind.server)
        for size in (2_000, 200_000):
            text = "a tool's long answer. " * (size // 22)
            fields, body = wire.modern("tools/call", wire.call("echo", text=text))
            asked = {**caller.bearer, **fields, "accept": "application/json"}
            for coding, coded in (("gzip", True), ("br, gzip;q=0.5", True), ("identity", False), ("gzip;q=0", False)):
                request = http.stream("POST", caller.url, headers={**asked, "accept-encoding": coding}, content=body)
                async with request as answer:
                    raw = b"".join([piece async for piece in answer.aiter_raw()])
                assert (answer.headers.get("content-encoding") == "gzip") is coded
                assert "accept-encoding" in answer.headers["vary"]
                assert int(answer.headers["content-length"]) == len(raw)
                plain = gzip.decompress(raw) if coded else raw
                assert json.loads(wire.said(json.loads(plain)) and plain)["id"] == 1
                assert wire.said(json.loads(plain))["text"] == text
                assert not coded or len(raw) < len(plain) / 4


@pytest.mark.requirement("gateway:compress:answers")
async def test_small_answers_and_event_streams_are_left_as_they_are(behind: Behind) -> None:
    async with httpx2.AsyncClient(timeout=120.0, headers={"accept-encoding": "gzip"}) as http:
        caller = wire.Caller(http, behind.server)
        small = await caller.modern("tools/call", wire.call("echo", text="x"), accept="application/json")
        assert {"content-encoding", "vary"}.isdisjoint(small.headers)
        long = wire.call("steps", token=1, count=50, size=2_000)
        stream = await caller.modern("tools/call", long)
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert {"content-encoding", "vary"}.isdisjoint(stream.headers)
        assert len(wire.messages(stream)) == 51


@pytest.mark.requirement("gateway:compress:answers")
def test_the_admin_api_compresses_its_large_json(behind: Behind) -> None:
    for coding, coded in (("gzip", True), ("identity", False)):
        url = f"{behind.platform.base_url}/api/v1/openapi.json"
        bearer = {"Authorization": f"Bearer {behind.platform.operator_key}", "Accept-Encoding": coding}
        with httpx2.stream("GET", url, headers=bearer, timeout=120.0) as answer:
            raw = b"".join(answer.iter_raw())
        assert (answer.headers.get("content-encoding") == "gzip") is coded
        assert answer.headers["vary"] == "accept-encoding"
        assert "paths" in json.loads(gzip.decompress(raw) if coded else raw)
    healthz = f"{behind.platform.base_url}/healthz"
    with httpx2.stream("GET", healthz, headers={"accept-encoding": "gzip"}, timeout=120.0) as answer:
        assert answer.read() == b'{"status":"ok"}'
    assert {"content-encoding", "vary"}.isdisjoint(answer.headers)
