"""`smcp secret`: where a value is taken from, and where it is refused and not repeated."""

import base64
import http.server
import io
import json
import os
import pathlib
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import click
import pytest
from click import shell_completion

from smcp.cli import failures, main

pytestmark = pytest.mark.requirement("deploy:secrets:command-line")

_CANARY = "canary-9Zk3vUq0w"
_LISTED = {"name": "API_KEY", "version": 1, "kind": "env", "created": 1.0, "by": "key-1"}


class _Api(http.server.BaseHTTPRequestHandler):
    """Notes every request, and answers as the admin API would."""

    seen: list[tuple[str, str, Any]]

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append((self.command, self.path, json.loads(body) if body else None))
        shown: Any = {"items": [_LISTED], "next": None} if self.command == "GET" else _LISTED
        self.send_response(204 if self.command == "DELETE" else 200)
        self.end_headers()
        if self.command != "DELETE":
            self.wfile.write(json.dumps(shown).encode())

    def do_GET(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Tests stay quiet."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Iterator[list[tuple[str, str, Any]]]:
    """What the API was asked."""
    noted: list[tuple[str, str, Any]] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Api,), {"seen": noted}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("SMCP_URL", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("SMCP_API_KEY", "smcp_acme_0123456789secret")
    monkeypatch.setenv("SMCP_CONFIG", str(tmp_path / "config"))
    yield noted
    server.shutdown()
    thread.join()
    server.server_close()


def _run(monkeypatch: pytest.MonkeyPatch, *argv: str, stdin: bytes = b"") -> int:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    return main.run(["secret", *argv])


def _value(body: Any) -> bytes:
    return base64.b64decode(body["value_base64"], validate=True)


@pytest.mark.parametrize(
    ("sent", "value"),
    [
        (b"abc", b"abc"),
        (b"abc\n", b"abc"),
        (b"abc\r\n", b"abc"),
        (b"abc\n\n", b"abc\n"),
        (b"a\nb\n", b"a\nb"),
        (b"\xff\0\n", b"\xff\0"),
    ],
)
def test_a_value_from_a_pipe_is_sent_as_it_is_but_for_its_last_newline(
    seen: list[tuple[str, str, Any]], monkeypatch: pytest.MonkeyPatch, sent: bytes, value: bytes
) -> None:
    assert _run(monkeypatch, "set", "acme/time", "API_KEY", stdin=sent) == 0
    [(method, path, body)] = seen
    assert (method, path) == ("PUT", "/api/v1/tenants/acme/servers/time/secrets/API_KEY")
    assert _value(body) == value
    assert "kind" not in body


def test_a_value_from_a_file_is_sent_byte_for_byte_and_a_kind_when_asked_for(
    seen: list[tuple[str, str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    source = tmp_path / "value"
    source.write_bytes(b"\xff\0 value\n")
    taken = ("--from-file", str(source))
    assert _run(monkeypatch, "rotate", "acme/time", "CERT", *taken, "--file", stdin=b"not this") == 0
    assert _run(monkeypatch, "set", "acme/time", "CERT", *taken, "--env") == 0
    assert [(method, path.rpartition("secrets/")[2], body["kind"]) for method, path, body in seen] == [
        ("POST", "CERT/rotate", "file"),
        ("PUT", "CERT", "env"),
    ]
    assert {_value(body) for _, _, body in seen} == {b"\xff\0 value\n"}


@pytest.mark.parametrize("command", ["set", "rotate"])
@pytest.mark.parametrize(
    "words",
    [[f"API_KEY={_CANARY}"], ["API_KEY", _CANARY], ["API_KEY", "--", _CANARY], ["API_KEY", "x", f"y={_CANARY}"]],
)
def test_a_value_on_the_command_line_is_refused_with_the_reason_and_not_repeated(
    seen: list[tuple[str, str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    command: str,
    words: list[str],
) -> None:
    for more in ([], ["--json"]):
        code = _run(monkeypatch, command, *more, "acme/time", *words, stdin=b"piped")
        shown = "".join(capfd.readouterr())
        assert code == failures.Exit.USAGE
        assert "process list" in shown
        assert _CANARY not in shown
    assert seen == []


@pytest.mark.parametrize(
    ("words", "stdin"),
    [
        (["9KEY"], b"x"),
        (["A-B"], b"x"),
        (["K" * 129], b"x"),
        (["API_KEY"], b""),
        (["API_KEY"], b"\n"),
        (["API_KEY"], b"x" * 65_537),
        (["API_KEY", "--from-file", "/nonexistent"], b"x"),
    ],
)
def test_what_is_no_name_or_no_value_is_not_sent(
    seen: list[tuple[str, str, Any]], monkeypatch: pytest.MonkeyPatch, words: list[str], stdin: bytes
) -> None:
    assert _run(monkeypatch, "set", "acme/time", *words, stdin=stdin) == failures.Exit.USAGE
    assert seen == []


def test_at_a_terminal_the_value_is_asked_for_without_echo(seen: list[tuple[str, str, Any]]) -> None:
    ours, theirs = pty.openpty()
    command = [str(pathlib.Path(sys.executable).with_name("smcp")), "secret", "set", "acme/time", "API_KEY"]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=dict(os.environ), start_new_session=True
    )
    os.close(theirs)
    shown = b""
    while b"not shown" not in shown:
        shown += os.read(ours, 1024)
    os.write(ours, f"{_CANARY}\n".encode())
    try:
        while chunk := os.read(ours, 1024):
            shown += chunk
    except OSError:  # EIO: the terminal's other side is closed (pty(7))
        pass
    assert process.wait(60) == 0
    os.close(ours)
    [(_, _, body)] = seen
    assert _value(body) == _CANARY.encode()
    assert _CANARY.encode() not in shown
    assert b"API_KEY" in shown


def test_deleting_asks_says_what_it_would_do_and_does_it_with_yes(
    seen: list[tuple[str, str, Any]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "delete", "acme/time", "API_KEY") == failures.Exit.USAGE
    assert _run(monkeypatch, "delete", "acme/time", "API_KEY", "--dry-run", "--json") == 0
    assert json.loads(capfd.readouterr().out)["would_delete"]["name"] == "API_KEY"
    assert _run(monkeypatch, "delete", "acme/time", "OTHER", "--yes") == failures.Exit.NOT_FOUND
    assert {method for method, _, _ in seen} == {"GET"}
    assert _run(monkeypatch, "delete", "acme/time", "API_KEY", "--yes") == 0
    assert seen[-1][:2] == ("DELETE", "/api/v1/tenants/acme/servers/time/secrets/API_KEY")


def test_the_list_is_a_table_or_json_and_names_are_completed(
    seen: list[tuple[str, str, Any]], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "list", "acme/time") == 0
    assert "API_KEY" in capfd.readouterr().out
    assert _run(monkeypatch, "list", "acme/time", "--json") == 0
    assert json.loads(capfd.readouterr().out) == {"items": [_LISTED]}
    assert isinstance(main.smcp, click.Command)
    completer = shell_completion.ShellComplete(main.smcp, {}, "smcp", "_SMCP_COMPLETE")
    found = completer.get_completions(["secret", "rotate", "acme/time"], "API")
    assert [one.value for one in found] == ["API_KEY"]
    assert completer.get_completions(["secret", "rotate", "acme/time"], "X") == []
