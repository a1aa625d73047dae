"""All files below a directory that is in use: some of them go while others are read."""

import contextlib
import os
import pathlib
import stat
from collections.abc import Iterator


def below(directory: pathlib.Path) -> Iterator[tuple[pathlib.Path, bytes]]:
    """Each regular file and what is in it, as far as it is still there."""
    for folder, _, names in os.walk(directory):
        for name in names:
            path = pathlib.Path(folder, name)
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISREG(path.stat().st_mode):
                    yield path, path.read_bytes()
