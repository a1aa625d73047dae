"""Spans: a closed list of names, through OpenTelemetry's API."""

import contextlib
import enum
from collections.abc import Generator, Mapping
from typing import Final

from opentelemetry import propagate, trace

from smcp.kernel.observe.names import METHODS, OTHER


class Span(enum.StrEnum):
    """Every span that exists. A request's span is named `{method} {target}` as the MCP conventions ask."""

    REQUEST = "mcp.server"
    INSTANCE_START = "smcp.instance.start"
    DEPLOY = "smcp.deploy"
    DEPLOY_FETCH = "smcp.deploy.fetch"
    DEPLOY_BUILD = "smcp.deploy.build"
    DEPLOY_PROBE = "smcp.deploy.probe"


_NOTHING: Final = contextlib.nullcontext(trace.INVALID_SPAN)


class Traces:
    """Spans through OpenTelemetry's API. Without an SDK each call costs one comparison and makes nothing.

    An operator turns tracing on by starting the platform under OpenTelemetry's own launcher; SMCP brings no exporter.
    """

    def __init__(self, provider: trace.TracerProvider | None = None) -> None:
        found = provider or trace.get_tracer_provider()
        self.on: Final = not isinstance(found, trace.ProxyTracerProvider | trace.NoOpTracerProvider)
        self._tracer = found.get_tracer("smcp")

    def request(
        self, method: str, target: str, carrier: Mapping[str, str], version: str
    ) -> contextlib.AbstractContextManager[trace.Span]:
        """The span of one MCP request; `carrier` holds W3C trace context (headers, or `params._meta`)."""
        if not self.on:
            return _NOTHING
        name = method if method in METHODS else OTHER
        attributes = {"mcp.method.name": name, "mcp.protocol.version": version, "network.transport": "tcp"}
        if name == "tools/call":
            attributes |= {"gen_ai.tool.name": target, "gen_ai.operation.name": "execute_tool"}
        elif name == "prompts/get":
            attributes["gen_ai.prompt.name"] = target
        title = f"{name} {target}" if target and name in ("tools/call", "prompts/get") else name
        return self._start(title, attributes, trace.SpanKind.SERVER, carrier)

    def step(self, span: Span, **attributes: str) -> contextlib.AbstractContextManager[trace.Span]:
        """A span of the platform's own work, below the current one."""
        if not self.on:
            return _NOTHING
        named = {f"smcp.{name}": value for name, value in attributes.items()}
        return self._start(span.value, named, trace.SpanKind.INTERNAL, None)

    @contextlib.contextmanager
    def _start(
        self,
        name: str,
        attributes: Mapping[str, str],
        kind: trace.SpanKind,
        carrier: Mapping[str, str] | None,
    ) -> Generator[trace.Span]:
        context = None if carrier is None else propagate.extract(carrier)
        span = self._tracer.start_span(name, context=context, kind=kind, attributes=attributes)
        # An exception's text may quote a caller's data; the span gets its class only.
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                yield span
            except Exception as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(trace.StatusCode.ERROR)
                raise
