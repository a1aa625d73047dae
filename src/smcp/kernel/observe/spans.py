"""Spans: a closed list, through OpenTelemetry's API, named by its conventions for MCP.

A caller's trace is continued, and that is all its word is worth: whether a request is recorded is decided here, by a
random number of our own, and only for callers who are known (W3C Trace Context, section 4.2 "Denial of service"). A
caller who sets the `sampled` flag, or picks the trace ids that a sampler likes, gets nothing recorded by it.
"""

import contextlib
import enum
import random
from collections.abc import Generator, Mapping
from typing import Final

from opentelemetry import trace
from opentelemetry.trace.propagation import tracecontext

from smcp.kernel.observe.names import METHODS, OTHER

Value = str | int
_LONGEST: Final = 256
"""Characters kept of an attribute that a caller chose."""
_STATE: Final = 512
"""Longest tracestate that is taken (W3C Trace Context, 3.3.1.5: what everybody must be able to pass on)."""


class Span(enum.StrEnum):
    """Every span that exists. A request's span is named `{method} {tool}` as the MCP conventions ask."""

    REQUEST = "mcp.server"
    FORWARD = "mcp.client"
    INSTANCE_WAIT = "smcp.instance.wait"
    DEPLOY = "smcp.deploy"
    DEPLOY_BUILD = "smcp.deploy.build"
    DEPLOY_PROBE = "smcp.deploy.probe"


KINDS: Final[Mapping[Span, trace.SpanKind]] = {
    Span.REQUEST: trace.SpanKind.SERVER,
    Span.FORWARD: trace.SpanKind.CLIENT,
}
"""What is not here is internal."""

_NOTHING: Final = contextlib.nullcontext(trace.INVALID_SPAN)
_W3C: Final = tracecontext.TraceContextTextMapPropagator()


class Traces:
    """Spans through OpenTelemetry's API. Without a provider each call costs one comparison and makes nothing."""

    def __init__(self, provider: trace.TracerProvider | None = None, *, ratio: float = 1.0) -> None:
        """`provider` records what it is given; `ratio` of the requests are."""
        self.on: Final = provider is not None
        self._ratio = ratio
        self._tracer = (provider or trace.NoOpTracerProvider()).get_tracer("smcp")
        self._random = random.Random()  # noqa: S311 - no secret: it is seeded by the system, and nobody sees it

    def request(
        self,
        method: str,
        target: str,
        carriers: tuple[Mapping[str, object], ...],
        started_ns: int,
        attributes: Mapping[str, Value],
    ) -> "Request | None":
        """The span of one MCP request that came at `started_ns` (epoch), or None when it is not recorded.

        The caller's context is in the first of `carriers` that has a `traceparent`; `target` is a tool or a prompt.
        """
        if not self.on or self._random.random() >= self._ratio:
            return None
        known = method if method in METHODS else OTHER
        told = {"mcp.method.name": known} | {name: _short(value) for name, value in attributes.items() if value != ""}
        if known == "tools/call":
            told |= {"gen_ai.tool.name": _short(target), "gen_ai.operation.name": "execute_tool"}
        elif known == "prompts/get":
            told["gen_ai.prompt.name"] = _short(target)
        return Request(self._tracer, known, carriers, started_ns, told)

    def step(self, span: Span, **attributes: str) -> contextlib.AbstractContextManager[trace.Span]:
        """A span of the platform's own work, below the current one."""
        if not self.on:
            return _NOTHING
        return self._step(span, {f"smcp.{name}": value for name, value in attributes.items()})

    @contextlib.contextmanager
    def _step(self, name: Span, attributes: Mapping[str, str]) -> Generator[trace.Span]:
        span = self._tracer.start_span(name.value, attributes=attributes)
        # An exception's text may quote a caller's data; the span gets its class only.
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                yield span
            except Exception as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(trace.StatusCode.ERROR)
                raise


class Request:
    """A recorded request: its own span, and those of what is done for it."""

    __slots__ = ("_attributes", "_context", "_forward", "_name", "_span", "_tracer")

    def __init__(
        self,
        tracer: trace.Tracer,
        name: str,
        carriers: tuple[Mapping[str, object], ...],
        started_ns: int,
        attributes: Mapping[str, Value],
    ) -> None:
        """Use `Traces.request`."""
        self._tracer = tracer
        self._name = name
        self._attributes = attributes
        parent = _W3C.extract(_carrier(carriers), trace.set_span_in_context(trace.INVALID_SPAN))
        self._span = tracer.start_span(
            name,
            context=parent,
            kind=KINDS[Span.REQUEST],
            attributes={**attributes, "network.transport": "tcp", "network.protocol.name": "http"},
            start_time=started_ns,
        )
        self._context = trace.set_span_in_context(self._span)
        self._forward: trace.Span | None = None

    def call(self, target: str) -> None:
        """The target is one that exists: it becomes part of the name. What a caller invents never does."""
        self._name = f"{self._name} {target}"
        self._span.update_name(self._name)

    def waited(self, began_ns: int, ended_ns: int) -> None:
        """The time until there was a running copy of the hosted server."""
        span = self._tracer.start_span(Span.INSTANCE_WAIT.value, context=self._context, start_time=began_ns)
        span.end(ended_ns)

    def forward(self) -> dict[str, str]:
        """The hosted server gets the request now; returns the trace context that it is to get with it."""
        self._forward = self._tracer.start_span(
            self._name,
            context=self._context,
            kind=KINDS[Span.FORWARD],
            attributes={**self._attributes, "network.transport": "pipe"},
        )
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, trace.set_span_in_context(self._forward))
        return carrier

    def end(self, error: str, attributes: Mapping[str, Value]) -> None:
        """The answer has gone out; `error` is empty, or the kind of error that it was. To be called once."""
        for span in (self._forward, self._span):
            if span is None:
                continue
            for name, value in attributes.items():
                span.set_attribute(name, _short(value))
            if error:
                span.set_attribute("error.type", error)
                span.set_status(trace.StatusCode.ERROR)
            span.end()


def _carrier(carriers: tuple[Mapping[str, object], ...]) -> dict[str, str]:
    for one in carriers:
        parent, state = one.get("traceparent"), one.get("tracestate")
        if isinstance(parent, str):
            usable = isinstance(state, str) and len(state) <= _STATE
            return {"traceparent": parent, **({"tracestate": str(state)} if usable else {})}
    return {}


def _short(value: Value) -> Value:
    return value[:_LONGEST] if isinstance(value, str) else value
