"""The official suite's client leg, with the driver for remote servers as the client that it is for."""

import json
import pathlib
import sys
from collections import Counter
from typing import Any

import pytest

from support import node

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

_SUITE = node.MODULES / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
_TESTS = pathlib.Path(__file__).resolve().parents[2]

_LEGACY, _MODERN = "2025-11-25", "2026-07-28"


@pytest.mark.requirement("mcp:suite:client-leg")
@pytest.mark.parametrize(
    ("revision", "scenario", "checks"),
    [
        (_MODERN, "request-metadata", 5),
        (_MODERN, "http-standard-headers", 9),
        (_MODERN, "http-custom-headers", 18),
        (_MODERN, "http-invalid-tool-headers", 12),
        (_MODERN, "sep-2322-client-request-state", 5),
        (_MODERN, "tools_call", 2),
        (_MODERN, "json-schema-ref-no-deref", 1),
        (_LEGACY, "initialize", 1),
        (_LEGACY, "tools_call", 2),
        (_LEGACY, "sse-retry", 3),
    ],
)
def test_the_driver_for_remote_servers_passes(
    tmp_path: pathlib.Path, revision: str, scenario: str, checks: int
) -> None:
    done = node.run(
        _SUITE,
        *("client", "--command", f"{sys.executable} -m support.upstream_client"),
        # By itself the suite gives the client 30 s, which is a verdict on the machine.
        *("--scenario", scenario, "--spec-version", revision, "--timeout", "240000", "-o", str(tmp_path)),
        environ={"PYTHONPATH": str(_TESTS)},
        timeout_s=300,
    )
    found: list[dict[str, Any]] = [
        one for path in tmp_path.rglob("checks.json") for one in json.loads(path.read_text("utf-8"))
    ]
    told = Counter(one["status"] for one in found)
    wrong = [(one["id"], one.get("errorMessage")) for one in found if one["status"] in ("FAILURE", "WARNING")]
    assert (done.returncode, wrong) == (0, []), done.stdout[-4000:] + done.stderr[-2000:]
    assert told["SUCCESS"] == checks, told
