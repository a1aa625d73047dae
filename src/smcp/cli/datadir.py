"""The data directory as the command line sees it: whose it is, whether it is in use, and the profiles made for it.

A marker file says that a directory is SMCP's, so that `smcp up --data ~` mixes nothing and `smcp reset` deletes nothing
that is not ours. A lock says that a platform runs on it. Profiles that were made for it are remembered by name and by a
digest of their key: only a profile that still holds that key is ever changed or removed.
"""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
from collections.abc import Generator, Mapping
from typing import Any, Final

import msgspec

from smcp.cli import failures, profiles
from smcp.kernel import settings

_MARKER: Final = "smcp-data.json"
_LOCK: Final = "smcp.lock"


class Made(msgspec.Struct, frozen=True):
    """A profile that `smcp up` made."""

    name: str
    digest: str
    """SHA-256 of the key; a key has 256 random bits, so the digest gives nothing away."""


class Notes(msgspec.Struct, frozen=True):
    """What `smcp up` remembers beside the data."""

    format: int = 1
    operator: Made | None = None
    demo: Made | None = None
    """The admin key of the demo's first tenant, acme."""
    globex: Made | None = None
    """That of its second one."""
    dev: Made | None = None
    """The admin key of `smcp dev`."""
    demo_done: bool = False
    """acme/time was live once; what the user deletes afterwards stays deleted."""
    done: tuple[str, ...] = ()
    """The demo's other servers that were live once, as TENANT/SERVER."""

    @property
    def made(self) -> tuple[Made, ...]:
        """Every profile that was made."""
        return tuple(one for one in (self.operator, self.demo, self.globex, self.dev) if one is not None)


def digest(key: str) -> str:
    """How a key is remembered."""
    return hashlib.sha256(key.encode()).hexdigest()


class DataDir:
    """One data directory."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._marker = path / _MARKER

    @property
    def ours(self) -> bool:
        """Is it an SMCP data directory?"""
        return self._marker.is_file()

    def prepare(self) -> None:
        """Make it, or raise `Failure` when it holds something else."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            foreign = not self.ours and any(self.path.iterdir())
        except OSError as error:
            raise failures.Failure(
                "data_dir",
                f"The data directory {self.path} can't be used: {error.strerror}.",
                hint="--data names another one.",
            ) from error
        if foreign:
            raise self._not_ours()
        if not self.ours:
            self.write(Notes())

    @contextlib.contextmanager
    def hold(self) -> Generator[None]:
        """Be the only one who uses it. Raises `Failure` when another process does."""
        try:
            handle = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise failures.Failure("data_dir", f"{self.path} can't be written to: {error.strerror}.") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise failures.Failure(
                "running",
                f"A platform is running on {self.path}.",
                hint="Stop it first (Ctrl-C where 'smcp up' runs), or name another directory with --data.",
            ) from error
        try:
            yield
        finally:
            os.close(handle)

    def notes(self) -> Notes:
        """What is remembered. Raises `Failure` when the directory is not SMCP's."""
        try:
            return msgspec.json.decode(self._marker.read_bytes(), type=Notes)
        except FileNotFoundError as error:
            raise self._not_ours() from error
        except (OSError, msgspec.DecodeError) as error:
            raise failures.Failure("data_dir", f"{self._marker} can't be read: {error}.") from error

    def write(self, notes: Notes) -> None:
        """Remember `notes`."""
        temporary = self._marker.with_suffix(".new")
        # Always a new file: what lies there may be another name for a file elsewhere, if the platform was taken over.
        temporary.unlink(missing_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(msgspec.json.encode(notes) + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(self._marker)

    def content(self) -> list[pathlib.Path]:
        """What a reset removes, in that order: the keys first (without them the rest is noise), the marker last."""
        last = {"keys": -1, _LOCK: 1, _MARKER: 2}
        return sorted(self.path.iterdir(), key=lambda entry: (last.get(entry.name, 0), entry.name))

    def empty(self) -> None:
        """Remove the content; what was unpacked read-only too. The directory itself stays: it may be a mount."""
        for entry in self.content():
            if entry.is_dir() and not entry.is_symlink():
                # By descriptors: a name could be a link to elsewhere by then.
                for _, _, _, folder in os.fwalk(entry):
                    os.fchmod(folder, 0o700)
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def _not_ours(self) -> failures.Failure:
        return failures.Failure(
            "data_dir",
            f"{self.path} is not an SMCP data directory: it has no {_MARKER}. Nothing was changed.",
            hint="--data names another one.",
        )


def still(known: profiles.Profiles, made: Made | None) -> profiles.Profile | None:
    """The profile that was made, if it is still there with the same key."""
    if made is None:
        return None
    found = known.load().get(made.name)
    return found if found is not None and digest(found.key) == made.digest else None


def keep(known: profiles.Profiles, name: str, profile: profiles.Profile) -> Made:
    """Save a new profile under `name` and say what it is called in the end.

    A profile of that name for another address belongs to another platform and is left alone: the new one gets a
    number. One for the same address is of a platform that this one replaces: it is kept under a number.
    """
    present = known.load()
    before = present.get(name)
    if before is not None:
        free = next(spare for number in range(2, 10_000) if (spare := f"{name}-{number}") not in present)
        if before.url == profile.url:
            known.rename(name, free)
        else:
            name = free
    known.save(name, profile)
    return Made(name, digest(profile.key))


def load_settings(config: pathlib.Path | None, overrides: Mapping[str, Mapping[str, Any]]) -> settings.Settings:
    """The settings from file and environment, with the command line's on top and the data directory resolved."""
    loaded = settings.load(config)
    changed = {
        group: msgspec.structs.replace(
            getattr(loaded, group), **{name: value for name, value in fields.items() if value is not None}
        )
        for group, fields in overrides.items()
    }
    merged = msgspec.structs.replace(loaded, **changed)
    return placed(merged, str(merged.platform.directory()))


def placed(loaded: settings.Settings, data: str) -> settings.Settings:
    """The same settings for the data directory `data`."""
    where = str(pathlib.Path(data).absolute())
    return msgspec.structs.replace(loaded, platform=msgspec.structs.replace(loaded.platform, data_dir=where))
