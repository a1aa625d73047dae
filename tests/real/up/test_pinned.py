"""`smcp up` and `smcp doctor` where what Workers need is missing: it is fetched, or the platform runs without it."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from typing import Final

import pytest

from smcp.sandbox import tools
from support import processes, registry

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]

_BIN: Final = pathlib.Path(sys.executable).parent
_SMCP: Final = str(_BIN / "smcp")
_WAIT_S: Final = 300.0
_STARTS: Final = 3
"""In which everything must have come: a registry may be slow, or answer with an error now and then."""


def _without_npm(folder: pathlib.Path) -> str:
    """A PATH with what SMCP needs, and no npm."""
    folder.mkdir()
    (folder / "bwrap").symlink_to(shutil.which("bwrap") or "")
    return f"{_BIN}{os.pathsep}{folder}"


def _started(folder: pathlib.Path, **environ: str) -> "subprocess.Popen[str]":
    """`smcp up` for people, with a home and a cache of its own."""
    around = {name: value for name, value in os.environ.items() if not name.startswith("SMCP_")}
    own = {"SMCP_CONFIG": str(folder / "profiles"), "XDG_CACHE_HOME": str(folder / "cache")}
    return subprocess.Popen(
        [_SMCP, "up", "--no-demo", "--port", "0", "--data", str(folder / "data")],
        env={**around, **own, **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _ended(running: "subprocess.Popen[str]", number: signal.Signals) -> str:
    """What it said on stderr, once nothing of it is left."""
    family = processes.descendants(running.pid)
    running.send_signal(number)
    try:
        _, said = running.communicate(timeout=_WAIT_S)
    finally:
        running.kill()
    assert running.returncode == 0, said
    assert processes.alive(family) == set()
    return said


def _run(folder: pathlib.Path, **environ: str) -> str:
    """What a start says to people, until it is ready and stopped."""
    with _started(folder, **environ) as running:
        assert running.stdout is not None
        try:
            ready = any(line.startswith("Ready after") for line in running.stdout)
        except BaseException:
            running.kill()
            raise
        said = _ended(running, signal.SIGINT)
    assert ready, said
    return said


@pytest.mark.requirement("workers:tools:up")
def test_a_start_fetches_what_is_missing_and_says_so(tmp_path: pathlib.Path) -> None:
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    starts = [_run(tmp_path)]
    for program in tools.PROGRAMS:
        assert f"fetching {program.label} with npm" in starts[0]
    while not all(tools.find(program, cache) for program in tools.PROGRAMS) and len(starts) < _STARTS:
        starts.append(_run(tmp_path))
    for program in tools.PROGRAMS:
        assert tools.find(program, cache) is not None, starts
    assert "Workers" not in _run(tmp_path, PATH=_without_npm(tmp_path / "tools"))


@pytest.mark.requirement("workers:tools:up", "workers:tools:doctor")
def test_without_npm_the_platform_runs_and_says_that_workers_do_not(tmp_path: pathlib.Path) -> None:
    path = _without_npm(tmp_path / "tools")
    said = _run(tmp_path, PATH=path)
    assert "Workers can't run: workerd-" in said
    assert "apt install npm" in said
    done = subprocess.run(
        [_SMCP, "doctor", "--json", "--data", str(tmp_path / "data")],
        env={**os.environ, "PATH": path, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    checks = {one["name"]: one for one in json.loads(done.stdout)["checks"]}
    for name in ("workerd", "esbuild"):
        assert checks[name]["status"] == "warn"
        assert "Install npm" in checks[name]["fix"]


@pytest.mark.requirement("workers:tools:up", "workers:tools:interrupted")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_start_that_waits_for_a_registry_can_be_stopped(number: signal.Signals, tmp_path: pathlib.Path) -> None:
    with registry.serving() as shelf:
        shelf.gate.clear()
        with _started(tmp_path, HOME=str(tmp_path), npm_config_registry=shelf.address) as running:
            try:
                assert shelf.knocked.wait(_WAIT_S)
            except BaseException:
                running.kill()
                raise
            said = _ended(running, number)
    assert said.splitlines()[-1].strip() == "stopped"
    assert processes.naming(str(tmp_path)) == set()
