"""Python packages: pip downloads wheels, the platform looks at them, a virtual environment is made from them.

**fetch**: pip downloads wheels (never source distributions, whose metadata only their own code can tell), held by
`guard`. **build**: a virtual environment at /app/venv, the wheels unpacked into it and compiled. Between the two the
platform itself looks at every wheel (`wheels`).
"""

import asyncio
import importlib.util
import os
import pathlib
import re
import sys
from typing import Final

from smcp.deploy import build as builds
from smcp.deploy import guard, manifest, reach, wheels, workbench
from smcp.deploy import index as indexes
from smcp.deploy.sources import pypi
from smcp.kernel import errors
from smcp.sandbox import cells, walls

_WORK: Final = "/build"
_SCRATCH: Final = "/scratch"
_PIP: Final = "/opt/pip/pip"
_GUARD: Final = "/opt/guard.py"
_QUIET: Final = ("--no-input", "--no-color", "--disable-pip-version-check")
_MISSING: Final = re.compile(r"No matching distribution found for (\S+)")
_SAVED: Final = re.compile(r"^(?:Collecting|Downloading|Using cached) (\S+)")


def pip() -> str:
    """Where pip is on this host. Raises `errors.DeployFailed`."""
    found = importlib.util.find_spec("pip")
    if found is None or found.origin is None:
        raise errors.DeployFailed("pip is not installed beside the platform.", detail="it is a dependency of smcp")
    return str(pathlib.Path(found.origin).resolve().parent)


class PypiBuilder:
    """Makes directories from packages of the index. Holds no state between builds but pip's cache of downloads."""

    def __init__(self, bench: workbench.Workbench, index: indexes.Index, pip_cache: pathlib.Path) -> None:
        self._bench = bench
        self._python = bench.python
        self._deploy = bench.deploy
        self._index = index
        self._reach = reach.allowed(index.hosts, bench.deploy.package_hosts)
        self._cache = pip_cache
        self._pip = walls.Bind(pip(), _PIP)

    async def build(
        self, source: pypi.Pypi, asked: manifest.Manifest, directory: pathlib.Path, tell: builds.Tell
    ) -> builds.Built:
        """As `builds.Builder`."""
        for name in ("wheels", "scratch", "app"):
            (directory / name).mkdir()
        tell("resolve", str(source))
        await self._fetch(source, directory, tell)
        lock = await asyncio.to_thread(wheels.lock, directory / "wheels", self._deploy.max_bytes)
        size = sum(path.stat().st_size for path in (directory / "wheels").iterdir())
        tell("download", f"{len(lock)} wheels, {size / 1e6:.1f} MB")
        taken = next((one for one in lock if one.name == source.name), None)
        if taken is None:
            raise errors.DeployFailed(f"The package index did not give {source.name} itself.")
        found = await asyncio.to_thread(wheels.scripts, directory / "wheels", source.name)
        script = wheels.choose(found, source.name, asked.command)
        tell("build", f"{self._python.label.partition(' ')[0]}, command {script}")
        await self._install(directory)
        return builds.Built(
            tree=directory / "app",
            source=str(pypi.Pypi(source.name, taken.version)),
            lock=lock,
            argv=(f"{cells.APP}/venv/bin/{script}", *asked.args),
            interpreter=self._python.label,
        )

    async def install_locked(
        self, pins: tuple[str, ...], directory: pathlib.Path, tell: builds.Tell
    ) -> tuple[wheels.Locked, ...]:
        """Make /app/venv below `directory`/app from exactly `pins` (requirements with digests, made by `locks`).

        Those whose marker does not hold here are left out. `directory`/app exists. Raises `errors.DeployFailed`.
        """
        for name in ("wheels", "scratch"):
            (directory / name).mkdir()
        if pins:
            (directory / "lock.txt").write_text("".join(f"{one}\n" for one in pins), "utf-8")
            operands = ("--require-hashes", f"--requirement={_WORK}/lock.txt")
            tail, code = await self._download(operands, directory, tell)
            if code != 0:
                raise errors.DeployFailed(_why_not_locked(tail))
        lock = await asyncio.to_thread(wheels.lock, directory / "wheels", self._deploy.max_bytes)
        tell("download", f"{len(lock)} wheels")
        await self._install(directory)
        return lock

    # --- fetch: network, no package code ---

    async def _fetch(self, source: pypi.Pypi, directory: pathlib.Path, tell: builds.Tell) -> None:
        tail, code = await self._download(("--", source.requirement), directory, tell)
        if code != 0:
            raise errors.DeployFailed(await self._why(source, directory, tail))

    async def _download(
        self, operands: tuple[str, ...], directory: pathlib.Path, tell: builds.Tell
    ) -> tuple[list[str], int]:
        """pip's last lines and its exit code."""
        self._cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = ("download", "--only-binary=:all:", "--dest", f"{_WORK}/wheels", "--progress-bar=off")
        tail: list[str] = []

        def heard(line: str) -> None:
            tail.append(self._index.clean(line))
            del tail[:-60]
            match = _SAVED.match(line)
            if match is not None and not line.startswith("Collecting"):
                tell("download", self._index.clean(match[1]).rpartition("/")[2])

        cell = self._fetch_cell(directory, (*command, *self._links(), *_QUIET, *operands))
        outcome = await self._bench.within(cell, directory / "wheels", heard)
        return tail, outcome.code

    async def _why(self, source: pypi.Pypi, directory: pathlib.Path, tail: list[str]) -> str:
        """What a person can do about a failed download."""
        said = "\n".join(tail)
        missing = _MISSING.search(said)
        name = re.split(r"[^A-Za-z0-9._-]", missing[1], maxsplit=1)[0] if missing else ""
        if missing is None or not name or name.startswith("-"):
            told = [line for line in tail if line.startswith("ERROR")] or tail
            said = " / ".join(told[-3:]) or "nothing"
            return f"The packages could not be fetched. pip says: {said}{workbench.refusals(tail)}"
        label = self._python.label.partition(" ")[0]
        whose = "" if pypi.normalise(name) == source.name else f" (needed by {source.name})"
        heard: list[str] = []
        asked = await self._bench.run(
            self._fetch_cell(directory, ("index", "versions", "--pre", *self._links(), *_QUIET, "--", name)),
            heard.append,
        )
        if asked.code != 0:
            return f"The package index has no package called {name}{whose}. Check the spelling."
        exists = next((line for line in heard if line.startswith("Available versions:")), "")
        offered = re.search(r"\(from versions: ([^)]*)\)", said)
        if offered is not None and offered[1].strip() not in ("", "none"):
            return f"No version of {name}{whose} fits '{missing[1]}'. Versions with a wheel for {label}: {offered[1]}."
        return (
            f"{name}{whose} has no wheel for {label} on this machine, only source distributions, which would run its"
            f" code while fetching. Ask its authors for wheels, or put one into deploy.wheel_dirs. {exists[:200]}"
        ).strip()

    def _links(self) -> tuple[str, ...]:
        return tuple(f"--find-links=/wheels/{place}" for place in range(len(self._deploy.wheel_dirs)))

    def _fetch_cell(self, directory: pathlib.Path, arguments: tuple[str, ...]) -> workbench.Step:
        script = walls.Bind(str(pathlib.Path(guard.__file__).resolve()), _GUARD)
        local = tuple(
            walls.Bind(os.path.realpath(path), f"/wheels/{place}") for place, path in enumerate(self._deploy.wheel_dirs)
        )
        return self._bench.cell(
            argv=(self._python.executable, "-I", _GUARD, _PIP, *arguments),
            binds=(
                self._pip,
                walls.Bind(str(directory), _WORK, writable=True),
                walls.Bind(str(self._cache), "/cache", writable=True),
                script,
                *local,
                *self._index.binds,
            ),
            env=(
                *self._index.env,
                ("PIP_CONFIG_FILE", os.devnull),
                ("PIP_CACHE_DIR", "/cache"),
                ("TMPDIR", _WORK + _SCRATCH),
            ),
            reach=self._reach,
        )

    # --- build: package code at most, no network, no credential ---

    async def _install(self, directory: pathlib.Path) -> None:
        app = cells.APP
        short = ".".join(str(part) for part in sys.version_info[:2])
        names = sorted(path.name for path in (directory / "wheels").iterdir())
        python = self._python.executable
        venv = (python, "-I", "-m", "venv", "--without-pip", "--symlinks", f"{app}/venv")
        install = (f"{app}/venv/bin/python", "-I", _PIP, "install", "--no-index", "--no-deps", "--no-compile")
        install += (
            "--no-warn-script-location",
            "--no-cache-dir",
            *_QUIET,
            "--",
            *(f"/wheels/{name}" for name in names),
        )
        # Without -I, which would ignore PYTHONHASHSEED; -P and -s keep the working directory and user packages out.
        # Workers would each have an order of their own. A file that doesn't compile is not this step's problem.
        compile_all = (python, "-P", "-s", "-m", "compileall", "-q", "-j1", "--invalidation-mode", "unchecked-hash")
        compile_all += (f"{app}/venv/lib/python{short}/site-packages",)
        steps = ((venv, True), (install, True), (compile_all, False)) if names else ((venv, True),)
        for argv, must in steps:
            outcome = await self._bench.run(self._build_cell(directory, argv), None)
            if outcome.code != 0 and must:
                told = " / ".join(self._index.clean(line) for line in outcome.tail[-4:])
                raise errors.DeployFailed(f"The build failed. It said: {told or f'nothing (exit code {outcome.code})'}")

    def _build_cell(self, directory: pathlib.Path, argv: tuple[str, ...]) -> workbench.Step:
        return self._bench.cell(
            argv=argv,
            binds=(
                self._pip,
                walls.Bind(str(directory / "wheels"), "/wheels"),
                walls.Bind(str(directory / "app"), cells.APP, writable=True),
            ),
            env=(("PYTHONHASHSEED", "0"), ("PIP_CONFIG_FILE", os.devnull), ("SOURCE_DATE_EPOCH", "315532800")),
        )


def _why_not_locked(tail: list[str]) -> str:
    """What a person can do about a failed download of a lock's packages."""
    said = "\n".join(tail)
    missing = re.search(r"do not:\s+([A-Za-z0-9][A-Za-z0-9._-]*)", said)
    if "--require-hashes mode" in said and missing is not None:
        return f"The lock is not whole: {missing[1]} is needed and not in it. Make the lock anew."
    if "DO NOT MATCH THE HASHES" in said:
        return "A package's file is not the one that the lock names by its digest. Make the lock anew, and look why."
    none = _MISSING.search(said)
    if none is not None:
        return (
            f"The package index has no wheel of {none[1]} for this platform's Python. Source distributions are not"
            " built, as that would run their code while fetching."
        )
    told = [line for line in tail if line.startswith("ERROR")] or tail
    return "The lock's packages could not be fetched. pip says: " + (" / ".join(told[-3:]) or "nothing")
