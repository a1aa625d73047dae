"""`smcp kv` against a running platform: any bytes get there and back, and nothing is destroyed without a word."""

import io
import json
import os
import pathlib
import pty
import subprocess
import sys
import time
from collections.abc import Generator
from typing import Any

import pytest
from click import shell_completion

from smcp.cli import failures, main
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(600), pytest.mark.requirement("workers:kv:outside")]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Generator[Platform]:
    """One with the tenants acme and umbra."""
    with Platform(tmp_path_factory.mktemp("kv")) as opened:
        opened.create_tenant("acme")
        opened.create_tenant("umbra")
        yield opened


class Terminal:
    """Runs `smcp kv` as a tenant's administrator."""

    def __init__(
        self, platform: Platform, key: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[bytes]
    ) -> None:
        self.environment = {"SMCP_URL": platform.base_url, "SMCP_API_KEY": key}
        self._patch = monkeypatch
        self._capfd = capfd

    def run(self, *argv: str, stdin: bytes = b"", code: int = 0) -> bytes:
        """What it wrote to stdout; `err` has the rest."""
        for name, value in self.environment.items():
            self._patch.setenv(name, value)
        self._patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        ended = main.run(["kv", *argv])
        out, self.err = self._capfd.readouterr()
        assert ended == code, self.err
        return out

    def json(self, *argv: str, stdin: bytes = b"", code: int = 0) -> Any:
        """The document that it wrote to stdout."""
        return json.loads(self.run(*argv, "--json", stdin=stdin, code=code))


@pytest.fixture
def acme(
    platform: Platform,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
    tmp_path: pathlib.Path,
) -> Terminal:
    """Acme's, with profiles of its own."""
    monkeypatch.setenv("SMCP_CONFIG", str(tmp_path / "config"))
    return Terminal(platform, platform.create_key("acme", "admin"), monkeypatch, capfdbinary)


def test_bytes_get_there_and_back_as_they_are(acme: Terminal, tmp_path: pathlib.Path) -> None:
    data = bytes(range(256)) * 4000 + b"\n"
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    acme.run("put", "acme/bytes", "from file", "--from-file", str(source))
    acme.run("put", "acme/bytes", "from/stdin", stdin=data)
    acme.run("put", "acme/bytes", "from-line", "väl\n", "--metadata", '{"a": [1]}', "--expires", "2h")
    assert acme.run("get", "acme/bytes", "from file") == data
    assert acme.run("get", "acme/bytes", "from/stdin", "-o", str(target)) == b""
    assert target.read_bytes() == data
    shown = acme.json("get", "acme/bytes", "from-line")
    assert (shown["value"], shown["metadata"], shown["expires"] is not None) == ("väl\n", {"a": [1]}, True)
    listed = acme.json("list", "acme/bytes", "--prefix", "from")
    assert [(one["name"], one["bytes"]) for one in listed["items"]] == [
        ("from file", len(data)),
        ("from-line", 5),
        ("from/stdin", len(data)),
    ]
    assert len(acme.json("list", "acme/bytes", "-n", "2")["items"]) == 2
    assert "from/stdin" in acme.run("list", "acme/bytes").decode()


def test_nothing_is_destroyed_without_a_word(acme: Terminal) -> None:
    for name in ("a", "b"):
        acme.run("put", "acme/doomed", name, "12345")
    acme.run("delete", "acme/doomed", "a", code=failures.Exit.USAGE)
    assert b"Would delete a in acme/doomed." in acme.run("delete", "acme/doomed", "a", "--dry-run")
    acme.run("delete", "acme/doomed", "zz", "--dry-run", code=failures.Exit.NOT_FOUND)
    acme.run("delete", "acme/doomed", "zz", "--yes", code=failures.Exit.NOT_FOUND)
    assert acme.json("delete", "acme/doomed", "a", "--yes") == {"deleted": "a", "namespace": "acme/doomed"}
    told = {"name": "doomed", "keys": 1, "bytes": 5, "dry_run": True}
    assert acme.json("clear", "acme/doomed", "--dry-run") == {"dry_run": True, "would_delete": told}
    acme.run("clear", "acme/doomed", code=failures.Exit.USAGE)
    assert {"name": "doomed"} in acme.json("namespaces", "--tenant", "acme")["items"]
    assert acme.json("clear", "acme/doomed", "--yes") == told | {"dry_run": False}
    assert {"name": "doomed"} not in acme.json("namespaces", "--tenant", "acme")["items"]


def test_what_is_wrong_is_told_and_changes_nothing(acme: Terminal, tmp_path: pathlib.Path) -> None:
    acme.run("put", "acme/wrong", "k", "before")
    for argv in (
        ("put", "acme", "k", "v"),
        ("put", "acme/-", "k", "v"),
        ("put", "acme/wrong", "k", "v", "--expires", "1w"),
        ("put", "acme/wrong", "k", "v", "--expires", "10s"),
        ("put", "acme/wrong", "k", "v", "--metadata", "{"),
        ("put", "acme/wrong", "k", "v", "--from-file", str(tmp_path)),
        ("put", "acme/wrong", "k", "--from-file", str(tmp_path / "none")),
        ("put", "acme/wrong", "..", "v"),
        ("get", "acme/wrong", "k", "-o", str(tmp_path / "no" / "file")),
    ):
        acme.run(*argv, code=failures.Exit.USAGE)
    acme.run("get", "acme/wrong", "zz", code=failures.Exit.NOT_FOUND)
    acme.run("list", "umbra/wrong", code=failures.Exit.NOT_FOUND)
    assert [one["name"] for one in acme.json("list", "acme/wrong")["items"]] == ["k"]
    assert acme.run("get", "acme/wrong", "k") == b"before"


def test_names_and_keys_are_completed(acme: Terminal) -> None:
    acme.run("put", "acme/complete", "alpha", "v")
    acme.run("put", "acme/complete", "beta", "v")
    known = shell_completion.ShellComplete(main.smcp, {}, "smcp", "_SMCP_COMPLETE")

    def offered(args: list[str], incomplete: str) -> list[str]:
        return [one.value for one in known.get_completions(["kv", *args], incomplete)]

    def found(args: list[str], incomplete: str) -> list[str]:
        # An answer that takes more than a second is none: a person on a busy machine presses Tab again.
        deadline = time.monotonic() + 120
        while not (names := offered(args, incomplete)) and time.monotonic() < deadline:
            pass
        return names

    assert found(["get"], "acme/comp") == ["acme/complete"]
    assert found(["get", "acme/complete"], "al") == ["alpha"]
    assert offered(["get", "acme/none"], "") == []


def test_a_value_does_not_drive_the_terminal_that_shows_it(acme: Terminal) -> None:
    acme.run("put", "acme/hostile", "k", "\x1b]0;owned\x07")
    ours, theirs = pty.openpty()
    environment = {**os.environ, **acme.environment}
    argv = [sys.executable, "-c", "from smcp.cli import main; main.main()", "kv", "get", "acme/hostile", "k"]
    with os.fdopen(ours, "rb", buffering=0) as screen:
        subprocess.run(argv, stdout=theirs, env=environment, check=True)
        os.close(theirs)
        assert screen.read(1000).strip() == rb"\x1b]0;owned\x07"
