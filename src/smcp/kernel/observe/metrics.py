"""Metrics: counters, gauges and histograms of one platform, and the page that is scraped."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from prometheus_client import exposition, process_collector, registry

from smcp.kernel.observe import series
from smcp.kernel.observe.definitions import DEFINITIONS
from smcp.kernel.observe.names import ERRORS, METHODS, OTHER, STATUS_CODES, VERBS, VERSIONS, Kind, Metric


class Metrics:
    """One platform's metrics.

    `counter`, `gauge` and `histogram` return a bound child: take it once, in a constructor, and use it on the hot
    path, where an increment is a fraction of a microsecond. Children are added to by the event loop's thread only.
    """

    def __init__(self, version: str) -> None:
        self._process = registry.CollectorRegistry(auto_describe=False)
        process_collector.ProcessCollector(registry=self._process)
        self._families: dict[Metric, dict[tuple[str, ...], series.Series]] = {metric: {} for metric in Metric}
        self._operations: dict[tuple[str, str, bool], series.Histogram] = {}
        self._answers: dict[tuple[str, str, int], series.Histogram] = {}
        self._followed: list[Callable[[], None]] = []
        for metric, definition in DEFINITIONS.items():
            if not definition.labels:
                self._child(metric, definition.kind, {})
        self.gauge(Metric.BUILD, version=version).set(1)

    def counter(self, metric: Metric, **labels: str) -> series.Counter:
        """The counter with these labels. Raises ValueError for a label or value that is not in the list."""
        return self._child(metric, Kind.COUNTER, labels)

    def gauge(self, metric: Metric, **labels: str) -> series.Gauge:
        """The gauge with these labels. Raises ValueError as `counter` does."""
        return self._child(metric, Kind.GAUGE, labels)

    def histogram(self, metric: Metric, **labels: str) -> series.Histogram:
        """The histogram with these labels. Raises ValueError as `counter` does."""
        return self._child(metric, Kind.HISTOGRAM, labels)

    def watch(self, metric: Metric, read: Callable[[], float], **labels: str) -> None:
        """Let `read` answer for this gauge at every scrape, instead of counting up and down."""
        self.gauge(metric, **labels).watch(read)

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

    def answered(self, surface: str, verb: str, status: int, seconds: float) -> None:
        """One HTTP request is over; `status` 0: the client hung up before there was an answer."""
        child = self._answers.get((surface, verb, status))
        if child is None:
            known = str(status) if status else ""
            child = self.histogram(
                Metric.HTTP_DURATION,
                surface=surface,
                http_request_method=verb if verb in VERBS else OTHER,
                http_response_status_code=known if known in STATUS_CODES or not known else OTHER,
            )
            if verb in VERBS:  # what a caller invents does not grow the table
                self._answers[(surface, verb, status)] = child
        child.observe(seconds)

    def error(self, surface: str, code: str) -> None:
        """A request ended with this error."""
        self.counter(Metric.ERRORS, surface=surface, error_type=code if code in ERRORS else OTHER).inc()

    def render(self) -> bytes:
        """Everything in the Prometheus text format, version 0.0.4 (content type `CONTENT_TYPE`).

        To be called by the event loop's thread, as everything here.
        """
        for catch_up in self._followed:
            catch_up()
        return "".join(self._lines()).encode() + exposition.generate_latest(self._process)

    def _lines(self) -> Iterator[str]:
        for metric, children in self._families.items():
            definition = DEFINITIONS[metric]
            yield f"# HELP {metric.value} {series.escaped(definition.help)}\n"
            yield f"# TYPE {metric.value} {definition.kind.value}\n"
            for child in children.values():
                yield from child.lines()

    def _child(self, metric: Metric, kind: Kind, labels: Mapping[str, str]) -> Any:
        definition = DEFINITIONS[metric]
        if definition.kind is not kind:
            raise ValueError(f"{metric.value} is a {definition.kind.value}, not a {kind.value}")
        if set(labels) != {name for name, _ in definition.labels}:
            raise ValueError(f"{metric.value} has the labels {[name for name, _ in definition.labels]}")
        for name, allowed in definition.labels:
            if allowed and labels[name] not in allowed:
                raise ValueError(f"'{labels[name]}' is not a value of {metric.value}'s label {name}")
        children = self._families[metric]
        key = tuple(labels[name] for name, _ in definition.labels)
        child = children.get(key)
        if child is None:
            named = tuple(labels.items())
            if kind is Kind.HISTOGRAM:
                child = series.Histogram(metric.value, named, definition.buckets)
            else:
                child = (series.Counter if kind is Kind.COUNTER else series.Gauge)(metric.value, named)
            children[key] = child
        return child


CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
