"""Streamable HTTP of the modern era (MCP 2026-07-28, "Transports: Streamable HTTP"): every request stands alone.

What a router or a firewall may want to know of a request is mirrored in header fields: version, method, name, and the
arguments that the tool's schema names. A request is cancelled by closing its stream; there is no notification for it.
"""

import asyncio
import contextlib
from typing import Final

import msgspec

from smcp.kernel import errors, jsonrpc
from smcp.protocol import eras, headers
from smcp.upstream import client, mirrors, places, wire

_MISMATCH: Final = -32020
_PAGES: Final = 20
_LISTEN_SILENCE_S: Final = 86_400.0
_ACCEPT: Final = (("Accept", f"{wire.JSON}, {wire.EVENTS}"), ("Content-Type", wire.JSON))


class Modern(wire.Wire):
    """A server of the modern era."""

    name = "streamable"

    def __init__(
        self,
        http: client.Client,
        place: places.Place,
        owner: wire.Owner,
        limit: int,
        known: mirrors.Mirrors,
    ) -> None:
        super().__init__(http, place, owner, limit)
        self._mirrors = known
        self._listing = asyncio.Lock()
        self._lists = 0
        """How often the tools were listed because a header was missing."""

    async def post(self, sent: wire.Sent) -> None:
        if not await self._post(sent):
            # What the server wants mirrored is not known here, or has changed: nothing was carried out yet.
            await self._relist(sent, self._lists)
            await self._post(sent, last=True)

    async def _post(self, sent: wire.Sent, *, last: bool = False) -> bool:
        """False when the server misses a header field, and may be asked again with more of them."""
        silence_s = _LISTEN_SILENCE_S if sent.lasts else client.SILENCE_S
        silence_s = silence_s if sent.number else wire.WORD_S
        async with self._http.send(
            "POST", self._place, self._fields(sent), sent.body, silence_s=silence_s, lasting=sent.lasts
        ) as answer:
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

    async def _answer(self, answer: client.Answer, sent: wire.Sent) -> None:
        if answer.media == wire.JSON:
            self._response(await self.whole(answer, self._limit), sent)
        elif answer.media == wire.EVENTS:
            async with contextlib.aclosing(self.events(answer, self.parser())) as events:
                async for event in events:
                    if event.type == "message":
                        self._message(event.data, sent)
                    if not self._owner.waits(sent.number):
                        return
        if self._owner.waits(sent.number):
            raise errors.ServerFailed(
                "The remote server ended its answer before the response."
                if answer.media in (wire.JSON, wire.EVENTS)
                else "The remote server's answer is neither JSON nor an event stream."
            )

    def _message(self, data: bytes, sent: wire.Sent) -> None:
        if sent.method == "tools/list" and b"x-mcp-header" in data:
            with contextlib.suppress(errors.ParseError):
                self._response(data, sent)
                return
        self.hand(data, sent.number)

    def _response(self, data: bytes, sent: wire.Sent) -> None:
        if sent.method == "tools/list" and b"x-mcp-header" in data:
            frame = jsonrpc.frame(data)
            if frame.result:
                result, refused = self._mirrors.listed(bytes(frame.result))
                for line in refused:
                    self._owner.note(line)
                if refused:
                    data = jsonrpc.result(bytes(frame.id), result)
        self._owner.received(data, sent.number)

    def _fields(self, sent: wire.Sent) -> list[tuple[str, str]]:
        fields = [*_ACCEPT, ("MCP-Protocol-Version", eras.MODERN[-1])]
        if not sent.method:
            return fields
        fields.append(("Mcp-Method", headers.encode(sent.method)))
        params = (jsonrpc.obj(jsonrpc.decode(sent.params)) if sent.params else None) or {}
        version: object = (jsonrpc.obj(params.get("_meta")) or {}).get(eras.META_VERSION)
        if isinstance(version, str):
            # The field says what the body says, whatever that is: what differs is refused (-32020).
            fields[2] = ("MCP-Protocol-Version", headers.encode(version))
        member = eras.NAMED.get(sent.method, "")
        named: object = params.get(member)
        if isinstance(named, str):
            fields.append(("Mcp-Name", headers.encode(named)))
        if sent.method == "tools/call" and isinstance(named, str):
            fields += self._mirrors.fields(named, params.get("arguments"))
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
            raise errors.ServerFailed("The remote server misses a header field, and does not list its tools.")
        return bytes(found.result)


def _ask(page: int, params: bytes) -> bytes:
    return jsonrpc.request(b'"smcp-list-%d"' % page, "tools/list", params)


def _code(error: msgspec.Raw) -> object:
    return (jsonrpc.obj(jsonrpc.decode(error)) or {}).get("code")
