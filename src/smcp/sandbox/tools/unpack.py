"""Takes one program out of a package's tarball, and nothing else; not before the tarball is known to be the pinned one.

The pin says what both contain, so no more than pinned bytes can come out of here. The bounds hold all the same: a pin
that somebody wrote down wrongly must not become a full disk, or a file outside.
"""

import base64
import gzip
import hashlib
import os
import pathlib
import stat
import tarfile
import zlib
from typing import IO, Final, cast

from smcp.sandbox.tools import kept, pins

_BLOCK: Final = 1_048_576
_BESIDES: Final = 8_388_608
"""Bytes of a tarball that are not the program: headers, a package.json, a licence, a few more."""


class Refused(Exception):
    """The tarball, or what is in it, is not what is pinned. Says why."""


class _Bounded:
    """What a stream unpacks to, up to a number of bytes: all that is read of a tarball goes through here."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream = stream
        self._left = most

    def read(self, size: int) -> bytes:
        """Raises `Refused` beyond the bound."""
        data = self._stream.read(min(size, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise Refused("unpacks to more than it should")
        return data


def take(tarball: pathlib.Path, wanted: pins.Build, into: pathlib.Path) -> None:
    """Write the program to `into`, a new file.

    Raises `Refused` where the tarball, or what would be written, is another one; nothing is left then.
    """
    # Opened once: what was checked is what is unpacked.
    with kept.opened(tarball) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Refused("is not a file")
        if base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode() != wanted.sha512:
            raise Refused("is not the package that is pinned: its SHA-512 is another one")
        file.seek(0)
        with gzip.GzipFile(fileobj=file, mode="rb") as unzipped:
            extract(cast("IO[bytes]", unzipped), wanted, into)


def extract(stream: IO[bytes], wanted: pins.Build, into: pathlib.Path) -> None:
    """As `take`, from an unzipped tarball."""
    bounded = cast("IO[bytes]", _Bounded(stream, wanted.size + _BESIDES))
    out = into.open("xb")
    try:
        with out, tarfile.open(fileobj=bounded, mode="r|") as archive:
            _copy(archive, wanted, out)
            os.fchmod(out.fileno(), kept.MODE)
    except BaseException as error:
        into.unlink(missing_ok=True)
        # What tarfile and zlib raise for a broken or hostile archive.
        if isinstance(error, tarfile.TarError | zlib.error | EOFError | ValueError | RecursionError | gzip.BadGzipFile):
            raise Refused(f"can't be read ({type(error).__name__})") from error
        raise


def _copy(archive: tarfile.TarFile, wanted: pins.Build, out: IO[bytes]) -> None:
    for entry in archive:
        # The first of that name counts, and only it is read: nothing else gets a name on this machine.
        if entry.name == wanted.member:
            break
    else:
        raise Refused(f"has no {wanted.member}")
    if not entry.isreg() or entry.issparse():
        raise Refused(f"has a {wanted.member} that is not a plain file")
    if entry.size != wanted.size:
        raise Refused(f"has a {wanted.member} of {entry.size} bytes, not {wanted.size}")
    content = archive.extractfile(entry)
    assert content is not None  # a regular file has content
    digest = hashlib.sha256()
    while block := content.read(_BLOCK):
        digest.update(block)
        out.write(block)
    if digest.hexdigest() != wanted.sha256:
        raise Refused(f"has a {wanted.member} that is not the pinned one: its SHA-256 is another one")
