"""Metrics whose numbers other rooms keep for themselves: read at each scrape."""

import functools
from collections import Counter

from smcp.audit import trail
from smcp.kernel import observe
from smcp.stores.wrappers import metered
from smcp.tenancy import limits


def connect(metrics: observe.Metrics, counts: metered.Counts, limiter: limits.Limiter, audit: trail.Trail) -> None:
    """Let `metrics` show what the store, the limiter and the audit trail count."""
    metrics.watch(observe.Metric.IN_FLIGHT, lambda: limiter.in_flight)
    metrics.watch(observe.Metric.AUDIT_QUEUE, lambda: audit.waiting)
    for interface in ("kv", "log", "objects"):
        metrics.follow(
            observe.Metric.STORE_OPS, functools.partial(_total, counts.calls, interface), interface=interface
        )


def _total(calls: Counter[metered.Operation], interface: str) -> float:
    return sum(number for operation, number in calls.items() if operation.interface == interface)
