"""`smcp up` as a user without privilege, whose Python lies in a closed home: a whole platform, and what it lacks."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tomllib
from collections.abc import Generator, Iterable
from typing import Any, Final, NamedTuple

import httpx2
import pytest

from support import pinned, plain, processes

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a program as another user"),
]

_SMCP: Final = str(pathlib.Path(sys.executable).with_name("smcp"))


class Running(NamedTuple):
    """A platform of the user's."""

    pid: int
    said: str
    """What it said at its start, to people."""
    url: str
    environ: dict[str, str]
    """Of the user's programs."""

    def run(self, *argv: str) -> Any:
        """The document that a command of the user's prints."""
        done = subprocess.run(
            plain.command([_SMCP, *argv, "--json"], [self.environ["HOME"]], self.environ),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def running() -> Generator[Running]:
    """The platform, ready; in the end it is stopped as with Ctrl-C, and nothing of it is left."""
    with plain.home() as home:
        pinned.share(home)
        around = {name: value for name, value in os.environ.items() if not name.startswith(("SMCP_", "XDG_"))}
        environ = {**around, "HOME": home, "TMPDIR": f"{home}/tmp", "PATH": "/usr/bin:/bin"}
        with pathlib.Path(home, "said").open("w+") as said:
            process = subprocess.Popen(
                plain.command([_SMCP, "up", "--port", "0", "--no-demo"], [home], environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )
            assert process.stdout is not None
            try:
                ready = any(line.startswith("Ready after") for line in process.stdout)
                said.seek(0)
                told = said.read()
                assert ready, told
                profile = tomllib.loads(pathlib.Path(home, ".config/smcp/profiles.toml").read_text("utf-8"))["default"]
                yield Running(process.pid, told, profile["url"], environ)
                family = processes.descendants(process.pid)
                process.send_signal(signal.SIGINT)
                assert process.wait(120) == 0
                assert processes.left(family, 60) == set()
                assert processes.naming(home) == set()
            finally:
                process.kill()
                process.wait()
                process.stdout.close()


def _owners(found: Iterable[processes.Process]) -> set[int]:
    """Whose those of `found` are that still run."""
    owners: set[int] = set()
    for one in found:
        with contextlib.suppress(FileNotFoundError):
            owners.add(os.stat(f"/proc/{one.pid}").st_uid)
    return owners


@pytest.mark.requirement("up:rootless:whole", "sandbox:interpreter:private-home")
def test_a_server_is_deployed_and_called_without_root(running: Running) -> None:
    assert _owners(processes.descendants(running.pid)) == {plain.UID}
    running.run("tenant", "create", "acme")
    running.run("key", "create", "--tenant", "acme", "--role", "admin", "--save-profile", "acme")
    shown = running.run("deploy", "pypi:mcp-server-time", "--tenant", "acme", "--name", "time")
    assert shown["server"]["endpoint"] == f"{running.url}/t/acme/time/mcp"
    arguments = '{"timezone":"Asia/Tokyo"}'
    called = running.run("call", "acme/time", "get_current_time", arguments)
    assert "Asia/Tokyo" in json.dumps(called)
    hosted = [one for one in processes.descendants(running.pid) if "mcp-server-time" in one.command]
    assert _owners(hosted) <= {plain.UID}


@pytest.mark.requirement("up:rootless:named")
def test_what_is_missing_without_root_is_named_at_the_start_by_doctor_and_by_the_api(running: Running) -> None:
    checks = {one["name"]: one for one in running.run("doctor")["checks"]}
    profile = tomllib.loads(pathlib.Path(running.environ["HOME"], ".config/smcp/profiles.toml").read_text("utf-8"))
    answer = httpx2.get(
        f"{running.url}/api/v1/sandbox", headers={"Authorization": f"Bearer {profile['default']['key']}"}, timeout=120
    )
    assert answer.is_success, answer.text
    missing = answer.json()["missing"]
    assert "uid" in missing
    layers = {one["name"]: one for one in answer.json()["layers"]}
    for name in missing:
        assert layers[name]["why"]
        check = checks[f"sandbox: {name}"]
        assert check["status"] == "warn"
        assert check["why"]
        assert f"! sandbox: {name}: {check['why']}" in running.said
