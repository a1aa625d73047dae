"""Reading wheels without running or unpacking them: are they safe to unpack, what are they, what do they start?

A wheel is a zip archive from strangers. pip unpacks it inside the build's sandbox; what is refused here never gets so
far: names that leave the directory, links, archives that grow without bound (zip-slip, CVE-2007-4559's family).
"""

import configparser
import hashlib
import pathlib
import re
import stat
import zipfile
from collections.abc import Sequence
from typing import Final

import msgspec

from smcp.deploy.sources import pypi
from smcp.kernel import errors

_FILE: Final = re.compile(
    r"(?P<name>[A-Za-z0-9_.]+)-(?P<version>[A-Za-z0-9_.!+]+)(?:-[0-9][A-Za-z0-9_.]*)?-[^-]+-[^-]+-[^-]+\.whl", re.ASCII
)
_SCRIPT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
_MOST_FILES: Final = 100_000
_LONGEST_PATH: Final = 1024
_LONGEST_METADATA: Final = 1_048_576
_BLOCK: Final = 1_048_576


class Locked(msgspec.Struct, frozen=True):
    """One package of a deployment: exactly this file."""

    name: str
    version: str
    sha256: str
    integrity: str = ""
    """Of an npm package: Subresource Integrity (`sha512-…`) as the registry and lock files name it."""


def lock(directory: pathlib.Path, max_bytes: int) -> tuple[Locked, ...]:
    """Check every wheel in `directory` and return the lock, sorted by name.

    Raises `errors.DeployFailed` for anything that is not a sound wheel, two versions of a package, or more than
    `max_bytes` unpacked. Blocking.
    """
    found: dict[str, Locked] = {}
    total = 0
    for path in sorted(directory.iterdir()):
        parts = _FILE.fullmatch(path.name)
        if parts is None or path.is_symlink() or not path.is_file():
            raise errors.DeployFailed(f"'{path.name[:100]}' is not a wheel.")
        total += check(path, max_bytes)
        if total > max_bytes:
            raise errors.DeployFailed(f"The packages are larger than deploy.max_bytes ({max_bytes}) when unpacked.")
        one = Locked(pypi.normalise(parts["name"]), parts["version"].replace("_", "-"), _sha256(path))
        if one.name in found:
            raise errors.DeployFailed(f"The package {one.name} came twice, in two versions.")
        found[one.name] = one
    return tuple(found[name] for name in sorted(found))


def check(path: pathlib.Path, max_bytes: int) -> int:
    """The unpacked size of the wheel. Raises `errors.DeployFailed` when it is not safe to unpack. Blocking."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, zipfile.LargeZipFile, OSError, ValueError, NotImplementedError) as error:
        raise errors.DeployFailed(f"The wheel {path.name} can't be read.", detail=str(error)) from error
    if len(entries) > _MOST_FILES:
        raise errors.DeployFailed(f"The wheel {path.name} holds more than {_MOST_FILES} files.")
    seen: set[str] = set()
    total = 0
    for entry in entries:
        problem = _problem(entry, seen)
        if problem:
            raise errors.DeployFailed(f"The wheel {path.name} was refused: an entry {problem}.", detail=repr(entry))
        seen.add(entry.filename)
        total += entry.file_size
        if total > max_bytes:
            raise errors.DeployFailed(f"The wheel {path.name} is larger than deploy.max_bytes when unpacked.")
    return total


def scripts(directory: pathlib.Path, name: str) -> tuple[str, ...]:
    """The console scripts of the package `name`, whose wheel is in `directory`, sorted. Blocking."""
    for path in directory.iterdir():
        parts = _FILE.fullmatch(path.name)
        if parts is not None and pypi.normalise(parts["name"]) == name:
            return _scripts(path)
    raise errors.DeployFailed(f"The package index did not give {name} itself.")


def choose(found: Sequence[str], package: str, wanted: str) -> str:
    """The script to start: the one wanted, else the one named like the package, else the only one."""
    listed = ", ".join(found) or "none"
    if wanted:
        if wanted not in found:
            raise errors.DeployFailed(f"The package {package} has no command '{wanted}'. It has: {listed}.")
        return wanted
    if not found:
        raise errors.DeployFailed(
            f"The package {package} starts nothing: it has no console script, so it is a library or not an MCP server."
        )
    named = [one for one in found if pypi.normalise(one) == package]
    if named or len(found) == 1:
        return (named or list(found))[0]
    raise errors.DeployFailed(
        f"The package {package} has several commands: {listed}. Choose with 'command = …' in the manifest."
    )


def _scripts(path: pathlib.Path) -> tuple[str, ...]:
    try:
        with zipfile.ZipFile(path) as archive:
            inside = [
                entry
                for entry in archive.infolist()
                if entry.filename.endswith(".dist-info/entry_points.txt") and entry.filename.count("/") == 1
            ]
            if not inside:
                return ()
            if inside[0].file_size > _LONGEST_METADATA:
                raise errors.DeployFailed(f"The entry points of {path.name} are too long.")
            text = archive.read(inside[0]).decode("utf-8")
    except (zipfile.BadZipFile, OSError, UnicodeDecodeError, NotImplementedError, RuntimeError) as error:
        raise errors.DeployFailed(f"The entry points of {path.name} can't be read.", detail=str(error)) from error
    # Entry points specification: an INI file with `=` only, names case-sensitive, no interpolation.
    parser = _Names(delimiters=("=",), strict=False)
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise errors.DeployFailed(f"The entry points of {path.name} can't be read.", detail=str(error)) from error
    if not parser.has_section("console_scripts"):
        return ()
    return tuple(sorted(name for name in parser.options("console_scripts") if _SCRIPT.fullmatch(name)))


class _Names(configparser.RawConfigParser):
    """Keeps the case of names."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def _problem(entry: zipfile.ZipInfo, seen: set[str]) -> str:
    name = entry.filename
    kind = stat.S_IFMT(entry.external_attr >> 16)
    parts = name.rstrip("/").split("/")
    # `orig_filename` keeps what zipfile cuts at a NUL: two readers must not see two names.
    if entry.orig_filename != name or "\0" in name or "\\" in name or any(ord(letter) < 32 for letter in name):
        return "has a name that readers see differently"
    if name.startswith("/") or ":" in parts[0] or any(part in ("", ".", "..") for part in parts):
        return "has a path that leaves the wheel"
    if len(name) > _LONGEST_PATH:
        return "has an endless path"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if name in seen:
        return "comes twice"
    return "is encrypted" if entry.flag_bits & 1 else ""


def _sha256(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
