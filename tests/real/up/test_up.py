"""`smcp up` as a person meets it: a fresh home directory, a first start, what it prints, a second start, the end."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import tomllib
from typing import Self

import pytest

from support import pinned, ports, processes

pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]

_BIN = pathlib.Path(sys.executable).parent
_SMCP = str(_BIN / "smcp")
_READY_S = 900.0
_STOP_S = 120.0
_RUN_S = 300.0
_STARTS = 8
"""Of which one must be quick: others may have the machine just then."""
_LOADS = 8.0


class Home:
    """A home directory of a new user on this machine."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.profiles = folder / ".config" / "smcp" / "profiles.toml"
        self.port = ports.free()
        around = {name: value for name, value in os.environ.items() if not name.startswith(("SMCP_", "XDG_"))}
        self.environ = {**around, "HOME": str(folder), "PATH": f"{_BIN}{os.pathsep}{around.get('PATH', '')}"}
        pinned.share(folder)

    def up(self, *options: str) -> "Up":
        return Up([_SMCP, "up", "--port", str(self.port), "--data", str(self.data), *options], self.environ)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=_RUN_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )


class Up:
    """One `smcp up` in the foreground of nobody's terminal. As a context manager it is ended with SIGINT."""

    def __init__(self, argv: list[str], environ: dict[str, str]) -> None:
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            argv, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._lines: list[str] = []
        self._remarks: list[str] = []
        self._remarked = threading.Condition()
        self._ready = threading.Event()
        self._readers = [threading.Thread(target=self._read_out), threading.Thread(target=self._read_err)]
        for reader in self._readers:
            reader.start()
        self.ready_s = 0.0

    @property
    def out(self) -> str:
        return "".join(self._lines)

    @property
    def err(self) -> str:
        return "".join(self._remarks)

    def _read_out(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)
            if line.startswith("Ready after"):
                self.ready_s = time.monotonic() - self._began
                self._ready.set()
        self._ready.set()

    def _read_err(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._remarked:
                self._remarks.append(line)
                self._remarked.notify_all()

    def wait_for(self, remark: str) -> None:
        """Until `remark` is on stderr."""
        with self._remarked:
            assert self._remarked.wait_for(lambda: remark in self.err, _READY_S), self.err

    def __enter__(self) -> Self:
        self._ready.wait(_READY_S)
        if not self.ready_s:
            self._process.kill()
            self._end()
        assert self.ready_s, f"it did not become ready:\n{self.out}\n{self.err}"
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            assert self.stop(signal.SIGINT) == 0

    def stop(self, number: signal.Signals) -> int:
        """End it, and return its exit code once nothing of it is left."""
        family = processes.descendants(self._process.pid)
        self._process.send_signal(number)
        try:
            code = self._end()
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._end()
            raise
        assert processes.alive(family) == set()
        return code

    def _end(self) -> int:
        code = self._process.wait(_STOP_S)
        for reader in self._readers:
            reader.join()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
        return code


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Up, subprocess.CompletedProcess[str]]:
    """A home where the first start has happened, what it printed, and what the call that it printed answered."""
    home = Home(tmp_path_factory.mktemp("home"))
    with home.up() as up:
        line = next(line for line in reversed(up.out.splitlines()) if line.startswith("smcp call"))
        answer = home.run("sh", "-c", line)
    return home, up, answer


@pytest.mark.requirement("up:first:demo")
def test_the_printed_call_works_as_printed(first: tuple[Home, Up, subprocess.CompletedProcess[str]]) -> None:
    _, up, answer = first
    assert answer.returncode == 0, answer.stderr + up.err
    assert json.loads(answer.stdout)["timezone"] == "Europe/Berlin"


@pytest.mark.requirement("up:first:demo")
def test_the_first_start_prints_everything_to_paste(first: tuple[Home, Up, subprocess.CompletedProcess[str]]) -> None:
    home, up, _ = first
    key = tomllib.loads(home.profiles.read_text())["acme"]["key"]
    url = f"http://127.0.0.1:{home.port}/t/acme/time/mcp"
    assert key in up.out.splitlines()
    assert f'claude mcp add --transport http time {url} --header "Authorization: Bearer {key}"' in up.out.splitlines()
    snippet = re.search(r"^\{$.*?^\}$", up.out, re.MULTILINE | re.DOTALL)
    assert snippet is not None
    server = json.loads(snippet[0])["mcpServers"]["time"]
    assert server == {"type": "http", "url": url, "headers": {"Authorization": f"Bearer {key}"}}
    assert key not in up.err


@pytest.mark.requirement("up:first:demo", "cli:profiles:private")
def test_the_first_start_saves_the_keys_for_this_user_only(
    first: tuple[Home, Up, subprocess.CompletedProcess[str]],
) -> None:
    home, up, _ = first
    saved = tomllib.loads(home.profiles.read_text())
    assert saved["default"]["tenant"] == "platform"
    assert saved["acme"]["tenant"] == "acme"
    assert stat.S_IMODE(home.profiles.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.profiles.parent.stat().st_mode) == 0o700
    assert saved["default"]["key"] not in up.out + up.err


@pytest.mark.requirement("oauth:people:setup")
def test_the_first_start_shows_one_code_for_the_first_account_and_no_password(
    first: tuple[Home, Up, subprocess.CompletedProcess[str]],
) -> None:
    home, up, _ = first
    codes = [line for line in up.out.splitlines() if line.startswith("smci_platform_")]
    assert len(codes) == 1
    assert f"http://127.0.0.1:{home.port}/account/platform/setup" in up.out.splitlines()
    assert codes[0] not in up.err
    kept = b"".join(path.read_bytes() for path in home.data.rglob("*") if path.is_file())
    assert codes[0].encode() not in kept
    assert "password" not in up.out.lower()


@pytest.fixture(scope="module")
def whole(first: tuple[Home, Up, subprocess.CompletedProcess[str]]) -> tuple[Home, str, dict[str, str]]:
    """The same home when all six servers of the demo are live: what was said, and what the five others answered.

    The first start was stopped while they were being made; this is the one that finished them.
    """
    home, _, _ = first
    with home.up() as up:
        up.wait_for("demo: 6 servers of 2 tenants")
        answers = {target: _called(home, target, *words) for target, *words in _CALLS}
    return home, up.err, answers


_CALLS = (
    ("acme/everything", "echo", '{"message":"hello"}'),
    ("acme/memory", "create_entities", '{"entities":[{"name":"Ada","entityType":"person","observations":["x"]}]}'),
    ("acme/notes", "add_note", '{"text":"milk and bread"}'),
    ("globex/git", "git_log", '{"repo_path":"/data/repo"}'),
    ("globex/sqlite", "create_table", '{"query":"create table kept (n integer)"}'),
)


def _called(home: Home, target: str, tool: str, arguments: str) -> str:
    done = home.run(_SMCP, "call", target, tool, arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.requirement("up:demo:tenants")
def test_the_demo_is_six_servers_of_two_tenants_and_each_answers(whole: tuple[Home, str, dict[str, str]]) -> None:
    home, said, answers = whole
    assert "Echo: hello" in answers["acme/everything"]
    assert "Ada" in answers["acme/memory"]
    assert "The first commit" in answers["globex/git"]
    assert "Table created" in answers["globex/sqlite"]
    for label in ("acme/everything", "acme/memory", "acme/notes", "globex/git", "globex/sqlite"):
        assert f"demo: {label} is live" in said
    saved = tomllib.loads(home.profiles.read_text("utf-8"))
    assert {name: one["tenant"] for name, one in saved.items()} == {
        "default": "platform",
        "acme": "acme",
        "globex": "globex",
    }
    assert all(one["key"] not in said for one in saved.values())


@pytest.mark.requirement("up:demo:once", "volumes:real:servers")
def test_the_next_start_makes_nothing_again_and_what_was_kept_is_there(whole: tuple[Home, str, dict[str, str]]) -> None:
    home, _, _ = whole
    with home.up() as up:
        found = _called(home, "acme/memory", "read_graph", "{}")
        tables = _called(home, "globex/sqlite", "list_tables", "{}")
        notes = _called(home, "acme/notes", "list_notes", "{}")
        deleted = home.run(_SMCP, "server", "delete", "globex/sqlite", "--yes")
    assert "Ada" in found
    assert "kept" in tables
    assert "milk and bread" in notes
    assert deleted.returncode == 0, deleted.stderr
    with home.up() as again:
        listed = home.run(_SMCP, "server", "list", "--tenant", "globex", "--json")
    assert "sqlite" not in listed.stdout
    assert "git" in listed.stdout
    assert "demo:" not in up.err + again.err
    assert "To come" not in up.out + again.out
    assert "smci_" not in up.out + again.out


@pytest.mark.requirement("up:demo:apart")
def test_what_cannot_be_made_is_named_with_what_to_run_and_takes_nothing_along(tmp_path: pathlib.Path) -> None:
    home = Home(tmp_path)
    home.environ |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    path = home.environ["PATH"]
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bwrap", "git"):
        (tools / name).symlink_to(shutil.which(name) or "")
    home.environ["PATH"] = f"{_BIN}{os.pathsep}{tools}"
    with home.up() as up:
        up.wait_for("demo: 1 of 6 servers of 1 tenant")  # the Worker: it needs no package
    assert "The demo could not be made" in up.err
    assert "acme/everything and acme/memory left out: no Node.js" in up.err
    for name in ("git", "sqlite"):
        assert re.search(rf"demo: globex/{name} could not be made: .*: smcp deploy /\S+/{name} --tenant globex", up.err)
    home.environ["PATH"] = path
    with home.up() as again:
        again.wait_for("demo: globex/git could not be made")
        again.wait_for("demo: acme/everything is live")
        answer = home.run(_SMCP, "call", "acme/everything", "echo", '{"message":"hello"}')
    assert "Echo: hello" in answer.stdout, answer.stderr


@pytest.mark.requirement("up:second:quick")
def test_a_second_start_shows_no_key_and_serves(whole: tuple[Home, str, dict[str, str]]) -> None:
    home, _, _ = whole
    before = home.profiles.read_bytes()
    with home.up() as up:
        answer = home.run(_SMCP, "call", "acme/time", "get_current_time", '{"timezone":"Asia/Tokyo"}')
    assert answer.returncode == 0, answer.stderr + up.err
    assert "Asia/Tokyo" in answer.stdout
    for profile in tomllib.loads(before.decode()).values():
        assert profile["key"] not in up.out + up.err
    assert f"profile 'acme' of {home.profiles}" in up.out.replace("\n", "")
    assert home.profiles.read_bytes() == before


@pytest.mark.alone
@pytest.mark.requirement("up:second:quick")
def test_a_second_start_is_quick(tmp_path: pathlib.Path) -> None:
    home = Home(tmp_path)
    with home.up("--no-demo"):
        pass
    took: list[tuple[float, float]] = []
    while not any(ready_s < most_s for ready_s, most_s in took) and len(took) < _STARTS:
        # Five seconds are meant for a machine that loads the code in half of one, and has nothing else to do.
        began = time.monotonic()
        assert home.run(sys.executable, "-c", "import smcp.app.node, smcp.cli.foreground").returncode == 0
        most_s = max(5.0, _LOADS * (time.monotonic() - began))
        with home.up("--no-demo") as again:
            took.append((again.ready_s, most_s))
    assert any(ready_s < most_s for ready_s, most_s in took), took


@pytest.mark.requirement("up:stop:nothing-left")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything_in_order(
    first: tuple[Home, Up, subprocess.CompletedProcess[str]], number: signal.Signals
) -> None:
    home, _, _ = first
    with home.up() as up:
        answer = home.run(_SMCP, "call", "acme/time", "get_current_time", '{"timezone":"UTC"}')
        assert up.stop(number) == 0
    assert answer.returncode == 0, answer.stderr
    assert processes.naming(str(home.data)) == set()
    assert processes.mounts(home.data) == []


def _interrupted(folder: pathlib.Path) -> Home:
    """A home whose first start was stopped in the middle of the demo's deployment."""
    for number in range(_STARTS):
        home = Home(folder / str(number))
        up = home.up()
        up.wait_for("download:")
        assert up.stop(signal.SIGINT) == 0
        assert processes.naming(str(home.data)) == set()
        if "SMCP is ready" not in up.out:
            return home
        # This process was held up until the deployment was over.
    raise AssertionError("no start was stopped before it was ready")


@pytest.mark.requirement("up:stop:nothing-left", "up:first:demo")
def test_a_first_start_that_is_interrupted_leaves_nothing_running_and_is_finished_by_the_next(
    tmp_path: pathlib.Path,
) -> None:
    home = _interrupted(tmp_path)
    with home.up() as again:
        answer = home.run(_SMCP, "call", "acme/time", "get_current_time", '{"timezone":"UTC"}')
    assert answer.returncode == 0, answer.stderr + again.err


@pytest.mark.requirement("up:data:one-at-a-time")
def test_a_second_platform_on_the_same_data_is_refused_and_reset_too(
    first: tuple[Home, Up, subprocess.CompletedProcess[str]],
) -> None:
    home, _, _ = first
    with home.up():
        again = home.run(_SMCP, "up", "--port", "0", "--data", str(home.data))
        reset = home.run(_SMCP, "reset", "--yes", "--data", str(home.data))
    for refused in (again, reset):
        assert refused.returncode == 1
        assert "A platform is running" in refused.stderr
    assert (home.data / "keys").is_dir()


@pytest.mark.requirement("up:port:in-use")
def test_a_port_that_is_taken_is_named_with_the_option_for_another(tmp_path: pathlib.Path) -> None:
    home = Home(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        home.port = int(taken.getsockname()[1])
        refused = home.run(_SMCP, "up", "--no-demo", "--port", str(home.port), "--data", str(home.data))
    assert refused.returncode == 1
    assert f"can't listen on 127.0.0.1:{home.port}" in refused.stderr
    assert "--port" in refused.stderr
    assert processes.naming(str(home.data)) == set()
    assert not home.profiles.exists()


@pytest.mark.requirement("cli:reset:ours-only")
def test_a_reset_starts_over(tmp_path: pathlib.Path) -> None:
    home = Home(tmp_path)
    with home.up("--no-demo"):
        before = tomllib.loads(home.profiles.read_text())["default"]["key"]
    done = home.run(_SMCP, "reset", "--yes", "--data", str(home.data))
    assert done.returncode == 0, done.stderr
    assert list(home.data.iterdir()) == []
    assert tomllib.loads(home.profiles.read_text()) == {}
    with home.up("--no-demo"):
        listed = home.run(_SMCP, "tenant", "list", "--json")
        after = tomllib.loads(home.profiles.read_text())["default"]["key"]
    assert json.loads(listed.stdout) == {"items": []}
    assert after != before


@pytest.mark.requirement("up:operator:again")
def test_a_lost_operator_key_is_replaced_when_asked(tmp_path: pathlib.Path) -> None:
    home = Home(tmp_path)
    with home.up("--no-demo"):
        lost = tomllib.loads(home.profiles.read_text("utf-8"))["default"]["key"]
    home.profiles.unlink()
    with home.up("--no-demo") as up:
        assert "--new-operator" in up.err
        assert not home.profiles.exists()
    with home.up("--no-demo", "--new-operator"):
        found = tomllib.loads(home.profiles.read_text("utf-8"))["default"]["key"]
        shown = home.run(_SMCP, "tenant", "list", "--json")
    assert found != lost
    assert shown.returncode == 0, shown.stderr
