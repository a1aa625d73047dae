"""Archives from strangers (zip, tar, tar.gz), unpacked into a new directory or refused; nothing in between.

A zip's table is read with the standard library, after a look at how large it says it is; a tar is read here, block by
block, because the standard library's reader takes header lengths on trust (CVE-2024-6232 and memory of any size). What
comes out are directories and plain files with modes 0755 and 0644, whatever the archive asks for. Refused are: names
that leave the directory, links, devices, names that two readers or two file systems could take for different ones,
encrypted entries, and whatever grows past its limits, counted in bytes that were really unpacked. Blocking: use a
thread.
"""

import errno
import pathlib
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Final, Literal, NamedTuple

import msgspec

from smcp.kernel import errors

MOST_ENTRIES: Final = 50_000
_LONGEST_PATH: Final = 1024
_LONGEST_PART: Final = 255
_DEEPEST: Final = 64
_BLOCK: Final = 1_048_576
_RATIO: Final = 200
_UNSOUND: Final = "The upload is no sound zip, tar or tar.gz archive."
_FREE: Final = 16 * _BLOCK
"""A small archive of much text is no bomb: below this size the ratio does not count."""


class Unpacked(msgspec.Struct, frozen=True):
    """What came out."""

    kind: Literal["zip", "tar"]
    files: int
    bytes: int


def unpack(source: pathlib.Path, into: pathlib.Path, max_bytes: int) -> Unpacked:
    """Unpack the archive `source` into the new directory `into`.

    Raises `errors.DeployFailed`, which says what is wrong, for anything that is not a sound archive of directories and
    files, or is more than `max_bytes` unpacked. What was unpacked until then is the caller's to remove.
    """
    into.mkdir(mode=0o755)
    with source.open("rb") as file:
        size = source.stat().st_size
        tree = _Tree(into, max_bytes, max(_FREE, size * _RATIO))
        start = file.read(4)
        file.seek(0)
        try:
            if start == b"PK\x03\x04":
                _unzip(file, size, tree)
                return Unpacked("zip", tree.files, tree.total)
            _untar(_inflated(file) if start[:2] == b"\x1f\x8b" else file, tree)
            return Unpacked("tar", tree.files, tree.total)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            raise errors.DeployFailed(_UNSOUND, detail=str(error)) from error
        except OSError as error:
            if error.errno != errno.EINVAL:  # zipfile seeks to where a table says, also to before the beginning
                raise
            raise errors.DeployFailed(_UNSOUND, detail=str(error)) from error


# --- names and sizes, the same for both formats ---


class _Tree:
    """The directory that grows, and what is known of its names."""

    def __init__(self, root: pathlib.Path, max_bytes: int, max_growth: int) -> None:
        self._root = root
        self._max = max_bytes
        self._growth = max_growth
        self._names: dict[str, tuple[str, bool]] = {}
        self.files = 0
        self.total = 0
        self._entries = 0

    def directory(self, name: str) -> None:
        """Make a directory, and those above it."""
        parts = self._parts(name)
        for end in range(1, len(parts) + 1):
            path = "/".join(parts[:end])
            if self._take(path, directory=True):
                if end < len(parts):
                    self.counted(name)  # one that no entry of its own asks for is work and room all the same
                (self._root / path).mkdir(mode=0o755)

    def file(self, name: str, content: Iterator[bytes], *, executable: bool) -> None:
        """Write a file, and make the directories above it."""
        parts = self._parts(name)
        if len(parts) > 1:
            self.directory("/".join(parts[:-1]))
        path = "/".join(parts)
        if not self._take(path, directory=False):
            raise _refused(name, "comes twice")
        target = self._root / path
        with target.open("xb") as file:
            for block in content:
                self.total += len(block)
                if self.total > self._max:
                    raise errors.DeployFailed(f"The upload is larger than deploy.max_bytes ({self._max}) unpacked.")
                if self.total > self._growth:
                    raise errors.DeployFailed(f"The upload grows more than {_RATIO} times when it is unpacked: a bomb.")
                file.write(block)
        target.chmod(0o755 if executable else 0o644)
        self.files += 1

    def counted(self, name: str) -> None:
        """One more entry. Raises for too many."""
        self._entries += 1
        if self._entries > MOST_ENTRIES:
            raise errors.DeployFailed(
                f"The upload holds more than {MOST_ENTRIES} entries, the last one {name[:100]!r}."
            )

    def _take(self, path: str, *, directory: bool) -> bool:
        """Whether `path` is new. Raises for one that some file system takes for another one that is there."""
        key = unicodedata.normalize("NFKC", path).casefold()
        known = self._names.get(key)
        if known is None:
            self._names[key] = (path, directory)
            return True
        if known[0] != path:
            raise _refused(path, f"differs from {known[0][:100]!r} only in case or spelling")
        if known[1] != directory:
            raise _refused(path, "is a file and a directory")
        return False

    def _parts(self, name: str) -> list[str]:
        problem = _problem(name)
        if problem:
            raise _refused(name, problem)
        return name.rstrip("/").split("/")


def _problem(name: str) -> str:
    parts = name.rstrip("/").split("/")
    if not name.isprintable() or "\\" in name:
        return "has a name with control characters or backslashes"
    if name.startswith("/") or (len(parts[0]) > 1 and parts[0][1] == ":"):
        return "has an absolute path"
    if any(part in ("", ".", "..") for part in parts):
        return "has a path that leaves its place"
    if len(name) > _LONGEST_PATH or len(parts) > _DEEPEST or any(len(one.encode()) > _LONGEST_PART for one in parts):
        return "has an endless name"
    return ""


def _refused(name: str, problem: str) -> errors.DeployFailed:
    shown = "".join(letter if letter.isprintable() else "?" for letter in name[:100])
    return errors.DeployFailed(f"The upload was refused: the entry '{shown}' {problem}.")


# --- zip (APPNOTE.TXT) ---

_END: Final = b"PK\x05\x06"
_END_SIZE: Final = 22
_LOCATOR: Final = b"PK\x06\x07"
_LOCATOR_SIZE: Final = 20
_LONGEST_COMMENT: Final = 65_535
_LONGEST_ENTRY: Final = 46 + _LONGEST_PATH * 4


def _unzip(file: IO[bytes], size: int, tree: _Tree) -> None:
    _check_table(file, size)
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            tree.counted(entry.filename)
            problem = _zip_problem(entry)
            if problem:
                raise _refused(entry.filename, problem)
            if entry.is_dir():
                tree.directory(entry.filename)
                continue
            with archive.open(entry) as content:
                tree.file(entry.filename, _blocks(content), executable=bool((entry.external_attr >> 16) & stat.S_IXUSR))


def _check_table(file: IO[bytes], size: int) -> None:
    """Refuse a table of contents that would fill the memory, before zipfile reads it whole (APPNOTE 4.3.16)."""
    start = max(0, size - _END_SIZE - _LONGEST_COMMENT)
    file.seek(start)
    tail = file.read()
    # As zipfile looks for it: at the very end, else the last mark within a comment's length.
    place = len(tail) - _END_SIZE if tail[-_END_SIZE:].startswith(_END) and tail[-2:] == b"\0\0" else tail.rfind(_END)
    record = tail[place : place + _END_SIZE]
    if place < 0 or len(record) < _END_SIZE:
        raise zipfile.BadZipFile("no end record")
    if tail[max(0, place - _LOCATOR_SIZE) : place].startswith(_LOCATOR):
        raise errors.DeployFailed("The upload is a zip64 archive, which is for sizes that are not accepted here.")
    entries = int.from_bytes(record[10:12], "little")
    table = int.from_bytes(record[12:16], "little")
    if entries > MOST_ENTRIES or table > entries * _LONGEST_ENTRY:
        raise errors.DeployFailed(f"The upload's table of contents is too large: more than {MOST_ENTRIES} entries.")
    file.seek(0)


def _zip_problem(entry: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    # `orig_filename` keeps what zipfile cuts at a NUL: two readers must not see two names.
    if entry.orig_filename != entry.filename:
        return "has a name that readers see differently"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if kind and entry.is_dir() != (kind == stat.S_IFDIR):
        return "is a file and a directory"
    if entry.flag_bits & 0x2041:  # APPNOTE 4.4.4: bits 0, 6, 13
        return "is encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is packed in a way that only few readers know"
    if entry.extra and _has_unix_link(entry.extra):
        return "is a link or a device"
    return ""


def _has_unix_link(extra: bytes) -> bool:
    """APPNOTE 4.5.7: the old UNIX field (0x000d) holds a link's target or a device's numbers behind its 12 bytes."""
    place = 0
    while place + 4 <= len(extra):
        tag = int.from_bytes(extra[place : place + 2], "little")
        length = int.from_bytes(extra[place + 2 : place + 4], "little")
        if tag == 0x000D and length > 12:
            return True
        place += 4 + length
    return False


def _blocks(content: IO[bytes]) -> Iterator[bytes]:
    while block := content.read(_BLOCK):
        yield block


# --- tar (POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format") ---

_TAR_BLOCK: Final = 512
_LONGEST_HEADER: Final = 65_536


class _Header(NamedTuple):
    name: str
    kind: bytes
    size: int
    executable: bool


class _Reader:
    """Reads blocks from a stream that may give less than was asked for."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def exactly(self, count: int) -> bytes:
        """`count` bytes. Raises `EOFError`."""
        data = b""
        while len(data) < count:
            more = self._stream.read(count - len(data))
            if not more:
                raise EOFError("the archive ends early")
            data = data + more if data else more
        return data

    def content(self, size: int) -> Iterator[bytes]:
        """`size` bytes, and the padding behind them."""
        left = size
        while left:
            block = self.exactly(min(left, _BLOCK))
            left -= len(block)
            yield block
        self.exactly(-size % _TAR_BLOCK)


def _untar(stream: IO[bytes], tree: _Tree) -> None:
    reader = _Reader(stream)
    longer: dict[str, str] = {}
    while True:
        block = reader.exactly(_TAR_BLOCK)
        if not any(block):
            return
        header = _header(block, longer)
        tree.counted(header.name)
        if header.kind in (b"x", b"L"):
            longer.update(_longer(header, b"".join(reader.content(_short(header)))))
            continue
        if header.kind == b"g":  # comments of git archive and the like, for all that follows
            if _longer(header, b"".join(reader.content(_short(header)))).keys() & {"path", "size", "linkpath"}:
                raise errors.DeployFailed("The upload was refused: a global header gives its entries other names.")
            continue
        if longer.keys() - {"path", "size"}:
            raise _refused(header.name, "is a link, a sparse file or something else that is no plain file")
        longer.clear()
        name = header.name.removeprefix("./")
        if header.kind == b"5":
            if header.size:
                # Nothing of it would be kept or counted, and gigabytes of it fit into an upload.
                raise _refused(header.name, "is a directory with a content")
            if name.rstrip("/") not in ("", "."):
                tree.directory(name)
        elif header.kind in (b"0", b"\0"):
            tree.file(name, reader.content(header.size), executable=header.executable)
        else:
            raise _refused(header.name, _KINDS.get(header.kind, "is of a kind that is not known"))


_KINDS: Final = {
    b"1": "is a hard link",
    b"2": "is a symbolic link",
    b"3": "is a device",
    b"4": "is a device",
    b"6": "is a pipe",
    b"K": "is a link",
    b"S": "is a sparse file",
}


def _header(block: bytes, longer: dict[str, str]) -> _Header:
    stored = _number(block[148:156])
    if stored != sum(block[:148]) + 8 * 0x20 + sum(block[156:]):
        raise ValueError("a header's checksum is wrong")
    name = _text(block[0:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = f"{_text(block[345:500])}/{name}"
    size = int(longer["size"]) if "size" in longer else _number(block[124:136])
    if size < 0:
        raise ValueError("a size below zero")
    return _Header(longer.get("path", name), block[156:157], size, bool(_number(block[100:108]) & 0o100))


def _short(header: _Header) -> int:
    if header.size > _LONGEST_HEADER:
        raise _refused(header.name, "has an endless header")
    return header.size


def _longer(header: _Header, data: bytes) -> dict[str, str]:
    """The records of an extended header; what says nothing about names, sizes and kinds is left out."""
    if header.kind == b"L":
        return {"path": _text(data)}
    found: dict[str, str] = {}
    place = 0
    while place < len(data):
        end = data.find(b" ", place, place + 8)
        length = data[place:end]
        if end < 0 or not length.isdigit() or int(length) < 5 or place + int(length) > len(data):
            raise ValueError("an extended header is wrong")
        record = data[end + 1 : place + int(length)]
        key, equals, value = record.removesuffix(b"\n").partition(b"=")
        if not equals or not record.endswith(b"\n"):
            raise ValueError("an extended header is wrong")
        if key in (b"path", b"linkpath") or key.startswith(b"GNU.sparse"):
            found[key.decode("ascii")] = value.decode("utf-8")
        elif key == b"size":
            if not value.isdigit() or len(value) > 18:
                raise ValueError("an extended header's size is wrong")
            found["size"] = value.decode("ascii")
        place += int(length)
    return found


def _number(field: bytes) -> int:
    text = field.strip(b" \0")
    if not text:
        return 0
    if len(text) > 12 or any(digit not in b"01234567" for digit in text):
        raise ValueError("a header's number is wrong")
    return int(text, 8)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8")


def _inflated(file: IO[bytes]) -> "IO[bytes]":
    return _Gzip(file)  # pyright: ignore[reportReturnType] - only `read` is used


class _Gzip:
    """The content of one gzip member (RFC 1952), never more than asked for at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        self._waiting = b""

    def read(self, count: int) -> bytes:
        while not self._inflate.eof:
            self._waiting = self._waiting or self._file.read(_BLOCK)
            if not self._waiting:
                raise EOFError("the archive ends early")
            data = self._inflate.decompress(self._waiting, count)
            self._waiting = self._inflate.unconsumed_tail
            if data:
                return data
        return b""
