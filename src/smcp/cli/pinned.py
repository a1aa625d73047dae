"""The pinned programs of Workers, found or fetched while `smcp up` starts (`sandbox.tools`)."""

import asyncio
import os
from collections.abc import Callable
from typing import Final

from smcp.kernel import errors
from smcp.sandbox import tools

_MEGA: Final = 1_000_000
_PATIENCE_S: Final = 180.0
"""For one program: what does not need it waits for the start, too."""


async def ensure(say: Callable[[str], None], stop: asyncio.Event) -> tools.Tools:
    """What is here in the end. `say` hears of each fetch, and why one failed; when `stop` is set, a fetch is ended.

    A platform without them starts all the same, and only Workers are missing. That is why nothing is raised.
    """
    fetcher = tools.Fetcher(os.environ, _PATIENCE_S)
    running = asyncio.ensure_future(asyncio.to_thread(_all, fetcher, say))
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((running, stopped), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        if not running.done():
            fetcher.stop()
    return await running


def _all(fetcher: tools.Fetcher, say: Callable[[str], None]) -> tools.Tools:
    workerd, esbuild = (_one(fetcher, program, say) for program in tools.PROGRAMS)
    return tools.Tools(workerd=workerd, esbuild=esbuild)


def _one(fetcher: tools.Fetcher, program: tools.Program, say: Callable[[str], None]) -> tools.Tool | None:
    try:
        if not tools.there(program, os.environ):
            size = tools.build(program).size / _MEGA
            say(f"fetching {program.label} with npm, for Workers ({size:.0f} MB unpacked; once)…")
        return fetcher.ensure(program)
    except errors.SandboxMissing as error:
        say(f"Workers can't run: {error.public}")
        return None
