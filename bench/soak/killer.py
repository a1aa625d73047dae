"""Who kills: each second one process of one copy of one server, chosen by chance."""

import os
import random
import re
import signal
import time
from typing import Final, NamedTuple

from bench import cores, guest
from bench.soak import story

_PROGRAM: Final = re.compile(r"/bin/smcp-soak-(?P<tenant>[a-z0-9]+)-(?P<server>[a-z0-9]+)(?: |$)")


def package(place: story.Place) -> str:
    """The name of a server's package: processes of its copies are known by it."""
    return f"smcp-soak-{place.tenant}-{place.server}"


def place_of(command: str) -> story.Place | None:
    """Whose copy a process with this command line is; None for any other process."""
    named = _PROGRAM.search(command)
    return story.Place(named["tenant"], named["server"]) if named else None


class Copy(NamedTuple):
    """A process of a copy of a server."""

    pid: int
    place: story.Place


class Killer:
    """Kills copies of one platform's servers."""

    def __init__(self, roles: guest.Roles, told: story.Story, chance: random.Random) -> None:
        self._roles = roles
        self._told = told
        self._random = chance

    def copies(self) -> list[Copy]:
        """Processes of copies, the walls' own included: they name what they are around."""
        found: list[Copy] = []
        for pid in self._roles.hosted():
            if place := place_of(cores.command(pid)):
                found.append(Copy(pid, place))
        return found

    def kill(self) -> bool:
        """Kill one; False when there is none."""
        copies = self.copies()
        if not copies:
            return False
        place = self._random.choice(sorted({one.place for one in copies}))
        pid = self._random.choice([one.pid for one in copies if one.place == place])
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            # Behind the handle the id can't be another process's any more: look again whose it is.
            if place_of(cores.command(pid)) != place:
                return False
            self._told.killed(place, time.monotonic())
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True
