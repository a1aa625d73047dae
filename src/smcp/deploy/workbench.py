"""Where packages are fetched and built: cells with limits of time and size, which `build.Builder`s fill with steps."""

import asyncio
import contextlib
import os
import pathlib
from collections.abc import Callable
from typing import Final

from smcp.kernel import errors, settings
from smcp.sandbox import cells, interpreter, launch, spawn, walls

_MEMORY: Final = 2_147_483_648
_OPEN_FILES: Final = 1024
_CPUS: Final = 2.0
_WATCH_S: Final = 0.5


class Workbench:
    """Runs fetch and build steps. Holds no state."""

    def __init__(
        self,
        launcher: launch.Launcher,
        python: interpreter.Interpreter,
        limits: settings.Sandbox,
        deploy: settings.Deploy,
    ) -> None:
        self.python = python
        self.deploy = deploy
        self._launcher = launcher
        self._limits = limits

    def cell(
        self,
        *,
        argv: tuple[str, ...],
        binds: tuple[walls.Bind, ...],
        env: tuple[tuple[str, str], ...],
        network: bool,
        files: tuple[walls.File, ...] = (),
        runs: cells.Runs | None = None,
    ) -> walls.Cell:
        """A cell for one step. `runs` is what it runs on besides /usr (default: the platform's own Python).

        `network` is for fetching only: no package code may run in such a cell.
        """
        base = self.python if runs is None else runs
        return walls.Cell(
            argv=argv,
            binds=(*base.binds, *binds),
            files=files,
            hidden=base.hidden,
            env=(*cells.base_env(base), *env),
            network=network,
            memory_bytes=max(self._limits.memory_bytes, _MEMORY),
            cpus=max(self._limits.cpus, _CPUS),
            tmp_bytes=self._limits.tmp_bytes,
            open_files=_OPEN_FILES,
            processes=self._limits.processes,
            file_bytes=self.deploy.max_bytes,
        )

    async def run(self, cell: walls.Cell, heard: Callable[[str], None] | None) -> spawn.Outcome:
        """Run a step to its end. Raises `errors.DeployFailed` when it takes longer than deploy.timeout_s."""
        try:
            return await spawn.run(cell, self._launcher, timeout_s=self.deploy.timeout_s, on_line=heard)
        except TimeoutError:
            raise errors.DeployFailed(f"It took longer than deploy.timeout_s ({self.deploy.timeout_s:g} s).") from None

    async def within(
        self, cell: walls.Cell, growing: pathlib.Path, heard: Callable[[str], None] | None
    ) -> spawn.Outcome:
        """As `run`, and end the step when `growing` has grown by more than deploy.max_bytes since it began."""
        before = await asyncio.to_thread(size, growing)
        step = asyncio.create_task(self.run(cell, heard))
        try:
            while not (await asyncio.wait({step}, timeout=_WATCH_S))[0]:
                if await asyncio.to_thread(size, growing) - before > self.deploy.max_bytes:
                    raise errors.DeployFailed(
                        f"The packages are larger than deploy.max_bytes ({self.deploy.max_bytes})."
                    )
            return step.result()
        finally:
            step.cancel()
            with contextlib.suppress(asyncio.CancelledError, errors.SmcpError):
                await step


def size(directory: pathlib.Path) -> int:
    """Bytes of all files below `directory`, which may change meanwhile. Blocking."""
    total = 0
    for here, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(here, name)).st_size
    return total
