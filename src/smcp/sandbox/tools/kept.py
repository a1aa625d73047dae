"""Where the pinned programs are kept, and whether what is kept is what is pinned.

`$XDG_CACHE_HOME/smcp/tools/workerd-1.20261117.1/workerd`, by default below `~/.cache` (XDG Base Directory
specification). The directory is closed to other users: the launcher opens a cell's mounts with the rights of who
started SMCP, so neither the platform's uid nor a tenant's has to reach it.

The digest is compared at each start, over the whole file, and not only when it was fetched: a note beside the file
could be changed by whoever can change the file. 160 MB take some 0.15 s.
"""

import hashlib
import io
import os
import pathlib
import platform
import shutil
import stat
from collections.abc import Mapping
from typing import Final

import msgspec

from smcp.kernel import errors
from smcp.sandbox import walls
from smcp.sandbox.tools import pins

MODE: Final = 0o555


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A pinned program that is here, whole and unchanged."""

    name: str
    version: str
    path: str
    """On this host."""

    @property
    def label(self) -> str:
        """Such as `workerd-1.20261117.1`. Recorded in deployments."""
        return f"{self.name}-{self.version}"

    @property
    def executable(self) -> str:
        """Path inside a sandbox that has `bind`."""
        return f"/opt/{self.name}"

    @property
    def bind(self) -> walls.Bind:
        """What has to be mounted for it: the one file, read-only."""
        return walls.Bind(self.path, self.executable)


class State(msgspec.Struct, frozen=True, kw_only=True):
    """How things stand with a pinned program, for people."""

    path: str = ""
    whole: bool = False
    """It is here, and what is pinned."""
    why: str = ""
    fix: str = ""
    """Both where it is not whole."""


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """What of the pinned programs is here."""

    workerd: Tool | None = None
    esbuild: Tool | None = None

    @property
    def binds(self) -> tuple[walls.Bind, ...]:
        """Of all that is here."""
        return tuple(one.bind for one in (self.workerd, self.esbuild) if one is not None)


def missing(program: pins.Program) -> errors.SandboxMissing:
    """What to say where a pinned program is needed and is not here."""
    return errors.SandboxMissing(
        f"This platform's machine does not have {program.label}, which Workers need. Its operator can run"
        " 'smcp doctor', which says what is in the way, and start SMCP again, which fetches it with npm."
    )


def build(program: pins.Program, machine: str = "") -> pins.Build:
    """The build for this kind of machine. Raises `errors.SandboxMissing` where there is none."""
    kind = machine or platform.machine()
    found = program.builds.get(kind)
    if found is None:
        known = " and ".join(sorted(program.builds))
        raise errors.SandboxMissing(
            f"There is no {program.name} for {kind} machines, only for {known}. Workers can't run here."
        )
    return found


def home(environ: Mapping[str, str]) -> pathlib.Path:
    """The directory that holds all of them. Raises `errors.SandboxMissing` for a user without a home."""
    # XDG Base Directory specification: a relative path is invalid and ignored.
    named = environ.get("XDG_CACHE_HOME", "")
    if not named.startswith("/"):
        user = environ.get("HOME") or os.path.expanduser("~")
        if not user.startswith("/"):
            raise errors.SandboxMissing(
                "This user has no home directory to keep workerd and esbuild in. Set XDG_CACHE_HOME to a directory."
            )
        named = f"{user}/.cache"
    return pathlib.Path(named) / "smcp" / "tools"


def place(program: pins.Program, environ: Mapping[str, str]) -> pathlib.Path:
    """Where `program` is, or will be. Raises as `home`."""
    return home(environ) / program.label / program.name


def there(program: pins.Program, environ: Mapping[str, str]) -> bool:
    """Whether a file of the right size is at its place: quick, and no proof. Raises as `home` and `build`."""
    try:
        found = place(program, environ).lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == build(program).size


def find(program: pins.Program, environ: Mapping[str, str]) -> Tool | None:
    """`program`, or none where it is not here or is not what is pinned. Blocking: reads the whole file."""
    try:
        path, wanted = place(program, environ), build(program)
        if not same(path, wanted):
            return None
    except (OSError, errors.SandboxMissing):
        return None
    return Tool(name=program.name, version=program.version, path=str(path.resolve()))


def state(program: pins.Program, environ: Mapping[str, str]) -> State:
    """Whether it is here, and what to do where it isn't. Blocking, as `find`; raises nothing and changes nothing."""
    try:
        path, wanted = place(program, environ), build(program)
    except errors.SandboxMissing as error:
        return State(why=error.public, fix="Everything but Workers runs.")
    fetched = "'smcp up' fetches it with npm."
    if shutil.which("npm", path=environ.get("PATH", os.defpath)) is None:
        fetched = "Install npm (for instance with apt install npm); 'smcp up' then fetches it."
    try:
        if same(path, wanted):
            return State(path=str(path), whole=True)
        why = f"{path} is not the {program.label} that is pinned, and is not used. Somebody or something changed it."
    except FileNotFoundError:
        why = f"{program.label} is not here yet. Only Workers need it."
    except OSError as error:
        why = f"{path} can't be read: {error.strerror or error}."
    return State(path=str(path), why=why, fix=fetched)


def current(environ: Mapping[str, str]) -> Tools:
    """What is here. Blocking, as `find`; fetches nothing."""
    return Tools(workerd=find(pins.WORKERD, environ), esbuild=find(pins.ESBUILD, environ))


def same(path: pathlib.Path, wanted: pins.Build) -> bool:
    """Whether the file at `path` is the pinned one, may be run, and can't be changed by another user.

    Raises OSError where it can't be read, FileNotFoundError where it is not there.
    """
    with opened(path) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size != wanted.size:
            return False
        if stat.S_IMODE(found.st_mode) != MODE or found.st_uid not in (0, os.geteuid()):
            return False
        return hashlib.file_digest(file, "sha256").hexdigest() == wanted.sha256


def opened(path: pathlib.Path) -> io.BufferedReader:
    """The file, to be read. A link is not followed: where it leads is nobody's promise. Nor is a FIFO waited for.

    Raises OSError.
    """
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK))
