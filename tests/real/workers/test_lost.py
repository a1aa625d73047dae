"""An isolate that ends its process: what its tenant's other servers were asked, and nobody else."""

import asyncio
import json
import pathlib
from collections.abc import Sequence
from typing import Final

import msgspec
import pytest
from mcp.shared.exceptions import MCPError

from smcp.kernel import errors
from smcp.sandbox import cells, interpreter, launch, walls
from support import cell, clients, handmade, workers
from support.clients import Endpoint
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_SOURCE = """
import { abortIsolate } from "cloudflare:workers";
import { serve } from "./mcp.js";
let begun = 0;
let released = false;
const pause = async () => {
  begun += 1;
  // By looking: a promise that another request fulfils wakes nobody.
  while (!released) await new Promise((done) => setTimeout(done, 20));
  return "done";
};
const release = () => { released = true; };
const abort = () => abortIsolate("on purpose");
const served = serve({ safe: pause, unsafe: pause, begun: () => begun, release, abort });
export default {
  async fetch(request, env, context) {
    const answer = await served.fetch(request, env, context);
    if (answer.status !== 200) return answer;
    const said = await answer.json();
    for (const tool of said.result?.tools ?? []) tool.annotations = { readOnlyHint: tool.name === "safe" };
    return Response.json(said);
  },
};
"""


@pytest.mark.requirement("workers:lost:process")
async def test_attack_an_isolate_that_ends_its_process_fails_its_tenants_calls_with_the_reason_and_nobody_elses() -> (
    None
):
    async with handmade.handmade(gone_s=60.0) as made:
        specs = [made.spec("bad", _SOURCE), made.spec("good", _SOURCE), made.spec("far", _SOURCE, tenant="globex")]
        bad, good, far = [await made.start(each) for each in specs]
        calls = [asyncio.create_task(handmade.call(each, "unsafe", timeout_s=600.0)) for each in (good, far)]
        for each in (good, far):
            while await handmade.call(each, "begun") != "1":
                assert not any(call.done() for call in calls)
        with pytest.raises(errors.ServerFailed):
            await handmade.call(bad, "abort")
        with pytest.raises(errors.ServerFailed, match="The hosted server ended before it answered: it ended by itself"):
            await calls[0]
        assert not good.alive
        assert far.alive
        assert await handmade.call(far, "begun") == "1"
        # Both are there again for who asks.
        for each in specs[:2]:
            assert await handmade.call(await made.start(each), "begun") == "0"
        assert not calls[1].done()
        await handmade.call(far, "release")
        assert await calls[1] == "done"
        assert sum("started, process" in line for line in made.lines["globex/far"]) == 1


_DEAF: Final = """
import os, signal, socket, sys
answering = [socket.socket(fileno=number) for number in range(4, 4 + int(sys.argv[1]))]
os.write(3, b'{"event": "listen"}')
asked, _ = answering[0].accept()
for one in answering:
    one.shutdown(socket.SHUT_RDWR)
asked.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\n\\r\\n")
signal.pause()
"""
"""It is there when it is asked first, and closes its sockets then."""


class _FirstDeaf(launch.Launcher):
    """A launcher that starts, for the first cell of a tenant, a program that closes the sockets that it was handed."""

    done = False

    async def spawn(
        self, cell: walls.Cell, *, stdin: int, stdout: int, stderr: int, handed: Sequence[int] = ()
    ) -> launch.Child:
        if cell.tenant == "acme" and not self.done:
            self.done = True
            runs = interpreter.current()
            argv = (runs.executable, "-I", "-c", _DEAF, str(len(handed) - 1))
            env = (*cell.env, *(one for one in cells.base_env(runs) if one[0] not in dict(cell.env)))
            cell = msgspec.structs.replace(cell, argv=argv, binds=(*cell.binds, *runs.binds), env=env)
        return await super().spawn(cell, stdin=stdin, stdout=stdout, stderr=stderr, handed=handed)


@pytest.mark.requirement("workers:lost:deaf")
async def test_attack_a_process_that_closes_its_sockets_is_ended_and_the_next_one_has_others() -> None:
    await asyncio.to_thread(cell.found)
    with cell.house() as house:
        launcher = await _FirstDeaf.start(house)
        made = handmade.Workers(cell.Standing(launcher, house))
        try:
            far = await made.start(made.spec("far", _SOURCE, tenant="globex"))
            deaf = await made.start(made.spec("bad", _SOURCE))
            await handmade.until(lambda: any("it does not listen any more" in one for one in made.lines["acme/bad"]))
            assert not deaf.alive
            again = await made.start(made.spec("bad", _SOURCE))
            assert await handmade.call(again, "begun") == "0"
            assert await handmade.call(far, "begun") == "0"
            assert sum("started, process" in line for line in made.lines["globex/far"]) == 1
        finally:
            await made.driver.close()
            await launcher.close()


async def _called(endpoint: Endpoint, tool: str) -> str | MCPError:
    async with clients.connected(endpoint, "2026-07-28") as client:
        try:
            return "".join(clients.texts(await client.call_tool(tool, {})))
        except MCPError as error:
            return error


@pytest.mark.requirement("workers:lost:repeated")
async def test_a_call_that_an_isolate_beside_it_has_ended_is_repeated_where_its_tool_allows_it(
    platform: Platform, tmp_path: pathlib.Path
) -> None:
    def deployed() -> workers.Site:
        site = workers.Site(platform, "lossy")
        for name in ("bad", "good"):
            folder = tmp_path / name
            folder.mkdir()
            (folder / "index.js").write_text(_SOURCE)
            (folder / "mcp.js").write_text(handmade.MCP.read_text())
            wrangler = {"name": name, "main": "index.js", "compatibility_date": handmade.DATE}
            (folder / "wrangler.json").write_text(json.dumps(wrangler))
            ends.append(site.deploy(folder))
        return site

    ends: list[Endpoint] = []
    with await asyncio.to_thread(deployed):
        bad, good = ends
        assert await _called(good, "begun") == "0"
        calls = [asyncio.create_task(_called(good, tool)) for tool in ("safe", "unsafe")]
        while await _called(good, "begun") != "2":
            assert not any(call.done() for call in calls)
        assert isinstance(await _called(bad, "abort"), MCPError)
        safe, unsafe = calls
        error = await unsafe
        assert isinstance(error, MCPError)
        # It waits in the process that came afterwards.
        while await _called(good, "begun") != "1":
            assert not safe.done()
        await _called(good, "release")
        assert await safe == "done"
        assert error.error.data["mayHaveRun"] is True
        # Only what may be repeated ran again.
        assert await _called(good, "begun") == "1"
