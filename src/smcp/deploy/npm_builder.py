"""npm packages: resolved and fetched (`npm_modules`), and which of their programs is started, and how.

A program of a package is a JavaScript file, run as `node FILE`: no shell, no first line of a file decides what runs.
"""

import asyncio
import os
import pathlib
import posixpath
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from smcp.deploy import build as builds
from smcp.deploy import manifest, npm_lock, npm_modules
from smcp.deploy.sources import npm
from smcp.kernel import errors
from smcp.sandbox import cells

_LONGEST_METADATA: Final = 4_194_304
_LONGEST_LINE: Final = 256
_COMMAND: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
# `#!/usr/bin/env node`, `#!/usr/local/bin/node`, `#!/usr/bin/env -S node --flag`.
_NODE: Final = re.compile(rb"#!\s*(?:\S*/env(?:\s+-S)?\s+)?(?:\S*/)?node(?:js)?(?P<flags>\s[^\r\n]*)?\s*", re.ASCII)
_SCRIPTS: Final = (".js", ".mjs", ".cjs")


class _Metadata(msgspec.Struct, frozen=True):
    bin: str | dict[str, str] | None = None


class NpmBuilder:
    """Makes directories from packages of the npm registry."""

    def __init__(self, modules: npm_modules.Modules) -> None:
        self._modules = modules

    async def build(
        self, source: npm.Npm, asked: manifest.Manifest, directory: pathlib.Path, tell: builds.Tell
    ) -> builds.Built:
        """As `builds.Builder`. Raises `errors.SandboxMissing` when the machine has no Node.js."""
        runs = self._modules.node()
        tell("resolve", str(source))
        lock = await self._modules.resolve(source, directory, tell)
        packages = await asyncio.to_thread(npm_lock.parse, lock)
        place = f"node_modules/{source.name}"
        taken = next((one for one in packages if one.path == place), None)
        if taken is None or taken.name != source.name:
            raise errors.DeployFailed(f"The npm registry did not give {source.name} itself.")
        tell("resolve", f"{taken.operand} and {len(packages) - 1} packages that it needs")
        app = directory / "app"
        app.mkdir()
        locked = await self._modules.install(packages, directory, app, tell)
        command, file, flags = await asyncio.to_thread(program, app / place, source.name, asked.command)
        tell("build", f"{runs.label.partition(' ')[0]}, command {command}")
        if flags:
            tell("build", f"the flags of its first line are not taken: {flags[:100]}")
        return builds.Built(
            tree=app,
            source=str(npm.Npm(source.name, taken.version)),
            lock=locked,
            argv=(runs.executable, f"{cells.APP}/{place}/{file}", *asked.args),
            interpreter=runs.label,
            runtime="node",
        )


def program(package: pathlib.Path, name: str, wanted: str) -> tuple[str, str, str]:
    """Command, file (relative to `package`, an unpacked package) and flags of its first line, of what to start.

    Raises `errors.DeployFailed` when there is nothing to start, nothing to choose by, or it is not for node. Blocking.
    """
    command, file = choose(_programs(package, name), name, wanted)
    normal = posixpath.normpath(file)
    if posixpath.isabs(file) or normal == "." or normal.split("/")[0] == ".." or "\\" in file or "\0" in file:
        raise errors.DeployFailed(f"The command '{command}' of {name} is a file outside of the package.")
    path = package / normal
    if os.path.realpath(path) != f"{os.path.realpath(package)}/{normal}" or not path.is_file():
        raise errors.DeployFailed(f"The command '{command}' of {name} is a file that the package does not have.")
    return command, normal, _flags(path, command, name)


def choose(found: Mapping[str, str], package: str, wanted: str) -> tuple[str, str]:
    """The program to start: the one wanted, else the one named like the package, else the only one."""
    listed = ", ".join(sorted(found)) or "none"
    if wanted:
        if wanted not in found:
            raise errors.DeployFailed(f"The package {package} has no command '{wanted}'. It has: {listed}.")
        return wanted, found[wanted]
    if not found:
        raise errors.DeployFailed(
            f"The package {package} starts nothing: it has no 'bin', so it is a library or not an MCP server."
        )
    own = package.rpartition("/")[2]
    # Several names for one file are one program.
    if own in found or len(set(found.values())) == 1:
        command = own if own in found else sorted(found)[0]
        return command, found[command]
    raise errors.DeployFailed(
        f"The package {package} has several commands: {listed}. Choose with 'command = …' in the manifest."
    )


def _programs(package: pathlib.Path, name: str) -> dict[str, str]:
    """`bin` of the package's own package.json (npm documentation, "package.json"): a file, or files by command."""
    path = package / "package.json"
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            data = file.read(_LONGEST_METADATA + 1)
        # A byte order mark is common among files made on Windows, and npm takes it.
        found = msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"), type=_Metadata).bin
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        raise errors.DeployFailed(f"The package.json of {name} can't be read.", detail=str(error)) from error
    own = name.rpartition("/")[2]
    named = {own: found} if isinstance(found, str) else found or {}
    return {command: file for command, file in named.items() if _COMMAND.fullmatch(command) and file}


def _flags(path: pathlib.Path, command: str, name: str) -> str:
    """The flags that the first line asks for. Raises `errors.DeployFailed` when it is for something else than node."""
    with path.open("rb") as file:
        first = file.read(_LONGEST_LINE).partition(b"\n")[0]
    match = _NODE.fullmatch(first.rstrip())
    if match is not None:
        return (match["flags"] or b"").decode("ascii", "replace").strip()
    if not first.startswith(b"#!") and path.suffix in _SCRIPTS:
        return ""
    said = first.decode("utf-8", "replace")[:80] if first.startswith(b"#!") else "no line that says what runs it"
    raise errors.DeployFailed(
        f"The command '{command}' of {name} is not for Node.js ({said}). Only JavaScript files are run."
    )
