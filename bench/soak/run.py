"""One soak: a platform, its tenants, its clients, a killer, and windows between which all is quiet."""

import asyncio
import contextlib
import pathlib
import random
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from bench import guest
from bench.soak import killer, people, story, windows
from support import platform as running
from support import wheels, wire
from support.clients import Endpoint

_VERSIONS: Final = ("1.0.0", "1.0.1")
_KINDS: Final = {
    # server: source, function, what it requires, whether legacy clients can use it, how often it is visited: a start of
    # the SDK's takes a second of a core, and a session of the legacy era is one.
    "lean": ("lean.py", "main", (), True, 5),
    "shared": ("lean.py", "modern", (), True, 5),
    "python": ("sdk.py", "main", ("mcp==2.3.0",), True, 1),
}
_STEP_S: Final = 0.5
_QUIET_S: Final = 120.0
"""Longest time until nothing is left of a window."""
_SETTINGS: Final = {
    # Sessions whose clients have left, and copies that nobody uses, go within a quiet moment.
    # Those of clients that have not left live through a moment in which the machine does something else.
    "SMCP_GATEWAY_SESSION_IDLE_S": "15",
    "SMCP_RUNTIME_IDLE_STOP_S": "8",
    "SMCP_RUNTIME_STOP_GRACE_S": "1",
    # The soak asks whether everything is answered, not how soon: other work on the machine must not fail it.
    "SMCP_RUNTIME_START_TIMEOUT_S": "120",
}


class Plan(NamedTuple):
    """How much of everything."""

    windows: int
    """Each is some time under load, and a quiet moment; four at least, or nothing can be compared."""
    window_s: float
    """Of load."""
    people: int = 16
    pause_s: float = 0.2
    """Longest pause of a client between two visits."""
    tenants: tuple[str, ...] = ("ada", "bob")
    kill_s: float = 1.0
    deploy_s: float = 25.0


class Found(NamedTuple):
    """How it went."""

    told: story.Story
    samples: Sequence[windows.Sample]
    faults: Sequence[str]
    """Everything that must not be; nothing when the soak has passed."""


class Soak:
    """One run on an own platform below `directory`."""

    def __init__(self, directory: pathlib.Path, plan: Plan, tell: Callable[[str], None], seed: int = 1) -> None:
        self._plan = plan
        self._tell = tell
        self._random = random.Random(seed)
        self._shelf = directory / "wheels"
        environ = {**guest.LIMITS, **_SETTINGS, "SMCP_DEPLOY_WHEEL_DIRS": str(self._shelf)}
        self._platform = running.Platform(directory, environ)
        self._told = story.Story()
        self._gate = people.Gate()
        self._servers: list[people.Server] = []
        self._admins: dict[str, str] = {}
        self._samples: list[windows.Sample] = []
        self._deployments = 0
        self._began = time.monotonic()

    def run(self) -> Found:
        """Start, soak, stop. Raises AssertionError when something is left after the stop."""
        with self._platform:
            roles = guest.roles(self._platform)
            self._settle()
            asyncio.run(self._soak(roles))
        faults = [*dict.fromkeys(self._told.unexplained), *windows.grown(self._samples, self._deployments)]
        faults += [f"the platform's log has: {line}" for line in _complaints(self._platform.log)]
        return Found(self._told, self._samples, faults)

    def _settle(self) -> None:
        for tenant in self._plan.tenants:
            self._platform.create_tenant(tenant)
            self._admins[tenant] = self._platform.create_key(tenant, "admin")
            caller = self._platform.create_key(tenant, "mcp_user")
            for kind, (source, function, requires, legacy, often) in _KINDS.items():
                place = story.Place(tenant, kind)
                text = pathlib.Path(__file__).with_name(source).read_text("utf-8")
                name = killer.package(place)
                module = name.replace("-", "_")
                for version in _VERSIONS:
                    wheels.build_wheel(
                        self._shelf, name, version, {f"{module}.py": text}, {name: f"{module}:{function}"}, requires
                    )
                self._tell(f"deploying {place}")
                url = self._deploy(place, _VERSIONS[0])
                self._servers.append(people.Server(place, Endpoint(url, caller), legacy, often))

    def _deploy(self, place: story.Place, version: str) -> str:
        self._deployments += 1
        source = f"pypi:{killer.package(place)}=={version}"
        return self._platform.deploy(place.tenant, source, place.server, self._admins[place.tenant])

    async def _soak(self, roles: guest.Roles) -> None:
        self._began = time.monotonic()
        kills = killer.Killer(roles, self._told, self._random)
        made = [
            people.Person(number, self._servers, self._told, self._gate, self._plan.pause_s)
            for number in range(self._plan.people)
        ]
        living = [asyncio.ensure_future(one.live()) for one in made]
        living += [asyncio.ensure_future(self._report()), asyncio.ensure_future(self._watch())]
        try:
            for _ in range(self._plan.windows):
                self._gate.open()
                chaos = [asyncio.ensure_future(self._kill(kills)), asyncio.ensure_future(self._redeploy())]
                await asyncio.sleep(self._plan.window_s)
                for task in chaos:
                    task.cancel()
                await asyncio.gather(self._gate.close(), *chaos, return_exceptions=True)
                await self._quiet(roles)
                for task in living:
                    if task.done():
                        task.result()
        finally:
            for task in living:
                task.cancel()
            await asyncio.gather(*living, return_exceptions=True)

    async def _kill(self, kills: killer.Killer) -> None:
        while True:
            await asyncio.sleep(self._plan.kill_s)
            await asyncio.to_thread(kills.kill)

    async def _redeploy(self) -> None:
        number = 0
        while True:
            await asyncio.sleep(self._plan.deploy_s * (0.5 + self._random.random()))
            number += 1
            # Of the small ones only: the other one's packages would be fetched each time.
            place = self._random.choice([one.place for one in self._servers if one.place.server != "python"])
            began = time.monotonic()
            # Not cut off by the end of the window: an operation that goes on would stand in the quiet moment.
            work = asyncio.ensure_future(asyncio.to_thread(self._deploy, place, _VERSIONS[number % 2]))
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                await self._ended(work, place, began)
                raise
            except AssertionError:
                await self._ended(work, place, began)
            else:
                self._told.well("deploy", time.monotonic() - began)

    async def _ended(self, work: "asyncio.Future[str]", place: story.Place, began: float) -> None:
        try:
            await work
        except AssertionError as error:
            detail = str(error).splitlines()[0][:400]
            self._told.failed(story.Failure(place, "deploy", detail, began, time.monotonic()))
        else:
            self._told.well("deploy", time.monotonic() - began)

    async def _quiet(self, roles: guest.Roles) -> None:
        """Wait until nothing of the window is left, and look."""
        await people.nothing_held(self._told, self._servers)
        deadline = time.monotonic() + _QUIET_S
        while True:
            vitals = await asyncio.to_thread(wire.vitals, self._platform)
            hosted = len(roles.hosted())
            if (not hosted and not vitals.sessions) or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.5)  # ends of processes and sessions are told to nobody outside
        requests = self._told.done.total() + self._told.explained.total()
        sample = await asyncio.to_thread(
            windows.sample, roles._asdict(), hosted, int(vitals.sessions), self._platform.data, requests
        )
        self._samples.append(sample)
        self._tell(f"quiet: {windows.line(sample)}")

    async def _watch(self) -> None:
        """Tell when nothing went on."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(_STEP_S)
            now = time.monotonic()
            if now - began > 2 * _STEP_S:
                self._told.stood_still(now, now - began - _STEP_S)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(15)
            self._tell(f"{time.monotonic() - self._began:.0f} s: {summary(self._told)}")


def summary(told: story.Story) -> str:
    """In one line."""
    done = ", ".join(f"{what} {number:,}" for what, number in sorted(told.done.items()))
    return (
        f"{done}; {told.kills} kills explain {told.explained.total()} errors, {len(told.unexplained)} are not explained"
    )


def slowest(told: story.Story) -> str:
    """How long everything took at most, in one line."""
    return "slowest: " + ", ".join(f"{what} {taken:.1f} s" for what, taken in sorted(told.slowest.items()))


_COMPLAINTS: Final = ("Traceback", "never retrieved", "never awaited", "[error", "[critical", "internal")


def _complaints(log: pathlib.Path) -> list[str]:
    """Lines of the platform's log that tell of a fault of its own, each once, twenty at most."""
    with contextlib.suppress(FileNotFoundError):
        lines = log.read_text("utf-8", "replace").splitlines()
        found = [line.strip()[:300] for line in lines if any(word in line for word in _COMPLAINTS)]
        return list(dict.fromkeys(found))[:20]
    return []
