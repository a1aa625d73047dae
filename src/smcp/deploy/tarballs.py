"""Unpacks npm packages inside a build's sandbox: every file checked against its digest, every entry before it is made.

npm itself does not unpack anything that is kept: what it would do with an odd entry differs between its versions (links
were dropped, followed and made, in this order of age). Here an entry is a plain file or a directory below its package,
or the whole deployment is refused: no link, no device, no absolute path, no way up, nothing under a link, no more bytes
and files than the plan allows, counted while they are written. No package code runs, and no network is there.

Usage: python -I tarballs.py PLAN ROOT. PLAN is JSON: {"max_bytes": n, "max_files": n, "packages": [{"file": path,
"sha512": base64, "path": below ROOT, "label": for people}]}. Prints one JSON object a package; exit code 3 and one
`{"refused": why}` when something is wrong. Standard library only: it also runs where nothing else is.
"""

import base64
import hashlib
import json
import os
import sys
import tarfile
import zlib
from collections.abc import Mapping
from typing import IO, Any

REFUSED = 3
_BLOCK = 1_048_576
_LONGEST_PATH = 1024
_LONGEST_EXTENSION = 1_048_576
_MOST_METADATA = 4_194_304
_EXTENSIONS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME)
_HOOKS = ("preinstall", "install", "postinstall")


class Refused(Exception):
    """Says why."""


class _Entry(tarfile.TarInfo):
    """An entry whose extended header has a decent size: tarfile reads those into memory as a whole."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Entry":
        entry = super().frombuf(buf, encoding, errors)
        if entry.type in (*_EXTENSIONS, tarfile.GNUTYPE_LONGLINK) and entry.size > _LONGEST_EXTENSION:
            raise Refused("has an endless header")
        return entry


class Room:
    """How many bytes and files may still come."""

    def __init__(self, max_bytes: int, max_files: int) -> None:
        self._bytes = max_bytes
        self._files = max_files

    def take(self, size: int) -> None:
        """Before `size` bytes of one entry are written. Raises `Refused`."""
        self._bytes -= size
        self._files -= 1
        if self._bytes < 0:
            raise Refused("makes the packages larger than deploy.max_bytes when unpacked")
        if self._files < 0:
            raise Refused("makes the packages more files than a deployment may have")


def digest(path: str, sha512: str) -> tuple[str, int]:
    """SHA-256 (hex) and size of the file. Raises `Refused` when its SHA-512 (base64) is another one."""
    long, short, size = hashlib.sha512(), hashlib.sha256(), 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            long.update(block)
            short.update(block)
            size += len(block)
    if base64.b64encode(long.digest()).decode() != sha512:
        raise Refused("is not the file that its digest names")
    return short.hexdigest(), size


def unpack(file: IO[bytes], into: str, room: Room) -> dict[str, Any]:
    """Unpack one package into the directory `into` (made here); what it has that asks to be run at installation.

    The first part of each name is dropped, as npm does ("package/…"). Raises `Refused`.
    """
    os.makedirs(into, exist_ok=True)
    hooks: set[str] = set()
    try:
        with tarfile.open(fileobj=file, mode="r|gz", tarinfo=_Entry) as archive:
            for entry in archive:
                parts = _parts(entry)
                room.take(entry.size if entry.isreg() else 0)
                target = os.path.join(into, *parts)
                if entry.isdir():
                    os.makedirs(target, exist_ok=True)
                    continue
                if not parts:
                    raise Refused("has an entry without a name")
                os.makedirs(os.path.dirname(target), exist_ok=True)
                content = archive.extractfile(entry)
                if content is None:
                    raise Refused("has an entry without content")
                _write(content, target, executable=bool(entry.mode & 0o100))
                if parts == ["binding.gyp"]:
                    hooks.add("binding.gyp")
                if parts == ["package.json"]:
                    hooks.update(_hooks(target))
    except (tarfile.TarError, EOFError, zlib.error, UnicodeError, ValueError) as error:
        raise Refused(f"can't be read ({type(error).__name__})") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise Refused("has one name for a file and a directory") from error
    return {"hooks": sorted(hooks)}


def _parts(entry: tarfile.TarInfo) -> list[str]:
    name = entry.name
    if not (entry.isreg() or entry.isdir()) or entry.issparse():
        raise Refused(f"has an entry that is a link or a device ({_shown(name)})")
    # A `.` in front is how some archivers write; anything else of the kind is a trick.
    parts = name.removeprefix("./").rstrip("/").split("/")
    if name.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise Refused(f"has an entry whose path leaves it ({_shown(name)})")
    if len(name) > _LONGEST_PATH or any(ord(letter) < 32 or letter == "\\" for letter in name):
        raise Refused(f"has an entry whose name readers see differently ({_shown(name)})")
    return parts[1:]


def _shown(name: str) -> str:
    return ascii(name)[:120]


def _write(content: IO[bytes], target: str, *, executable: bool) -> None:
    # A name may come twice; the last one counts, as with npm. Nothing here is a link, so nothing is followed.
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644), "wb") as file:
        while block := content.read(_BLOCK):
            file.write(block)
        os.fchmod(file.fileno(), 0o755 if executable else 0o644)


def _hooks(path: str) -> set[str]:
    if os.path.getsize(path) > _MOST_METADATA:
        raise Refused("has an endless package.json")
    with open(path, "rb") as file:
        try:
            found: Any = json.load(file)
        except (ValueError, RecursionError):
            return set()
    scripts: Any = found.get("scripts") if isinstance(found, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - JSON
    return {one for one in _HOOKS if isinstance(scripts, Mapping) and one in scripts}


def main(plan_path: str, root: str) -> int:
    """Carry out the plan; the exit code."""
    with open(plan_path, "rb") as file:
        plan: dict[str, Any] = json.load(file)
    room = Room(plan["max_bytes"], plan["max_files"])
    for place, package in enumerate(plan["packages"]):
        try:
            sha256, size = digest(package["file"], package["sha512"])
            with open(package["file"], "rb") as file:
                found = unpack(file, os.path.join(root, package["path"]), room)
        except (Refused, OSError) as error:
            why = str(error) if isinstance(error, Refused) else f"can't be unpacked ({type(error).__name__})"
            _say({"refused": f"{package['label']} {why}"})
            return REFUSED
        _say({"place": place, "sha256": sha256, "size": size, **found})
    return 0


def _say(what: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
