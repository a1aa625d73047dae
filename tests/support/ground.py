"""Volumes without walls: directories instead of mounts, processes instead of cells. The tar that runs is the real one.

What a volume's life is (`smcp.sandbox.volumes.keeper`) can be tested so in milliseconds and at every interleaving; that
it holds in real cells, with real mounts and freezers, is tested in tests/real/volumes.
"""

import asyncio
import contextlib
import os
import pathlib
import shutil
import signal

from smcp.sandbox import walls


def _state(pid: int) -> str:
    return pathlib.Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(") ")[2][0]


class Child:
    """A process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def wait(self) -> int:
        """Its exit code."""
        return await self._process.wait()

    def kill(self) -> None:
        """End it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def freeze(self) -> bool:
        """Stop it."""
        self._process.send_signal(signal.SIGSTOP)
        while _state(self._process.pid) != "T":
            os.sched_yield()
        return True

    async def thaw(self) -> None:
        """Let it go on."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)


class Ground:
    """Open volumes are directories below `root`."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.opened = 0
        """How often a volume was opened."""
        self.spawned = 0
        self.gate = asyncio.Event()
        """Cells start when it is set; a test may hold them back."""
        self.gate.set()
        self.waiting = asyncio.Event()
        """Set when a cell is held back."""
        self.closed = asyncio.Event()
        """Set when a volume was closed."""

    def place(self, tenant: str, server: str) -> pathlib.Path:
        """Where an open volume is."""
        return self.root / tenant / server

    def open(self) -> list[str]:
        """The open volumes."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.glob("*/*"))

    async def open_volume(self, tenant: str, server: str, size: int) -> None:
        """Make the directory; it must not be there."""
        assert size >= 4096
        self.place(tenant, server).mkdir(parents=True)
        self.opened += 1

    async def close_volume(self, tenant: str, server: str) -> None:
        """Remove it."""
        shutil.rmtree(self.place(tenant, server))
        self.closed.set()

    async def spawn(self, cell: walls.Cell, *, stdin: int, stdout: int, stderr: int) -> Child:
        """Start the cell's command in its volume's directory."""
        assert cell.volume is not None
        place = self.place(cell.tenant, cell.volume.server)
        assert place.is_dir()
        streams = [os.dup(one) for one in (stdin, stdout, stderr)]
        try:
            if not self.gate.is_set():
                self.waiting.set()
            await self.gate.wait()
            self.spawned += 1
            argv = [word.replace(f"={cell.volume.target}", f"={place}") for word in cell.argv]
            return Child(
                await asyncio.create_subprocess_exec(
                    *argv, env=dict(cell.env), stdin=streams[0], stdout=streams[1], stderr=streams[2]
                )
            )
        finally:
            for one in streams:
                os.close(one)
