"""`smcp dev` as a developer meets it: a folder, an endpoint, and a new version at each change of a file."""

import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from support import pinned, processes

pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]

_BIN = pathlib.Path(sys.executable).parent
_WAIT_S = 300.0
_SERVER = """
import json, sys
print("hello from ANSWER", file=sys.stderr, flush=True)
for line in sys.stdin:
    message = json.loads(line)
    match message["method"]:
        case "initialize":
            result = {"protocolVersion": message["params"]["protocolVersion"], "capabilities": {"tools": {}}}
            result |= {"serverInfo": {"name": "small", "version": "1"}}
        case "tools/list":
            result = {"tools": [{"name": "say", "inputSchema": {"type": "object"}}]}
        case "tools/call":
            result = {"content": [{"type": "text", "text": "ANSWER"}]}
        case _:
            result = None
    if "id" in message:
        body = {"result": result} if result else {"error": {"code": -32601, "message": "no such method"}}
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **body}), flush=True)
"""


class Dev:
    """One `smcp dev --json` and what it says."""

    def __init__(self, folder: pathlib.Path, environ: dict[str, str]) -> None:
        self._environ = environ
        self._process = subprocess.Popen(
            [str(_BIN / "smcp"), "dev", str(folder), "--port", "0", "--json"],
            env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._seen: list[Any] = []
        self._err: list[str] = []
        self._readers = [threading.Thread(target=self._read_out), threading.Thread(target=self._read_err)]
        for one in self._readers:
            one.start()

    def _read_out(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._events.put(json.loads(line))
        self._events.put({"event": "end"})

    def _read_err(self) -> None:
        assert self._process.stderr is not None
        self._err.extend(self._process.stderr)

    def event(self, kind: str, text: str = "") -> dict[str, Any]:
        """The next event of a kind with `text` in it, past all others."""
        while True:
            try:
                found = self._events.get(timeout=_WAIT_S)
            except queue.Empty:
                pytest.fail(f"no {kind} came: {self._seen} {''.join(self._err)}")
            self._seen.append(found)
            if found["event"] == kind and text in json.dumps(found):
                return found
            assert found["event"] != "end", (self._seen, "".join(self._err))

    def logged(self, text: str) -> None:
        """Return when the server's log has `text`. A line of it comes before or behind what else happened then."""
        if not any(one["event"] == "log" and text in json.dumps(one) for one in self._seen):
            self.event("log", text)

    def call(self, ready: dict[str, Any]) -> str:
        argv = [str(_BIN / "smcp"), "call", "--profile", ready["profile"], ready["server"], "say", "--json"]
        done = subprocess.run(argv, env=self._environ, capture_output=True, text=True, timeout=_WAIT_S, check=False)
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)["content"][0]["text"])

    def stop(self) -> None:
        family = processes.descendants(self._process.pid)
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(_WAIT_S)
        for one in self._readers:
            one.join()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
        assert code == 0, "".join(self._err)
        assert processes.alive(family) == set()

    def kill(self) -> None:
        """What a failed test leaves."""
        if self._process.poll() is None:
            self.stop()


def _save(file: pathlib.Path, text: str) -> None:
    """Write a file that is looked at meanwhile, in one step: half of it would be a version of its own."""
    new = file.parent.with_name(f"new-{file.name}")
    new.write_text(text)
    new.replace(file)


@pytest.fixture
def environ(tmp_path: pathlib.Path) -> dict[str, str]:
    home = tmp_path / "home"
    home.mkdir()
    pinned.share(home)
    around = {name: value for name, value in os.environ.items() if not name.startswith(("SMCP_", "XDG_"))}
    state, config = str(home / "state"), str(home / "config")
    return {**around, "HOME": str(home), "SMCP_PLATFORM_DATA_DIR": state, "SMCP_CONFIG": config}


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    made = tmp_path / "small"
    made.mkdir()
    (made / "pyproject.toml").write_text('[project]\nname = "small"\nversion = "1"\ndependencies = []\n')
    (made / "requirements.txt").write_text("")
    (made / "smcp.toml").write_text('command = "server.py"\n')
    (made / "server.py").write_text(_SERVER.replace("ANSWER", "one"))
    return made


@pytest.fixture
def dev(folder: pathlib.Path, environ: dict[str, str]) -> Iterator[Dev]:
    made = Dev(folder, environ)
    yield made
    made.kill()


@pytest.mark.requirement("dev:change:deploys")
@pytest.mark.requirement("dev:broken:goes-on")
@pytest.mark.requirement("dev:log:shown")
@pytest.mark.requirement("dev:state:kept")
def test_a_change_is_live_a_broken_one_is_told_and_the_version_before_goes_on(
    dev: Dev, folder: pathlib.Path, environ: dict[str, str]
) -> None:
    ready = dev.event("ready")
    assert ready["tools"] == ["say"]
    assert dev.call(ready) == "one"
    dev.logged("hello from one")
    _save(folder / "server.py", _SERVER.replace("ANSWER", "two"))
    assert dev.event("live")["deployment"] is not None
    assert dev.call(ready) == "two"
    dev.logged("hello from two")
    _save(folder / "server.py", "nothing like Python (")
    assert "SyntaxError" in dev.event("failed")["error"]["message"]
    assert dev.call(ready) == "two"
    # A file that comes along counts as well, and the manifest does.
    _save(folder / "other.py", _SERVER.replace("ANSWER", "three"))
    dev.event("failed")
    _save(folder / "smcp.toml", 'command = "other.py"\n')
    dev.event("live")
    assert dev.call(ready) == "three"
    dev.stop()
    again = Dev(folder, environ)
    try:
        back = again.event("ready")
        assert (back["server"], back["profile"]) == (ready["server"], ready["profile"])
        assert again.call(back) == "three"
    finally:
        again.kill()


@pytest.mark.requirement("dev:broken:goes-on")
def test_a_folder_that_is_no_server_yet_is_told_and_waited_for(folder: pathlib.Path, environ: dict[str, str]) -> None:
    (folder / "smcp.toml").write_text("command = 5\n")
    dev = Dev(folder, environ)
    try:
        assert "command" in dev.event("failed")["error"]["message"]
        _save(folder / "smcp.toml", 'command = "server.py"\n')
        assert dev.call(dev.event("ready")) == "one"
    finally:
        dev.kill()
