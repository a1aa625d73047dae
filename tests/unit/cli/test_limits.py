"""`smcp limits` and `smcp tenant plan`, for people."""

import http.server
import json
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from smcp.cli import limits, main

pytestmark = pytest.mark.requirement("cli:limits:shown")


def _limit(name: str, unit: str, most: int, used: int | None, state: str) -> dict[str, Any]:
    left = None if used is None else most - used
    return {"name": name, "unit": unit, "limit": most, "used": used, "remaining": left, "resets": None, "state": state}


_SHOWN = {
    "tenant": "acme",
    "plan": "custom",
    "base": "free",
    "state": "warning",
    "limits": [
        _limit("tenant_per_minute", "requests", 12_000, 600, "ok"),
        _limit("storage_bytes", "bytes", 268_435_456, 240_000_000, "warning"),
        _limit("spares", "copies", 0, None, "ok"),
    ],
}


class _Api(http.server.BaseHTTPRequestHandler):
    """Notes every request, and answers as the admin API would."""

    seen: list[tuple[str, str, Any]]

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append((self.command, self.path, json.loads(body) if body else None))
        above = [_limit("instances", "copies", 4, 7, "reached")]
        shown: Any = _SHOWN if self.command == "GET" else {"applied": False, "above": above, "limits": _SHOWN}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(shown).encode())

    def do_GET(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Tests stay quiet."""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Iterator[list[tuple[str, str, Any]]]:
    """What the API was asked."""
    asked: list[tuple[str, str, Any]] = []
    handler = type("Handler", (_Api,), {"seen": asked})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    monkeypatch.setenv("SMCP_CONFIG", str(tmp_path))
    monkeypatch.setenv("SMCP_URL", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("SMCP_API_KEY", "smcp_acme_none")
    yield asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_limits_are_a_table_with_units_and_states(
    seen: list[tuple[str, str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["limits", "--tenant", "acme"]) == 0
    out = capsys.readouterr().out
    assert "custom (on free)" in out
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert lines["tenant_per_minute"][1:4] == ["600", "12,000", "5"]
    assert lines["storage_bytes"][1:7] == ["228.9", "MiB", "256.0", "MiB", "89", "%"]
    assert lines["storage_bytes"][-1] == "warning"
    assert lines["spares"][1] == "–"
    assert seen == [("GET", "/api/v1/tenants/acme/limits", None)]


def test_a_plan_is_sent_with_its_numbers_and_what_is_above_it_is_told(
    seen: list[tuple[str, str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["tenant", "plan", "acme", "custom", "--base", "free", "--limit", "instances=4", "--dry-run"]
    assert main.run(words) == 0
    said = capsys.readouterr()
    assert seen == [
        (
            "PUT",
            "/api/v1/tenants/acme/plan?dry_run=true",
            {"plan": "custom", "base": "free", "limits": {"instances": 4}},
        )
    ]
    assert "Used above the new plan" in said.err
    assert "Nothing was changed" in said.err


@pytest.mark.parametrize("wrong", ["instances", "instances=", "instances=-1", "instances=1.5", "instances=٣"])
def test_what_is_no_number_is_refused_before_anything_is_sent(
    wrong: str, seen: list[tuple[str, str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["tenant", "plan", "acme", "custom", "--limit", wrong]) == 2
    assert "is not NAME=NUMBER" in capsys.readouterr().err
    assert seen == []


@pytest.mark.parametrize(
    ("number", "unit", "shown"),
    [(0, "bytes", "0 bytes"), (1023, "bytes", "1023 bytes"), (1024, "bytes", "1.0 KiB"), (10_000, "keys", "10,000"),
     (None, "bytes", "–")],
)  # fmt: skip
def test_amounts(number: int | None, unit: str, shown: str) -> None:
    assert limits.amount(number, unit) == shown
