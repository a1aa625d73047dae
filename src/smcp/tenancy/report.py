"""Usage by server, principal, hour or day: records of hours, grouped and summed up."""

from typing import Final, NamedTuple

from smcp.kernel import errors, ids
from smcp.tenancy import meter, usage

RECORDS: Final = 100_000
"""Records that one question may read."""
PARTS: Final = ("hour", "day", "server", "principal")
DAY_H: Final = 24

Key = tuple[str, ...]
"""One text for each part that was asked for, in the order of `PARTS`; hours and days so that their order is time's."""


class Reader:
    """Reads records for one question, and no more than `RECORDS` of them."""

    def __init__(self, counting: meter.Meter, first: int, end: int) -> None:
        """The hours from `first` up to, and without, `end`."""
        self._counting = counting
        self._first = first
        self._end = end
        self._left = RECORDS

    async def groups(self, tenant: ids.TenantId, by: frozenset[str]) -> list[tuple[Key, usage.Sums]]:
        """What `tenant` used, by the parts that `by` names, in order.

        Raises `errors.InvalidParams` when there is too much to read, and as `Meter.lines`.
        """
        found: dict[Key, usage.Sums] = {}
        async for line in self._counting.lines(tenant, self._first, self._end):
            self._left -= 1
            if self._left < 0:
                raise errors.InvalidParams(
                    f"There are more than {RECORDS} records in this range: ask for a shorter one."
                )
            parts = {
                "hour": f"{line.hour:010d}",
                "day": f"{line.hour // DAY_H * DAY_H:010d}",
                "server": line.server,
                "principal": line.principal,
            }
            key = tuple(parts[name] for name in PARTS if name in by)
            found.setdefault(key, usage.Sums()).add(line.sums)
        return sorted(found.items())


class Where(NamedTuple):
    """A group's key, taken apart; None for what was not asked for."""

    time: float | None
    """Beginning of the hour or day, epoch seconds."""
    server: str | None
    principal: str | None


def where(key: Key, by: frozenset[str]) -> Where:
    """The parts of `key`, which was made for `by`."""
    parts = dict(zip((name for name in PARTS if name in by), key, strict=True))
    hour = parts.get("hour", parts.get("day"))
    time = None if hour is None else float(int(hour) * usage.HOUR_S)
    return Where(time, parts.get("server"), parts.get("principal"))
