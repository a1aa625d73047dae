"""Streamable HTTP of the modern era (MCP 2026-07-28, "Transports: Streamable HTTP"): every request stands alone.

What a router or a firewall may want to know of a request is mirrored in header fields: version, method, name, and the
arguments that the tool's schema names. A request is cancelled by closing its stream; there is no notification for it.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import msgspec

from smcp.kernel import errors, jsonrpc
from smcp.protocol import eras, headers
from smcp.upstream import mirrors, places, transport, wire

_MISMATCH: Final = -32020
_PAGES: Final = 20
_ROUTING: Final = (256, 512)
"""Sets of fields that are remembered, and characters of the longest."""
_LISTEN_SILENCE_S: Final = 86_400.0
_ACCEPT: Final = (("Accept", f"{wire.JSON}, {wire.EVENTS}"), ("Content-Type", wire.JSON))


class _Meta(msgspec.Struct):
    version: object = msgspec.field(name=eras.META_VERSION, default=None)


class _Told(msgspec.Struct):
    """What of params is mirrored: the rest is not read a second time."""

    meta: _Meta = msgspec.field(name="_meta", default_factory=_Meta)
    name: object = None
    uri: object = None
    arguments: msgspec.Raw = msgspec.Raw()


_decode = msgspec.json.Decoder(_Told).decode


class Modern(wire.Wire):
    """A server of the modern era."""

    name = "streamable"

    def __init__(
        self,
        http: transport.Client,
        place: places.Place,
        owner: wire.Owner,
        limit: int,
        known: mirrors.Mirrors,
    ) -> None:
        super().__init__(http, place, owner, limit)
        self._mirrors = known
        self._listing = asyncio.Lock()
        self._routing: dict[tuple[str, str, str | None], tuple[tuple[str, str], ...]] = {}
        self._lists = 0
        """How often the tools were listed because a header was missing."""

    def begin(self, sent: wire.Sent, told: Callable[[], None]) -> transport.Begun | None:
        return self._http.begin("POST", self._place, self._fields(sent), sent.body, told)

    async def post(self, sent: wire.Sent, begun: transport.Begun | None = None) -> None:
        if not await self._post(sent, begun):
            # What the server wants mirrored is not known here, or has changed: nothing was carried out yet.
            await self._relist(sent, self._lists)
            await self._post(sent, last=True)

    async def _post(self, sent: wire.Sent, begun: transport.Begun | None = None, *, last: bool = False) -> bool:
        """False when the server misses a header field, and may be asked again with more of them."""
        async with begun or self._send(sent) as answer:
            if answer.status >= 400:
                error = await self.error(answer) if answer.status == 400 else None
                if error is not None and _code(error) == _MISMATCH and sent.method == "tools/call" and not last:
                    return False
                await self.refused(answer, sent.number, error)
            elif sent.number:
                await self._answer(answer, sent)
            else:
                await answer.discard()
        return True

    def _send(self, sent: wire.Sent) -> contextlib.AbstractAsyncContextManager[transport.Answer]:
        silence_s = _LISTEN_SILENCE_S if sent.lasts else transport.SILENCE_S if sent.number else wire.WORD_S
        fields = self._fields(sent)
        return self._http.send("POST", self._place, fields, sent.body, silence_s=silence_s, lasting=sent.lasts)

    async def _answer(self, answer: transport.Answer, sent: wire.Sent) -> None:
        if answer.media == wire.JSON:
            self.response_to(sent, await self.whole(answer))
        elif answer.media == wire.EVENTS:
            async with contextlib.aclosing(self.events(answer, self.parser())) as events:
                async for event in events:
                    if event.type == "message":
                        self._message(event.data, sent)
                    if not self._owner.waits(sent.number):
                        return
        if self._owner.waits(sent.number):
            raise errors.ServerFailed(
                f"The {self.who} ended its answer before the response."
                if answer.media in (wire.JSON, wire.EVENTS)
                else f"The {self.who}'s answer is neither JSON nor an event stream."
            )

    def _message(self, data: bytes, sent: wire.Sent) -> None:
        if sent.method == "tools/list" and b"x-mcp-header" in data:
            with contextlib.suppress(errors.ParseError):
                self.response_to(sent, data)
                return
        self.hand(data, sent.number)

    def response_to(self, sent: wire.Sent, body: bytes) -> None:
        if sent.method == "tools/list" and b"x-mcp-header" in body:
            frame = jsonrpc.frame(body)
            if frame.result:
                result, refused = self._mirrors.listed(bytes(frame.result))
                for line in refused:
                    self._owner.note(line)
                if refused:
                    body = jsonrpc.result(bytes(frame.id), result)
        self._owner.received(body, sent.number)

    def _fields(self, sent: wire.Sent) -> transport.Fields:
        if not sent.method:
            return self._routed("", eras.MODERN[-1], None)
        told = _told(sent.params)
        # The field says what the body says, whatever that is: what differs is refused (-32020).
        version = told.meta.version if isinstance(told.meta.version, str) else eras.MODERN[-1]
        member = eras.NAMED.get(sent.method)
        named = None if member is None else told.uri if member == "uri" else told.name
        named = named if isinstance(named, str) else None
        fields = self._routing.get((sent.method, version, named)) or self._routed(sent.method, version, named)
        if named is not None and sent.method == "tools/call" and self._mirrors.wanted(named):
            arguments = jsonrpc.decode(told.arguments) if told.arguments else None
            return (*fields, *self._mirrors.fields(named, arguments))
        return fields

    def _routed(self, method: str, version: str, named: str | None) -> tuple[tuple[str, str], ...]:
        """The fields that a router reads. Most requests repeat some others' ones."""
        fields = (*_ACCEPT, ("MCP-Protocol-Version", headers.encode(version)))
        if method:
            fields = (*fields, ("Mcp-Method", headers.encode(method)))
        if named is not None:
            fields = (*fields, ("Mcp-Name", headers.encode(named)))
        if len(method) + len(version) + len(named or "") <= _ROUTING[1]:
            if len(self._routing) >= _ROUTING[0]:
                self._routing.clear()
            self._routing[method, version, named] = fields
        return fields

    async def _relist(self, sent: wire.Sent, seen: int) -> None:
        """Read the server's list of tools, for the calls that wait for it at the same time only once."""
        async with self._listing:
            if self._lists != seen:
                return
            told_meta = jsonrpc.obj((jsonrpc.obj(jsonrpc.decode(sent.params)) or {}).get("_meta")) or {}
            meta = {key: told_meta[key] for key in (eras.META_VERSION, eras.META_CAPABILITIES) if key in told_meta}
            cursor: object = None
            for page in range(_PAGES):
                params = {"_meta": meta, **({"cursor": cursor} if cursor else {})}
                told = jsonrpc.encode(params)
                question = wire.Sent(0, "tools/list", msgspec.Raw(told), _ask(page, told))
                result = await self._ask(question)
                self._mirrors.listed(result)
                cursor = (jsonrpc.obj(jsonrpc.decode(result)) or {}).get("nextCursor")
                if not isinstance(cursor, str) or not cursor:
                    break
            self._lists += 1

    async def _ask(self, question: wire.Sent) -> bytes:
        """The result of a request of the wire's own. Raises `errors.ServerFailed`."""
        fields = self._fields(question)
        async with self._http.send("POST", self._place, fields, question.body, silence_s=wire.WORD_S) as answer:
            found = await self.response(answer)
        if not found.result:
            raise errors.ServerFailed(f"The {self.who} misses a header field, and does not list its tools.")
        return bytes(found.result)


def _ask(page: int, params: bytes) -> bytes:
    return jsonrpc.request(b'"smcp-list-%d"' % page, "tools/list", params)


def _code(error: msgspec.Raw) -> object:
    return (jsonrpc.obj(jsonrpc.decode(error)) or {}).get("code")


def _told(params: msgspec.Raw) -> _Told:
    """Raises `errors.ParseError`. What is not what it should be is for the server to refuse."""
    try:
        return _decode(params) if params else _Told()
    except msgspec.ValidationError:  # `_meta` is no object
        told = jsonrpc.obj(jsonrpc.decode(params)) or {}
        return _Told(_Meta(), told.get("name"), told.get("uri"), msgspec.Raw(jsonrpc.encode(told.get("arguments"))))
    except (ValueError, RecursionError) as error:
        raise errors.ParseError("A part of the message is not valid JSON.") from error
