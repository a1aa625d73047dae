"""`smcp up` as it runs: the first keys, the demo, a welcome; then waiting for Ctrl-C."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Final, NamedTuple

import msgspec

from smcp.app import process
from smcp.cli import attended, datadir, demo, failures, profiles, session, welcome
from smcp.kernel import settings


class _Made(NamedTuple):
    """The demo if there is one, or why it could not be made."""

    demo: demo.Standing | None
    why: str


_NO_DEMO: Final = _Made(None, "")


class Foreground(attended.Attended):
    """One run of `smcp up`."""

    command = "up"

    def __init__(self, cli: session.Session, wanted: settings.Settings, *, demo: bool, new_operator: bool) -> None:
        super().__init__(cli, wanted)
        self._wants_demo = demo
        self._new_operator = new_operator
        self._began = time.monotonic()

    async def _serve(self, platform: process.Process) -> None:
        await self._operator(platform)
        code = await platform.set_up()
        own = self._settings.tls.cert_file
        work = demo.Demo(self._cli, self._place, platform.base_url, self._say, lacks=self._lacks, certificate=own)
        made = await self._demo(work) if self._wants_demo else _NO_DEMO
        if not self._stop.is_set():
            self._ready(platform.base_url, made, work.coming() if self._wants_demo else [], code)
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

    def _ready(self, url: str, made: _Made, coming: Sequence[str], code: str | None) -> None:
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
                "setup": None if code is None else {"url": welcome.set_up_page(url), "code": code},
                "demo": None if made.demo is None else made.demo.as_json(),
                "demo_error": made.why or None,
                "seconds": round(seconds, 2),
            }
            self._cli.out.json(document)
            return
        if made.why:
            self._cli.out.note(f"The demo could not be made: {made.why}")
        welcome.show(self._cli.out, url, self._cli.profiles.file, operator, made.demo, coming)
        if code is not None:
            welcome.set_up(self._cli.out, url, code)
        self._cli.out.text(f"\nReady after {seconds:.1f} s. Ctrl-C stops it.")
