"""Metrics: counters, gauges and histograms of one platform, and the page that is scraped."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import prometheus_client
from prometheus_client import exposition, metrics_core, process_collector, registry

from smcp.kernel.observe.definitions import DEFINITIONS
from smcp.kernel.observe.names import METHODS, OTHER, VERSIONS, Kind, Metric


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
