"""A power cut in the middle of a call: nothing of the platform goes on, and what was hosted is served again."""

import asyncio
import pathlib

import pytest

from support import clients, everything, processes
from support.clients import Endpoint
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]


async def _call_until_the_cut(platform: Platform, endpoint: Endpoint, family: set[processes.Process]) -> None:
    """Kill the platform once a call runs; `family` gets what ran then. The client fails in its own way."""
    running = asyncio.Event()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        running.set()

    async with clients.connected(endpoint, "legacy") as client, asyncio.TaskGroup() as calls:
        calls.create_task(client.call_tool("test_wait", {"name": "cut"}, progress_callback=on_progress))
        await asyncio.wait_for(running.wait(), 60)
        family |= platform.family()
        platform.kill()


@pytest.mark.requirement("mcp:life:killed")
async def test_a_killed_platform_leaves_no_process_and_serves_again(tmp_path: pathlib.Path) -> None:
    wheels = tmp_path / "wheels"
    everything.wheel(wheels)
    family: set[processes.Process] = set()
    with Platform(tmp_path, {"SMCP_DEPLOY_WHEEL_DIRS": str(wheels)}) as platform:
        endpoint = platform.host("cut", (f"pypi:{everything.NAME}", "everything"))["everything"]
        with pytest.raises(BaseExceptionGroup):
            await _call_until_the_cut(platform, endpoint, family)
        assert any(everything.NAME in process.command for process in family)
        assert processes.left(family, within_s=60.0) == set()
        before = platform.base_url
        platform.start()
        again = endpoint._replace(url=endpoint.url.replace(before, platform.base_url))
        seen = await clients.python(again, "auto", "test_simple_text", {})
    assert seen.texts == ("This is a simple text response for testing.",)
