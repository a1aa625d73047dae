"""Pinned programs, fetched by the real npm: from the registry that this machine has, hostile ones, and none."""

import base64
import concurrent.futures
import contextlib
import datetime
import fcntl
import hashlib
import json
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import pytest

from smcp.kernel import errors, settings
from smcp.ops import doctor
from smcp.sandbox import cells, spawn, tools, walls
from smcp.sandbox.tools import kept, pins
from support import cell, processes, registry

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_CONTENT: Final = b"#!/bin/sh\necho tiny\n"
_META: Final = {"name": "@s/tiny", "version": "1.0.0"}
_WAIT_S: Final = 120.0


@pytest.fixture
def shelf() -> Iterator[registry.Registry]:
    """A registry without packages."""
    with registry.serving() as made:
        yield made


def _environ(shelf: registry.Registry, folder: pathlib.Path, **more: str) -> dict[str, str]:
    """A user of the test's own, whose npm knows the test's registry only."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "npm_config_registry": shelf.address,
        "npm_config_fetch_retries": "0",
        **more,
    }


def _tiny(shelf: registry.Registry, **more: Any) -> pins.Program:
    """A small pinned program, which the registry has."""
    data = registry.tarball({"package.json": json.dumps(_META | more), "bin/tiny": _CONTENT})
    shelf.add_file(_META | more, data)
    build = pins.Build(
        package="@s/tiny",
        member="package/bin/tiny",
        sha512=base64.b64encode(hashlib.sha512(data).digest()).decode(),
        sha256=hashlib.sha256(_CONTENT).hexdigest(),
        size=len(_CONTENT),
    )
    return pins.Program(
        name="tiny",
        version="1.0.0",
        released=datetime.date(2026, 1, 1),
        stale_days=60,
        builds={platform.machine(): build},
    )


def _left(environ: dict[str, str]) -> set[str]:
    """What is in the cache directory."""
    return {one.name for one in kept.home(environ).iterdir()}


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _WAIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.requirement("workers:tools:fetched", "workers:tools:doctor")
def test_the_pinned_programs_come_from_npm_and_run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    assert tools.current(environ) == tools.Tools()
    done = subprocess.run(
        [sys.executable, "-I", "-m", "smcp.sandbox.tools"], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for program in tools.PROGRAMS:
        assert f"Fetching {program.label} with npm" in done.stderr
    found = tools.current(environ)
    assert found.workerd is not None
    assert found.esbuild is not None
    assert _left(environ) == {".lock", found.workerd.label, found.esbuild.label}
    assert kept.home(environ).stat().st_mode & 0o777 == 0o700
    for tool in (found.workerd, found.esbuild):
        said = subprocess.run([tool.path, "--version"], capture_output=True, text=True, check=True).stdout.strip()
        day = tools.WORKERD.released.isoformat()
        assert said == (f"workerd {day}" if tool is found.workerd else tool.version)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    checks = {one.name: one for one in doctor.run(settings.Settings())}
    assert checks["workerd"].why.startswith(found.workerd.label)
    assert checks["esbuild"].why.startswith(found.esbuild.label)
    assert all("days old" in checks[one.name].why for one in tools.PROGRAMS)
    again = subprocess.run(
        [sys.executable, "-I", "-m", "smcp.sandbox.tools"],
        env={**environ, "PATH": "/nonexistent"},  # without npm: nothing is fetched
        capture_output=True,
        text=True,
        check=False,
    )
    assert (again.returncode, again.stderr) == (0, "")


@pytest.mark.requirement("workers:tools:pins")
def test_what_a_new_pin_is_made_with_prints_the_present_one() -> None:
    root = pathlib.Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, root / "scripts" / "pins", "esbuild", tools.ESBUILD.version],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout in (root / "src/smcp/sandbox/tools/pins.py").read_text("utf-8")


@pytest.mark.requirement("workers:tools:mounted")
async def test_a_tenants_cell_runs_them_though_it_cannot_reach_the_cache(tmp_path: pathlib.Path) -> None:
    found = cell.found().pinned
    assert found.workerd is not None, "make dev fetches it"
    async with cell.launched() as launcher:  # the house lists them by itself
        for tool in (found.workerd, found.esbuild):
            assert tool is not None
            argv = (tool.executable, "--version")
            made = cells.hosted(cell.LIMITS, cell.found().python, cell.TENANT, "/", argv)
            made = msgspec.structs.replace(made, binds=(tool.bind,), memory_bytes=1 << 30)
            outcome = await spawn.run(made, launcher, timeout_s=60)
            assert outcome.code == 0, outcome
            assert outcome.tail, outcome
        beside = walls.Bind(str(pathlib.Path(found.workerd.path).parent), "/opt/beside")
        refused = msgspec.structs.replace(made, binds=(tool.bind, beside))
        with pytest.raises(errors.SmcpError):
            await spawn.run(refused, launcher, timeout_s=60)


@pytest.mark.requirement("workers:tools:verified")
def test_another_package_under_the_pinned_name_is_refused(shelf: registry.Registry, tmp_path: pathlib.Path) -> None:
    program, environ = _tiny(shelf), _environ(shelf, tmp_path)
    # A registry that was taken over: its integrity is that of what it gives, so npm finds nothing wrong.
    evil = registry.tarball({"package.json": json.dumps(_META), "bin/tiny": _CONTENT.replace(b"tiny", b"evil")})
    shelf.add_file(_META, evil)
    with pytest.raises(errors.SandboxMissing, match=r"SHA-512 is another one.*It was not used"):
        tools.Fetcher(environ).ensure(program)
    assert _left(environ) == {".lock"}
    assert tools.find(program, environ) is None


@pytest.mark.requirement("workers:tools:errors")
def test_what_went_wrong_is_told_apart_with_what_to_run(shelf: registry.Registry, tmp_path: pathlib.Path) -> None:
    program, environ = _tiny(shelf), _environ(shelf, tmp_path)

    def refused(program: pins.Program = program, **more: str) -> str:
        with pytest.raises(errors.SandboxMissing) as caught:
            tools.Fetcher({**environ, **more}).ensure(program)
        assert _left(environ) == {".lock"}
        return caught.value.public

    newer = msgspec.structs.replace(program, version="9.9.9")
    assert "registry that npm is configured for does not have @s/tiny@9.9.9 (ETARGET)" in refused(newer)
    build = msgspec.structs.replace(program.builds[platform.machine()], package="@s/none")
    none = msgspec.structs.replace(program, builds={platform.machine(): build})
    assert "does not have @s/none@1.0.0 (E404)" in refused(none)
    gone = refused(npm_config_registry="http://127.0.0.1:9")
    assert "could not fetch @s/tiny@1.0.0 (ECONNREFUSED)" in gone
    assert "npm pack @s/tiny@1.0.0" in gone
    assert "there is no npm" in refused(PATH="/nonexistent")
    assert "left no package" in refused(npm_config_dry_run="true")
    shelf.add_file(_META, b"something", registry.integrity(b"another"))
    assert "(EINTEGRITY)" in refused()


@pytest.mark.requirement("workers:tools:errors")
def test_a_file_in_the_caches_place_is_named(shelf: registry.Registry, tmp_path: pathlib.Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(errors.SandboxMissing, match=r"can't be kept at .*XDG_CACHE_HOME"):
        tools.Fetcher(_environ(shelf, tmp_path)).ensure(_tiny(shelf))


@pytest.mark.requirement("workers:tools:npm")
def test_no_script_runs_and_no_projects_settings_count(shelf: registry.Registry, tmp_path: pathlib.Path) -> None:
    touch = f"touch {tmp_path}/ran"
    program = _tiny(shelf, scripts=dict.fromkeys(("prepack", "prepare", "postpack", "preinstall", "install"), touch))
    environ = _environ(shelf, tmp_path)
    home = kept.home(environ)
    home.mkdir(parents=True)
    for folder in (home, *home.parents[:3]):  # up to the user's home, whose .npmrc is the user's own
        (folder / "package.json").write_text(
            json.dumps({"name": "x", "version": "1.0.0", "scripts": {"prepack": touch}})
        )
    (home / ".npmrc").write_text("registry=http://127.0.0.1:9\n")
    assert tools.Fetcher(environ).ensure(program).path == str(kept.place(program, environ))
    assert not (tmp_path / "ran").exists()


@pytest.mark.requirement("workers:tools:npm")
def test_npm_is_used_as_its_user_configured_it(shelf: registry.Registry, tmp_path: pathlib.Path) -> None:
    program, environ = _tiny(shelf), _environ(shelf, tmp_path)
    shelf.token = "canary-token"
    del environ["npm_config_registry"]
    (tmp_path / "home").mkdir()
    address = shelf.address.removeprefix("http:")
    (tmp_path / "home" / ".npmrc").write_text(f"@s:registry={shelf.address}\n{address}/:_authToken=canary-wrong\n")
    with pytest.raises(errors.SandboxMissing) as caught:
        tools.Fetcher(environ).ensure(program)
    assert "canary" not in str(caught.value)
    (tmp_path / "home" / ".npmrc").write_text(f"@s:registry={shelf.address}\n{address}/:_authToken={shelf.token}\n")
    assert tools.Fetcher(environ).ensure(program)


@pytest.mark.requirement("workers:tools:cache")
def test_a_changed_file_in_the_cache_is_not_used_and_is_fetched_again(
    shelf: registry.Registry, tmp_path: pathlib.Path
) -> None:
    program, environ = _tiny(shelf), _environ(shelf, tmp_path)
    path = pathlib.Path(tools.Fetcher(environ).ensure(program).path)
    path.chmod(0o755)
    path.write_bytes(_CONTENT.replace(b"tiny", b"evil"))
    path.chmod(0o555)
    assert tools.there(program, environ)  # by its size
    assert tools.find(program, environ) is None
    told = tools.state(program, environ)
    assert (told.whole, "not the tiny-1.0.0 that is pinned" in told.why) == (False, True)
    assert tools.Fetcher(environ).ensure(program)
    assert path.read_bytes() == _CONTENT
    path.unlink()
    path.symlink_to("/bin/sh")
    assert tools.find(program, environ) is None
    assert tools.Fetcher(environ).ensure(program)
    assert not path.is_symlink()
    assert path.read_bytes() == _CONTENT


@pytest.mark.requirement("workers:tools:at-once", "workers:tools:interrupted")
def test_nobody_waits_for_another_fetch_without_end(shelf: registry.Registry, tmp_path: pathlib.Path) -> None:
    program, environ = _tiny(shelf), _environ(shelf, tmp_path)
    kept.home(environ).mkdir(parents=True)
    with (kept.home(environ) / ".lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(errors.SandboxMissing, match="Another process has been fetching"):
            tools.Fetcher(environ, patience_s=0.5).ensure(program)
        fetcher = tools.Fetcher(environ)
        fetcher.stop()
        with pytest.raises(errors.SandboxMissing, match="was stopped"):
            fetcher.ensure(program)
    assert shelf.asked == []
    assert tools.Fetcher(environ).ensure(program)


def _counting(folder: pathlib.Path) -> tuple[str, pathlib.Path]:
    """A PATH whose npm is the real one, and notes each time it is called; and the notes."""
    real, notes = shutil.which("npm"), folder / "calls"
    (folder / "bin").mkdir()
    wrapper = folder / "bin" / "npm"
    wrapper.write_text(f'#!/bin/sh\necho called >>{notes}\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    return f"{folder}/bin{os.pathsep}{os.environ['PATH']}", notes


@pytest.mark.requirement("workers:tools:at-once")
def test_of_two_that_fetch_at_once_one_fetches(shelf: registry.Registry, tmp_path: pathlib.Path) -> None:
    path, notes = _counting(tmp_path)
    program, environ = _tiny(shelf), _environ(shelf, tmp_path, PATH=path)
    lock = str(kept.home(environ) / ".lock")

    def waiting() -> bool:
        held = 0
        for one in pathlib.Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # other threads close theirs
                held += os.readlink(one) == lock
        return held == 2

    shelf.gate.clear()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        first = pool.submit(tools.Fetcher(environ).ensure, program)
        assert shelf.knocked.wait(_WAIT_S)
        second = pool.submit(tools.Fetcher(environ).ensure, program)
        _until(waiting)
        shelf.gate.set()
        assert first.result(_WAIT_S) == second.result(_WAIT_S)
    assert notes.read_text() == "called\n"


@pytest.mark.requirement("workers:tools:interrupted")
def test_a_fetch_that_was_killed_leaves_nothing_that_counts_and_the_next_one_clears_up(
    shelf: registry.Registry, tmp_path: pathlib.Path
) -> None:
    program, environ = _tiny(shelf), _environ(shelf, tmp_path)
    shelf.add({"name": tools.build(tools.WORKERD).package, "version": tools.WORKERD.version})
    shelf.gate.clear()
    with subprocess.Popen(
        [sys.executable, "-I", "-m", "smcp.sandbox.tools"],
        env=environ,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as running:
        assert shelf.knocked.wait(_WAIT_S)
        os.killpg(running.pid, signal.SIGKILL)
    assert any(name.startswith(".fetch-") for name in _left(environ))
    shelf.gate.set()
    assert tools.find(tools.WORKERD, environ) is None
    assert tools.Fetcher(environ).ensure(program)
    assert _left(environ) == {".lock", program.label}


@pytest.mark.requirement("workers:tools:interrupted")
@pytest.mark.parametrize("how", ["stopped", "too long"])
def test_a_fetch_ends_when_it_is_stopped_or_takes_too_long(
    how: str, shelf: registry.Registry, tmp_path: pathlib.Path
) -> None:
    program, environ = _tiny(shelf), _environ(shelf, tmp_path)
    fetcher = tools.Fetcher(environ) if how == "stopped" else tools.Fetcher(environ, patience_s=1.0)
    shelf.gate.clear()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(fetcher.ensure, program)
        if how == "stopped":
            assert shelf.knocked.wait(_WAIT_S)
            fetcher.stop()
        with pytest.raises(errors.SandboxMissing, match="was stopped" if how == "stopped" else "within 1 s"):
            running.result(_WAIT_S)
    shelf.gate.set()
    assert _left(environ) == {".lock"}
    assert processes.naming(str(tmp_path)) == set()
