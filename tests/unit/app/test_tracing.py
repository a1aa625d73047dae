"""What turns spans on: OpenTelemetry's own variables, and nothing else."""

import io

import pytest

from smcp.app import tracing
from smcp.kernel import observe, settings

AT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}


def _tracing(environ: dict[str, str]) -> tuple[observe.Traces, str]:
    out = io.StringIO()
    made = tracing.Tracing(environ, observe.logger(settings.Log(format="json"), out), "1")
    made.close()
    return made.traces, out.getvalue()


def _recorded(traces: observe.Traces) -> int:
    return sum(traces.request("ping", "", (), 1, {}) is not None for _ in range(400))


@pytest.mark.requirement("gateway:traces:switch")
@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {**AT, "OTEL_SDK_DISABLED": "true"},
        {**AT, "OTEL_TRACES_EXPORTER": "none"},
        {**AT, "OTEL_TRACES_SAMPLER": "always_off"},
        {**AT, "OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"},
    ],
)
def test_without_a_collector_or_when_told_so_nothing_is_recorded(environ: dict[str, str]) -> None:
    traces, said = _tracing(environ)
    assert traces.on is False
    assert said == ""


@pytest.mark.requirement("gateway:traces:switch")
@pytest.mark.parametrize(
    ("environ", "least", "most"),
    [
        (AT, 400, 400),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/v1/traces"}, 400, 400),
        ({**AT, "OTEL_TRACES_SAMPLER": "parentbased_always_on"}, 400, 400),
        ({**AT, "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}, 100, 300),
    ],
)
def test_a_collector_and_a_ratio_are_enough(environ: dict[str, str], least: int, most: int) -> None:
    out = io.StringIO()
    made = tracing.Tracing(environ, observe.logger(settings.Log(format="json"), out), "1")
    try:
        assert least <= _recorded(made.traces) <= most
    finally:
        made.close()
    assert out.getvalue() == ""


@pytest.mark.requirement("gateway:traces:switch")
@pytest.mark.parametrize(
    ("environ", "word", "on"),
    [
        ({**AT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http/protobuf", False),
        ({**AT, "OTEL_TRACES_SAMPLER": "jaeger_remote"}, "OTEL_TRACES_SAMPLER", True),
        ({**AT, "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "many"}, "from 0 to 1", True),
        ({**AT, "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "7"}, "from 0 to 1", True),
    ],
)
def test_what_can_not_be_done_is_said_in_the_log(environ: dict[str, str], word: str, on: bool) -> None:
    traces, said = _tracing(environ)
    assert word in said
    assert traces.on is on
