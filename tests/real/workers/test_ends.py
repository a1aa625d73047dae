"""What is left of a Worker that was stopped, and how a process ends."""

import asyncio
import os

import pytest

from smcp.kernel import ids
from smcp.runtime import driver
from smcp.runtime.drivers.workerd import driver as workerd
from support import handmade

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_COUNTS = """
import { serve } from "./mcp.js";
let seen = 0;
const tools = {
  count: () => ++seen,
  far: async (_, env) => await (await env.FAR.fetch("http://far/")).text(),
  slow: async ({ ms }) => { await new Promise((done) => setTimeout(done, ms)); return "slow"; },
};
const served = serve(tools);
export default {
  fetch: (request, env, context) =>
    request.method === "GET" ? new Response(`far ${seen}`) : served.fetch(request, env, context),
};
"""


def _pids(lines: list[str]) -> list[int]:
    """The processes that a server's log names."""
    return [int(line.rpartition(" ")[2]) for line in lines if line.startswith("[smcp] started, process ")]


def _gone(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}")


@pytest.mark.requirement("workers:ends:fresh")
async def test_a_worker_that_is_stopped_and_started_again_is_another_isolate_and_others_lose_no_call() -> None:
    async with handmade.handmade() as made:
        other = await made.start(made.spec("other", _COUNTS))
        enough = asyncio.Event()
        asked = 0

        async def stream() -> None:
            nonlocal asked
            while not enough.is_set():
                assert await handmade.call(other, "slow", ms=asked % 30) == "slow"
                asked += 1

        streams = [asyncio.create_task(stream()) for _ in range(4)]
        for _ in range(3):
            one = await made.start(made.spec("one", _COUNTS))
            assert [await handmade.call(one, "count") for _ in range(2)] == ["1", "2"]
            await one.stop("the server was stopped")
        enough.set()
        await asyncio.gather(*streams)
        assert other.alive


@pytest.mark.requirement("workers:ends:fresh")
async def test_a_worker_that_others_bind_as_a_service_is_another_isolate_too_and_they_find_that_one() -> None:
    async with handmade.handmade() as made:
        spec = made.spec("one", _COUNTS)

        async def peers(_tenant: ids.TenantId, server: ids.ServerName) -> workerd.Found:
            assert server == "one"
            return workerd.Found(spec, made.lines.setdefault("acme/one", []).append)

        made.driver.peers = peers
        services = (driver.Service("FAR", ids.ServerName("one")),)
        caller = await made.start(made.spec("caller", _COUNTS, services=services))
        one = await made.start(spec)
        assert [await handmade.call(one, "count") for _ in range(2)] == ["1", "2"]
        assert await handmade.call(caller, "far") == "far 2"
        await one.stop("the server was stopped")
        # It is still there for who binds it.
        assert await handmade.call(caller, "far") == "far 2"
        one = await made.start(spec)
        assert await handmade.call(one, "count") == "1"
        assert await handmade.call(caller, "far") == "far 1"


@pytest.mark.requirement("workers:ends:fresh")
async def test_a_worker_that_starts_while_its_last_conversation_ends_is_another_isolate() -> None:
    async with handmade.handmade() as made:
        spec = made.spec("one", _COUNTS)
        one = await made.start(spec)
        assert [await handmade.call(one, "count") for _ in range(2)] == ["1", "2"]
        ending = asyncio.create_task(one.stop("idle"))
        await asyncio.sleep(0)
        assert not one.alive
        assert not ending.done()
        again = await made.start(spec)
        assert await handmade.call(again, "count") == "1"
        # Who comes beside one that serves shares its isolate.
        beside = await made.start(spec)
        assert await handmade.call(beside, "count") == "2"
        await ending


@pytest.mark.requirement("workers:ends:tidy")
async def test_what_was_stopped_is_soon_in_no_process_and_without_servers_there_is_none() -> None:
    async with handmade.handmade() as made:
        other = await made.start(made.spec("other", _COUNTS))
        one = await made.start(made.spec("one", _COUNTS))
        together = _pids(made.lines["acme/one"])[-1]
        long = asyncio.create_task(handmade.call(other, "slow", ms=1000))
        await one.stop("the server was stopped")
        await handmade.until(lambda: _gone(together))
        assert await long == "slow"
        assert await handmade.call(other, "count") == "1"
        assert _pids(made.lines["acme/one"])[-1] == together
        alone = _pids(made.lines["acme/other"])[-1]
        assert not _gone(alone)
        await other.stop("the server was stopped")
        assert _gone(alone)
