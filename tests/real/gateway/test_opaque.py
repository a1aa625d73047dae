"""What SMCP has no part in goes through it as it is: extensions, vendors' methods, `_meta`, and what servers refuse."""

import json
from collections.abc import Callable
from typing import Any, Final

import pytest

from support import wire
from support.clients import Endpoint
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

Make = Callable[[Endpoint], wire.Caller]
VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", wire.MODERN)
_OFFERS: Final[wire.Json] = {
    "experimental": {"com.example/x": {"deep": [1, None, {"a": "é"}]}},
    "extensions": {"io.modelcontextprotocol/ui": {"mimeTypes": ["text/html;profile=mcp-app"]}, "com.example/y": {}},
}
_META: Final[wire.Json] = {"com.example/trace": {"n": 1, "list": [None, "é"]}, "ui": {"resourceUri": "ui://app/1"}}
_CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"


class Peer:
    """A client of one version at a server that does what it is told."""

    def __init__(self, one: wire.Caller, version: str) -> None:
        self.one = one
        self.version = version
        self.session: str | None = None

    async def open(self) -> wire.Json:
        """Shake hands or discover, offering what the server offers; what the server says."""
        if self.version == wire.MODERN:
            found = await self.one.modern("server/discover")
            return found.json()["result"]
        answer = await self.one.legacy(None, "initialize", {**wire.hello(self.version), "capabilities": _OFFERS})
        self.session = answer.headers["mcp-session-id"]
        assert (await self.tell("notifications/initialized")) == 202
        return answer.json()["result"]

    async def ask(self, method: str, params: wire.Json | None = None) -> tuple[int, wire.Json]:
        """Status and answer of a request."""
        if self.session is None:
            answer = await self.one.modern(method, params)
        else:
            answer = await self.one.legacy(self.session, method, params, mcp_protocol_version=self.version)
        return answer.status_code, wire.messages(answer)[-1]

    async def tell(self, method: str, params: wire.Json | None = None) -> int:
        """Status of a legacy notification."""
        fields = {"mcp_protocol_version": self.version}
        return (await self.one.legacy(self.session, method, params, None, **fields)).status_code

    async def act(self, act: str, meta: wire.Json | None = None, **arguments: Any) -> tuple[int, wire.Json]:
        """Status and answer of a call of the server's tool."""
        call = wire.call(act, **arguments)
        return await self.ask("tools/call", call if meta is None else {**call, "_meta": meta})


@pytest.fixture(scope="module")
def offering(gate: Gate) -> Endpoint:
    """A server that offers extensions."""
    env = f"[env]\nOFFERS = {json.dumps(json.dumps(_OFFERS))}\n"
    return Endpoint(gate.platform.deploy("acme", f"pypi:{wire.SCRIPTED}", "opaque", gate.admin, env), gate.acme.key)


@pytest.fixture
def peer(request: pytest.FixtureRequest, caller: Make, offering: Endpoint) -> Peer:
    """A client of the version that the test is run for."""
    return Peer(caller(offering), request.param)


@pytest.fixture(autouse=True)
async def ended(peer: Peer) -> Any:
    """No session outlives its test."""
    yield
    if peer.session is not None:
        await peer.one.end(peer.session)


every = pytest.mark.parametrize("peer", VERSIONS, indirect=True)
legacy = pytest.mark.parametrize("peer", VERSIONS[:-1], indirect=True)
modern = pytest.mark.parametrize("peer", [wire.MODERN], indirect=True)


@pytest.mark.requirement("gateway:pass:extensions")
@every
async def test_extensions_of_either_side_reach_the_other_as_they_are(peer: Peer) -> None:
    offered = (await peer.open())["capabilities"]
    assert {name: offered.get(name) for name in _OFFERS} == _OFFERS
    if peer.session is None:
        _, answer = await peer.act("meta", {_CAPABILITIES: _OFFERS})
        assert wire.said(answer)[_CAPABILITIES] == _OFFERS
    else:
        _, answer = await peer.act("asked")
        [hello] = [one["params"] for one in wire.said(answer) if one["method"] == "initialize"]
        assert {name: hello["capabilities"].get(name) for name in _OFFERS} == _OFFERS


@pytest.mark.requirement("gateway:pass:extensions")
@every
async def test_methods_of_vendors_and_of_tasks_are_the_servers(peer: Peer) -> None:
    await peer.open()
    given = {"a": [1, None, {"b": "é"}], "_meta": _META}
    status, answer = await peer.ask("com.example/mirror", given)
    told = answer["result"]["given"]
    assert (status, told["a"]) == (200, given["a"])
    assert {name: told["_meta"].get(name) for name in _META} == _META
    _, answer = await peer.ask("tasks/get", {"taskId": "none"})
    assert answer["error"] == {"code": -32602, "message": "There is no such task."}


@pytest.mark.requirement("gateway:pass:extensions")
@every
async def test_meta_goes_through_in_both_directions(peer: Peer) -> None:
    await peer.open()
    _, answer = await peer.act("meta", _META)
    assert {name: wire.said(answer).get(name) for name in _META} == _META
    result: wire.Json = {"resultType": "complete", "content": [], "_meta": _META}
    _, answer = await peer.act("reply", result=result)
    assert {name: answer["result"]["_meta"].get(name) for name in _META} == _META


@pytest.mark.requirement("gateway:pass:extensions")
@every
async def test_a_page_of_an_app_keeps_its_type_and_what_it_says_of_itself(peer: Peer) -> None:
    await peer.open()
    _, answer = await peer.ask("resources/read", {"uri": "ui://app/1"})
    page = {"uri": "ui://app/1", "mimeType": "text/html;profile=mcp-app", "text": "<p>é</p>"}
    assert answer["result"]["contents"] == [{**page, "_meta": {"ui": {"csp": {"connectDomains": []}}}}]


@pytest.mark.requirement("gateway:pass:refused")
@modern
async def test_a_server_that_lacks_a_capability_of_its_client_is_400_with_its_data(peer: Peer) -> None:
    await peer.open()
    error: wire.Json = {
        "code": -32021,
        "message": "Sampling.",
        "data": {"requiredCapabilities": {"sampling": {}}},
    }
    status, answer = await peer.act("reply", error=error)
    assert (status, answer["error"]) == (400, error)


@pytest.mark.requirement("gateway:pass:session")
@legacy
async def test_ping_level_and_changed_roots_reach_the_sessions_server(peer: Peer) -> None:
    await peer.open()
    status, answer = await peer.ask("ping")
    assert (status, answer["id"], "result" in answer) == (200, 1, True)
    for level in ("debug", "error"):
        status, answer = await peer.ask("logging/setLevel", {"level": level})
        assert (status, "result" in answer) == (200, True)
    assert await peer.tell("notifications/roots/list_changed", {"_meta": _META}) == 202
    _, answer = await peer.act("heard")
    [told] = [one for one in wire.said(answer) if one["method"] == "notifications/roots/list_changed"]
    assert told["params"] == {"_meta": _META}
    _, answer = await peer.act("asked")
    assert [one["method"] for one in wire.said(answer)].count("ping") == 1
    levels = [one["params"]["level"] for one in wire.said(answer) if one["method"] == "logging/setLevel"]
    assert levels == ["debug", "error"]
