"""`smcp object` against a running platform: any bytes get there and back, and nothing is destroyed without a word."""

import io
import json
import os
import pathlib
import pty
import subprocess
import sys
from collections.abc import Generator
from typing import Any

import pytest

from smcp.cli import failures, main
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(600), pytest.mark.requirement("workers:objects:outside")]

DATA = bytes(range(256)) * 12_000 + b"\n"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Generator[Platform]:
    """One with the tenants acme and umbra."""
    with Platform(tmp_path_factory.mktemp("objects")) as opened:
        opened.create_tenant("acme")
        opened.create_tenant("umbra")
        yield opened


class Terminal:
    """Runs `smcp object` as a tenant's administrator."""

    def __init__(
        self, platform: Platform, key: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[bytes]
    ) -> None:
        self.environment = {"SMCP_URL": platform.base_url, "SMCP_API_KEY": key}
        self.err = b""
        self._patch = monkeypatch
        self._capfd = capfd

    def run(self, *argv: str, stdin: bytes = b"", code: int = 0, command: str = "object") -> bytes:
        """What it wrote to stdout; `err` has the rest."""
        for name, value in self.environment.items():
            self._patch.setenv(name, value)
        self._patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        ended = main.run([command, *argv])
        out, self.err = self._capfd.readouterr()
        assert ended == code, self.err
        return out

    def json(self, *argv: str, stdin: bytes = b"", code: int = 0, command: str = "object") -> Any:
        """The document that it wrote to stdout."""
        return json.loads(self.run(*argv, "--json", stdin=stdin, code=code, command=command))


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
    source, target = tmp_path / "page.html", tmp_path / "target"
    source.write_bytes(DATA)
    acme.run("put", "acme/bytes", "from file", str(source), "--metadata", "by=Ada", "--cache-control", "no-cache")
    acme.run("put", "acme/bytes", "from/stdin", "--type", "text/x", stdin=DATA)
    assert acme.run("get", "acme/bytes", "from file") == DATA
    target.write_bytes(b"before")
    made = acme.json("get", "acme/bytes", "from/stdin", str(target))
    assert (target.read_bytes(), made["file"], made["bytes"]) == (DATA, str(target), len(DATA))
    assert target.stat().st_mode & 0o077 == 0
    shown = acme.json("head", "acme/bytes", "from file")
    assert shown["http"] == {"Content-Type": "text/html", "Cache-Control": "no-cache"}
    assert shown["metadata"] == {"by": "Ada"}
    assert b"text/x" in acme.run("head", "acme/bytes", "from/stdin")
    assert acme.json("list", "acme/bytes", "--delimiter", "/")["prefixes"] == ["from/"]
    assert [one["key"] for one in acme.json("list", "acme/bytes", "-n", "1")["items"]] == ["from file"]
    assert b"from/stdin" in acme.run("list", "acme/bytes", "--prefix", "from/")
    assert {"name": "bytes", "objects": 2} in acme.json("buckets", "--tenant", "acme")["items"]
    acme.run("put", "acme/bytes", "from file", "--absent", stdin=b"x", code=failures.Exit.FAILED)
    acme.run("get", "acme/bytes", "absent", code=failures.Exit.NOT_FOUND)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["page.html", "target"]


def test_a_download_goes_on_where_it_ended_if_the_object_is_the_same(acme: Terminal, tmp_path: pathlib.Path) -> None:
    etag = acme.json("put", "acme/resumed", "k", stdin=DATA)["etag"]
    target, partial = tmp_path / "target", tmp_path / f".target.{etag}.part"
    partial.write_bytes(DATA[:1_000_000])
    acme.run("get", "acme/resumed", "k", str(target))
    assert (target.read_bytes(), partial.exists()) == (DATA, False)
    partial.write_bytes(b"x" + DATA[1:1_000_000])
    acme.run("get", "acme/resumed", "k", str(target), code=failures.Exit.FAILED)
    assert b"etag" in acme.err
    assert (target.read_bytes(), partial.exists()) == (DATA, False)
    # Longer than the object: no part of it. As long: what was interrupted before it got its name.
    for gathered in (DATA + b"x", DATA):
        partial.write_bytes(gathered)
        acme.run("get", "acme/resumed", "k", str(target))
        assert (target.read_bytes(), partial.exists()) == (DATA, False)
    other = acme.json("put", "acme/resumed", "k", stdin=b"another")["etag"]
    (tmp_path / f".target.{other}.part").symlink_to(target)
    acme.run("get", "acme/resumed", "k", str(target), code=failures.Exit.USAGE)
    assert target.read_bytes() == DATA


def test_nothing_is_destroyed_without_a_word(acme: Terminal) -> None:
    for key in ("a", "b", "c"):
        acme.run("put", "acme/kept", key, stdin=key.encode())
    assert acme.json("delete", "acme/kept", "a", "b", "--dry-run") == {"dry_run": True, "would_delete": ["a", "b"]}
    told = acme.json("delete-bucket", "acme/kept", "--dry-run")["would_delete"]
    assert (told["objects"], told["bytes"]) == (3, 3)
    acme.run("delete", "acme/kept", "a", code=failures.Exit.USAGE)
    acme.run("delete-bucket", "acme/kept", code=failures.Exit.USAGE)
    acme.run("delete", "acme/kept", "a", "absent", "--yes", code=failures.Exit.NOT_FOUND)
    assert len(acme.json("list", "acme/kept")["items"]) == 3
    acme.run("delete", "acme/kept", "a", "b", "--yes")
    assert [one["key"] for one in acme.json("list", "acme/kept")["items"]] == ["c"]
    assert acme.json("delete-bucket", "acme/kept", "--yes")["objects"] == 1
    assert "kept" not in [one["name"] for one in acme.json("buckets", "--tenant", "acme")["items"]]
    acme.run("delete-bucket", "acme/kept", "--yes", code=failures.Exit.NOT_FOUND)


def test_an_object_is_its_tenants_alone(acme: Terminal, platform: Platform) -> None:
    acme.run("put", "acme/secret-plans", "k", stdin=b"acme's")
    acme.environment["SMCP_API_KEY"] = platform.create_key("umbra", "admin")
    for argv in (("get",), ("head",), ("delete", "--yes"), ("put",)):
        acme.run(argv[0], "acme/secret-plans", "k", *argv[1:], code=failures.Exit.NOT_FOUND)
    acme.run("list", "acme/secret-plans", code=failures.Exit.NOT_FOUND)
    acme.run("buckets", "--tenant", "acme", code=failures.Exit.NOT_FOUND)
    acme.run("put", "umbra/secret-plans", "k", stdin=b"umbra's")
    assert acme.run("get", "umbra/secret-plans", "k") == b"umbra's"
    acme.environment["SMCP_API_KEY"] = platform.create_key("acme", "read_only")
    acme.run("get", "acme/secret-plans", "k", code=failures.Exit.REFUSED)
    acme.environment["SMCP_API_KEY"] = platform.create_key("acme", "admin")
    assert acme.run("get", "acme/secret-plans", "k") == b"acme's"


def test_a_terminal_gets_a_bar_and_no_bytes(acme: Terminal, tmp_path: pathlib.Path) -> None:
    acme.run("put", "acme/shown", "k", stdin=DATA)
    target = tmp_path / "target"
    ours, theirs = pty.openpty()
    environment = {**os.environ, **acme.environment, "TERM": "xterm"}

    smcp = [sys.executable, "-c", "from smcp.cli import main; main.main()", "object", "get", "acme/shown", "k"]
    refused = subprocess.Popen(smcp, env=environment, stdout=theirs, stderr=subprocess.PIPE)
    assert b"terminal" in refused.communicate(timeout=100)[1]
    assert refused.returncode == failures.Exit.USAGE
    shown = subprocess.Popen([*smcp, str(target)], env=environment, stdout=subprocess.PIPE, stderr=theirs)
    assert b"Wrote" in shown.communicate(timeout=100)[0]
    assert target.read_bytes() == DATA
    os.close(theirs)
    assert b"MiB" in os.read(ours, 65_536)
    os.close(ours)
