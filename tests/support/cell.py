"""Runs Python inside a real sandbox and returns what it found out."""

import json
import pathlib
import textwrap
from typing import Any

import msgspec

from smcp.kernel import settings
from smcp.sandbox import cells, interpreter, probe, spawn, walls

LIMITS = settings.Sandbox(tmp_bytes=4_194_304)


def host() -> walls.Host:
    """The machine's layers; fails where one that the platform requires by default is missing."""
    return probe.host(LIMITS.require)


def python(app: pathlib.Path, code: str, limits: settings.Sandbox = LIMITS) -> walls.Cell:
    """A cell as hosted servers get it, that runs `code`."""
    found = interpreter.current()
    return cells.hosted(limits, found, str(app), (found.executable, "-c", textwrap.dedent(code)))


async def ask(app: pathlib.Path, code: str, limits: settings.Sandbox = LIMITS, **changes: Any) -> Any:
    """What `code` prints as JSON in its last line. `changes` are fields of the cell."""
    cell = msgspec.structs.replace(python(app, code, limits), **changes)
    outcome = await spawn.run(cell, host(), timeout_s=30)
    assert outcome.code == 0, outcome
    return json.loads(outcome.tail[-1])
