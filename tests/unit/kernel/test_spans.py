"""Spans, with OpenTelemetry's own SDK behind them."""

import pytest
from opentelemetry import trace
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.trace import export, sampling
from opentelemetry.sdk.trace.export import in_memory_span_exporter

from smcp.kernel import errors, observe

PARENT = f"00-{'1' * 32}-{'2' * 16}-01"
OTHER_PARENT = f"00-{'3' * 32}-{'4' * 16}-00"


class Recorder:
    """A provider, and what came of it."""

    def __init__(self, ratio: float = 1.0) -> None:
        self._kept = in_memory_span_exporter.InMemorySpanExporter()
        provider = sdk.TracerProvider(sampler=sampling.ALWAYS_ON, shutdown_on_exit=False)
        provider.add_span_processor(export.SimpleSpanProcessor(self._kept))
        self.traces = observe.Traces(provider, ratio=ratio)

    @property
    def spans(self) -> list[sdk.ReadableSpan]:
        return list(self._kept.get_finished_spans())


@pytest.mark.requirement("kernel:spans:off")
def test_without_a_provider_a_span_is_nothing_at_all() -> None:
    traces = observe.Traces()
    assert traces.on is False
    assert traces.request("tools/call", "echo", ({"traceparent": PARENT},), 1, {}) is None
    assert traces.step(observe.Span.DEPLOY) is traces.step(observe.Span.DEPLOY_BUILD)


@pytest.mark.requirement("kernel:spans:names")
def test_a_request_span_is_named_as_the_conventions_ask_and_continues_the_callers_trace() -> None:
    recorder = Recorder()
    request = recorder.traces.request(
        "tools/call",
        "echo",
        ({"traceparent": PARENT, "tracestate": "a=b"},),
        1_000,
        {"mcp.protocol.version": "2026-07-28"},
    )
    assert request is not None
    request.call("echo")
    request.waited(1_100, 1_200)
    context = request.forward()
    request.end("", {"http.response.status_code": 200})
    waited, forward, server = recorder.spans
    assert [one.name for one in recorder.spans] == ["smcp.instance.wait", "tools/call echo", "tools/call echo"]
    assert [one.kind for one in (server, forward)] == [trace.SpanKind.SERVER, trace.SpanKind.CLIENT]
    assert server.parent is not None
    assert f"{server.parent.trace_id:032x}" == "1" * 32
    assert f"{server.parent.span_id:016x}" == "2" * 16
    outer, sent = server.get_span_context(), forward.get_span_context()
    assert outer is not None
    assert sent is not None
    for below in (waited, forward):
        assert below.parent is not None
        assert below.parent.span_id == outer.span_id
    inner = sent.span_id
    assert context == {"traceparent": f"00-{'1' * 32}-{inner:016x}-01", "tracestate": "a=b"}
    assert server.start_time == 1_000
    told = dict(server.attributes or {})
    assert told == {
        "mcp.method.name": "tools/call",
        "mcp.protocol.version": "2026-07-28",
        "gen_ai.tool.name": "echo",
        "gen_ai.operation.name": "execute_tool",
        "network.transport": "tcp",
        "network.protocol.name": "http",
        "http.response.status_code": 200,
    }
    assert dict(forward.attributes or {})["network.transport"] == "pipe"
    assert server.status.status_code is trace.StatusCode.UNSET


@pytest.mark.requirement("kernel:spans:names")
def test_what_a_caller_invents_is_no_name_and_only_so_long() -> None:
    recorder = Recorder()
    request = recorder.traces.request("invented/method", "x" * 9999, ({},), 1, {"jsonrpc.request.id": "y" * 9999})
    call = recorder.traces.request("tools/call", "x" * 9999, ({},), 1, {})
    for one in (request, call):
        assert one is not None
        one.end("", {})
    assert [one.name for one in recorder.spans] == [observe.OTHER, "tools/call"]
    assert max(len(str(value)) for one in recorder.spans for value in dict(one.attributes or {}).values()) == 256


_CASES: list[tuple[tuple[dict[str, object], ...], str | None]] = [
    (({"traceparent": PARENT}, {"traceparent": OTHER_PARENT}), "1" * 32),
    (({}, {"traceparent": OTHER_PARENT}), "3" * 32),
    (({"traceparent": 7}, {"traceparent": OTHER_PARENT}), "3" * 32),
    (({"traceparent": "nonsense"}, {}), None),
    (({"traceparent": PARENT, "tracestate": "a=" + "b" * 600}, {}), "1" * 32),
    (({"traceparent": f"00-{'0' * 32}-{'2' * 16}-01"}, {}), None),
]


@pytest.mark.requirement("kernel:spans:context")
@pytest.mark.parametrize(("carriers", "trace_id"), _CASES)
def test_the_context_in_the_message_comes_before_the_one_in_the_headers(
    carriers: tuple[dict[str, object], ...], trace_id: str | None
) -> None:
    recorder = Recorder()
    request = recorder.traces.request("ping", "", carriers, 1, {})
    assert request is not None
    context = request.forward()
    request.end("", {})
    server = recorder.spans[-1]
    assert (None if server.parent is None else f"{server.parent.trace_id:032x}") == trace_id
    assert "tracestate" not in context


@pytest.mark.requirement("kernel:spans:not-forced")
def test_no_flag_and_no_trace_id_of_a_caller_gets_a_request_recorded_or_left_out() -> None:
    recorder = Recorder(ratio=0.0)
    for trace_id in ("0" * 31 + "1", "f" * 32, "1" * 32):
        carrier = {"traceparent": f"00-{trace_id}-{'2' * 16}-01"}
        assert recorder.traces.request("ping", "", (carrier,), 1, {}) is None
    half = Recorder(ratio=0.5)
    seen = [half.traces.request("ping", "", ({"traceparent": PARENT},), 1, {}) is None for _ in range(2000)]
    assert 700 < sum(seen) < 1300
    unsampled = Recorder().traces.request("ping", "", ({"traceparent": OTHER_PARENT},), 1, {})
    assert unsampled is not None


@pytest.mark.requirement("kernel:spans:private")
def test_a_failed_span_names_the_class_of_the_error_and_never_its_text() -> None:
    recorder = Recorder()
    with pytest.raises(errors.ServerFailed), recorder.traces.step(observe.Span.DEPLOY, tenant="acme"):
        raise errors.ServerFailed(detail="a secret")
    (span,) = recorder.spans
    assert span.status.status_code is trace.StatusCode.ERROR
    assert dict(span.attributes or {}) == {"smcp.tenant": "acme", "error.type": "ServerFailed"}
    assert not span.events


@pytest.mark.requirement("kernel:spans:private")
def test_an_error_ends_the_request_and_its_forwarding() -> None:
    recorder = Recorder()
    request = recorder.traces.request("tools/call", "echo", (), 1, {})
    assert request is not None
    request.forward()
    request.end("-32602", {"rpc.response.status_code": "-32602"})
    assert len(recorder.spans) == 2
    for span in recorder.spans:
        assert span.status.status_code is trace.StatusCode.ERROR
        assert dict(span.attributes or {})["error.type"] == "-32602"
