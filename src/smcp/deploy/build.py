"""What building means: from a source to a directory that can run, in sandboxes that trust nothing.

Each kind of source has a builder of its own (`pypi_builder`, `npm_builder`); `builders` picks it, `workbench` runs its
steps. All keep the same rules. **fetch** has network and runs no package code. **build** has no network and no
credential. The lock is written from the files, not from what anybody says about them. The same lock and interpreter
give the same bytes: no time, host name, path of this host or hash seed gets in.
"""

import pathlib
from collections.abc import Callable
from typing import Final, Literal, Protocol, TypeVar

import msgspec

from smcp.deploy import manifest, wheels

UPLOAD: Final = "upload"
"""The file in a build's directory that holds what was uploaded, when that is the source."""

Tell = Callable[[str, str], None]
"""Hears of progress: stage and text."""

Runtime = Literal["python", "node", "worker"]
Locked = wheels.Locked

_Source = TypeVar("_Source", contravariant=True)


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """What a build gave."""

    tree: pathlib.Path
    """The directory that becomes /app."""
    source: str
    """As text, with the exact version that was taken."""
    lock: tuple[Locked, ...]
    argv: tuple[str, ...]
    """As seen inside the sandbox; empty for a Worker."""
    interpreter: str
    """Label of what it was built for (`sandbox.interpreter`, `sandbox.node`, `sandbox.tools`)."""
    runtime: Runtime = "python"
    asked: manifest.Manifest | None = None
    """The order's manifest, with what the source itself says; None: as it was."""


class Builder(Protocol[_Source]):
    """Makes directories from one kind of source."""

    async def build(self, source: _Source, asked: manifest.Manifest, directory: pathlib.Path, tell: Tell) -> Built:
        """Fetch and build `source` in `directory` (on the platform's disk; empty but for `UPLOAD`).

        Raises `errors.DeployFailed`, which says why, with nothing secret in it.
        """
        ...
