"""Streamable HTTP of the legacy era (MCP 2025-03-26 … 2025-11-25, "Transports"), as one session of its own.

| what happens | what is done |
|---|---|
| the server names a session | every later request carries it, and the end of the instance deletes it |
| the handshake is over | a stream is opened by GET for what belongs to no request; 405: there is none |
| a stream ends before the response | GET with `Last-Event-ID` goes on with it, after the server's `retry` |
| the session is not known any more (404) | the same handshake once more, and the request again |
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import msgspec

from smcp.kernel import errors, jsonrpc
from smcp.protocol import eras, sse
from smcp.upstream import places, transport, wire

_ATTEMPTS: Final = 8
"""Times in a row that a stream is taken up without anything new on it."""
_RETRY_S: Final = 1.0
_LONGEST_RETRY_S: Final = 60.0
_GOODBYE_S: Final = 3.0
_SESSION: Final = 256
"""Longest id of a session that is taken."""
_STREAM_SILENCE_S: Final = 300.0


class Legacy(wire.Wire):
    """A session with a server of the legacy era."""

    name = "streamable"

    def __init__(self, http: transport.Client, place: places.Place, owner: wire.Owner, limit: int) -> None:
        super().__init__(http, place, owner, limit)
        self._session = ""
        self._version = ""
        self._hello = b""
        """The client's `initialize`, as it was sent."""
        self._ready = b""
        """Its `notifications/initialized`."""
        self._renewing = asyncio.Lock()
        self._stream: asyncio.Task[None] | None = None

    def begin(self, sent: wire.Sent, told: Callable[[], None]) -> transport.Begun | None:
        begun = self._http.begin("POST", self._place, self._fields(), sent.body, told)
        if begun is not None:
            begun.mark = self._session
        return begun

    async def post(self, sent: wire.Sent, begun: transport.Begun | None = None) -> None:
        if sent.method == "initialize":
            await self._initialize(sent)
            return
        session = self._session if begun is None else begun.mark
        if not await self._post(sent, begun):
            await self._renew(session)
            await self._post(sent, last=True)
        if sent.method == "notifications/initialized":
            self._ready = sent.body
            self._listen()

    async def close(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
            await asyncio.gather(self._stream, return_exceptions=True)
        if self._session:
            with contextlib.suppress(errors.SmcpError):
                fields = self._fields(accept=wire.JSON)
                async with self._http.send("DELETE", self._place, fields, silence_s=_GOODBYE_S) as answer:
                    await answer.discard()

    # --- requests ---

    async def _initialize(self, sent: wire.Sent) -> None:
        self._session = self._version = ""
        self._hello = sent.body
        async with self._http.send("POST", self._place, self._fields(), sent.body) as answer:
            if answer.status >= 400:
                await self.refused(answer, sent.number)
                return
            frame = await self.response(answer)
            self._greeted(answer, frame)
        self._owner.received(_named(frame, b"%d" % sent.number), sent.number)

    def _greeted(self, answer: transport.Answer, frame: jsonrpc.Frame) -> None:
        session = answer.field("mcp-session-id")
        if len(session) > _SESSION or any(not "!" <= one <= "~" for one in session):
            raise errors.ServerFailed(f"The {self.who} named its session in a way that MCP does not allow.")
        self._session = session
        result = jsonrpc.obj(jsonrpc.decode(frame.result)) if frame.result else None
        version = (result or {}).get("protocolVersion")
        # The field came with 2025-06-18; before, nobody reads it.
        self._version = version if version in eras.LEGACY else ""

    async def _post(self, sent: wire.Sent, begun: transport.Begun | None = None, *, last: bool = False) -> bool:
        """False when the server does not know the session any more."""
        silence_s = transport.SILENCE_S if sent.number else wire.WORD_S
        parser, fields = self.parser(), self._fields()
        async with begun or self._http.send("POST", self._place, fields, sent.body, silence_s=silence_s) as answer:
            if answer.status >= 400:
                error = None if answer.status != 400 else await self.error(answer)
                if not last and self._session and (answer.status == 404 or _about_session(error)):
                    return False
                await self.refused(answer, sent.number, error)
                return True
            if not sent.number:
                await answer.discard()
                return True
            broken = await self._answer(answer, sent, parser)
        await self._resume(sent, parser, broken)
        return True

    async def _answer(self, answer: transport.Answer, sent: wire.Sent, parser: sse.Parser) -> errors.SmcpError | None:
        """Read an answer; what broke its stream off, if something did."""
        if answer.media == wire.JSON:
            self._owner.received(await self.whole(answer), sent.number)
        elif answer.media == wire.EVENTS:
            try:
                await self._read(answer, sent.number, parser)
            except (errors.ServerFailed, errors.ServerTimeout) as error:
                return error
        elif answer.status != 202:
            raise errors.ServerFailed(f"The {self.who}'s answer is neither JSON nor an event stream.")
        return None

    async def _read(self, answer: transport.Answer, number: int, parser: sse.Parser) -> None:
        """Read a stream to its end, or to the response of `number`."""
        async with contextlib.aclosing(self.events(answer, parser)) as events:
            async for event in events:
                if event.type == "message" and event.data:
                    self.hand(event.data, number)
                if number and not self._owner.waits(number):
                    return

    async def _resume(self, sent: wire.Sent, parser: sse.Parser, broken: errors.SmcpError | None) -> None:
        """Take up the stream of a request until its response is there."""
        attempts = 0
        while self._owner.waits(sent.number):
            if not parser.last_id or attempts == _ATTEMPTS:
                raise broken or errors.ServerFailed(f"The {self.who} ended its answer before the response.")
            at, attempts = parser.last_id, attempts + 1
            await asyncio.sleep(_wait(parser))
            if not self._owner.waits(sent.number):
                return  # it came on another stream
            parser, retry = self._again(parser)
            fields = [*self._fields(accept=wire.EVENTS), ("Last-Event-ID", at)]
            try:
                async with self._http.send("GET", self._place, fields) as answer:
                    if answer.status != 200 or answer.media != wire.EVENTS:
                        failure = wire.status_failure(answer)
                        raise (
                            failure
                            or broken
                            or errors.ServerFailed(
                                f"The {self.who} ended its answer before the response, and does not go on with it."
                            )
                        )
                    await self._read(answer, sent.number, parser)
            except (errors.ServerFailed, errors.ServerTimeout) as error:
                broken = error
                if attempts == _ATTEMPTS:
                    raise
            if parser.last_id and parser.last_id != at:
                attempts = 0
            parser.last_id = parser.last_id or at
            parser.retry_ms = retry if parser.retry_ms is None else parser.retry_ms

    def _again(self, parser: sse.Parser) -> tuple[sse.Parser, int | None]:
        """A parser for the next part of the same stream, and the wait that was asked for before."""
        return self.parser(), parser.retry_ms

    # --- the session ---

    async def _renew(self, lost: str) -> None:
        """Begin a new session with the client's own handshake, unless that has happened since `lost` was used."""
        async with self._renewing:
            if self._session != lost:
                return
            self._session = ""
            again = jsonrpc.frame(self._hello)
            body = jsonrpc.request(b'"smcp-initialize"', "initialize", bytes(again.params))
            async with self._http.send("POST", self._place, self._fields(hello=True), body) as answer:
                frame = await self.response(answer)
                if not frame.result:
                    raise errors.ServerFailed(f"The {self.who} ended the session, and refuses a new one.")
                self._greeted(answer, frame)
            if self._ready:
                async with self._http.send(
                    "POST", self._place, self._fields(), self._ready, silence_s=wire.WORD_S
                ) as answer:
                    await answer.discard()
            self._owner.note(f"the {self.who} had ended the session; a new one has begun, without anything of it")
            self._listen()

    def _listen(self) -> None:
        """Open the stream of the session, in place of one of an older session."""
        if self._stream is not None:
            self._stream.cancel()
        self._stream = asyncio.create_task(self._listen_on(self._session), name="remote stream")

    async def _listen_on(self, session: str) -> None:
        parser, failed = self.parser(), 0
        while self._session == session:
            at, retry = parser.last_id, parser.retry_ms
            parser = self.parser()
            fields = self._fields(accept=wire.EVENTS)
            if at:
                fields.append(("Last-Event-ID", at))
            try:
                async with self._http.send(
                    "GET", self._place, fields, silence_s=_STREAM_SILENCE_S, lasting=True
                ) as answer:
                    if answer.status != 200 or answer.media != wire.EVENTS:
                        if answer.status < 500 and answer.status != 429:
                            return  # 405: there is none; 404: the next request finds out
                    else:
                        await self._read(answer, 0, parser)
            except errors.SmcpError:
                pass  # it is tried again, later each time
            failed = 0 if parser.last_id else min(failed + 1, 8)
            parser.last_id = parser.last_id or at
            parser.retry_ms = retry if parser.retry_ms is None else parser.retry_ms
            await asyncio.sleep(max(_wait(parser), 0.25 * 2**failed if failed else 0.0))

    def _fields(self, *, accept: str = f"{wire.JSON}, {wire.EVENTS}", hello: bool = False) -> list[tuple[str, str]]:
        fields = [("Accept", accept)]
        if accept != wire.EVENTS:
            fields.append(("Content-Type", wire.JSON))
        if self._version and not hello:
            fields.append(("MCP-Protocol-Version", self._version))
        if self._session:
            fields.append(("Mcp-Session-Id", self._session))
        return fields


def _wait(parser: sse.Parser) -> float:
    return _RETRY_S if parser.retry_ms is None else min(parser.retry_ms / 1000, _LONGEST_RETRY_S)


def _named(frame: jsonrpc.Frame, number: bytes) -> bytes:
    """A response under the number of the request that it answers."""
    if frame.error:
        return jsonrpc.failure(number, frame.error)
    return jsonrpc.result(number, frame.result or msgspec.Raw(b"{}"))


def _about_session(error: msgspec.Raw | None) -> bool:
    """Some servers answer 400 where the specification says 404."""
    told = (jsonrpc.obj(jsonrpc.decode(error)) or {}).get("message") if error is not None else None
    return isinstance(told, str) and "session" in told.lower()
