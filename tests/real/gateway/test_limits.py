"""Limits on a running platform: told before they refuse, held at the edge, seen in log, trail and metrics."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx2
import pytest

from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_WAIT_S = 60.0
_CALL: Final[dict[str, Any]] = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    settings = {
        "SMCP_LIMITS_TENANT_PER_MINUTE": "40",
        "SMCP_LIMITS_PRINCIPAL_PER_MINUTE": "20",
        "SMCP_LIMITS_STANDARD": "session_per_minute=5",
        "SMCP_LIMITS_UNAUTHENTICATED_PER_MINUTE": "4",
        "SMCP_LOG_FORMAT": "json",
    }
    with Platform(tmp_path_factory.mktemp("limits"), settings) as started:
        yield started


@pytest.fixture
def tenant(platform: Platform, request: pytest.FixtureRequest) -> tuple[str, str]:
    """A tenant of the test's own, and an admin key of it."""
    name = f"t{abs(hash(request.node.name)) % 10**9}"
    platform.create_tenant(name)
    return name, platform.create_key(name, "admin")


def post(platform: Platform, tenant: str, secret: str, session: str = "") -> httpx2.Response:
    headers = {"Authorization": f"Bearer {secret}", "Accept": "application/json, text/event-stream"}
    if session:
        headers["Mcp-Session-Id"] = session
    url = f"{platform.base_url}/t/{tenant}/none/mcp"
    return httpx2.post(url, json=_CALL, headers=headers, timeout=120.0, verify=False)  # plain HTTP: see Platform.api


def until(check: Callable[[], bool]) -> None:
    end = time.monotonic() + _WAIT_S
    while not check():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.2)


@pytest.mark.requirement("gateway:limits:told")
def test_every_answer_to_a_known_caller_tells_what_is_left_and_the_last_one_refuses(
    platform: Platform, tenant: tuple[str, str]
) -> None:
    name, secret = tenant
    left: list[int] = []
    for _ in range(20):
        answer = post(platform, name, secret)
        assert answer.status_code == 404, "there is no such server"
        assert answer.headers["ratelimit-policy"] == '"tenant";q=40;w=60, "principal";q=20;w=60'
        left.append(int(answer.headers["ratelimit"].split('"principal";r=')[1].split(";")[0]))
    assert left == list(range(19, -1, -1))
    refused = post(platform, name, secret)
    assert refused.status_code == 429
    assert '"principal";r=0' in refused.headers["ratelimit"]
    assert 1 <= int(refused.headers["retry-after"]) <= 61
    # Another key of the tenant has a rate of its own, within the tenant's.
    other = platform.create_key(name, "admin")
    assert [post(platform, name, other).status_code for _ in range(21)] == [404] * 20 + [429]
    assert post(platform, name, platform.create_key(name, "admin")).status_code == 429, "the tenant's 40 are used up"


@pytest.mark.requirement("gateway:limits:told")
def test_a_session_has_a_rate_of_its_own(platform: Platform, tenant: tuple[str, str]) -> None:
    name, secret = tenant
    answers = [post(platform, name, secret, "a-session") for _ in range(6)]
    assert [answer.status_code for answer in answers] == [404] * 5 + [429]
    assert '"session";q=5;w=60' in answers[0].headers["ratelimit-policy"]
    assert post(platform, name, secret, "another-session").status_code == 404


@pytest.mark.requirement("gateway:limits:told")
def test_who_is_unknown_has_a_small_rate_and_learns_nothing(platform: Platform, tenant: tuple[str, str]) -> None:
    answers = [post(platform, tenant[0], "smcp_wrong") for _ in range(6)]
    assert [answer.status_code for answer in answers] == [401] * 4 + [429] * 2
    assert all("ratelimit" not in answer.headers for answer in answers)
    assert post(platform, *tenant).status_code == 404, "a neighbour with a key does not pay for it"


@pytest.mark.requirement("gateway:limits:warned")
def test_a_crossing_is_in_the_log_the_trail_and_the_metrics_once(platform: Platform, tenant: tuple[str, str]) -> None:
    name, secret = tenant
    for _ in range(17):
        post(platform, name, secret)

    def told() -> list[dict[str, Any]]:
        items = platform.api("GET", f"/tenants/{name}/audit?limit=1000")["items"]
        return [one["event"] for one in items if one["event"]["event"] == "limit_crossed"]

    until(lambda: len(told()) == 1)
    for _ in range(9):
        post(platform, name, secret)
    until(lambda: len(told()) == 2)
    assert [(one["limit"], one["state"], one["most"]) for one in told()] == [
        ("principal_per_minute", "warning", 20),
        ("principal_per_minute", "reached", 20),
    ]
    # But for a line that is just being written: this test's own are older.
    whole = platform.log.read_text("utf-8").rpartition("\n")[0]
    lines = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
    mine = [line["event"] for line in lines if line.get("tenant") == name and "limit" in line]
    assert mine == ["a tenant nears a limit", "a tenant reached a limit"]
    headers = {"Authorization": f"Bearer {platform.operator_key}"}
    metrics = httpx2.get(f"{platform.base_url}/metrics", headers=headers, timeout=120.0, verify=False).text
    assert 'smcp_limit_crossings_total{limit="principal_per_minute",state="warning"}' in metrics


@pytest.mark.requirement("cli:limits:shown")
def test_the_command_line_shows_limits_and_sets_plans(platform: Platform, tenant: tuple[str, str]) -> None:
    name, _ = tenant
    shown = platform.smcp("limits", "--tenant", name)
    assert shown["plan"] == "standard"
    assert {one["name"]: one["limit"] for one in shown["limits"]}["tenant_per_minute"] == 40
    would = platform.smcp("tenant", "plan", name, "custom", "--limit", "storage_bytes=1", "--dry-run")
    assert [one["name"] for one in would["above"]] == ["storage_bytes"]
    assert platform.smcp("limits", "--tenant", name)["plan"] == "standard"
    platform.smcp("tenant", "plan", name, "custom", "--base", "free", "--limit", "tenant_per_minute=30")
    limits = platform.smcp("limits", "--tenant", name)
    assert (limits["plan"], limits["base"]) == ("custom", "free")
    assert {one["name"]: one["limit"] for one in limits["limits"]}["tenant_per_minute"] == 30
