"""Multipart uploads: parts that come one by one, in any order, and become an object together.

Every change of an upload rewrites its record under the revision that was read, so that a part that is late finds the
upload completed or aborted and takes its bytes back. Within this process a lock keeps them from failing each other.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from smcp.kernel import errors
from smcp.stores import bucket_data as data
from smcp.stores import bucket_lists as lists
from smcp.stores import bucket_model as model
from smcp.stores.kv import base as kv

Now = Callable[[], float]
Locks = dict[str, tuple[asyncio.Lock, list[int]]]
Commit = Callable[[str, model.Object, None, Sequence[kv.Op]], Awaitable[None]]

_PAGE: Final = 1000
_ATTEMPTS: Final = 100
_MOST_INLINE: Final = 64
"""An object of more pieces has a record of them by itself: its own is read for every list."""

_UPLOAD: Final = msgspec.msgpack.Decoder(model.Upload)


class Open(NamedTuple):
    """An open upload's key and id."""

    key: str
    id: str


class Uploads:
    """The multipart uploads of one bucket."""

    def __init__(self, held: data.Data, bucket: str, now: Now, locks: Locks, commit: Commit) -> None:
        """Use `Buckets.bucket`."""
        self._data = held
        self._kv = held.handle.kv
        self._bucket = bucket
        self._now = now
        self._locks = locks
        self._commit = commit

    async def create(self, key: str, about: model.About | None = None) -> str:
        """Open an upload; returns its id. Raises `errors.ObjectRefused` and `errors.QuotaExceeded`."""
        model.key(key)
        about = about or model.About()
        about.check()
        name = secrets.token_hex(32)
        record = model.Upload(key, self._now(), self._data.segment, about)
        await self._kv.put(self._key(name), data.encode(record), expect=kv.ABSENT)
        return name

    async def part(
        self, key: str, upload: str, number: int, content: AsyncIterable[bytes], *, length: int | None = None
    ) -> str:
        """Write a part, or write it anew; returns its etag. Raises what `Bucket.put` raises."""
        if not 1 <= number <= model.MOST_PARTS:
            raise model.refused(model.Reason.ARGUMENT, f"Parts have numbers from 1 to {model.MOST_PARTS}.")
        record, _ = await self._find(key, upload)
        held = self._data
        source = data.Source(content, model.digests({}), length)
        async with held.writing():
            await held.room_for(length or 0)
            blob = secrets.token_hex(16)
            async with held.using(blob):
                try:
                    await held.begin(blob, data.Waste(pieces=(data.Doomed(blob),), segment=record.segment))
                    await held.write(blob, source, record.segment)
                    etag = source.check({})["md5"].hex()
                    made = model.Part(model.Piece(blob, source.size), etag)
                    await self._add(key, upload, number, made)
                except BaseException:
                    await held.clean(blob)
                    raise
        return etag

    async def _add(self, key: str, upload: str, number: int, made: model.Part) -> None:
        async with self._alone(upload):
            old = await self._replaced(key, upload, number, made)
        if old is not None:
            await self._data.clean(old.blob)

    async def _replaced(self, key: str, upload: str, number: int, made: model.Part) -> model.Piece | None:
        """Put a part on record; returns the bytes that had its number before."""
        where = data.part_key(upload, number)
        for _ in range(_ATTEMPTS):
            record, revision = await self._find(key, upload)
            entry = await self._kv.get(where)
            ops: list[kv.Op] = [
                kv.Put(self._key(upload), data.encode(record), expect=revision),
                kv.Put(where, data.encode(made)),
                kv.Delete(data.waste_key(made.piece.blob)),
            ]
            old = None if entry is None else data.decoded(data.PART, entry).piece
            if old is not None:
                waste = data.Waste(pieces=(data.Doomed(old.blob),), segment=record.segment)
                ops.append(kv.Put(data.waste_key(old.blob), data.encode(waste)))
            with contextlib.suppress(errors.Conflict):  # not of this lock: looked at again
                await self._kv.apply(ops)
                return old
        raise errors.Conflict

    async def complete(self, key: str, upload: str, parts: Sequence[model.Published]) -> model.Object:
        """Make an object of the parts that are named. Raises `errors.ObjectRefused`."""
        async with self._alone(upload):
            record, revision = await self._find(key, upload)
            there = await self._parts(upload)
            chosen = _chosen(parts, there)
            version = secrets.token_hex(16)
            pieces = tuple(part.piece for part in chosen)
            few = len(pieces) <= _MOST_INLINE
            made = model.Object(
                version=version,
                size=sum(piece.size for piece in pieces),
                etag=model.etag_of_parts(chosen),
                uploaded=int(self._now() * 1000),
                segment=record.segment,
                about=record.about,
                pieces=pieces if few else None,
            )
            left = {part.piece.blob for part in there.values()} - {piece.blob for piece in pieces}
            waste = data.Waste(pieces=tuple(data.Doomed(blob) for blob in left), parts=upload, segment=record.segment)
            ops: list[kv.Op] = [
                kv.Delete(self._key(upload), expect=revision),
                kv.Put(data.waste_key(upload), data.encode(waste)),
            ]
            if not few:
                ops.append(kv.Put(data.manifest_key(version), data.encode(pieces)))
            await self._commit(key, made, None, ops)
        await self._data.clean(upload)
        return made

    async def abort(self, key: str, upload: str) -> None:
        """End an upload without an object. Raises `errors.ObjectRefused` when there is none."""
        async with self._alone(upload):
            record, revision = await self._find(key, upload)
            waste = data.Waste(parts=upload, with_bytes=True, segment=record.segment)
            await self._kv.apply(
                [
                    kv.Delete(self._key(upload), expect=revision),
                    kv.Put(data.waste_key(upload), data.encode(waste)),
                ]
            )
        await self._data.clean(upload)

    async def open(self) -> list[Open]:
        """The open uploads of the bucket, up to a thousand."""
        entries = await self._kv.scan((*lists.UPLOADS, self._bucket), limit=_PAGE)
        return [Open(data.decoded(_UPLOAD, entry).key, entry.key[-1]) for entry in entries]

    async def abort_all(self) -> None:
        """End every open upload of the bucket."""
        while there := await self.open():
            for one in there:
                with contextlib.suppress(errors.ObjectRefused, errors.Conflict):  # somebody was faster: looked at again
                    await self.abort(one.key, one.id)

    async def _find(self, key: str, upload: str) -> tuple[model.Upload, int]:
        model.upload_id(upload)
        entry = await self._kv.get(self._key(upload))
        record = None if entry is None else data.decoded(_UPLOAD, entry)
        if entry is None or record is None or record.key != key:
            raise model.no_upload()
        return record, entry.revision

    async def _parts(self, upload: str) -> dict[int, model.Part]:
        found: dict[int, model.Part] = {}
        after: kv.Key | None = None
        while page := await self._kv.scan(data.part_key(upload), after=after, limit=_PAGE):
            found.update((int(entry.key[-1]), data.decoded(data.PART, entry)) for entry in page)
            after = page[-1].key
        return found

    @contextlib.asynccontextmanager
    async def _alone(self, upload: str) -> AsyncGenerator[None]:
        lock, users = self._locks.setdefault(upload, (asyncio.Lock(), [0]))
        users[0] += 1
        try:
            async with lock:
                yield
        finally:
            users[0] -= 1
            if not users[0]:
                del self._locks[upload]

    def _key(self, upload: str) -> kv.Key:
        return (*lists.UPLOADS, self._bucket, upload)


class Expired(NamedTuple):
    """An upload that has been open for too long."""

    bucket: str
    id: str
    key: str


async def expired(held: data.Data, now: float) -> list[Expired]:
    """The tenant's uploads that have been open for too long."""
    found: list[Expired] = []
    after: kv.Key | None = None
    while page := await held.handle.kv.scan(lists.UPLOADS, after=after, limit=_PAGE):
        for entry in page:
            record = data.decoded(_UPLOAD, entry)
            if record.started + model.UPLOAD_LIFE_S <= now:
                found.append(Expired(entry.key[-2], entry.key[-1], record.key))
        after = page[-1].key
    return found


def _chosen(parts: Sequence[model.Published], there: dict[int, model.Part]) -> list[model.Part]:
    """The parts in their order. Raises `errors.ObjectRefused` where R2 does."""
    numbers = [part.number for part in parts]
    if not parts or len(set(numbers)) != len(numbers):
        raise model.refused(model.Reason.ARGUMENT, "An upload is completed with at least one part, each named once.")
    chosen: list[model.Part] = []
    for published in sorted(parts, key=lambda part: part.number):
        part = there.get(published.number)
        if part is None or part.etag != published.etag:
            raise model.refused(model.Reason.PART, f"Part {published.number} was not uploaded, or is another one.")
        chosen.append(part)
    sizes = [part.piece.size for part in chosen]
    if any(size < model.LEAST_PART for size in sizes[:-1]):
        raise model.refused(model.Reason.TOO_SMALL, f"Every part but the last has at least {model.LEAST_PART} bytes.")
    if len(set(sizes[:-1])) > 1 or sizes[-1] > sizes[0]:
        raise model.refused(model.Reason.UNEVEN, "All parts but the last have the same size, and the last no more.")
    return chosen
