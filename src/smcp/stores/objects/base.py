"""The objects interface: blobs that are written once, streamed in and out.

No conditional update exists on a plain directory, atomic creation does: so blobs are create-only, usually named
by their digest, and pointers to them live in KV.
"""

import abc
from collections.abc import AsyncIterable, AsyncIterator
from typing import NamedTuple

Name = tuple[str, ...]


class Info(NamedTuple):
    """An object's name and size in bytes."""

    name: Name
    size: int


class Objects(abc.ABC):
    """Create-only blobs. When `put` returns, the object is whole and durable; before that it does not exist."""

    @abc.abstractmethod
    async def put(self, name: Name, data: AsyncIterable[bytes]) -> int:
        """Store the chunks of `data` as one object; returns its size. Raises `errors.Conflict` if it exists.

        When `data` raises, nothing is stored. Memory use is bounded, whatever the size.
        """

    @abc.abstractmethod
    def get(self, name: Name, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes `start` (inclusive) to `end` (exclusive) in chunks. Raises `errors.NotFound`."""

    @abc.abstractmethod
    async def head(self, name: Name) -> Info | None:
        """The object's size, or None."""

    @abc.abstractmethod
    async def delete(self, name: Name) -> None:
        """Remove the object; removing what does not exist is fine."""

    @abc.abstractmethod
    async def list(self, prefix: Name, *, after: Name | None = None, limit: int = 1000) -> list[Info]:
        """Up to `limit` objects in name order whose name begins with the whole segments of `prefix`."""

    @abc.abstractmethod
    async def ping(self) -> None:
        """Answer from the storage itself; raises `errors.Unavailable` when it can't."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Let go. Idempotent."""
