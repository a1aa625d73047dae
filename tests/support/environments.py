"""Environments of Python clients that the tests' own can't hold: installed once per lock, every file by its hash."""

import fcntl
import hashlib
import pathlib
import subprocess
import sys
import venv
from typing import Final, Literal

Name = Literal["classic", "fast"]

FOLDER: Final = pathlib.Path(__file__).parents[1] / "clients" / "python"
_PLACE: Final = FOLDER / ".environments"
_NAMES: Final[tuple[Name, ...]] = ("classic", "fast")
_INSTALL_S: Final = 900.0


def ensure() -> None:
    """Install all of them, where that has not been done."""
    for name in _NAMES:
        python(name)


def python(name: Name) -> pathlib.Path:
    """The interpreter of the environment `name`; it is made first if its lock, or the Python it is for, is another.

    Several test processes may call this at once.
    """
    place = _PLACE / name
    lock = FOLDER / f"{name}.txt"
    wanted = hashlib.sha256(f"{sys.version} {place}\n{lock.read_text('utf-8')}".encode()).hexdigest()
    stamp, interpreter = place / ".smcp-installed", place / "bin" / "python"
    with lock.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text("utf-8") != wanted:
            venv.create(place, clear=True, with_pip=True)
            options = ("--disable-pip-version-check", "--no-input", "--quiet", "--no-deps", "--only-binary=:all:")
            patient = ("--retries", "10", "--timeout", "60")
            done = subprocess.run(
                [interpreter, "-m", "pip", "install", *options, *patient, "--require-hashes", "--requirement", lock],
                capture_output=True,
                text=True,
                timeout=_INSTALL_S,
                check=False,
            )
            assert done.returncode == 0, f"pip ended with {done.returncode}:\n{done.stderr[-4000:]}"
            stamp.write_text(wanted, "utf-8")
    return interpreter
