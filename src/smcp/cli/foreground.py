"""Running a platform in the foreground: checks, start, the first keys, the demo, a welcome; then waiting for Ctrl-C."""

import asyncio
import contextlib
import errno
import os
import pathlib
import signal
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Final, NamedTuple

import msgspec

from smcp.app import process
from smcp.cli import datadir, demo, doctor, failures, profiles, session, welcome
from smcp.kernel import settings
from smcp.ops import doctor as machine

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Made(NamedTuple):
    """The demo if there is one, or why it could not be made."""

    demo: demo.Standing | None
    why: str


_NO_DEMO: Final = _Made(None, "")


class Foreground:
    """One run of `smcp up`."""

    def __init__(self, cli: session.Session, wanted: settings.Settings, *, demo: bool, new_operator: bool) -> None:
        self._cli = cli
        self._settings = wanted
        self._wants_demo = demo
        self._new_operator = new_operator
        self._place = datadir.DataDir(pathlib.Path(wanted.platform.data_dir))
        self._stop = asyncio.Event()
        self._node = False
        self._began = time.monotonic()

    async def run(self) -> None:
        """Until a signal comes. Whatever happens, nothing that was started is left."""
        self._check()
        self._place.prepare()
        with self._place.hold(), self._signals():
            platform = await self._start()
            try:
                await self._serve(platform)
            finally:
                self._say("stopping…")
                await platform.stop()
        self._say("stopped")

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
        checks = machine.run(self._settings)
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
        self._node = any(check.name == "node" and check.status is machine.Status.OK for check in checks)
        self._say(f"this machine is fit: {len(checks)} checks")

    async def _start(self) -> process.Process:
        gateway = self._settings.gateway
        try:
            platform = await process.Process.start(self._settings)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES):
                raise
            raise failures.Failure(
                "address",
                f"SMCP can't listen on {gateway.host}:{gateway.port}: {os.strerror(error.errno)}.",
                hint=f"Choose another port, for example: smcp up --port {gateway.port + 1}",
            ) from error
        self._say(f"listening on {platform.base_url}, data in {self._place.path}")
        return platform

    async def _serve(self, platform: process.Process) -> None:
        await self._operator(platform)
        own = self._settings.tls.cert_file
        work = demo.Demo(self._cli, self._place, platform.base_url, self._say, node=self._node, certificate=own)
        made = await self._demo(work) if self._wants_demo else _NO_DEMO
        if not self._stop.is_set():
            self._ready(platform.base_url, made, work.coming() if self._wants_demo else [])
            async with self._rest(work):
                await self._until_the_end(platform)

    @contextlib.asynccontextmanager
    async def _rest(self, work: demo.Demo) -> AsyncGenerator[None]:
        """The demo's other servers are made while the platform serves already."""
        running = asyncio.ensure_future(asyncio.to_thread(work.rest)) if self._wants_demo else None
        try:
            yield
        finally:
            work.stop()
            if running is not None:
                await running

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

    async def _operator(self, platform: process.Process) -> None:
        """The operator's key goes from the platform into the profile, and nowhere else."""
        text = await platform.ensure_operator(another=self._new_operator)
        if text is None:
            self._follow_address(platform.base_url)
            if datadir.still(self._cli.profiles, self._place.notes().operator) is None:
                self._say(f"the operator's key is not in {self._cli.profiles.file}: --new-operator makes another")
            return
        made = profiles.Profile(platform.base_url, session.PLATFORM, text)
        kept = datadir.keep(self._cli.profiles, profiles.DEFAULT, made)
        self._place.write(msgspec.structs.replace(self._place.notes(), operator=kept))
        self._say(f"made the operator's key: profile '{kept.name}' of {self._cli.profiles.file}")

    def _follow_address(self, url: str) -> None:
        """The platform may listen elsewhere than last time; its profiles follow."""
        for made in self._place.notes().made:
            kept = datadir.still(self._cli.profiles, made)
            if kept is not None and kept.url != url:
                self._cli.profiles.save(made.name, kept._replace(url=url))

    async def _demo(self, work: demo.Demo) -> _Made:
        """What the welcome shows of the demo. It may fail (no package source within reach, for instance) without
        taking the platform along.
        """
        running = asyncio.ensure_future(asyncio.to_thread(work.make))
        stopped = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait((running, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                work.stop()
            return _Made(await running, "")
        except failures.Failure as failure:
            return _Made(None, failure.message)
        finally:
            stopped.cancel()

    def _ready(self, url: str, made: _Made, coming: Sequence[str]) -> None:
        seconds = time.monotonic() - self._began
        notes = self._place.notes()
        operator = notes.operator.name if datadir.still(self._cli.profiles, notes.operator) and notes.operator else None
        if self._cli.out.as_json:
            document = {
                "ready": True,
                "url": url,
                "data_dir": str(self._place.path),
                "profiles_file": str(self._cli.profiles.file),
                "operator_profile": operator,
                "demo": None if made.demo is None else made.demo.as_json(),
                "demo_error": made.why or None,
                "seconds": round(seconds, 2),
            }
            self._cli.out.json(document)
            return
        if made.why:
            self._cli.out.note(f"The demo could not be made: {made.why}")
        welcome.show(self._cli.out, url, self._cli.profiles.file, operator, made.demo, coming)
        self._cli.out.text(f"\nReady after {seconds:.1f} s. Ctrl-C stops it.")
