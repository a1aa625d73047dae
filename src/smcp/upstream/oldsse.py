"""HTTP+SSE of MCP 2024-11-05: one stream for all that the server says, and an address, told on it, for the rest.

The address must be of the stream's own origin: what is sent there carries the credentials, and a server must not be
able to have them sent elsewhere. With the stream the session ends: it can't be taken up.
"""

import asyncio
import contextlib
from typing import Final

from smcp.kernel import errors
from smcp.upstream import places, transport, wire

_ENDPOINT_S: Final = 30.0
_SILENCE_S: Final = 3600.0


class OldSse(wire.Wire):
    """A session over one stream."""

    name = "sse"

    def __init__(self, http: transport.Client, place: places.Place, owner: wire.Owner, limit: int) -> None:
        super().__init__(http, place, owner, limit)
        self._endpoint: asyncio.Future[places.Place] = asyncio.get_running_loop().create_future()
        self._stream: asyncio.Task[None] | None = None

    async def post(self, sent: wire.Sent, begun: transport.Begun | None = None) -> None:
        there = await self._opened()
        fields = [("Accept", "*/*"), ("Content-Type", wire.JSON)]
        async with self._http.send("POST", there, fields, sent.body, silence_s=wire.WORD_S) as answer:
            if answer.status >= 300:
                await self.refused(answer, sent.number)
            else:
                await answer.discard()

    async def close(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
            await asyncio.gather(self._stream, return_exceptions=True)

    async def _opened(self) -> places.Place:
        """Where to send messages to. Raises when the stream can't be opened, or is at its end."""
        if self._stream is None:
            self._stream = asyncio.create_task(self._listen(), name="remote stream")
        try:
            async with asyncio.timeout(_ENDPOINT_S):
                return await asyncio.shield(self._endpoint)
        except TimeoutError as error:
            raise errors.ServerTimeout("The remote server did not say where to send messages to.") from error

    async def _listen(self) -> None:
        failure: errors.SmcpError = errors.ServerFailed("The remote server ended its stream, and with it the session.")
        try:
            fields = [("Accept", wire.EVENTS), ("Cache-Control", "no-store")]
            async with self._http.send("GET", self._place, fields, silence_s=_SILENCE_S, lasting=True) as answer:
                if answer.status != 200 or answer.media != wire.EVENTS:
                    raise wire.status_failure(answer) or errors.ServerFailed(
                        f"The remote server has no event stream here (HTTP status {answer.status})."
                    )
                await self._read(answer)
        except errors.SmcpError as error:
            failure = error
        if self._endpoint.done():
            self._owner.gone(failure)
        else:
            self._endpoint.set_exception(failure)
            self._endpoint.exception()  # whoever waits gets it; nobody may

    async def _read(self, answer: transport.Answer) -> None:
        async with contextlib.aclosing(self.events(answer, self.parser())) as events:
            async for event in events:
                if event.type == "endpoint" and not self._endpoint.done():
                    self._endpoint.set_result(_there(answer.place, event.data, self._place))
                elif event.type == "message" and self._endpoint.done():
                    self.hand(event.data, None)


def _there(here: places.Place, told: bytes, home: places.Place) -> places.Place:
    try:
        there = places.follow(here, told.decode("utf-8"))
    except (errors.InvalidParams, UnicodeDecodeError) as error:
        raise errors.ServerFailed("The remote server says to send messages to what is no address.") from error
    # Of the deployment, and not of where a redirect led: what is sent there carries its credentials.
    if there.origin != home.origin:
        raise errors.ServerFailed("The remote server says to send messages to another origin, which is not done.")
    return there
