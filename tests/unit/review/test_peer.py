"""The platform asks hosted servers questions of its own: their answers take no more than a bounded amount of memory."""

import asyncio
import json
from typing import Any

import pytest

from smcp.kernel import errors
from smcp.runtime import calls, driver, peer


class Hosted(driver.Instance):
    """The far side: a server whose pages of tools are what a test says."""

    def __init__(self, pages: list[dict[str, Any]]) -> None:
        self.asked: list[Any] = []
        self._pages = pages
        self.calls = calls.Calls(modern=True, write=self._heard, stray=lambda data, method: None, limit=8)

    def _heard(self, message: bytes) -> None:
        request = json.loads(message)
        if "id" not in request:
            return
        self.asked.append(request["params"].get("cursor"))
        result = self._pages[min(len(self.asked), len(self._pages)) - 1]
        answer = json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}).encode()
        # As the pipe does: later than the request was sent.
        asyncio.get_running_loop().call_soon(self.calls.received, answer)

    @property
    def alive(self) -> bool:
        return True

    async def stop(self, reason: str) -> None:
        """Nothing to end."""


def _client(hosted: Hosted) -> peer.Peer:
    return peer.Peer(hosted, modern=True, timeout_s=60.0)


@pytest.mark.requirement("review:peer:bounded")
@pytest.mark.requirement("control:mcp:tools")
async def test_all_pages_of_tools_are_read() -> None:
    hosted = Hosted([{"tools": [{"name": "a"}, 5], "nextCursor": "1"}, {"tools": [{"name": "b"}], "nextCursor": ""}])
    assert [tool["name"] for tool in await _client(hosted).tools()] == ["a", "b"]
    assert hosted.asked == [None, "1"]


@pytest.mark.requirement("review:peer:bounded")
@pytest.mark.requirement("control:mcp:tools")
@pytest.mark.parametrize("filler", [0, 1_000_000])
async def test_a_list_of_tools_without_end_is_refused(filler: int) -> None:
    hosted = Hosted([{"tools": [{"name": "a", "description": "d" * filler}], "nextCursor": "on"}])
    with pytest.raises(errors.ServerFailed):
        await _client(hosted).tools()
    assert len(hosted.asked) == (5 if filler else 100)


@pytest.mark.requirement("review:peer:bounded")
async def test_an_answer_too_large_to_take_apart_is_refused() -> None:
    with pytest.raises(errors.ServerFailed):
        await _client(Hosted([{"content": "c" * 5_000_000}])).request("tools/call")


@pytest.mark.requirement("review:peer:bounded")
@pytest.mark.parametrize("tools", [None, 5, "a", {"a": 1}, [[]]])
async def test_what_is_no_list_of_tools_has_none(tools: object) -> None:
    assert await _client(Hosted([{"tools": tools}])).tools() == []
