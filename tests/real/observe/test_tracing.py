"""Spans from a running platform to a collector, and the context on its way to the hosted server."""

import asyncio
import json

import pytest
from opentelemetry.proto.trace.v1 import trace_pb2

from support import wire
from support.clients import Endpoint
from support.collector import Collector, told

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

SERVER, CLIENT = trace_pb2.Span.SPAN_KIND_SERVER, trace_pb2.Span.SPAN_KIND_CLIENT


def parent(number: int, flags: str = "01") -> str:
    """A client's trace context, told apart by a number."""
    return f"00-{number:032x}-{'2' * 16}-{flags}"


async def _request(seen: Collector, number: int, *kinds: int) -> list[trace_pb2.Span]:
    """The spans of a client's trace that have come once one of each of `kinds` has: they are sent as they end."""
    trace_id = number.to_bytes(16, "big")
    for kind in kinds:
        await asyncio.to_thread(seen.wait, lambda span, kind=kind: span.trace_id == trace_id and span.kind == kind)
    return await asyncio.to_thread(seen.wait, lambda span: span.trace_id == trace_id)


@pytest.mark.requirement("gateway:traces:context", "gateway:traces:sent")
async def test_a_call_is_one_trace_from_the_client_to_the_hosted_server(caller: wire.Caller, seen: Collector) -> None:
    meta = {"traceparent": parent(11, "00"), "tracestate": "a=b", "baggage": "c=d", "own": {"kept": [1.0, 1]}}
    params = {"name": "do", "arguments": {"act": "meta"}, "_meta": meta}
    answer = await caller.modern("tools/call", params, traceparent=parent(12))
    heard = wire.said(wire.messages(answer)[-1])
    spans = await _request(seen, 11, CLIENT, SERVER)
    [server] = [one for one in spans if one.kind == SERVER]
    [forward] = [one for one in spans if one.kind == CLIENT]
    assert (server.name, forward.name) == ("tools/call do", "tools/call do")
    assert server.parent_span_id.hex() == "2" * 16
    assert forward.parent_span_id == server.span_id
    # What the server got is the trace itself; all else is as it was.
    assert heard["traceparent"] == f"00-{11:032x}-{forward.span_id.hex()}-01"
    assert {name: heard[name] for name in ("tracestate", "baggage", "own")} == {
        name: meta[name] for name in ("tracestate", "baggage", "own")
    }
    attributes = told(server)
    assert attributes["mcp.method.name"] == "tools/call"
    assert attributes["gen_ai.tool.name"] == "do"
    assert attributes["mcp.protocol.version"] == wire.MODERN
    assert attributes["smcp.tenant"] == "acme"
    assert attributes["smcp.server"] == "tool"
    assert attributes["http.response.status_code"] == 200
    assert seen.services == {"smcp"}


@pytest.mark.requirement("gateway:traces:context")
async def test_a_legacy_session_is_traced_by_its_digest_and_its_server_gets_the_context_of_the_headers(
    caller: wire.Caller, seen: Collector
) -> None:
    session = await caller.open()
    params = {"name": "do", "arguments": {"act": "meta"}}
    answer = await caller.legacy(session, "tools/call", params, traceparent=parent(21))
    heard = wire.said(wire.messages(answer)[-1])
    spans = await _request(seen, 21, CLIENT, SERVER)
    [server] = [one for one in spans if one.kind == SERVER]
    assert heard["traceparent"].startswith(f"00-{21:032x}-")
    digest = told(server)["mcp.session.id"]
    assert isinstance(digest, str)
    assert len(digest) == 16
    assert digest not in session
    assert not [one for one in seen.spans if session in json.dumps(told(one))]


@pytest.mark.requirement("gateway:traces:errors")
async def test_errors_are_told_by_their_kind_and_invented_tools_are_no_names(
    caller: wire.Caller, seen: Collector
) -> None:
    unknown = {"name": "invented", "arguments": {"act": "meta"}}
    await caller.modern("tools/call", unknown, traceparent=parent(31))
    await caller.modern("invented/method", traceparent=parent(32))
    for number, name in ((31, "tools/call"), (32, "_OTHER")):
        spans = await _request(seen, number, CLIENT, SERVER)
        assert {one.name for one in spans} == {name}
    missing = wire.Caller(caller.http, Endpoint(caller.url.replace("/tool/", "/none/"), caller.at.key))
    assert (await missing.modern("tools/list", traceparent=parent(33))).status_code == 404
    [refused] = await _request(seen, 33, SERVER)
    assert told(refused)["error.type"] == "not_found"
    assert refused.status.code == trace_pb2.Status.STATUS_CODE_ERROR
    assert refused.status.message == ""


@pytest.mark.requirement("gateway:traces:known-only")
async def test_who_is_not_known_gets_nothing_recorded(caller: wire.Caller, seen: Collector) -> None:
    for number in range(41, 46):
        fields, body = wire.modern("tools/list")
        more = {"authorization": "Bearer smcp_acme_nonsense", "traceparent": parent(number)}
        assert (await caller.http.post(caller.url, headers={**fields, **more}, content=body)).status_code == 401
    await caller.modern("tools/list", traceparent=parent(46))
    await _request(seen, 46, SERVER)
    # Spans leave in the order in which they ended.
    assert not [one for one in seen.spans if 41 <= int.from_bytes(one.trace_id, "big") <= 45]


@pytest.mark.requirement("gateway:traces:sent")
def test_a_deployment_is_a_trace_of_its_own(at: Endpoint, seen: Collector) -> None:
    [whole] = seen.wait(lambda span: span.name == "smcp.deploy")
    steps = seen.wait(lambda span: span.trace_id == whole.trace_id and span.name != "smcp.deploy", 2)
    assert [one.name for one in steps] == ["smcp.deploy.build", "smcp.deploy.probe"]
    assert {one.parent_span_id for one in steps} == {whole.span_id}
    assert told(whole) == {"smcp.tenant": "acme", "smcp.server": "tool"}
