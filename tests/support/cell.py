"""Runs Python inside a real sandbox and returns what it found out."""

import asyncio
import contextlib
import functools
import json
import os
import pathlib
import tempfile
import textwrap
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any, NamedTuple

import msgspec

from smcp.app import machine
from smcp.kernel import settings
from smcp.sandbox import cells, interpreter, launch, spawn, walls
from smcp.sandbox.launcher import messages

LIMITS = settings.Sandbox(tmp_bytes=4_194_304)
TENANT = "acme"
WAIT_S = 120.0
"""More than any cell takes that ends by itself, however busy the machine is."""


class Standing(NamedTuple):
    """A launcher, and what it was told."""

    launcher: launch.Launcher
    house: messages.House


@functools.cache
def found(limits: settings.Sandbox = LIMITS) -> machine.Machine:
    """What this machine has, looked at once."""
    return machine.Machine.find(settings.Settings(sandbox=limits), {"PIP_CONFIG_FILE": os.devnull})


def host(limits: settings.Sandbox = LIMITS) -> walls.Host:
    """What the walls may use here."""
    return found(limits).host


@contextlib.contextmanager
def house(limits: settings.Sandbox = LIMITS, fixed: Sequence[str | pathlib.Path] = ()) -> Generator[messages.House]:
    """A house with directories of its own; `fixed` may be seen by every cell."""
    with tempfile.TemporaryDirectory() as data:
        config = settings.Settings(platform=settings.Platform(data_dir=data), sandbox=limits)
        yield found(limits).house(config, [str(one) for one in fixed])


@contextlib.asynccontextmanager
async def standing(
    limits: settings.Sandbox = LIMITS, fixed: Sequence[str | pathlib.Path] = ()
) -> AsyncGenerator[Standing]:
    """A launcher with a house of its own, both taken down in the end."""
    await asyncio.to_thread(found, limits)
    with house(limits, fixed) as plan:
        launcher = await launch.Launcher.start(plan)
        try:
            yield Standing(launcher, plan)
        finally:
            await launcher.close()


@contextlib.asynccontextmanager
async def launched(
    limits: settings.Sandbox = LIMITS, fixed: Sequence[str | pathlib.Path] = ()
) -> AsyncGenerator[launch.Launcher]:
    """As `standing`, for who needs the launcher only."""
    async with standing(limits, fixed) as made:
        yield made.launcher


def python(app: str | pathlib.Path, code: str, limits: settings.Sandbox = LIMITS, tenant: str = TENANT) -> walls.Cell:
    """A cell as hosted servers get it, that runs `code`."""
    runs = interpreter.current()
    argv = (runs.executable, "-c", textwrap.dedent(code))
    return cells.hosted(limits, runs, tenant, os.path.realpath(app), argv)


async def ask(app: pathlib.Path, code: str, limits: settings.Sandbox = LIMITS, **changes: Any) -> Any:
    """What `code` prints as JSON in its last line. `changes` are fields of the cell."""
    cell = msgspec.structs.replace(python(app, code, limits), **changes)
    async with launched(limits, [app, *(bind.source for bind in cell.binds)]) as launcher:
        return await asked(launcher, cell)


async def asked(launcher: launch.Launcher, cell: walls.Cell) -> Any:
    """As `ask`, of a launcher that stands."""
    outcome = await spawn.run(cell, launcher, timeout_s=WAIT_S)
    assert outcome.code == 0, outcome
    return json.loads(outcome.tail[-1])
