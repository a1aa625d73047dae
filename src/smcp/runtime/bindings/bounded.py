"""What hosted code may make large, in bounded memory: JSON that it sends, answers that it may or may not read."""

import asyncio
import codecs
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine
from typing import Any, Final, cast

import msgspec

from smcp.kernel import errors
from smcp.runtime.bindings import http
from smcp.stores import heavy

_PIECE: Final = 32 * 1024
"""Bytes that are encoded at once: six times as many where each of them is escaped."""
_TEXTS: Final = msgspec.json.Decoder(list[str])
_ANYTHING: Final = msgspec.json.Decoder(msgspec.Raw)

Headers = tuple[tuple[bytes, bytes], ...]


class Held:
    """A body that keeps its place, and whatever else it holds, until it is sent or not wanted any more."""

    __slots__ = ("_held", "_parts")

    def __init__(self, parts: AsyncGenerator[bytes], held: contextlib.AsyncExitStack) -> None:
        self._parts = parts
        self._held = held

    def __aiter__(self) -> "Held":
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._parts)

    async def aclose(self) -> None:
        """Let go of all of it. May be called again."""
        try:
            await self._parts.aclose()
        finally:
            await self._held.aclose()


async def kept(
    share: heavy.Share, made: Callable[[contextlib.AsyncExitStack], Coroutine[Any, Any, http.Response]]
) -> http.Response:
    """What `made` answers, in a place that is kept until the answer is sent.

    `made` gets what is closed then. Raises `errors.RateLimited` without a place, `errors.RequestTimeout` when the
    making takes longer than a place may be kept, and what `made` raises.
    """
    async with contextlib.AsyncExitStack() as held:
        place = await share.take()
        held.callback(place.release)
        try:
            async with asyncio.timeout(share.hold_s):
                response = await made(held)
        except TimeoutError:
            raise errors.RequestTimeout from None
        body = response.body
        if isinstance(body, bytes):
            if len(body) <= heavy.SMALL:
                return response
            response.length = len(body)
            body = pieces(body)
        elif not isinstance(body, AsyncGenerator):
            raise TypeError("an answer that keeps a place is bytes or a generator of them")
        response.body = Held(cast("AsyncGenerator[bytes]", body), held.pop_all())
        response.within_s = share.hold_s
        return response


async def pieces(value: bytes | AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """`value` in pieces."""
    if isinstance(value, bytes):
        for start in range(0, len(value), http.CHUNK):
            yield value[start : start + http.CHUNK]
    else:
        async for chunk in value:
            yield chunk


async def text(value: bytes | AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """The JSON string of a value, with U+FFFD for what is not UTF-8, as it comes."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    yield b'"'
    async with contextlib.aclosing(pieces(value)) as parts:
        async for part in parts:
            for start in range(0, len(part), _PIECE):
                yield msgspec.json.encode(decoder.decode(part[start : start + _PIECE]))[1:-1]
    yield msgspec.json.encode(decoder.decode(b"", True))[1:-1] + b'"'


async def check_json(data: bytes) -> None:
    """Raises `errors.InvalidParams` when `data` is not JSON. Nothing is built of it, whatever it says."""
    if len(data) <= heavy.SMALL:
        _check_json(data)
    else:
        await asyncio.to_thread(_check_json, data)


def _check_json(data: bytes) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        _ANYTHING.decode(data)
        # What is skipped is not looked at for that.
        for start in range(0, len(data), http.CHUNK):
            decoder.decode(data[start : start + http.CHUNK])
        decoder.decode(b"", True)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise errors.InvalidParams("The value of one of these keys is not JSON.") from None


def texts(raw: msgspec.Raw, most: int) -> list[str] | None:
    """The list of texts that `raw` is; None, before they are made, when there are more than `most`.

    Raises `msgspec.DecodeError`.
    """
    data = bytes(raw)
    # It is JSON, so the quotes that are not escaped stand in pairs, and the list breaks off at what is no text.
    quotes = data.replace(b"\\\\", b"").replace(b'\\"', b"").count(b'"') if len(data) > 2 * most else 0
    return None if quotes > 2 * most else _TEXTS.decode(data)
