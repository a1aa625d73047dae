"""Clients that people use, against servers that SMCP hosts: each lists the tools and calls one with an API key."""

import asyncio
import json
from typing import Any

import pytest

from support import clients, wire
from support.clients import Endpoint, Mode, Seen

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

MODES: list[tuple[Mode, str]] = [("legacy", "2025-11-25"), ("auto", "2026-07-28"), ("2026-07-28", "2026-07-28")]
_TEXT: tuple[str, dict[str, Any]] = ("test_simple_text", {})
_TIME: tuple[str, dict[str, Any]] = ("get_current_time", {"timezone": "Europe/Berlin"})


def _told_the_time(seen: Seen, version: str) -> None:
    assert seen.version == version
    assert set(seen.tools) == {"get_current_time", "convert_time"}
    assert not seen.is_error
    assert json.loads(seen.texts[0])["timezone"] == "Europe/Berlin"


def _said_its_text(seen: Seen, version: str) -> None:
    assert seen.version == version
    assert {"test_simple_text", "json_schema_2020_12_tool", "test_sampling"} <= set(seen.tools)
    assert seen.texts == ("This is a simple text response for testing.",)


@pytest.mark.requirement("mcp:clients:python")
@pytest.mark.parametrize(("mode", "version"), MODES)
async def test_the_python_client_lists_and_calls_tools(
    time_endpoint: Endpoint, fixture_endpoint: Endpoint, mode: Mode, version: str
) -> None:
    _told_the_time(await clients.python(time_endpoint, mode, *_TIME), version)
    _said_its_text(await clients.python(fixture_endpoint, mode, *_TEXT), version)


@pytest.mark.requirement("mcp:clients:typescript")
@pytest.mark.parametrize(("mode", "version"), MODES)
def test_the_typescript_client_lists_and_calls_tools(
    time_endpoint: Endpoint, fixture_endpoint: Endpoint, mode: Mode, version: str
) -> None:
    _told_the_time(clients.typescript(time_endpoint, mode, *_TIME), version)
    _said_its_text(clients.typescript(fixture_endpoint, mode, *_TEXT), version)


@pytest.mark.requirement("mcp:clients:typescript-1x")
def test_the_typescript_sdk_1_lists_and_calls_tools(time_endpoint: Endpoint, fixture_endpoint: Endpoint) -> None:
    _told_the_time(clients.typescript_classic(time_endpoint, *_TIME), "2025-11-25")
    _said_its_text(clients.typescript_classic(fixture_endpoint, *_TEXT), "2025-11-25")


@pytest.mark.requirement("mcp:clients:key-needed")
def test_a_client_without_a_valid_key_is_refused(time_endpoint: Endpoint) -> None:
    wrong = time_endpoint._replace(key=wire.miskeyed(time_endpoint.key))
    with pytest.raises(AssertionError, match=r"401|Unauthorized|authorization"):
        clients.typescript_classic(wrong, *_TIME)


@pytest.mark.requirement("mcp:streams:callers-apart")
@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_clients_that_count_their_requests_alike_do_not_meet(fixture_endpoint: Endpoint, mode: Mode) -> None:
    """The official client numbers from 1 and takes the number as progress token: all of them collide upstream."""

    async def caller(number: int) -> tuple[str, list[float]]:
        reported: list[float] = []

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            reported.append(progress)

        async with clients.connected(fixture_endpoint, mode) as client:
            await ready.wait()
            slow = client.call_tool("test_tool_with_progress", {}, progress_callback=on_progress)
            quick = client.call_tool("test_x_mcp_header", {"region": f"caller-{number}"})
            _, answer = await asyncio.gather(slow, quick)
            return clients.texts(answer)[0], reported

    ready = asyncio.Barrier(4)
    answers = await asyncio.gather(*(caller(number) for number in range(4)))
    assert answers == [(f"Region: caller-{number}", [0, 50, 100]) for number in range(4)]
