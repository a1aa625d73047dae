"""The objects interface through obstore: a directory, or anything S3-compatible.

An object is first written below `staging/` under a random name, then moved to its own name, which succeeds only if
nobody was there before. In a directory the staged file and every directory on the way are synced in between, so
that what is visible is whole and stays; what a crash leaves below `staging/` is removed at the next start.

A name's segments become path components of letters, digits and hyphens (other bytes as `_xx`); the last one ends
in `.o`, so that an object can stand beside those whose names extend its own, and components stay under 200 bytes.
"""

import asyncio
import contextlib
import heapq
import os
import re
import secrets
import shutil
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import obstore
from obstore import exceptions, store

from smcp.kernel import crypto, errors
from smcp.stores import decided, keys
from smcp.stores.objects import base

_PART: Final = 5 * 1024 * 1024  # the smallest part that S3 takes
_READ: Final = 256 * 1024
_LONGEST: Final = 200
_STAGING: Final = "staging"
_KEPT: Final = "objects"
_OTHER: Final = re.compile(rb"[^A-Za-z0-9-]")


class ObstoreObjects(base.Objects):
    """`base.Objects` on one obstore store."""

    def __init__(self, backing: store.ObjectStore, directory: Path | None = None) -> None:
        """Use `in_directory` or `at_url`; `directory` is where `backing` keeps its files, when it does."""
        self._store = backing
        self._directory = directory
        self._closed = False

    @classmethod
    def in_directory(cls, directory: Path) -> "ObstoreObjects":
        """Objects as files below `directory`, which must belong to one process only."""
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.rmtree(directory / _STAGING, ignore_errors=True)
            (directory / _STAGING).mkdir(mode=0o700, exist_ok=True)
            (directory / _KEPT).mkdir(mode=0o700, exist_ok=True)
            crypto.sync_directory(directory)
        except OSError as error:
            raise errors.Unavailable(f"The object directory {directory} can't be used.", detail=str(error)) from error
        return cls(store.LocalStore(directory), directory)

    @classmethod
    def at_url(cls, url: str) -> "ObstoreObjects":
        """Objects at an S3, GCS or Azure URL; credentials come from the provider's usual environment."""
        try:
            if url.startswith("s3:"):
                # S3 has no conditional copy of its own; the multipart way of it is atomic.
                return cls(store.S3Store.from_url(url, copy_if_not_exists="multipart"))
            return cls(store.from_url(url))
        except (exceptions.BaseError, ValueError) as error:
            raise errors.BadSettings(f"stores.objects_url can't be used: {type(error).__name__}.") from error

    async def put(self, name: base.Name, data: AsyncIterable[bytes]) -> int:
        path = _path(name)
        self._check_open()
        if await self.head(name) is not None:  # early, before the work; the move below is what decides
            raise errors.Conflict
        staged = f"{_STAGING}/{secrets.token_hex(16)}"
        size = 0
        source: list[Exception] = []

        async def counted() -> AsyncGenerator[bytes, None]:
            nonlocal size
            try:
                waiting = bytearray()  # crossing into obstore has a price, so small chunks go together
                async for chunk in data:
                    size += len(chunk)
                    waiting += chunk
                    if len(waiting) >= _READ:
                        yield bytes(waiting)
                        waiting.clear()
                if waiting:
                    yield bytes(waiting)
            except Exception as error:
                source.append(error)
                raise

        moved = False
        try:
            with _translated():
                await obstore.put_async(
                    self._store, staged, counted(), use_multipart=True, chunk_size=_PART, max_concurrency=1
                )
                if self._directory is not None:
                    await asyncio.to_thread(_sync_file, self._directory / staged)
                moved = True
                await decided.decided(self._move(staged, path))
        except errors.SmcpError:
            if source:  # the data's source broke, not the storage
                raise source[0] from None
            raise
        finally:
            if not moved:
                await self._forget(staged)
        return size

    async def _move(self, staged: str, path: str) -> None:
        """Give a staged object its name, if nobody was first."""
        try:
            await obstore.rename_async(self._store, staged, path, overwrite=False)
        except BaseException:
            await self._forget(staged)
            raise
        if self._directory is not None:
            await asyncio.to_thread(_sync_way, self._directory, path)

    async def _forget(self, staged: str) -> None:
        with contextlib.suppress(exceptions.BaseError, OSError):
            if self._directory is None:
                await obstore.delete_async(self._store, staged)
                return
            for part in self._directory.glob(f"{staged}*"):  # also what obstore had not given its name yet
                part.unlink(missing_ok=True)

    async def get(self, name: base.Name, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        if start < 0 or (end is not None and end < 0):
            raise ValueError("a range does not begin or end before 0")
        path = _path(name)
        info = await self.head(name)
        if info is None:
            raise errors.NotFound
        stop = info.size if end is None else min(end, info.size)
        if start >= stop:
            return
        with _translated():
            result = await obstore.get_async(self._store, path, options={"range": (start, stop)})
            stream = result.stream(min_chunk_size=_READ)
        while True:
            with _translated():
                try:
                    chunk = await anext(stream)
                except StopAsyncIteration:
                    return
            yield bytes(chunk)

    async def head(self, name: base.Name) -> base.Info | None:
        path = _path(name)
        self._check_open()
        try:
            with _translated():
                meta = await obstore.head_async(self._store, path)
        except errors.NotFound:
            return None
        return base.Info(name, meta["size"])

    async def delete(self, name: base.Name) -> None:
        path = _path(name)
        self._check_open()
        with contextlib.suppress(errors.NotFound), _translated():
            await decided.decided(self._delete(path))

    async def _delete(self, path: str) -> None:
        await obstore.delete_async(self._store, path)
        if self._directory is not None:
            await asyncio.to_thread(crypto.sync_directory, (self._directory / path).parent)

    async def list(self, prefix: base.Name, *, after: base.Name | None = None, limit: int = 1000) -> list[base.Info]:
        self._check_open()
        found: list[base.Info] = []
        last = None if after is None else keys.encode(after)
        with _translated():
            if prefix and (alone := await self.head(prefix)) is not None:
                found.append(alone)
            async for page in self._pages(_folder(prefix)):
                some = [base.Info(_name(meta["path"]), meta["size"]) for meta in page]
                found += [info for info in some if last is None or keys.encode(info.name) > last]
                # The order of paths is not the order of names, so the whole folder is read; kept is a page of it.
                if len(found) >= 2 * limit + 500:
                    found = heapq.nsmallest(limit, found, key=lambda info: keys.encode(info.name))
        found = [info for info in found if last is None or keys.encode(info.name) > last]
        return sorted(found, key=lambda info: keys.encode(info.name))[:limit]

    def _pages(self, folder: str) -> "AsyncIterator[Sequence[obstore.ObjectMeta]]":
        # One overload of obstore's `list` needs a package that is not installed; this call is not of that one.
        return obstore.list(self._store, folder, chunk_size=500)  # pyright: ignore[reportUnknownMemberType]

    async def ping(self) -> None:
        self._check_open()
        with _translated():
            if self._directory is not None:
                await asyncio.to_thread(os.stat, self._directory / _KEPT)
                return
            async for _ in self._pages(_STAGING):
                return

    async def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise errors.Unavailable(detail="the object store is closed")


class _translated(contextlib.AbstractContextManager[None]):  # noqa: N801  reads as the verb it is
    """Turns what obstore and the system raise into the platform's errors; what the data's source raises passes."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise errors.NotFound from error
        if isinstance(error, exceptions.AlreadyExistsError):
            raise errors.Conflict from error
        if isinstance(error, (exceptions.BaseError, OSError)):
            raise errors.Unavailable(detail=f"objects: {error}") from error


def _component(segment: str) -> list[str]:
    text = _OTHER.sub(lambda match: b"_%02x" % match[0][0], segment.encode()).decode("ascii")
    pieces = [text[at : at + _LONGEST] for at in range(0, len(text), _LONGEST)]
    return [*(piece + "." for piece in pieces[:-1]), pieces[-1]]


def _folder(prefix: base.Name) -> str:
    if "" in prefix:
        raise ValueError("a name is a non-empty tuple of non-empty strings")
    return "/".join([_KEPT, *(piece for segment in prefix for piece in _component(segment))])


def _path(name: base.Name) -> str:
    if not name:
        raise ValueError("a name is a non-empty tuple of non-empty strings")
    return _folder(name) + ".o"


def _name(path: str) -> base.Name:
    segments: list[str] = []
    open_piece = ""
    for piece in path.removesuffix(".o").split("/")[1:]:
        if piece.endswith("."):
            open_piece += piece[:-1]
            continue
        text = re.sub(rb"_([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), (open_piece + piece).encode())
        segments.append(text.decode())
        open_piece = ""
    return tuple(segments)


def _sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_way(root: Path, path: str) -> None:
    """Sync each directory between `root` and the file: any of them may be new."""
    parent = (root / path).parent
    while parent != root:
        crypto.sync_directory(parent)
        parent = parent.parent
