"""The log interface: append-only streams of records, each with a position that grows by one.

A *stream* is a key tuple like a KV key. Its *class* decides how long records stay: `trim` runs with a time per class,
a keyword of `append`; `shrink` is for streams that are bounded in size too. Positions start at 1 and are never used
again, also after trimming.
"""

import abc
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

Stream = tuple[str, ...]


class Record(NamedTuple):
    """One record: its position in the stream, when it was appended (epoch seconds), and its bytes."""

    position: int
    time: float
    data: bytes


class Log(abc.ABC):
    """Durable append-only streams. When `append` returns, the records survive SIGKILL and power loss."""

    @abc.abstractmethod
    async def append(
        self, stream: Stream, records: Sequence[bytes], *, ttl: float | None = None, expect: int | None = None
    ) -> int:
        """Append all of `records` or none; returns the last position.

        `expect` is the last position that the caller believes in (0: the stream was never written); raises
        `errors.Conflict` when it isn't: a second writer exists. `ttl`: seconds after which `trim` may remove
        the records.
        A caller that is cancelled meanwhile hears of it only when the write is decided.
        """

    @abc.abstractmethod
    async def read(
        self, stream: Stream, *, after: int = 0, since: float | None = None, limit: int = 1000
    ) -> list[Record]:
        """Up to `limit` records in order, behind position `after` and not older than `since` (epoch seconds)."""

    @abc.abstractmethod
    def tail(self, stream: Stream, *, after: int = 0) -> AsyncIterator[Record]:
        """The records behind `after`, then each new one as it comes, without an end."""

    @abc.abstractmethod
    async def last(self, stream: Stream) -> int:
        """The position last given out in the stream; 0 when it was never written."""

    @abc.abstractmethod
    async def streams(self, prefix: Stream) -> list[Stream]:
        """The streams below `prefix` that hold records, in order."""

    @abc.abstractmethod
    async def trim(self, *, now: float) -> int:
        """Remove records whose time to live has passed at `now`; returns how many."""

    @abc.abstractmethod
    async def shrink(self, stream: Stream, *, most: int) -> int:
        """Remove the oldest records until the others hold at most `most` bytes; returns how many they hold.

        Bytes are counted as they are stored: a wrapper that seals makes records longer.
        """

    @abc.abstractmethod
    async def drop(self, prefix: Stream) -> None:
        """Remove every stream below `prefix`, and what was known of its positions: for erasure."""

    @abc.abstractmethod
    def check(self) -> None:
        """Raises `errors.Unavailable` where an earlier error ended it until a restart. Waits for nothing."""

    @abc.abstractmethod
    async def ping(self) -> None:
        """Answer from the storage itself; raises `errors.Unavailable` when it can't."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Finish what was accepted, then let go. Idempotent."""
