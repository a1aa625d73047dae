"""The gateway's own counters, bound once so that the hot path only adds."""

from smcp.kernel import observe


class Meters:
    """HTTP requests by status, bytes in and out."""

    def __init__(self, metrics: observe.Metrics) -> None:
        self._by_class = tuple(
            metrics.counter(observe.Metric.HTTP_REQUESTS, surface="gateway", status=f"{digit}xx")
            for digit in range(1, 6)
        )
        self._answered = metrics.answered
        self.active = 0
        """Requests that are being answered: one more when a walk begins; `count` takes it off."""
        metrics.watch(observe.Metric.HTTP_ACTIVE, lambda: self.active, surface="gateway")
        self._in = metrics.counter(observe.Metric.HTTP_IN, surface="gateway")
        self._out = metrics.counter(observe.Metric.HTTP_OUT, surface="gateway")
        self.auth_failures = metrics.counter(observe.Metric.AUTH_FAILURES, surface="gateway")
        self.refusals = {
            decision: metrics.counter(observe.Metric.ACCESS_REFUSED, surface="gateway", decision=decision)
            for decision in observe.DECISIONS
        }
        self.invalid = metrics.counter(observe.Metric.INVALID, sender="client")
        self.repeated = {
            outcome: metrics.counter(observe.Metric.CALLS_REPEATED, outcome=outcome) for outcome in observe.REPEATED
        }
        self.limited = {
            limit: metrics.counter(observe.Metric.RATE_LIMITED, limit=limit)
            for limit in ("platform", "rate", "concurrency", "unauthenticated")
        }

    def count(self, verb: str, status: int, seconds: float, received: int, sent: int) -> None:
        """One request is over; `status` 0: the client hung up before there was an answer."""
        self.active -= 1
        self._answered("gateway", verb, status, seconds)
        # Added to without `inc`: for every request, and none of them can be negative.
        if status:
            self._by_class[status // 100 - 1].value += 1
        self._in.value += received
        self._out.value += sent
