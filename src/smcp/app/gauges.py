"""Metrics whose numbers other rooms keep for themselves: read at each scrape, or a few times a second."""

import asyncio
import functools
import shutil
from collections import Counter
from typing import Final

from smcp.audit import trail
from smcp.kernel import observe, settings
from smcp.stores import tenant as stores
from smcp.stores.wrappers import metered
from smcp.tenancy import limits

_LAG_S: Final = 0.1
_INTERFACES: Final = ("kv", "log", "objects")


def connect(
    metrics: observe.Metrics,
    config: settings.Settings,
    store: stores.Store,
    limiter: limits.Limiter,
    audit: trail.Trail,
) -> None:
    """Let `metrics` show what the store, the limiter, the audit trail and the disk tell."""
    metrics.watch(observe.Metric.IN_FLIGHT, lambda: limiter.in_flight)
    metrics.watch(observe.Metric.AUDIT_QUEUE, lambda: audit.waiting)
    metrics.gauge(observe.Metric.AUDIT_CAPACITY).set(audit.capacity)
    metrics.watch(observe.Metric.AUDIT_FAILING, lambda: audit.failing)
    metrics.watch(observe.Metric.STORE_SILENCE, store.silence)
    directory = config.platform.directory()
    metrics.watch(observe.Metric.DISK_FREE, lambda: shutil.disk_usage(directory).free)
    metrics.watch(observe.Metric.DISK_SIZE, lambda: shutil.disk_usage(directory).total)
    took = {
        interface: metrics.histogram(observe.Metric.STORE_DURATION, interface=interface) for interface in _INTERFACES
    }
    store.counts.took = lambda operation, seconds: took[operation.interface].observe(seconds)
    for interface in _INTERFACES:
        for metric, numbers in (
            (observe.Metric.STORE_OPS, store.counts.calls),
            (observe.Metric.STORE_FAILURES, store.counts.failures),
        ):
            metrics.follow(metric, functools.partial(_total, numbers, interface), interface=interface)


async def time_the_loop(metrics: observe.Metrics) -> None:
    """Ask the event loop for a turn again and again, and write down how late it came. Ends by cancellation."""
    lag = metrics.histogram(observe.Metric.LOOP_LAG)
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _LAG_S
        await asyncio.sleep(_LAG_S)
        lag.observe(max(0.0, loop.time() - due))


def _total(calls: Counter[metered.Operation], interface: str) -> float:
    return sum(number for operation, number in calls.items() if operation.interface == interface)
