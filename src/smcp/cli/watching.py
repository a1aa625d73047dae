"""Has a folder changed? By looking: that works on every file system, in containers and over networks alike."""

import os
import pathlib
import time
from collections.abc import Callable
from typing import Final

from smcp.cli import pack

_EVERY_S: Final = 0.15
_SHARE: Final = 10
"""Of the time at most one part in so many is spent looking."""

_Look = tuple[tuple[str, int, int, int], ...]


class Watch:
    """The files of a folder that would be sent, as they were when it was last chosen."""

    def __init__(self, chosen: pack.Chosen) -> None:
        names = {*chosen.files, pack.MANIFEST}
        # A folder's own time tells of files that came or went.
        folders = {str(above) for name in chosen.files for above in pathlib.PurePosixPath(name).parents}
        self._paths = [chosen.root / name for name in sorted({*names, *folders, "."})]
        self._seen = self._look()

    def wait(self, pause: Callable[[float], bool]) -> bool:
        """True once something has changed and then stayed as it is for a moment; False when `pause`, which sleeps for
        so many seconds, says that it is time to give up."""
        while True:
            began = time.monotonic()
            now = self._look()
            if now != self._seen:
                return self._settled(now, pause)
            if not pause(max(_EVERY_S, _SHARE * (time.monotonic() - began))):
                return False

    def _settled(self, now: _Look, pause: Callable[[float], bool]) -> bool:
        """Editors and version control write in several steps."""
        while True:
            if not pause(_EVERY_S / 2):
                return False
            before, now = now, self._look()
            if now == before:
                return True

    def _look(self) -> _Look:
        found: list[tuple[str, int, int, int]] = []
        for path in self._paths:
            try:
                one = os.stat(path, follow_symlinks=False)
            except OSError:
                continue
            found.append((str(path), one.st_mtime_ns, one.st_size, one.st_ino))
        return tuple(found)
