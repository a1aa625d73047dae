"""Runs Python inside a real sandbox and returns what it found out."""

import asyncio
import contextlib
import json
import os
import pathlib
import tempfile
import textwrap
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec

from smcp.app import machine
from smcp.kernel import settings
from smcp.sandbox import cells, interpreter, launch, spawn, walls

LIMITS = settings.Sandbox(tmp_bytes=4_194_304)
TENANT = "acme"


@contextlib.asynccontextmanager
async def launched(
    limits: settings.Sandbox = LIMITS, fixed: Sequence[pathlib.Path] = ()
) -> AsyncGenerator[launch.Launcher]:
    """A launcher, with a house of its own that is taken down in the end; `fixed` may be seen by every cell."""
    with tempfile.TemporaryDirectory() as data:
        config = settings.Settings(platform=settings.Platform(data_dir=data), sandbox=limits)
        found = await asyncio.to_thread(machine.Machine.find, config, {"PIP_CONFIG_FILE": os.devnull})
        launcher = await launch.Launcher.start(found.house(config, [str(one) for one in fixed]))
        try:
            yield launcher
        finally:
            await launcher.close()


def python(app: pathlib.Path, code: str, limits: settings.Sandbox = LIMITS) -> walls.Cell:
    """A cell as hosted servers get it, that runs `code`."""
    found = interpreter.current()
    argv = (found.executable, "-c", textwrap.dedent(code))
    return cells.hosted(limits, found, TENANT, os.path.realpath(app), argv)


async def ask(app: pathlib.Path, code: str, limits: settings.Sandbox = LIMITS, **changes: Any) -> Any:
    """What `code` prints as JSON in its last line. `changes` are fields of the cell."""
    cell = msgspec.structs.replace(python(app, code, limits), **changes)
    async with launched(limits, [app, *(pathlib.Path(bind.source) for bind in cell.binds)]) as launcher:
        outcome = await spawn.run(cell, launcher, timeout_s=30)
    assert outcome.code == 0, outcome
    return json.loads(outcome.tail[-1])
