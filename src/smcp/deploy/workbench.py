"""Where packages are fetched and built: cells with limits of time and size, which `build.Builder`s fill with steps."""

import asyncio
import contextlib
import os
import pathlib
import socket
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from smcp.kernel import errors, settings
from smcp.sandbox import cells, egress, interpreter, launch, spawn, walls
from smcp.sandbox.egress import rules

REFUSED: Final = "[smcp] egress refused: "
"""How a verdict begins, among the lines of a step."""

_MEMORY: Final = 2_147_483_648
_OPEN_FILES: Final = 1024
_CPUS: Final = 2.0
_WATCH_S: Final = 0.5


class Step(NamedTuple):
    """A cell, and what it may reach."""

    cell: walls.Cell
    reach: tuple[rules.Rule, ...]


class Workbench:
    """Runs fetch and build steps. Holds no state."""

    def __init__(
        self,
        launcher: launch.Launcher,
        python: interpreter.Interpreter,
        limits: settings.Sandbox,
        deploy: settings.Deploy,
        guard: egress.Egress,
    ) -> None:
        self.python = python
        self.deploy = deploy
        self._launcher = launcher
        self._egress = guard
        self._limits = limits

    def cell(
        self,
        *,
        argv: tuple[str, ...],
        binds: tuple[walls.Bind, ...],
        env: tuple[tuple[str, str], ...],
        reach: tuple[rules.Rule, ...] = (),
        files: tuple[walls.File, ...] = (),
        runs: cells.Runs | None = None,
        cwd: str = "/tmp",  # noqa: S108 - a path inside the sandbox
    ) -> "Step":
        """One step. `runs` is what it runs on besides /usr (default: the platform's own Python).

        `reach` is for fetching only: no package code may run in such a step. Without it there is no network.
        """
        base = self.python if runs is None else runs
        cell = walls.Cell(
            argv=argv,
            binds=(*base.binds, *binds),
            files=(*files, *(egress.files() if reach else ())),
            hidden=base.hidden,
            env=(*cells.base_env(base), *env),
            cwd=cwd,
            egress=rules.ports(reach),
            memory_bytes=max(self._limits.memory_bytes, _MEMORY),
            cpus=max(self._limits.cpus, _CPUS),
            tmp_bytes=self._limits.tmp_bytes,
            open_files=_OPEN_FILES,
            processes=self._limits.processes,
            file_bytes=self.deploy.max_bytes,
        )
        return Step(cell, reach)

    async def run(self, step: "Step", heard: Callable[[str], None] | None) -> spawn.Outcome:
        """Run a step to its end; `heard` also hears what it was refused (`REFUSED`).

        Raises `errors.DeployFailed` when it takes longer than deploy.timeout_s.
        """

        def answer(sockets: list[socket.socket]) -> egress.Attachment:
            return self._egress.attach(sockets, step.reach, heard or _nobody, trusted=True)

        try:
            return await spawn.run(
                step.cell, self._launcher, timeout_s=self.deploy.timeout_s, on_line=heard, answer=answer
            )
        except TimeoutError:
            raise errors.DeployFailed(f"It took longer than deploy.timeout_s ({self.deploy.timeout_s:g} s).") from None

    async def within(self, step: "Step", growing: pathlib.Path, heard: Callable[[str], None] | None) -> spawn.Outcome:
        """As `run`, and end the step when `growing` has grown by more than deploy.max_bytes since it began."""
        before = await asyncio.to_thread(size, growing)
        running = asyncio.create_task(self.run(step, heard))
        try:
            while not (await asyncio.wait({running}, timeout=_WATCH_S))[0]:
                if await asyncio.to_thread(size, growing) - before > self.deploy.max_bytes:
                    raise errors.DeployFailed(
                        f"The packages are larger than deploy.max_bytes ({self.deploy.max_bytes})."
                    )
            return running.result()
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError, errors.SmcpError):
                await running


def refusals(lines: Iterable[str]) -> str:
    """What a person should do about the hosts that a fetch was refused; empty when there was none."""
    hosts = sorted({line.removeprefix(REFUSED).split(" ")[0] for line in lines if line.startswith(REFUSED)})
    if not hosts:
        return ""
    return f" It was not let to {', '.join(hosts[:5])}: deploy.package_hosts allows further hosts of package sources."


def _nobody(_: str) -> None:
    """Hears nothing."""


def size(directory: pathlib.Path) -> int:
    """Bytes of all files below `directory`, which may change meanwhile. Blocking."""
    total = 0
    for here, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(here, name)).st_size
    return total
