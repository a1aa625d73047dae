"""Servers that are Workers, as people write them, deployed as folders and used by real clients."""

import pytest

from real.workers.conftest import Hosted
from support import clients, workers

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_SAID = {
    # By the wire that the server itself is spoken to in: SMCP translates where it has only one.
    "sdk-v1": {"legacy": "Hello, Ada! (1 in this session)", "2026-07-28": "Hello, Ada! (1 in this session)"},
    "sdk-v2": {"legacy": "Hello, Ada! (legacy)", "2026-07-28": "Hello, Ada! (modern)"},
    "hono": {"legacy": "Good day, Ada!", "2026-07-28": "Good day, Ada!"},
    "plain": {"legacy": "Hello, Ada!", "2026-07-28": "Hello, Ada!"},
}
_ADA = {"name": "Ada"}
_NAMES: tuple[workers.Name, ...] = ("sdk-v1", "sdk-v2", "hono", "plain")


@pytest.mark.requirement("workers:servers:answer")
@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
@pytest.mark.parametrize("name", _NAMES)
async def test_a_worker_answers_the_python_client(isolates: Hosted, name: workers.Name, mode: clients.Mode) -> None:
    seen = await clients.python(isolates[name], mode, "greet", _ADA)
    assert (seen.texts, seen.is_error, seen.tools) == ((_SAID[name][mode],), False, ("greet",))
    assert seen.version == ("2025-11-25" if mode == "legacy" else mode)


@pytest.mark.requirement("workers:servers:answer")
@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
@pytest.mark.parametrize("name", _NAMES)
def test_a_worker_answers_the_typescript_client(isolates: Hosted, name: workers.Name, mode: clients.Mode) -> None:
    seen = clients.typescript(isolates[name], mode, "greet", _ADA)
    assert (seen.texts, seen.is_error, seen.tools) == ((_SAID[name][mode],), False, ("greet",))


@pytest.mark.requirement("workers:servers:answer")
@pytest.mark.parametrize("name", _NAMES)
def test_a_worker_answers_clients_of_the_sdk_of_1x(isolates: Hosted, name: workers.Name) -> None:
    seen = clients.typescript_classic(isolates[name], "greet", _ADA)
    assert (seen.texts, seen.is_error) == ((_SAID[name]["legacy"],), False)


@pytest.mark.requirement("workers:servers:session")
async def test_a_session_of_a_worker_is_its_clients_alone(isolates: Hosted) -> None:
    endpoint = isolates["sdk-v1"]
    async with clients.connected(endpoint, "legacy") as one, clients.connected(endpoint, "legacy") as other:
        said = [clients.texts(await client.call_tool("greet", _ADA)) for client in (one, one, other)]
    assert said == [(f"Hello, Ada! ({count} in this session)",) for count in (1, 2, 1)]


@pytest.mark.requirement("workers:servers:agent")
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_an_mcp_agent_keeps_a_sessions_state_in_its_durable_object(isolates: Hosted, mode: clients.Mode) -> None:
    async with clients.connected(isolates["agent"], mode) as one:
        said = [clients.texts(await one.call_tool("add", {"by": by})) for by in (2, 3)]
        rows = clients.texts(await one.call_tool("rows", {}))
    assert (said, rows) == ([("2",), ("5",)], ('[{"total":1}]',))
