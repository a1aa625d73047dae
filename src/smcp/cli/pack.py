"""Packing a folder: which files are sent, which are left out and why, and one archive that is the same every time."""

import fnmatch
import gzip
import os
import pathlib
import stat
import subprocess
import tarfile
import tomllib
from collections.abc import Iterator, Sequence
from typing import IO, Any, Final, NamedTuple

from smcp.cli import failures
from smcp.deploy import clientconfig
from smcp.deploy.workers import wrangler
from smcp.kernel import errors

MANIFEST: Final = "smcp.toml"
_MOST: Final = 50_000
_NEVER: Final = frozenset({"node_modules", "__pycache__", "venv"})
_COMPILED: Final = ("*.pyc", "*.pyo")
_GIT_S: Final = 60.0


class Chosen(NamedTuple):
    """What would be sent."""

    root: pathlib.Path
    files: tuple[str, ...]
    """Relative to the root, with forward slashes, sorted."""
    bytes: int
    left_out: tuple[str, ...]
    """Sentences for people."""


def choose(root: pathlib.Path, include: Sequence[str] = ()) -> Chosen:
    """Choose the files of `root`; `include` are places in it that are sent although a rule leaves them out.

    What git ignores is left out where git is there; and always: names with a dot in front, node_modules, virtual
    environments, compiled Python, and links, which are never followed.
    """
    ignored = _kept_by_git(root)
    wanted = [one.strip("/").removeprefix("./") for one in include]
    files: dict[str, int] = {}
    hidden: list[str] = []
    links: list[str] = []
    for path, found in _walk(root, wanted, hidden):
        name = path.relative_to(root).as_posix()
        asked = any(name == one or name.startswith(f"{one}/") for one in wanted)
        if stat.S_ISLNK(found.st_mode):
            links.append(name)
        elif not stat.S_ISREG(found.st_mode) or name == MANIFEST:
            continue
        elif asked or (ignored is None or name in ignored):
            files[name] = found.st_size
            if len(files) > _MOST:
                raise _failure(f"{root} holds more than {_MOST} files: is it the right folder?")
    for one in wanted:
        if not any(name == one or name.startswith(f"{one}/") for name in files):
            raise _failure(f"--include {one}: there is no such file below {root}.")
    told: list[str] = []
    if hidden:
        told.append(f"Left out, as names with a dot, packages and environments are: {_some(hidden)}.")
    if links:
        told.append(f"Left out, as links are not followed: {_some(links)}.")
    if ignored is not None:
        told.append("What git ignores is left out, too.")
    return Chosen(root, tuple(sorted(files)), sum(files.values()), tuple(told))


def write(chosen: Chosen, target: IO[bytes]) -> None:
    """Write the files as tar.gz: the same bytes for the same files, whoever packs them and when."""
    with (
        gzip.GzipFile("", "wb", 6, target, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in chosen.files:
            path = chosen.root / name
            try:
                # A link that took its place meanwhile is not followed.
                with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
                    found = os.fstat(file.fileno())
                    entry = tarfile.TarInfo(name)
                    entry.size = found.st_size
                    entry.mode = 0o755 if found.st_mode & 0o100 else 0o644
                    archive.addfile(entry, file)
            except OSError as error:
                raise _failure(f"{path} can't be read: {error.strerror or 'it changed meanwhile'}.") from error


def manifest(root: pathlib.Path) -> str | None:
    """The text of the folder's smcp.toml, if it has one."""
    path = root / MANIFEST
    return read_text(path) if path.is_file() else None


def read_text(path: pathlib.Path) -> str:
    """A file as UTF-8 text."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _failure(f"{path} can't be read as UTF-8 text.") from error


def worker(root: pathlib.Path, text: str | None) -> wrangler.Translation | None:
    """What the folder's wrangler file says, if there is one that counts beside the manifest `text`.

    The platform reads it again; here it is read so that what is not supported is said before anything is sent.
    """
    file = wrangler.find(root)
    if file is None or (text and "worker" in _toml(text)):
        return None
    try:
        return wrangler.translate(file, read_text(root / file))
    except errors.DeployFailed as error:
        raise _failure(error.public) from error


def name(root: pathlib.Path, text: str | None, own: str = "") -> str:
    """What the server is called when nobody says: as the manifest, the Worker (`own`), the project or the folder is."""
    found = _toml(text).get("name") if text else None
    if isinstance(found, str) and found:
        return found
    if made := clientconfig.server_name(own):
        return made
    for file in ("pyproject.toml", "package.json"):
        path = root / file
        if path.is_file():
            project = _named(path)
            made = clientconfig.server_name(project.rpartition("/")[2])
            if made:
                return made
    return clientconfig.server_name(root.resolve().name)


def _named(path: pathlib.Path) -> str:
    import json

    try:
        text = path.read_text("utf-8")
        tree: Any = tomllib.loads(text).get("project", {}) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError, RecursionError):
        return ""  # the platform says what is wrong with it
    found: Any = tree.get("name") if isinstance(tree, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - JSON
    return found if isinstance(found, str) else ""


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return {}  # the platform says what is wrong with it


def _walk(
    root: pathlib.Path, wanted: Sequence[str], hidden: list[str]
) -> Iterator[tuple[pathlib.Path, os.stat_result]]:
    """Every file and link below `root`, past what is always left out, whose names go to `hidden`."""
    waiting = [root]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise _failure(f"{error.filename} can't be read: {error.strerror}.") from error
        for entry in found:
            path = pathlib.Path(entry.path)
            place = path.relative_to(root).as_posix()
            asked = any(place == one or place.startswith(f"{one}/") for one in wanted)
            way = any(one.startswith(f"{place}/") for one in wanted)
            if not asked and _is_left_out(entry):
                if entry.name != ".git":
                    hidden.append(place)
                if not (way and entry.is_dir(follow_symlinks=False)):
                    continue
            if entry.is_dir(follow_symlinks=False):
                if entry.name != ".git":
                    waiting.append(path)
            else:
                yield path, entry.stat(follow_symlinks=False)


def _is_left_out(entry: "os.DirEntry[str]") -> bool:
    if entry.name.startswith(".") or entry.name in _NEVER:
        return True
    if entry.is_dir(follow_symlinks=False):
        return os.path.exists(os.path.join(entry.path, "pyvenv.cfg"))
    return any(fnmatch.fnmatchcase(entry.name, one) for one in _COMPILED)


def _kept_by_git(root: pathlib.Path) -> frozenset[str] | None:
    """What git tracks or would track below `root`; None when git is not there, `root` is in no repository, or
    all of it is ignored.
    """
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(root), "ls-files", "-z"]
    try:
        done = subprocess.run(
            [*command, "--cached", "--others", "--exclude-standard"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    # All of it is ignored (a build, an installed package): who names such a folder means what is in it.
    return frozenset(os.fsdecode(one) for one in done.stdout.split(b"\0") if one) or None


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown


def _failure(text: str) -> failures.Failure:
    return failures.Failure("usage", text, exit_code=failures.Exit.USAGE)
