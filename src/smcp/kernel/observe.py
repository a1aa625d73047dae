"""Observation: structured logs, a closed list of metrics, a closed list of spans.

Names follow OpenTelemetry's semantic conventions for MCP where those exist (`mcp.server.operation.duration` becomes
`mcp_server_operation_duration_seconds`), else they begin with `smcp_`. Label values are closed sets: a caller can
never make a new time series. A tenant is no label, because tenants are not bounded; the audit trail and the
logs tell tenants apart. docs/reference/metrics.md is compared with this file by a test.
"""

import contextlib
import enum
import logging
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Final, TextIO

import msgspec
import prometheus_client
import structlog
from opentelemetry import propagate, trace
from prometheus_client import exposition, metrics_core, process_collector, registry

from smcp.kernel import redact, settings

# --- logs ----------------------------------------------------------------------------------------------

Logger = structlog.typing.FilteringBoundLogger
_MULTILINE: Final = frozenset({"exception", "stack"})
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def logger(log: settings.Log, stream: TextIO | None = None) -> Logger:
    """A logger of its own, for `stream` (default: stderr), that touches nothing global."""
    return structlog.wrap_logger(
        structlog.WriteLogger(stream or sys.stderr),
        processors=[*_processors(), _renderer(log, stream or sys.stderr)],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[log.level]),
    )


def configure(log: settings.Log, stream: TextIO | None = None) -> None:
    """Make this the process's logging: for structlog's default loggers and for libraries that use `logging`.

    Called once, by the process that serves; never by a library or a test of one room.
    """
    out = stream or sys.stderr
    structlog.configure(
        processors=[*_processors(), _renderer(log, out)],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[log.level]),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_processors(),
                _renderer(log, out),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries are noisy below warning; their debug output is also where headers and bodies would be printed.
    root.setLevel(max(_LEVELS[log.level], logging.WARNING))


def redacted(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """The processor that every line passes last: nothing secret and no control character leaves it."""
    safe: dict[str, Any] = {}
    for name, item in event.items():
        if name in _MULTILINE and isinstance(item, str):
            safe[name] = redact.text(item, lines=True)
        elif name == "event":
            safe[name] = redact.text(str(item))
        else:
            safe.update(redact.mapping({name: item}))
    return safe


def _processors() -> list[structlog.typing.Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
        # Text, without local variables: those are where secrets live.
        structlog.processors.format_exc_info,
        redacted,
    ]


def _renderer(log: settings.Log, stream: TextIO) -> structlog.typing.Processor:
    if log.format == "json":
        return structlog.processors.JSONRenderer(serializer=_json)
    return structlog.dev.ConsoleRenderer(colors=stream.isatty(), timestamp_key="time", pad_event_to=36)


def _json(event: Any, **_options: Any) -> str:
    return msgspec.json.encode(event).decode()


# --- metrics -------------------------------------------------------------------------------------------

OTHER: Final = "_OTHER"
"""The label value for everything outside of a closed set (OpenTelemetry's own word for it)."""

METHODS: Final = (
    *("initialize", "ping", "server/discover", "tools/list", "tools/call", "prompts/list", "prompts/get"),
    *("resources/list", "resources/templates/list", "resources/read", "resources/subscribe"),
    *("resources/unsubscribe", "subscriptions/listen", "completion/complete", "logging/setLevel"),
    *("notifications/initialized", "notifications/cancelled", "notifications/progress"),
    *("notifications/roots/list_changed", OTHER),
)
VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28", OTHER)
_STATUS: Final = ("1xx", "2xx", "3xx", "4xx", "5xx")
_SURFACE: Final = ("gateway", "control", "web", "ops")
_OUTCOME: Final = ("succeeded", "failed")
_DRIVER: Final = ("stdio",)
EGRESS_REASONS: Final = ("", "name", "address", "port", "network", "busy", "resolve", "connect")

# The boundaries that the MCP conventions ask for, with finer ones below 10 ms, where a gateway's own time lies.
_CALL: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
_START: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SESSION: Final = (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 14400, 86400)
_DEPLOY: Final = (1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600, 1200)


class Kind(enum.Enum):
    """How a metric behaves."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Definition(msgspec.Struct, frozen=True):
    """One metric: what it counts, in which unit, told apart by which labels."""

    kind: Kind
    unit: str
    help: str
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    buckets: tuple[float, ...] = ()


class Metric(enum.Enum):
    """Every metric that exists; the value is its name as scraped."""

    OPERATION_DURATION = "mcp_server_operation_duration_seconds"
    SESSION_DURATION = "mcp_server_session_duration_seconds"
    HTTP_REQUESTS = "smcp_http_requests_total"
    HTTP_IN = "smcp_http_received_bytes_total"
    HTTP_OUT = "smcp_http_sent_bytes_total"
    IN_FLIGHT = "smcp_requests_in_flight"
    AUTH_FAILURES = "smcp_auth_failures_total"
    ACCESS_REFUSED = "smcp_access_refused_total"
    RATE_LIMITED = "smcp_rate_limited_total"
    SESSIONS = "smcp_sessions_live"
    INSTANCES = "smcp_instances_live"
    INSTANCE_START = "smcp_instance_start_duration_seconds"
    DEPLOYS = "smcp_deploy_duration_seconds"
    VOLUMES = "smcp_volumes_open"
    VOLUME_SNAPSHOTS = "smcp_volume_snapshots_total"
    STORE_OPS = "smcp_store_operations_total"
    EGRESS = "smcp_egress_verdicts_total"
    AUDIT_QUEUE = "smcp_audit_queue_entries"
    BUILD = "smcp_build_info"


DEFINITIONS: Final[Mapping[Metric, Definition]] = {
    Metric.OPERATION_DURATION: Definition(
        Kind.HISTOGRAM,
        "seconds",
        "Time from the whole request read to the last byte of its answer handed on, per MCP method.",
        (("mcp_method_name", METHODS), ("mcp_protocol_version", VERSIONS), ("error_type", ("", "error"))),
        _CALL,
    ),
    Metric.SESSION_DURATION: Definition(
        Kind.HISTOGRAM, "seconds", "Life of a legacy session, from initialize to its end.", (), _SESSION
    ),
    Metric.HTTP_REQUESTS: Definition(
        Kind.COUNTER,
        "requests",
        "HTTP requests answered, by surface and status class.",
        (("surface", _SURFACE), ("status", _STATUS)),
    ),
    Metric.HTTP_IN: Definition(Kind.COUNTER, "bytes", "Bytes of request bodies read.", (("surface", _SURFACE),)),
    Metric.HTTP_OUT: Definition(Kind.COUNTER, "bytes", "Bytes of answer bodies sent.", (("surface", _SURFACE),)),
    Metric.IN_FLIGHT: Definition(Kind.GAUGE, "requests", "MCP requests that have not been answered yet."),
    Metric.AUTH_FAILURES: Definition(
        Kind.COUNTER,
        "requests",
        "Requests refused for want of a valid credential.",
        (("surface", _SURFACE),),
    ),
    Metric.ACCESS_REFUSED: Definition(
        Kind.COUNTER,
        "requests",
        "Decisions that refused: `deny` answers 403, `conceal` answers 404.",
        (("surface", _SURFACE), ("decision", ("deny", "conceal"))),
    ),
    Metric.RATE_LIMITED: Definition(
        Kind.COUNTER,
        "requests",
        "Requests answered 429: by rate, by concurrency, or for an address without a valid credential.",
        (("limit", ("rate", "concurrency", "unauthenticated")),),
    ),
    Metric.SESSIONS: Definition(Kind.GAUGE, "sessions", "Legacy sessions that have not ended."),
    Metric.INSTANCES: Definition(Kind.GAUGE, "instances", "Running copies of hosted servers.", (("driver", _DRIVER),)),
    Metric.INSTANCE_START: Definition(
        Kind.HISTOGRAM,
        "seconds",
        "Time to start a copy of a hosted server, sandbox included.",
        (("driver", _DRIVER), ("outcome", _OUTCOME)),
        _START,
    ),
    Metric.DEPLOYS: Definition(
        Kind.HISTOGRAM,
        "seconds",
        "Time of a deployment, from its request to live or failed.",
        (("outcome", _OUTCOME),),
        _DEPLOY,
    ),
    Metric.VOLUMES: Definition(Kind.GAUGE, "volumes", "Volumes that are in memory, because a server uses them."),
    Metric.VOLUME_SNAPSHOTS: Definition(
        Kind.COUNTER,
        "snapshots",
        "Snapshots of volumes: stored, left out because nothing had changed, or failed and tried again.",
        (("outcome", ("stored", "unchanged", "failed")),),
    ),
    Metric.STORE_OPS: Definition(
        Kind.COUNTER,
        "operations",
        "Calls of the storage interfaces by tenants' handles.",
        (("interface", ("kv", "log", "objects")),),
    ),
    Metric.EGRESS: Definition(
        Kind.COUNTER,
        "verdicts",
        "What hosted servers asked of the network: `allowed` (connected), `refused` (name, address, port or network not"
        " allowed, or too many connections at once: `busy`), `failed` (the host was not found or not reached).",
        (("verdict", ("allowed", "refused", "failed")), ("reason", EGRESS_REASONS)),
    ),
    Metric.AUDIT_QUEUE: Definition(Kind.GAUGE, "entries", "Audit entries that wait to be written."),
    Metric.BUILD: Definition(Kind.GAUGE, "1", "Always 1; the label carries the version.", (("version", ()),)),
}


class Metrics:
    """One platform's metrics, in a registry of its own.

    `counter`, `gauge` and `histogram` return a bound child: take it once, in a constructor, and use it on the hot
    path, where an increment is below a microsecond.
    """

    def __init__(self, version: str) -> None:
        self._registry = registry.CollectorRegistry(auto_describe=False)
        self._families = {metric: _family(metric, self._registry) for metric in Metric}
        self._operations: dict[tuple[str, str, bool], prometheus_client.Histogram] = {}
        self._followed: list[Callable[[], None]] = []
        self._families[Metric.BUILD].labels(version=version).set(1)
        process_collector.ProcessCollector(registry=self._registry)

    def counter(self, metric: Metric, **labels: str) -> prometheus_client.Counter:
        """The counter with these labels. Raises ValueError for a label or value that is not in the list."""
        return self._child(metric, Kind.COUNTER, labels)

    def gauge(self, metric: Metric, **labels: str) -> prometheus_client.Gauge:
        """The gauge with these labels. Raises ValueError as `counter` does."""
        return self._child(metric, Kind.GAUGE, labels)

    def histogram(self, metric: Metric, **labels: str) -> prometheus_client.Histogram:
        """The histogram with these labels. Raises ValueError as `counter` does."""
        return self._child(metric, Kind.HISTOGRAM, labels)

    def watch(self, metric: Metric, read: Callable[[], float], **labels: str) -> None:
        """Let `read` answer for this gauge at every scrape, instead of counting up and down."""
        self.gauge(metric, **labels).set_function(read)

    def follow(self, metric: Metric, read: Callable[[], float], **labels: str) -> None:
        """Let this counter follow `read`, a number that somebody else counts up, at every scrape."""
        child = self.counter(metric, **labels)
        seen = 0.0

        def catch_up() -> None:
            nonlocal seen
            now = read()
            child.inc(max(0.0, now - seen))
            seen = now

        self._followed.append(catch_up)

    def operation(self, method: str, version: str, seconds: float, *, failed: bool) -> None:
        """One MCP request or notification is done. Unknown methods and versions count as `_OTHER`."""
        child = self._operations.get((method, version, failed))
        if child is None:
            # Resolved before it is kept, so that a caller's invented method can't grow the table.
            known = (
                method if method in METHODS else OTHER,
                version if version in VERSIONS else OTHER,
                failed,
            )
            child = self._operations.get(known)
            if child is None:
                child = self._operations[known] = self.histogram(
                    Metric.OPERATION_DURATION,
                    mcp_method_name=known[0],
                    mcp_protocol_version=known[1],
                    error_type="error" if failed else "",
                )
        child.observe(seconds)

    def render(self) -> bytes:
        """Everything in the Prometheus text format, version 0.0.4 (content type `CONTENT_TYPE`)."""
        for catch_up in self._followed:
            catch_up()
        return exposition.generate_latest(_WithoutCreated(self._registry))

    def _child(self, metric: Metric, kind: Kind, labels: Mapping[str, str]) -> Any:
        definition = DEFINITIONS[metric]
        if definition.kind is not kind:
            raise ValueError(f"{metric.value} is a {definition.kind.value}, not a {kind.value}")
        if set(labels) != {name for name, _ in definition.labels}:
            raise ValueError(f"{metric.value} has the labels {[name for name, _ in definition.labels]}")
        for name, allowed in definition.labels:
            if allowed and labels[name] not in allowed:
                raise ValueError(f"'{labels[name]}' is not a value of {metric.value}'s label {name}")
        family = self._families[metric]
        return family.labels(**labels) if labels else family


CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class _WithoutCreated(registry.Collector):
    """The registry's families without their `…_created` samples, which double the page and tell nothing."""

    def __init__(self, source: registry.CollectorRegistry) -> None:
        self._source = source

    def collect(self) -> Iterator[metrics_core.Metric]:
        for family in self._source.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


def _family(metric: Metric, into: registry.CollectorRegistry) -> Any:
    definition = DEFINITIONS[metric]
    labels = [name for name, _ in definition.labels]
    if definition.kind is Kind.COUNTER:
        return prometheus_client.Counter(metric.value, definition.help, labels, registry=into)
    if definition.kind is Kind.GAUGE:
        return prometheus_client.Gauge(metric.value, definition.help, labels, registry=into)
    return prometheus_client.Histogram(metric.value, definition.help, labels, registry=into, buckets=definition.buckets)


# --- spans ---------------------------------------------------------------------------------------------


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
