"""The walls: one function that turns a `Cell` into the command line that builds them.

PLACEHOLDER-INTERFACE: helper H3 completes this file.
"""

import msgspec


class Bind(msgspec.Struct, frozen=True):
    """A directory or file of the host that is visible inside. Read-only unless `writable`."""

    source: str
    target: str
    writable: bool = False


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """What one sandboxed process may see and take."""

    argv: tuple[str, ...]
    binds: tuple[Bind, ...]
    env: tuple[tuple[str, str], ...] = ()
    cwd: str = "/tmp"  # noqa: S108 - a path inside the sandbox
    network: bool = False
    """True only for fetching packages: the host's network, without which no package source is reached."""
    memory_bytes: int
    tmp_bytes: int
    open_files: int
    processes: int
