"""A platform that somebody sits in front of: checks, start, waiting for Ctrl-C, and its end. What it is for is said by
`cli.foreground` (`smcp up`) and `cli.developing` (`smcp dev`)."""

import abc
import asyncio
import contextlib
import errno
import os
import pathlib
import signal
from collections.abc import Generator
from typing import Final

from smcp.app import process
from smcp.cli import datadir, demo, doctor, failures, pinned, session
from smcp.kernel import settings
from smcp.ops import doctor as machine
from smcp.sandbox import tools

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Attended(abc.ABC):
    """One run."""

    command: str
    """The command line's word for it."""

    def __init__(self, cli: session.Session, wanted: settings.Settings) -> None:
        self._cli = cli
        self._settings = wanted
        self._place = datadir.DataDir(pathlib.Path(wanted.platform.data_dir))
        self._stop = asyncio.Event()
        self._lacks: set[demo.Need] = set()
        """What this machine does not have for the demo."""

    async def run(self) -> None:
        """Until a signal comes. Whatever happens, nothing that was started is left."""
        self._check()
        self._place.prepare()
        with self._place.hold(), self._signals():
            programs = await pinned.ensure(self._say, self._stop)
            if programs.workerd is None:
                self._lacks.add("workerd")
            if not self._stop.is_set():
                await self._host(programs)
        self._say("stopped")

    async def _host(self, programs: tools.Tools) -> None:
        platform = await self._start(programs)
        try:
            await self._serve(platform)
        finally:
            self._say("stopping…")
            await platform.stop()

    @abc.abstractmethod
    async def _serve(self, platform: process.Process) -> None:
        """What it is for, until `_until_the_end`."""

    def _say(self, text: str) -> None:
        self._cli.out.note(f"  {text}")

    @contextlib.contextmanager
    def _signals(self) -> Generator[None]:
        """Ctrl-C, a service manager's stop, a closed terminal: all end in order, and a second one changes nothing."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._stop.set)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    def _check(self) -> None:
        # The pinned programs are fetched below, where they are missing.
        checks = [*machine.run(self._settings, pinned=False), *machine.stale()]
        failed = [check for check in checks if check.status is machine.Status.FAIL]
        if not self._cli.out.as_json:
            for check in checks:
                # An occupied port stops the start below, with a better text; Node.js is for `make test`.
                if check.status is machine.Status.WARN and check.name not in ("node", "port"):
                    doctor.show(check, err=True)
        if failed:
            raise failures.Failure(
                "unfit",
                "; ".join(f"{check.name}: {check.why}" for check in failed),
                hint="\n".join(check.fix for check in failed if check.fix),
            )
        if not any(check.name == "node" and check.status is machine.Status.OK for check in checks):
            self._lacks.add("node")
        self._say(f"this machine is fit: {len(checks)} checks")

    async def _start(self, programs: tools.Tools) -> process.Process:
        gateway = self._settings.gateway
        try:
            platform = await process.Process.start(self._settings, programs)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES):
                raise
            raise failures.Failure(
                "address",
                f"SMCP can't listen on {gateway.host}:{gateway.port}: {os.strerror(error.errno)}.",
                hint=f"Choose another port, for example: smcp {self.command} --port {gateway.port + 1}",
            ) from error
        self._say(f"listening on {platform.base_url}, data in {self._place.path}")
        return platform

    async def _until_the_end(self, platform: process.Process) -> None:
        waiting = [asyncio.create_task(event.wait()) for event in (self._stop, platform.ended)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for one in waiting:
            one.cancel()
        if not self._stop.is_set():
            raise failures.Failure(
                "ended",
                "The platform's process ended by itself; what it wrote above says why.",
                hint="Start it again: what was acknowledged is kept.",
            )

    def _follow_address(self, url: str) -> None:
        """The platform may listen elsewhere than last time; its profiles follow."""
        for made in self._place.notes().made:
            kept = datadir.still(self._cli.profiles, made)
            if kept is not None and kept.url != url:
                self._cli.profiles.save(made.name, kept._replace(url=url))
