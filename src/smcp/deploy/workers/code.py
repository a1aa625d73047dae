"""A Worker in its artefact: the modules below `worker/`, and `worker.json`, which lists them in order.

The artefact is sealed and named by its digest, so this is what the platform wrote itself; it is read as strictly as if
it were not, because what it lists becomes the runtime's configuration.
"""

import os
import pathlib
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from smcp.kernel import errors

INDEX: Final = "worker.json"
DIRECTORY: Final = "worker"
MAIN: Final = "index.js"
LINES: Final = "index.js.lines"
"""Beside `MAIN`: which line of which source each place of it came from (`lines`). No module."""

_MOST_BYTES: Final = 1_048_576

Kind = Literal["esm", "cjs", "text", "data", "json", "wasm"]


class Module(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of a Worker's code."""

    name: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,127}(?:\?module)?\Z")]
    """As the code imports it, and its file below `DIRECTORY`."""
    kind: Kind


class Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `worker.json` says."""

    modules: Annotated[tuple[Module, ...], Meta(min_length=1, max_length=1000)]
    """The first one handles requests."""


def write(app: pathlib.Path, modules: tuple[Module, ...]) -> None:
    """Write `worker.json` into the directory that becomes the artefact. Blocking."""
    (app / INDEX).write_bytes(msgspec.json.format(msgspec.json.encode(Index(modules)), indent=1))


def read(artefact: pathlib.Path) -> tuple[Module, ...]:
    """The modules of an unpacked artefact, in order. Blocking.

    Raises `errors.TamperedData` for an artefact that is no Worker's.
    """
    try:
        with open(os.open(artefact / INDEX, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            return msgspec.json.decode(file.read(_MOST_BYTES), type=Index).modules
    except (OSError, msgspec.MsgspecError) as error:
        raise errors.TamperedData(detail=f"an artefact is no Worker's: {error}") from error
