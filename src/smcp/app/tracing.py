"""Spans on their way to a collector, when OpenTelemetry's own environment variables name one.

No setting of ours: who runs a collector sets `OTEL_EXPORTER_OTLP_ENDPOINT` for everything that he runs. The SDK, and
what sends to a collector, are an optional extra (`smcp[otlp]`) and are not imported otherwise.
"""

import importlib.util
from collections.abc import Mapping
from typing import Final

import msgspec

from smcp.kernel import observe

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_NEEDED: Final = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter")
_SAMPLERS: Final = {"": 1.0, "always_on": 1.0, "always_off": 0.0, "traceidratio": None}
_NAME: Final = "smcp"


class Tracing:
    """What a platform's `observe.Traces` hand their spans to."""

    def __init__(self, environ: Mapping[str, str], log: observe.Logger, version: str) -> None:
        """Looks at `environ` (OpenTelemetry, "Environment Variable Specification"); the log has what can't be done."""
        self._provider = None
        ratio = _ratio(environ, log)
        if _wanted(environ, log) and ratio > 0:
            # Here and not above: without the extra there is nothing to import, and with it, it is 60 modules.
            from opentelemetry.exporter.otlp.proto.http import trace_exporter
            from opentelemetry.sdk import resources, trace
            from opentelemetry.sdk.trace import export, sampling

            # What the operator says about itself (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) comes before this.
            named = resources.OTELResourceDetector().detect()
            resource = resources.Resource.create({"service.name": _NAME, "service.version": version}).merge(named)
            # Each request was decided on before the SDK hears of it (kernel/observe/spans.py).
            self._provider = trace.TracerProvider(sampler=sampling.ALWAYS_ON, resource=resource, shutdown_on_exit=False)
            self._provider.add_span_processor(export.BatchSpanProcessor(trace_exporter.OTLPSpanExporter()))
        self.traces = observe.Traces(self._provider, ratio=ratio)

    def close(self) -> None:
        """Send what waits, for as long as the collector takes it. Blocking."""
        if self._provider is not None:
            self._provider.shutdown()


def _wanted(environ: Mapping[str, str], log: observe.Logger) -> bool:
    if not any(environ.get(name) for name in _ENDPOINTS):
        return False
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return False
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        log.warning("no spans are sent: of OTLP's protocols only http/protobuf is supported", protocol=protocol)
        return False
    try:
        found = all(importlib.util.find_spec(name) for name in _NEEDED)
    except ModuleNotFoundError:
        found = False
    if not found:
        log.warning("no spans are sent: a collector is named, but OpenTelemetry's SDK is missing: install smcp[otlp]")
    return found


def _ratio(environ: Mapping[str, str], log: observe.Logger) -> float:
    """How many of the requests are recorded. A sampler's `parentbased_` has no effect: no client decides that."""
    sampler = environ.get("OTEL_TRACES_SAMPLER", "").removeprefix("parentbased_")
    told = environ.get("OTEL_TRACES_SAMPLER_ARG", "1.0")
    ratio = _SAMPLERS.get(sampler, 1.0)
    if sampler not in _SAMPLERS:
        log.warning("OTEL_TRACES_SAMPLER is not known here; every request is recorded", sampler=sampler)
    if ratio is not None:
        return ratio
    try:
        ratio = msgspec.convert(told, float, strict=False)
    except msgspec.ValidationError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        log.warning("OTEL_TRACES_SAMPLER_ARG is not a number from 0 to 1; every request is recorded", value=told)
        return 1.0
    return ratio
