"""The key-value interface. A back end is one file that implements `KV`, plus the inherited contract suite.

Keys are non-empty tuples of non-empty strings. Every write gets a *revision*: a positive integer that grows
over the whole store. `expect` makes a write conditional on the key's current revision; `ABSENT` means that the
key must not exist. A key whose time to live has passed does not exist.
"""

import abc
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, NamedTuple

Key = tuple[str, ...]

ABSENT: Final = 0
"""`expect=ABSENT`: write only if the key does not exist."""


class Entry(NamedTuple):
    """A key with its value, the revision that wrote it, and when it ends (epoch seconds; None: never)."""

    key: Key
    value: bytes
    revision: int
    expires: float | None = None


class Put(NamedTuple):
    """A write inside `apply`. `ttl` in seconds, None for no end."""

    key: Key
    value: bytes
    ttl: float | None = None
    expect: int | None = None


class Delete(NamedTuple):
    """A removal inside `apply`. Removing what does not exist is fine unless `expect` says otherwise."""

    key: Key
    expect: int | None = None


class Change(NamedTuple):
    """What a watcher is told: the key, and the new revision; `value` is None after a removal or expiry.

    `replaced` is the length of the stored value that went away (also an expired one), None if there was none.
    """

    key: Key
    value: bytes | None
    revision: int
    replaced: int | None = None


class Size(NamedTuple):
    """How much is stored: number of keys, and the bytes of them (as `stores.keys.encode` has them) and their values."""

    keys: int
    bytes: int


Op = Put | Delete
Listener = Callable[[Change], None]


class KV(abc.ABC):
    """Ordered, durable key-value storage. When a write returns, it survives SIGKILL and power loss."""

    @abc.abstractmethod
    async def get(self, key: Key) -> Entry | None:
        """The entry, or None."""

    async def put(self, key: Key, value: bytes, *, ttl: float | None = None, expect: int | None = None) -> int:
        """Write one key; returns its revision. Raises `errors.Conflict` when `expect` does not hold."""
        return await self.apply([Put(key, value, ttl, expect)])

    async def delete(self, key: Key, *, expect: int | None = None) -> int:
        """Remove one key. Raises `errors.Conflict` when `expect` does not hold."""
        return await self.apply([Delete(key, expect)])

    @abc.abstractmethod
    async def apply(self, ops: Sequence[Op]) -> int:
        """All of `ops` or none, atomically; returns the revision all of them share.

        Raises `errors.Conflict` when any `expect` does not hold, `ValueError` when a key is named twice.
        A caller that is cancelled meanwhile hears of it only when the write is decided.
        """

    @abc.abstractmethod
    async def scan(
        self, prefix: Key, *, starts_with: str = "", after: Key | None = None, limit: int = 1000
    ) -> list[Entry]:
        """Up to `limit` entries in key order whose key begins with the whole segments of `prefix`.

        `starts_with` narrows the segment after the prefix; `after` (exclusive) continues an earlier page.
        Order is by segments, each compared as UTF-8 bytes, so a key comes before all that extend it.
        """

    @abc.abstractmethod
    async def size(self, prefix: Key) -> Size:
        """What is stored below `prefix`, with what has expired and was not removed yet.

        It is taken between two writes: every change before it has been told to watchers, every later one will be.
        """

    @abc.abstractmethod
    def watch(self, prefix: Key, listener: Listener) -> Callable[[], None]:
        """Call `listener` for each later change below `prefix`; returns what ends the watch.

        Within one process the listener has run before the write returns, so a cache that drops what it is
        told about never serves an answer older than an acknowledged write. It runs on the event loop's
        thread and must neither block nor raise.
        """

    @abc.abstractmethod
    def snapshot(self, prefix: Key = ()) -> AsyncIterator[Entry]:
        """Every entry below `prefix` as of one moment, in key order, while writes go on. For backup."""

    @abc.abstractmethod
    async def ping(self) -> None:
        """Answer from the storage itself; raises `errors.Unavailable` when it can't."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Finish what was accepted, then let go. Idempotent."""
