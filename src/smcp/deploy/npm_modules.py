"""npm packages become a directory: what npm resolves is read as data, fetched as files, checked, and unpacked by us.

**fetch** has network and runs no package code: npm resolves names into a lock and downloads the files into its cache,
both under `npm_guard.cjs`, which lets it start no process. **unpack** has no network and no credential: `tarballs`
checks every file against the lock's SHA-512 and every entry before it is made. Install scripts never run.

The same lock gives the same bytes: nothing but the packages' own files and the lock's paths gets in.
"""

import asyncio
import json
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from smcp.deploy import build, npm_config, npm_lock, reach, workbench
from smcp.deploy.sources import npm
from smcp.kernel import errors
from smcp.sandbox import node, spawn, walls

_PROJECT: Final = "/build/project"
_CACHE: Final = "/cache"
_CACHED: Final = "npm-cache"
_GUARD: Final = "/opt/npm_guard.cjs"
_SCRIPT: Final = "/opt/tarballs.py"
_ROOT: Final = "/app"
_CONTENT: Final = "_cacache/content-v2/sha512"
_MOST_FILES: Final = 200_000
_AT_ONCE: Final = 400
_QUIET: Final = (
    "--ignore-scripts", "--no-audit", "--no-fund", "--no-progress", "--no-color", "--no-update-notifier",
    "--omit=dev", "--no-engine-strict", "--install-strategy=hoisted", "--no-legacy-peer-deps", "--package-lock",
    "--omit-lockfile-registry-resolved", "--loglevel=http", "--logs-max=0",
    # Newer versions of npm refuse these by themselves; for all others `npm_lock` and the guard do.
    "--allow-git=none", "--allow-remote=none", "--allow-file=none", "--allow-directory=none",
)  # fmt: skip
_FETCHED: Final = re.compile(r"^npm http fetch GET 200 \S*?/([^/\s?]+\.tgz)\b")
_ADDRESS: Final = re.compile(r"https?://([^/:?#]+)(?:[:/?#].*)?")
_ENGINE: Final = re.compile(r"package: '([^']{1,300})'")
_SAID: Final = re.compile(r"^npm (?:error|ERR!)\s*")
_CODE: Final = re.compile(r"^code (E[A-Z0-9_]+)$", re.MULTILINE)
_MISSING: Final = re.compile(r"'((?:@[\w.~-]+/)?[\w.~-]+)(?:@[^']*)?'")
_TARGET: Final = re.compile(r"No matching version found for (.{1,300}?)(?: with a date before .*)?\.?$", re.MULTILINE)
_AWAY: Final = frozenset(
    {"ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "EIDLETIMEOUT"}
)
_DENIED: Final = frozenset({"E401", "E403", "ENEEDAUTH", "EOTP"})
_SOURCES: Final = frozenset({"EALLOWGIT", "EALLOWREMOTE", "EALLOWFILE", "EALLOWDIRECTORY", "EUNSUPPORTEDPROTOCOL"})


class _Done(msgspec.Struct, frozen=True):
    """What `tarballs` says of one package."""

    place: int
    sha256: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    size: int
    hooks: tuple[str, ...] = ()


class _Refused(msgspec.Struct, frozen=True):
    refused: str


def tools() -> tuple[str, ...]:
    """The files of this module's own that its cells see. Blocking."""
    return str(_beside("npm_guard.cjs")), str(_beside("tarballs.py"))


def _beside(name: str) -> pathlib.Path:
    return pathlib.Path(__file__).with_name(name).resolve()


class Modules:
    """Fetches and unpacks npm packages. Nothing is kept between builds, npm's cache neither: what one deployment's
    fetch may have been talked into reaches no other one."""

    def __init__(
        self,
        bench: workbench.Workbench,
        runs: node.Node | None,
        registry: npm_config.Registry,
    ) -> None:
        """`runs` is the Node.js that fetches; without one, or without npm, every order is refused."""
        self._bench = bench
        self._node = runs
        self._registry = registry
        self._hosts: tuple[str, ...] | None = None

    def node(self) -> node.Node:
        """The Node.js. Raises `errors.SandboxMissing` when there is none, or no npm beside it."""
        if self._node is None or not self._node.npm:
            raise node.missing()
        return self._node

    async def hosts(self) -> tuple[str, ...]:
        """Every host that npm is configured to talk to; its own default registry where none is named.

        Raises `errors.SandboxMissing` without Node.js.
        """
        if self._hosts is None:
            own: list[str] = []
            if not self._registry.names_registry:
                # Nobody but npm itself knows where it goes by default.
                heard: list[str] = []
                await self._bench.run(self._npm(None, ("config", "get", "registry"), ()), heard.append)
                own = [line for line in heard if _ADDRESS.fullmatch(line) is not None]
            self._hosts = tuple(sorted({*self._registry.hosts, *reach.entries(own)}))
        return self._hosts

    async def resolve(self, source: npm.Npm, directory: pathlib.Path, tell: build.Tell) -> bytes:
        """The lock of `source` and everything it needs, as npm resolves it now.

        Raises `errors.DeployFailed`, which says what to do.
        """
        project = directory / "project"
        project.mkdir(exist_ok=True)
        wish = {source.name: source.version or "latest"}
        order = {"name": "deployment", "version": "0.0.0", "private": True, "dependencies": wish}
        (project / "package.json").write_text(json.dumps(order), "utf-8")
        engines: list[str] = []

        def heard(line: str) -> None:
            match = _ENGINE.search(line)
            if match is not None and "EBADENGINE" in line:
                engines.append(match[1])

        arguments = ("install", "--package-lock-only", *_QUIET, f"--prefix={_PROJECT}")
        tail, outcome = await self._fetch(directory, arguments, heard)
        if outcome.code != 0:
            raise errors.DeployFailed(_why(source, tail))
        for label in sorted(set(engines)):
            tell("resolve", f"{label} asks for another version of Node.js than {self.node().version}; it is tried")
        return await asyncio.to_thread(_read, project / "package-lock.json")

    async def install(
        self, packages: Sequence[npm_lock.Package], directory: pathlib.Path, into: pathlib.Path, tell: build.Tell
    ) -> tuple[build.Locked, ...]:
        """Fetch the files of `packages` and unpack them below `into`; the lock, written from the files.

        `directory` is the deployment's own. Raises `errors.DeployFailed`.
        """
        missing = sorted({one.operand for one in packages})

        def heard(line: str) -> None:
            match = _FETCHED.match(line)
            if match is not None:
                tell("download", self._registry.clean(match[1])[:120])

        for start in range(0, len(missing), _AT_ONCE):
            some = missing[start : start + _AT_ONCE]
            tail, outcome = await self._fetch(
                directory, ("cache", "add", *_QUIET, "--prefer-offline", "--", *some), heard
            )
            if outcome.code != 0:
                raise errors.DeployFailed(_why(None, tail))
        size = await asyncio.to_thread(_sizes, packages, directory / _CACHED)
        tell("download", f"{len(packages)} packages, {size / 1e6:.1f} MB")
        return await self._unpack(packages, directory, into, tell)

    # --- fetch: network, no package code ---

    async def _fetch(
        self, directory: pathlib.Path, arguments: tuple[str, ...], heard: Callable[[str], None]
    ) -> tuple[list[str], spawn.Outcome]:
        """Run npm; its last words about errors, clean, and how it ended."""
        for name in ("project", _CACHED):
            (directory / name).mkdir(exist_ok=True)
        tail: list[str] = []

        def listening(line: str) -> None:
            if _SAID.match(line):
                tail.append(_SAID.sub("", self._registry.clean(line)))
                del tail[:-60]
            heard(line)

        cell = self._npm(directory, arguments, await self.hosts())
        # npm unpacks nothing here but packages with bundled ones, to look into them, and that into its cache.
        outcome = await self._bench.within(cell, directory / _CACHED, listening)
        return tail, outcome

    def _npm(
        self, directory: pathlib.Path | None, arguments: tuple[str, ...], hosts: tuple[str, ...]
    ) -> workbench.Step:
        """`directory` is the deployment's own; without one there is no network either."""
        runs = self.node()
        work: tuple[walls.Bind, ...] = ()
        if directory is not None:
            work = (
                walls.Bind(str(directory / "project"), _PROJECT, writable=True),
                walls.Bind(str(directory / _CACHED), _CACHE, writable=True),
            )
        return self._bench.cell(
            argv=(runs.executable, "--require", _GUARD, runs.npm, *arguments),
            binds=(*runs.npm_binds, walls.Bind(str(_beside("npm_guard.cjs")), _GUARD), *work, *self._registry.binds),
            files=(self._registry.file(),),
            env=(
                *self._registry.env,
                ("NPM_CONFIG_USERCONFIG", npm_config.FILE),
                ("NPM_CONFIG_GLOBALCONFIG", os.devnull),
                ("NPM_CONFIG_CACHE", _CACHE if directory is not None else "/tmp/npm"),  # noqa: S108 - inside
                ("SMCP_FETCH_HOSTS", " ".join(host.rpartition(":")[0] for host in hosts)),
            ),
            reach=reach.allowed(hosts, self._bench.deploy.package_hosts) if directory is not None else (),
            runs=runs,
        )

    # --- unpack: no network, no credential, no package code ---

    def _unpack_cell(self, directory: pathlib.Path, into: pathlib.Path) -> workbench.Step:
        return self._bench.cell(
            argv=(self._bench.python.executable, "-I", _SCRIPT, "/plan.json", _ROOT),
            binds=(
                walls.Bind(str(_beside("tarballs.py")), _SCRIPT),
                walls.Bind(str(directory / "plan.json"), "/plan.json"),
                walls.Bind(str(directory / _CACHED), _CACHE),
                walls.Bind(str(into), _ROOT, writable=True),
            ),
            env=(),
        )

    async def _unpack(
        self, packages: Sequence[npm_lock.Package], directory: pathlib.Path, into: pathlib.Path, tell: build.Tell
    ) -> tuple[build.Locked, ...]:
        plan = {
            "max_bytes": self._bench.deploy.max_bytes,
            "max_files": _MOST_FILES,
            "packages": [
                {
                    "file": f"{_CACHE}/{_content(one)}",
                    "sha512": one.integrity.removeprefix("sha512-"),
                    "path": one.path,
                    "label": one.operand,
                }
                for one in packages
            ],
        }
        (directory / "plan.json").write_text(json.dumps(plan), "utf-8")
        said: list[str] = []
        outcome = await self._bench.run(self._unpack_cell(directory, into), said.append)
        done = [_told(line) for line in said]
        refused = next((one.refused for one in done if isinstance(one, _Refused)), "")
        if refused or outcome.code != 0 or len(done) != len(packages):
            why = refused or f"unpacking ended with code {outcome.code}: {' / '.join(outcome.tail[-3:])}"
            raise errors.DeployFailed(f"The packages were refused: {why}."[:600])
        return _lock(packages, [one for one in done if isinstance(one, _Done)], tell)


def _lock(packages: Sequence[npm_lock.Package], done: Sequence[_Done], tell: build.Tell) -> tuple[build.Locked, ...]:
    found: set[tuple[str, str, str, str]] = set()
    hooks: set[str] = set()
    for package, one in zip(packages, done, strict=True):
        found.add((package.name, package.version, one.sha256, package.integrity))
        if one.hooks:
            hooks.add(package.name)
    if hooks:
        listed = ", ".join(sorted(hooks))
        tell("build", f"install scripts were not run: {listed[:300]} (what they would compile or download is missing)")
    return tuple(build.Locked(*one) for one in sorted(found))


def _sizes(packages: Sequence[npm_lock.Package], cache: pathlib.Path) -> int:
    total = 0
    for one in packages:
        try:
            total += (cache / _content(one)).lstat().st_size
        except FileNotFoundError:
            raise errors.DeployFailed(
                f"The registry's file of {one.operand} is not the one that the lock names by its SHA-512."
            ) from None
    return total


def _content(package: npm_lock.Package) -> str:
    """Where npm's cache keeps a file (cacache, "content-v2"): by its digest, in two levels."""
    digest = npm_lock.hexadecimal(package.integrity)
    return f"{_CONTENT}/{digest[:2]}/{digest[2:4]}/{digest[4:]}"


def _told(line: str) -> _Done | _Refused | None:
    for kind in (_Done, _Refused):
        try:
            return msgspec.json.decode(line, type=kind)
        except msgspec.MsgspecError:
            continue
    return None


def _read(path: pathlib.Path) -> bytes:
    """A file that npm wrote: no link is followed, no endless file is read."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            return file.read(npm_lock.MAX_BYTES + 1)
    except OSError as error:
        raise errors.DeployFailed("npm resolved the packages, but wrote no lock.", detail=str(error)) from error


def _why(source: npm.Npm | None, tail: list[str]) -> str:
    """What a person can do about what npm said."""
    said = "\n".join(tail)
    match = _CODE.search(said)
    code = match[1] if match else ""
    name = source.name if source is not None else ""
    if code == "E404":
        missing = _MISSING.search(said)
        who = missing[1] if missing else name
        whose = f" (needed by {name})" if name and who != name else ""
        return f"The npm registry has no package called {who}{whose}, or does not show it. Check the spelling."
    if code == "ETARGET":
        target = _TARGET.search(said)
        wish = target[1] if target else str(source or "")
        return f"The npm registry has no version that fits '{wish}'. Leave the version out to get the newest."
    if code in _DENIED:
        return f"The npm registry refused access to {name or 'a package'} ({code}): see npm's configuration here."
    if code in _SOURCES or "the fetch starts no process" in said:
        return (
            f"{name or 'A package'} needs something that is no package of the registry: a repository, an address, a"
            f" file or a folder. Only packages of the registry are fetched. npm says: {' / '.join(tail[1:3])[:300]}"
        )
    if code == "EINTEGRITY":
        return f"A file that the registry gave for {name or 'the packages'} is not the one that its digest names."
    if code in _AWAY:
        return f"The npm registry can't be reached ({code})."
    return "The packages could not be fetched. npm says: " + (" / ".join(tail[:4])[:500] or "nothing")
