"""Encryption at rest for objects: chunks that open one by one, in their order and number only.

Layout: format byte, 16 random bytes that name this writing of the object, then chunks of 64 KiB (the last one may
be shorter), each sealed with XAES-256-GCM. A chunk's associated data is tenant, interface, object name, the 16
bytes, its index, and whether it is the last (the idea of STREAM, Hoang, Reyhanitabar, Rogaway and Vizár 2015). So
chunks can't be moved, exchanged between writings, repeated or cut off, and any range is read without the rest.
"""

import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import Final

from smcp.kernel import crypto, errors, ids
from smcp.stores.objects import base
from smcp.stores.wrappers import sealed

_ID: Final = 16
_HEADER: Final = 1 + _ID
_PLAIN: Final = 64 * 1024
_CHUNK: Final = _PLAIN + crypto.OVERHEAD


class SealedObjects(base.Objects):
    """One tenant's part of `inner`, sealed."""

    def __init__(self, inner: base.Objects, tenant: ids.TenantId, key: bytes) -> None:
        self._inner = inner
        self._tenant = tenant
        self._xaes = crypto.Xaes(key)

    async def put(self, name: base.Name, data: AsyncIterable[bytes]) -> int:
        if not name:
            raise ValueError("a name is a non-empty tuple of non-empty strings")
        stored = await self._inner.put((self._tenant, *name), self._seal(name, data))
        return _plain_size(stored)

    async def _seal(self, name: base.Name, data: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
        writing = os.urandom(_ID)
        yield sealed.FORMAT + writing
        index = 0
        waiting = bytearray()
        async for piece in data:
            waiting += piece
            at = 0
            while len(waiting) - at > _PLAIN:  # a full chunk goes only when more follows: it may be the last one
                yield self._xaes.seal(bytes(waiting[at : at + _PLAIN]), self._aad(name, writing, index, last=False))
                at += _PLAIN
                index += 1
            del waiting[:at]
        yield self._xaes.seal(bytes(waiting), self._aad(name, writing, index, last=True))

    def _aad(self, name: base.Name, writing: bytes, index: int, *, last: bool) -> bytes:
        return crypto.length_prefixed(self._tenant, "objects", *name, writing, str(index), "last" if last else "more")

    async def get(self, name: base.Name, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        if start < 0 or (end is not None and end < 0):
            raise ValueError("a range does not begin or end before 0")
        # First of all: what is read later belongs to this writing, or the object was replaced meanwhile.
        writing = await self._writing(name)
        try:
            async for wanted in self._opened(name, writing, start, end):
                yield wanted
        except errors.TamperedData:
            if await self._writing(name) != writing:
                raise errors.NotFound(detail="the object was replaced while it was read") from None
            raise

    async def _opened(self, name: base.Name, writing: bytes, start: int, end: int | None) -> AsyncIterator[bytes]:
        info = await self._inner.head((self._tenant, *name))
        if info is None:
            raise errors.NotFound
        size, count = _plain_size(info.size), _chunks(info.size)
        stop = size if end is None else min(end, size)
        if start >= stop and stop < size:
            return
        # A range that touches the end opens the last chunk in any case: that is where a cut shows.
        first = min(start // _PLAIN, count - 1)
        until = count if stop == size else (stop - 1) // _PLAIN + 1
        index = first
        async for chunk in self._stored(name, first, until, info.size):
            plain = self._xaes.open(chunk, self._aad(name, writing, index, last=index == count - 1))
            offset = index * _PLAIN
            wanted = plain[max(0, start - offset) : max(0, stop - offset)]
            if wanted:
                yield wanted
            index += 1
        if index != until:
            raise errors.TamperedData(detail="an object ends early")

    async def _writing(self, name: base.Name) -> bytes:
        header = b"".join([part async for part in self._inner.get((self._tenant, *name), end=_HEADER)])
        if len(header) != _HEADER or header[:1] != sealed.FORMAT:
            raise errors.TamperedData(detail=f"an unsealed object of {self._tenant}")
        return header[1:]

    async def _stored(self, name: base.Name, first: int, until: int, size: int) -> AsyncIterator[bytes]:
        """The sealed chunks `first` … `until` (exclusive)."""
        waiting = bytearray()
        start, end = _HEADER + first * _CHUNK, min(_HEADER + until * _CHUNK, size)
        async for part in self._inner.get((self._tenant, *name), start=start, end=end):
            waiting += part
            at = 0
            while len(waiting) - at >= _CHUNK:
                yield bytes(waiting[at : at + _CHUNK])
                at += _CHUNK
            del waiting[:at]
        if waiting:
            yield bytes(waiting)

    async def head(self, name: base.Name) -> base.Info | None:
        """The size, after the last chunk has shown that nothing was cut off."""
        info = await self._inner.head((self._tenant, *name))
        if info is None:
            return None
        size = _plain_size(info.size)
        async for _ in self.get(name, start=size):
            raise errors.TamperedData(detail="an object is longer than its size")
        return base.Info(name, size)

    async def delete(self, name: base.Name) -> None:
        if not name:
            raise ValueError("a name is a non-empty tuple of non-empty strings")
        await self._inner.delete((self._tenant, *name))

    async def list(self, prefix: base.Name, *, after: base.Name | None = None, limit: int = 1000) -> list[base.Info]:
        """As in `base.Objects`; the sizes follow from what is stored and are proven by reading only."""
        found = await self._inner.list(
            (self._tenant, *prefix), after=None if after is None else (self._tenant, *after), limit=limit
        )
        return [base.Info(info.name[1:], _plain_size(info.size)) for info in found]

    async def ping(self) -> None:
        await self._inner.ping()

    async def close(self) -> None:
        """Nothing: the storage belongs to whoever bound this handle."""


def _chunks(stored: int) -> int:
    return -(-(stored - _HEADER) // _CHUNK)


def _plain_size(stored: int) -> int:
    """The size before sealing; raises `errors.TamperedData` for a size that sealing never makes."""
    count = _chunks(stored)
    size = stored - _HEADER - count * crypto.OVERHEAD
    if count < 1 or size < 0 or (count > 1 and size <= (count - 1) * _PLAIN):
        raise errors.TamperedData(detail="an object of a size that no sealed object has")
    return size
