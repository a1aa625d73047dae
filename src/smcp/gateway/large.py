"""Answers that wait on disk, sent piece by piece, no faster than the client reads."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Protocol

from smcp.gateway import exchange

_EVENT: Final = b"event: message\ndata: "


class Pieces(Protocol):
    """A result that comes in pieces: `spool.Result`."""

    def pieces(self) -> AsyncIterator[bytes]:
        """Its bytes."""
        ...


async def send(
    x: exchange.Exchange,
    id_raw: bytes,
    result: Pieces,
    check: Callable[[], Awaitable[None]],
    *,
    plain: bool,
    event: bytes = b"",
) -> None:
    """Send the response with `result`: `plain` as JSON, else as the last event of a stream, which is opened if need be.

    `event` is that event's id, if it has one.

    `check` is asked before each piece and raises when the client has lost its right to the rest, which it does not get:
    its connection ends in the middle. Raises `exchange.ClientGone`, `errors.Unavailable`.
    """
    if plain:
        x.open_large()
    elif not x.streaming:
        x.open_stream()
    head = b'{"jsonrpc":"2.0","id":%b,"result":' % id_raw
    await x.stream(head if plain else (b"id: %b\n" % event if event else b"") + _EVENT + head)
    async for piece in result.pieces():
        if x.gone:
            raise exchange.ClientGone
        await check()
        # A line end between two members would end the event; inside a text JSON has none (RFC 8259, 7).
        await x.stream(piece if plain else piece.replace(b"\r", b" "))
    await x.stream(b"}" if plain else b"}\n\n")
    x.end_stream()
