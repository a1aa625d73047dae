"""Artefacts as archives: a canonical tar, whose digest is the artefact's name, made and unpacked with care.

Canonical: sorted, no times, no owners, modes 0755 or 0644; so the same tree is the same digest everywhere. Only
directories, plain files and symbolic links exist in it. A link is never followed on this host: it is made
as it is, nothing is ever written below it, and what it points to is only looked up inside the sandbox. Everything here
blocks: use a thread.
"""

import errno
import hashlib
import io
import os
import pathlib
import shutil
import stat
import tarfile
from collections.abc import Iterator
from typing import IO, Final

from smcp.kernel import errors

_BLOCK: Final = 1_048_576
_MOST_ENTRIES: Final = 200_000
_LONGEST_LINK: Final = 1024

MACHINE: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EROFS, errno.EACCES}
)
"""Errors of a system call that tell of this machine, whatever the archive holds."""


class _Digesting(io.RawIOBase):
    """A file that is hashed while it is written; without a target it is only hashed."""

    def __init__(self, target: IO[bytes] | None) -> None:
        self._target = target
        self._position = 0
        self.sha = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.sha.update(data)
        if self._target is not None:
            self._target.write(data)
        self._position += len(data)
        return len(data)


def pack(tree: pathlib.Path, target: IO[bytes] | None, max_bytes: int) -> str:
    """Write `tree` as a canonical tar into `target` (None: nowhere) and return its SHA-256 in hex.

    Raises `errors.DeployFailed` for anything that may not be in an artefact, or more than `max_bytes`.
    """
    sink = _Digesting(target)
    total = 0
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in _walk(tree):
            found = path.lstat()
            entry = tarfile.TarInfo(path.relative_to(tree).as_posix())
            if stat.S_ISDIR(found.st_mode):
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
            elif stat.S_ISLNK(found.st_mode):
                entry.type, entry.mode, entry.linkname = tarfile.SYMTYPE, 0o777, os.readlink(path)
                archive.addfile(entry)
            elif stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
                entry.mode, entry.size = (0o755 if found.st_mode & 0o100 else 0o644), found.st_size
                total += found.st_size
                if total > max_bytes:
                    raise errors.DeployFailed(f"The artefact is larger than deploy.max_bytes ({max_bytes}).")
                with path.open("rb") as file:
                    archive.addfile(entry, file)
            else:
                raise errors.DeployFailed(
                    "The build made something that is no file, directory or symbolic link.", detail=entry.name
                )
    return sink.sha.hexdigest()


def unpack(source: IO[bytes], into: pathlib.Path, max_bytes: int) -> None:
    """Unpack a tar of `pack` into the new directory `into`, read-only.

    Raises `errors.TamperedData` for anything that `pack` would not have written, `errors.Unavailable` where this
    machine can't take it (a full disk is no attack).
    """
    into.mkdir(mode=0o755)
    made: set[str] = {""}
    total = 0
    try:
        with tarfile.open(fileobj=source, mode="r:") as archive:
            for place, entry in enumerate(archive):
                _sound(entry, made, place)
                path = into / entry.name
                if entry.isdir():
                    path.mkdir(mode=0o755)
                    made.add(entry.name)
                elif entry.issym():
                    path.symlink_to(entry.linkname)
                else:
                    total += entry.size
                    if total > max_bytes:
                        raise errors.TamperedData(detail="an artefact larger than deploy.max_bytes")
                    _write(archive, entry, path)
    except (tarfile.TarError, OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno in MACHINE:
            raise errors.Unavailable(detail=f"unpacking an artefact: {error}") from error
        raise errors.TamperedData(detail=f"an artefact's archive can't be unpacked: {error}") from error
    for name in made:
        (into / name).chmod(0o555)


def remove(tree: pathlib.Path) -> None:
    """Remove an unpacked artefact or what is left of one; nothing there is fine. Links are not followed."""
    if tree.is_symlink() or not tree.exists():
        return
    for directory, _, _ in os.walk(tree):
        os.chmod(directory, 0o700)
    shutil.rmtree(tree)


def _walk(directory: pathlib.Path) -> Iterator[pathlib.Path]:
    count = 0
    waiting = [directory]
    while waiting:
        here = waiting.pop()
        with os.scandir(here) as entries:
            found = sorted(entries, key=lambda entry: os.fsencode(entry.name))
        for entry in found:
            count += 1
            if count > _MOST_ENTRIES:
                raise errors.DeployFailed(f"The artefact holds more than {_MOST_ENTRIES} files.")
            yield here / entry.name
        waiting += [here / entry.name for entry in reversed(found) if entry.is_dir(follow_symlinks=False)]


def _sound(entry: tarfile.TarInfo, made: set[str], place: int) -> None:
    parts = entry.name.split("/")
    above = "/".join(parts[:-1])
    if (
        place >= _MOST_ENTRIES
        or not (entry.isreg() or entry.isdir() or entry.issym())
        or any(part in ("", ".", "..") for part in parts)
        or "\0" in entry.name
        # The directory above was made by this archive: so nothing is ever written through a link.
        or above not in made
        or len(entry.linkname) > _LONGEST_LINK
    ):
        raise errors.TamperedData(detail=f"an artefact's archive holds {entry.name[:200]!r}")


def _write(archive: tarfile.TarFile, entry: tarfile.TarInfo, path: pathlib.Path) -> None:
    content = archive.extractfile(entry)
    assert content is not None
    # Exclusive: a second entry of the same name, or a link made before it, is an error instead of a way out.
    with path.open("xb") as file:
        shutil.copyfileobj(content, file, _BLOCK)
    path.chmod(0o555 if entry.mode & 0o100 else 0o444)
