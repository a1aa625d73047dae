"""Where the bytes of buckets are, and how none is ever left behind.

Bytes are written once, under a random name, in sealed segments. Nobody sees them before a record names them, and that
record is written by compare-and-set. So that a crash between the two leaves nothing, a *waste marker* is written
first: it says which bytes go unless a record has come to name them. The write that makes the record removes the marker
in the same transaction, and the one that makes a record go (replace, delete, abort) writes a marker for its bytes.
What a marker names is removed right afterwards, and by `sweep` where the process ended in between.

A marker of bytes that this process is writing or reading is left alone until it has finished: see `using`. That is
known in memory, so only one process may serve a tenant's buckets; the embedded store has only one.
"""

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence
from typing import Final, TypeVar

import msgspec

from smcp.kernel import errors, ids
from smcp.stores import bucket_model as model
from smcp.stores import decided
from smcp.stores import tenant as stores
from smcp.stores.kv import base as kv

T = TypeVar("T")

PREFIX: Final = "buckets"
"""First segment of every key and object name of buckets."""

SEGMENT: Final = model.GIB
"""Bytes in one stored segment: what a back end moves in one piece must stay under its limits (5 GiB on S3)."""

_WRITES: Final = 16
_READS: Final = 64
_PATIENCE_S: Final = 30.0
"""How long a request waits for its turn when its tenant has that many under way."""
_STALL_S: Final = 60.0
"""How long the next bytes of an upload may take."""
_SIDE_BY_SIDE: Final = 8
_PAGE: Final = 500

_MANIFEST: Final = msgspec.msgpack.Decoder(tuple[model.Piece, ...])
PART: Final = msgspec.msgpack.Decoder(model.Part)
encode: Final = msgspec.msgpack.Encoder().encode


class Doomed(msgspec.Struct, frozen=True, array_like=True):
    """Bytes to remove: their name, and how many segments they have; 0 where nobody knows."""

    blob: str
    segments: int = 0


class Waste(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a waste marker says: all of it is to be removed."""

    pieces: tuple[Doomed, ...] = ()
    manifest: str = ""
    """The version whose record of pieces goes, with its pieces."""
    parts: str = ""
    """The upload whose records of parts go,"""
    with_bytes: bool = False
    """with the bytes of the parts, or without."""
    segment: int = SEGMENT


_WASTE: Final = msgspec.msgpack.Decoder(Waste)


def decoded(decoder: msgspec.msgpack.Decoder[T], entry: kv.Entry) -> T:
    """A record. Raises `errors.TamperedData`."""
    try:
        return decoder.decode(entry.value)
    except msgspec.DecodeError as error:
        raise errors.TamperedData(detail=f"a record of buckets is none: {error}") from error


def waste_of(found: model.Object) -> Waste:
    """What goes with an object."""
    if found.pieces is None:
        return Waste(manifest=found.version, segment=found.segment)
    return Waste(pieces=tuple(_doomed(found.pieces, found.segment)), segment=found.segment)


def waste_key(name: str) -> kv.Key:
    """Where a marker is."""
    return (PREFIX, "waste", name)


def manifest_key(version: str) -> kv.Key:
    """Where an object's pieces are on record, when they are many."""
    return (PREFIX, "manifests", version)


def part_key(upload: str, number: int | None = None) -> kv.Key:
    """Where a part of an upload is on record; without a number, what all of them are below."""
    return (PREFIX, "parts", upload) if number is None else (PREFIX, "parts", upload, f"{number:05d}")


class Data:
    """One tenant's bytes in buckets."""

    def __init__(
        self, handle: stores.Handle, segment: int, damaged: Callable[[ids.TenantId, str], None] | None = None
    ) -> None:
        """`damaged`: told when a record does not open that says what is to be removed."""
        self.handle: Final = handle
        self._damaged = damaged
        self.segment: Final = segment
        self._busy: Counter[str] = Counter()
        self._due: set[str] = set()
        self._going: set[str] = set()
        self._writes = asyncio.Semaphore(_WRITES)
        self._reads = asyncio.Semaphore(_READS)

    # --- turns ----------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncGenerator[None]:
        """A turn to write. Raises `errors.RateLimited`."""
        await _turn(self._writes)
        try:
            yield
        finally:
            self._writes.release()

    @contextlib.asynccontextmanager
    async def using(self, name: str) -> AsyncGenerator[None]:
        """While this lasts, what the marker `name` names is not removed; then it is, if it was to be meanwhile."""
        self._busy[name] += 1
        try:
            yield
        finally:
            self._busy[name] -= 1
            if not self._busy[name]:
                del self._busy[name]
                if name in self._due:
                    self._due.discard(name)
                    await self.clean(name)

    def going(self, name: str) -> bool:
        """Whether what the marker `name` names is being removed."""
        return name in self._going

    async def room_for(self, size: int) -> None:
        """Raises `errors.QuotaExceeded` when `size` more bytes have no room now. Keeps none: writing does."""
        if not await self.handle.reserve(size):
            raise errors.QuotaExceeded
        self.handle.give_back(size)

    # --- writing --------------------------------------------------------------------------------------------

    async def begin(self, name: str, waste: Waste) -> None:
        """Write a marker before the bytes."""
        await self.handle.kv.put(waste_key(name), encode(waste), expect=kv.ABSENT)

    async def write(self, blob: str, source: "Source", segment: int) -> None:
        """Write all bytes of `source` under the name `blob`, in segments of so many."""
        index = 0
        while await source.more():
            await self.handle.objects.put(_name(blob, index), source.take(segment))
            index += 1

    # --- reading --------------------------------------------------------------------------------------------

    async def pieces(self, found: model.Object) -> tuple[model.Piece, ...]:
        """Where an object's bytes are."""
        if found.pieces is not None:
            return found.pieces
        entry = await self.handle.kv.get(manifest_key(found.version))
        if entry is None:
            raise errors.TamperedData(detail=f"the pieces of object {found.version} are on no record")
        return decoded(_MANIFEST, entry)

    async def read(self, found: model.Object, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes `start` to `end` (exclusive) of an object that is in use. Raises `errors.RateLimited`."""
        await _turn(self._reads)
        try:
            offset = seen = 0
            for piece in await self.pieces(found):
                first, last = max(0, start - offset), min(piece.size, end - offset)
                offset += piece.size
                for index in range(first // found.segment, -(-last // found.segment)):
                    base = index * found.segment
                    where = {"start": max(0, first - base), "end": min(last - base, found.segment)}
                    async for chunk in self.handle.objects.get(_name(piece.blob, index), **where):
                        seen += len(chunk)
                        yield chunk
        except errors.NotFound as error:  # in use, so never removed by us
            raise errors.TamperedData(detail=f"bytes of object {found.version} are gone") from error
        else:
            if seen != end - start:
                raise errors.TamperedData(detail=f"object {found.version} has not the bytes that its record says")
        finally:
            self._reads.release()

    # --- removing -------------------------------------------------------------------------------------------

    async def clean(self, *names: str) -> None:
        """Remove what markers name, and them. What is in use goes later; where the storage fails, `sweep` does it."""
        await decided.decided(self._clean_all(names))

    async def _clean_all(self, names: Sequence[str]) -> None:
        for at in range(0, len(names), _SIDE_BY_SIDE):
            await asyncio.gather(*[self._clean(name) for name in names[at : at + _SIDE_BY_SIDE]])

    async def _clean(self, name: str) -> None:
        if self._busy[name] or name in self._going:
            self._due.add(name)
            return
        self._going.add(name)
        try:
            # Read now, when nobody writes any more: a marker that is still there is one of bytes that no record names.
            entry = await self.handle.kv.get(waste_key(name))
            if entry is not None:
                await self._remove(decoded(_WASTE, entry))
                await self.handle.kv.delete(waste_key(name))
        except (errors.Unavailable, errors.NotFound):
            pass  # the storage is away, or the tenant was erased with all it had: the marker, if any, stays for `sweep`
        except errors.TamperedData as error:  # it stays, too: nobody knows any more what it names
            if self._damaged is not None:
                self._damaged(self.handle.tenant, str(error))
        finally:
            self._going.discard(name)
            self._due.discard(name)

    async def _remove(self, waste: Waste) -> None:
        await self._remove_pieces(waste.pieces)
        if waste.manifest:
            entry = await self.handle.kv.get(manifest_key(waste.manifest))
            if entry is not None:
                await self._remove_pieces(_doomed(decoded(_MANIFEST, entry), waste.segment))
                await self.handle.kv.delete(manifest_key(waste.manifest))
        while waste.parts and (page := await self.handle.kv.scan(part_key(waste.parts), limit=_PAGE)):
            if waste.with_bytes:
                pieces = [decoded(PART, entry).piece for entry in page]
                await self._remove_pieces(_doomed(pieces, waste.segment))
            await self.handle.kv.apply([kv.Delete(entry.key) for entry in page])

    async def _remove_pieces(self, pieces: Iterable[Doomed]) -> None:
        for one in pieces:
            count = one.segments or await self._count(one.blob)
            # From the last to the first, so that a count after a crash still finds all that are left.
            for index in reversed(range(count)):
                await self.handle.objects.delete(_name(one.blob, index))

    async def _count(self, blob: str) -> int:
        count = 0
        while True:
            try:
                if await self.handle.objects.head(_name(blob, count)) is None:
                    return count
            except errors.TamperedData:
                pass  # it is there, whatever it is
            count += 1

    async def sweep(self) -> None:
        """Remove what was to be removed when a process ended."""
        after: kv.Key | None = None
        while page := await self.handle.kv.scan((PREFIX, "waste"), after=after, limit=_PAGE):
            await self.clean(*[entry.key[-1] for entry in page])
            after = page[-1].key


class Source:
    """Bytes that are being uploaded: counted, hashed, and cut into segments."""

    def __init__(
        self,
        data: AsyncIterable[bytes],
        hashes: "dict[str, hashlib._Hash]",  # pyright: ignore[reportPrivateUsage]  hashlib names its type so
        length: int | None,
        *,
        stall_s: float = _STALL_S,
    ) -> None:
        """`length`: how many bytes are announced, if any are. Raises `errors.ObjectRefused` when that is too many."""
        self.size = 0
        self._data = aiter(data)
        self._hashes = hashes
        self._most = model.MOST_PUT if length is None else length
        self._length = length
        self._stall_s = stall_s
        self._rest = b""
        if self._most > model.MOST_PUT:
            raise _too_large()

    async def more(self) -> bool:
        """Whether bytes are left. Raises `errors.ObjectRefused`, `errors.RequestTimeout` and the data's own."""
        while not self._rest:
            try:
                async with asyncio.timeout(self._stall_s):
                    self._rest = await anext(self._data)
            except StopAsyncIteration:
                if self._length is not None and self.size != self._length:
                    raise model.refused(
                        model.Reason.INCOMPLETE, f"The body has {self.size} bytes instead of {self._length}."
                    ) from None
                return False
            except TimeoutError as error:
                raise errors.RequestTimeout from error
            self.size += len(self._rest)
            if self.size > self._most:
                if self._length is None:
                    raise _too_large()
                raise model.refused(model.Reason.INCOMPLETE, f"The body has more than {self._length} bytes.")
            for running in self._hashes.values():
                running.update(self._rest)
        return True

    async def take(self, most: int) -> AsyncGenerator[bytes, None]:
        """The next bytes, up to `most`."""
        while most and await self.more():
            taken, self._rest = self._rest[:most], self._rest[most:]
            most -= len(taken)
            yield taken

    def check(self, given: dict[str, bytes]) -> dict[str, bytes]:
        """The checksums of what was taken. Raises `errors.ObjectRefused` when one of `given` is another."""
        found = {name: running.digest() for name, running in self._hashes.items()}
        wrong = [name for name, value in given.items() if found[name] != value]
        if wrong:
            raise model.refused(model.Reason.DIGEST, f"The {wrong[0]} of what arrived is not the one that was given.")
        return found


def _too_large() -> errors.ObjectRefused:
    return model.refused(
        model.Reason.TOO_LARGE, f"One upload has at most {model.MOST_PUT} bytes: a multipart upload takes more."
    )


def _doomed(pieces: Iterable[model.Piece], segment: int) -> list[Doomed]:
    return [Doomed(piece.blob, -(-piece.size // segment)) for piece in pieces if piece.size]


def _name(blob: str, index: int) -> tuple[str, str]:
    return (PREFIX, f"{blob}-{index}")


async def _turn(turns: asyncio.Semaphore) -> None:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await turns.acquire()
    except TimeoutError as error:
        raise errors.RateLimited("Too many transfers of this tenant's objects at once. Wait and retry.") from error
