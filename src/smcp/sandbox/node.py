"""Which Node.js hosted servers get, and how it comes in.

The distribution's Node.js lies below /usr, which every sandbox sees. Of any other (a version manager's, a hand-built
one) only the program and its own shared library are mounted, read-only, below /opt/node: what was installed globally
beside it stays outside. npm is mounted (at /opt/npm) for the fetch alone. A Node.js below a home of mode 0700 works,
because mounts are opened as the platform's or the launcher's user.

A deployment records `label`: modules are chosen and checked for one major version, so an instance on another one is
refused instead of failing in a riddle.
"""

import contextlib
import glob
import json
import os
import pathlib
import re
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from smcp.kernel import errors
from smcp.sandbox import walls

MOUNT: Final = "/opt/node"
NPM_MOUNT: Final = "/opt/npm"
OLDEST: Final = 18
_VERSION: Final = re.compile(r"v(\d{1,4}\.\d{1,6}\.\d{1,6})\s*", re.ASCII)
_ANSWER_S: Final = 60.0


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A Node.js as a sandbox sees it."""

    label: str
    """Version, and the prefix inside: `node-20.20.2 /usr`. Recorded in deployments."""
    executable: str
    """Path inside the sandbox."""
    binds: tuple[walls.Bind, ...] = ()
    """What has to be mounted for it."""
    env: tuple[tuple[str, str], ...] = ()
    """What it needs to find its own shared library."""
    npm: str = ""
    """npm's program (a JavaScript file), inside; empty when there is no npm beside it."""
    npm_binds: tuple[walls.Bind, ...] = ()
    """What has to be mounted for npm."""

    @property
    def hidden(self) -> tuple[str, ...]:
        """Directories inside that appear empty: none, as nothing but the program is mounted."""
        return ()

    @property
    def version(self) -> str:
        """Such as `20.20.2`."""
        return self.label.partition(" ")[0].removeprefix("node-")


def current(environ: Mapping[str, str]) -> Node | None:
    """The first Node.js on PATH that can be brought into a sandbox, or none. Blocking: asks it for its version."""
    for program in _on_path("node", environ):
        with contextlib.suppress(errors.SandboxMissing):
            return at(program, environ)
    return None


def missing() -> errors.SandboxMissing:
    """What to say where a Node.js is needed and there is none."""
    return errors.SandboxMissing(
        f"This platform's machine has no Node.js {OLDEST} or newer with npm, which npm packages need. Its operator can"
        " install them (Debian, Ubuntu: 'apt install nodejs npm') and start SMCP again."
    )


def at(program: str, environ: Mapping[str, str]) -> Node:
    """The Node.js whose program is `program`, with the npm beside it or on PATH. Blocking.

    Raises `errors.SandboxMissing` for what is no Node.js, a script around one, or one that is too old.
    """
    path = os.path.realpath(program)
    with contextlib.suppress(OSError), open(path, "rb") as file:
        # A wrapper script would need what it wraps.
        if file.read(4) == b"\x7fELF":
            return _node(program, path, environ)
    raise errors.SandboxMissing(f"{program} is not a Node.js program.")


def serves(node: Node, recorded: str) -> bool:
    """Whether `node` can run what was built with `recorded` (a label): same place, same major version."""
    return _binary(node.label) == _binary(recorded)


def _node(program: str, path: str, environ: Mapping[str, str]) -> Node:
    version = _version(path)
    if int(version.partition(".")[0]) < OLDEST:
        raise errors.SandboxMissing(f"{program} is Node.js {version}; {OLDEST} or newer is needed.")
    npm, npm_binds = _npm(program, path, environ)
    if path.startswith("/usr/"):
        place = "/usr/local" if path.startswith("/usr/local/") else "/usr"
        return Node(label=f"node-{version} {place}", executable=path, npm=npm, npm_binds=npm_binds)
    libraries = sorted(glob.glob(f"{glob.escape(os.path.dirname(os.path.dirname(path)))}/lib/libnode.so*"))
    shared = tuple(walls.Bind(os.path.realpath(one), f"{MOUNT}/lib/{os.path.basename(one)}") for one in libraries)
    return Node(
        label=f"node-{version} {MOUNT}",
        executable=f"{MOUNT}/bin/node",
        binds=(walls.Bind(path, f"{MOUNT}/bin/node"), *shared),
        env=(("LD_LIBRARY_PATH", f"{MOUNT}/lib"),) if shared else (),
        npm=npm,
        npm_binds=npm_binds,
    )


def _version(path: str) -> str:
    try:
        # The operator's own program, and no argument of anybody else's.
        said = subprocess.run(
            [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWER_S, env={}, check=False
        ).stdout.decode("ascii", "replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise errors.SandboxMissing(f"{path} does not start.", detail=str(error)) from error
    match = _VERSION.fullmatch(said)
    if match is None:
        raise errors.SandboxMissing(f"{path} does not tell its version as Node.js does.")
    return match[1]


def _npm(program: str, path: str, environ: Mapping[str, str]) -> tuple[str, tuple[walls.Bind, ...]]:
    beside = [f"{os.path.dirname(one)}/npm" for one in (program, path)]
    for candidate in (*beside, *_on_path("npm", environ)):
        script = os.path.realpath(candidate)
        # bin/npm is a link to lib/node_modules/npm/bin/npm-cli.js; a script that starts it is not followed.
        home = os.path.dirname(os.path.dirname(script))
        if os.path.basename(script) == "npm-cli.js" and _is_npm(f"{home}/package.json"):
            if home.startswith("/usr/"):
                return script, ()
            return f"{NPM_MOUNT}/bin/npm-cli.js", (walls.Bind(home, NPM_MOUNT),)
    return "", ()


def _is_npm(path: str) -> bool:
    try:
        found: Any = json.loads(pathlib.Path(path).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and bool(found.get("name") == "npm")  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] - JSON


def _on_path(name: str, environ: Mapping[str, str]) -> Iterator[str]:
    for place in environ.get("PATH", os.defpath).split(os.pathsep):
        candidate = os.path.join(place, name)
        if place.startswith("/") and os.access(candidate, os.X_OK) and os.path.isfile(candidate):
            yield candidate


def _binary(label: str) -> tuple[str, str]:
    name, _, place = label.partition(" ")
    return name.partition(".")[0], place
