"""The page of a platform at work, read with Prometheus' own reader."""

import re
from typing import Final

import httpx2
import pytest
from prometheus_client import parser

from smcp.kernel import observe
from support import wire, words
from support.clients import Endpoint
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_ANSWERS: Final = "http_server_request_duration_seconds_count"


async def _page(platform: Platform, key: str | None = None) -> httpx2.Response:
    async with httpx2.AsyncClient(timeout=60.0, verify=False) as client:  # plain HTTP: see Platform.api
        bearer = {"authorization": f"Bearer {key or platform.operator_key}"}
        return await client.get(f"{platform.base_url}/metrics", headers=bearer)


async def _values(platform: Platform) -> dict[str, float]:
    """Every sample, as `name{label="value",…}` with its labels in order."""
    answer = await _page(platform)
    assert answer.status_code == 200
    return {
        sample.name + "".join(f" {name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in parser.text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


@pytest.mark.requirement("gateway:metrics:fed")
async def test_what_is_answered_refused_and_waited_for_is_on_the_page(platform: Platform, caller: wire.Caller) -> None:
    before = await _values(platform)
    for _ in range(3):
        await caller.act("meta")
    wrong = wire.Caller(caller.http, Endpoint(caller.url.replace("/tool/", "/none/"), caller.at.key))
    assert (await wrong.modern("tools/list")).status_code == 404
    assert "error" in wire.messages(await caller.modern("invented/method"))[-1]
    unknown = wire.Caller(caller.http, Endpoint(caller.url, "smcp_acme_nonsense"))
    assert (await unknown.modern("tools/list")).status_code == 401
    after = await _values(platform)

    def more(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    http = f"{_ANSWERS} http_request_method=POST http_response_status_code={{}} surface=gateway"
    # No such server, and no such method (MCP 2026-07-28 has 404 for both).
    assert (more(http.format(404)), more(http.format(401))) == (2, 1)
    assert more(http.format(200)) >= 3
    assert more("smcp_errors_total error_type=not_found surface=gateway") == 1
    assert more("smcp_errors_total error_type=unauthenticated surface=gateway") == 1
    assert more("smcp_errors_total error_type=rpc_error surface=gateway") == 1
    assert after["http_server_active_requests surface=gateway"] == 0
    assert after["http_server_active_requests surface=control"] == 1  # this scrape
    assert after["smcp_event_loop_lag_seconds_count"] > 0
    assert after["smcp_store_operation_duration_seconds_count interface=kv"] > 0
    assert after["smcp_store_silence_seconds"] >= 0
    assert 0 < after["smcp_disk_free_bytes"] <= after["smcp_disk_size_bytes"]
    assert after["smcp_audit_queue_capacity_entries"] > 0
    assert after["smcp_audit_failing_trails"] == 0


@pytest.mark.requirement("gateway:metrics:bounded")
async def test_nothing_that_a_caller_sends_becomes_a_label(platform: Platform, caller: wire.Caller) -> None:
    await caller.act("meta")
    for number in range(20):
        name = f"canary{number}"
        await caller.modern(name)
        await caller.modern("tools/call", {"name": name, "arguments": {"act": "meta"}})
        other = caller.url.replace("/tool/", f"/{name}/")
        await caller.http.request(name.upper(), other, headers={**caller.bearer, "mcp-protocol-version": name})
    page = (await _page(platform)).text
    assert "canary" not in page.lower()
    assert not words.stands("acme", page)
    allowed = {metric.value: dict(definition.labels) for metric, definition in observe.DEFINITIONS.items()}
    for family in parser.text_string_to_metric_families(page):
        for sample in family.samples:
            known = allowed.get(re.sub(r"_(bucket|sum|count)$", "", sample.name)) or allowed.get(sample.name) or {}
            for label, value in sample.labels.items():
                assert label == "le" or not known.get(label) or value in known[label], sample


@pytest.mark.requirement("gateway:metrics:protected")
async def test_the_page_is_for_operators_and_health_is_for_everybody(platform: Platform, at: Endpoint) -> None:
    assert (await _page(platform, at.key)).status_code in (403, 404)
    assert (await _page(platform, "nonsense")).status_code == 401
    async with httpx2.AsyncClient(timeout=60.0, verify=False) as client:
        for path in ("healthz", "readyz"):
            assert (await client.get(f"{platform.base_url}/{path}")).status_code == 200
