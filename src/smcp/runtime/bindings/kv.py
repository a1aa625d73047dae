"""A KV namespace as workerd asks for it.

| the code calls | workerd sends |
|---|---|
| get, getWithMetadata | `GET /KEY?urlencoded=true`, perhaps `cache_ttl`; 404 is null |
| put | `PUT /KEY?urlencoded=true`, perhaps `expiration` or `expiration_ttl`; metadata in `CF-KV-Metadata` |
| delete | `DELETE /KEY?urlencoded=true` |
| list | `GET /?key_count_limit=&prefix=&cursor=` |
| get of several keys | `POST /bulk/get` with `{"keys", "type", "withMetadata"}` |

Of an error the code is shown the status and the phrase behind it, as in "KV PUT failed: 413 A value has …".
Nothing is cached: `cache_ttl` is checked, and each read is of what was written last.
"""

import contextlib
import functools
import re
import urllib.parse
from collections.abc import AsyncGenerator
from typing import Final

import msgspec

from smcp.kernel import errors, ids
from smcp.runtime.bindings import bounded, http
from smcp.stores import heavy, kvrules, namespaces

MAX_BULK: Final = 100
"""Keys of one bulk get; their values together have at most `kvrules.MAX_VALUE` bytes."""
LEAST_CACHE_S: Final = 30
_REFUSED: Final = 128 * 1024 * 1024
"""Bytes of a refused value that are read to its end, so that the code is told why; more of them break off."""
_BULK_BODY: Final = 512 * 1024
_LITTLE: Final = 8 * 1024
"""Bytes of values that are answered at once, as one piece."""
_METADATA: Final = b"cf-kv-metadata"
_INTEGER: Final = re.compile(r"-?[0-9]{1,16}", re.ASCII)
_JSON: Final = ((b"content-type", b"application/json"),)


class _Bulk(msgspec.Struct, frozen=True):
    keys: msgspec.Raw
    type: str = "text"
    withMetadata: bool = False  # noqa: N815 - as it is written there
    cacheTtl: float | None = None  # noqa: N815


class _Listed(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    expiration: int | None = None
    metadata: str | None = None


class _List(msgspec.Struct, frozen=True, omit_defaults=True):
    keys: list[_Listed]
    list_complete: bool
    cursor: str | None = None


class Binding:
    """One namespace of one tenant, for the Workers that have it bound."""

    def __init__(self, every: namespaces.Namespaces, tenant: ids.TenantId, namespace: str, places: heavy.Heavy) -> None:
        """`places`: for lists and bulk gets, the same for all that is the tenant's."""
        self._every = every
        self._tenant = tenant
        self._namespace = namespace
        self._share = places.share(tenant)
        self._bulk = msgspec.json.Decoder(_Bulk)

    async def answer(self, request: http.Request) -> http.Response:
        """The handler for a door. Raises `errors.Unavailable`."""
        try:
            return await self._answer(request)
        except errors.NotFound as error:
            # The tenant is being erased. As 404 it would read as if there were no such key.
            raise errors.Unavailable(detail=str(error)) from error
        except errors.SmcpError as error:
            if error.http_status >= 500:
                raise
            await _read_off(request)
            return http.Response(error.http_status, reason=error.public)

    async def _answer(self, request: http.Request) -> http.Response:
        path, _, query = request.target.partition("?")
        asked = _query(query)
        if request.method == "POST" and path == "/bulk/get":
            return await bounded.kept(self._share, functools.partial(self._get_several, request))
        if request.method == "GET" and path == "/":
            return await bounded.kept(self._share, functools.partial(self._list, asked))
        try:
            key = urllib.parse.unquote(path[1:], errors="strict")
        except UnicodeDecodeError:
            raise errors.InvalidParams("A key is Unicode text.") from None
        if request.method == "GET":
            return await self._get(key, asked)
        if request.method == "PUT":
            return await self._put(key, asked, request)
        if request.method == "DELETE":
            await self._every.delete(self._tenant, self._namespace, key)
            return http.Response(200)
        raise errors.MethodNotAllowed

    async def _get(self, key: str, asked: dict[str, str]) -> http.Response:
        _check_cache(_integer(asked, "cache_ttl"))
        found = await self._every.get(self._tenant, self._namespace, key)
        if found is None:
            return http.Response(404)
        headers = () if found.metadata is None else ((_METADATA, found.metadata.encode()),)
        return http.Response(200, headers, found.body, length=found.size)

    async def _put(self, key: str, asked: dict[str, str], request: http.Request) -> http.Response:
        if request.length is not None and request.length > kvrules.MAX_VALUE:
            raise errors.TooLarge(f"A value has at most {kvrules.MAX_VALUE} bytes; this one has {request.length}.")
        metadata = request.headers.get(_METADATA)
        expires = _integer(asked, "expiration")
        lasts = _integer(asked, "expiration_ttl")
        try:
            text = None if metadata is None else metadata.decode()
        except UnicodeDecodeError:
            raise errors.InvalidParams("Metadata is JSON.") from None
        await self._every.put(
            self._tenant,
            self._namespace,
            key,
            request.body,
            metadata=text,
            expires=expires if lasts is None else int(self._every.now()) + lasts,
        )
        return http.Response(200)

    async def _list(self, asked: dict[str, str], _: contextlib.AsyncExitStack) -> http.Response:
        limit = _integer(asked, "key_count_limit")
        page = await self._every.list(
            self._tenant,
            self._namespace,
            prefix=asked.get("prefix", ""),
            cursor=asked.get("cursor", ""),
            limit=kvrules.MAX_LIST if limit is None else limit,
        )
        keys = [_Listed(one.name, one.expires, one.metadata) for one in page.keys]
        answer = _List(keys, page.cursor is None, page.cursor)
        return http.Response(200, _JSON, msgspec.json.encode(answer))

    async def _get_several(self, request: http.Request, held: contextlib.AsyncExitStack) -> http.Response:
        asked, keys = self._asked(await request.read(_BULK_BODY))
        found: list[tuple[str, namespaces.Found | None]] = []
        total = 0
        for key in keys:
            one = await self._every.get(self._tenant, self._namespace, key)
            if one is not None:
                held.push_async_callback(one.close)
                total += one.size
                if total > kvrules.MAX_VALUE:
                    raise errors.TooLarge(
                        f"The values of one bulk get have at most {kvrules.MAX_VALUE} bytes together."
                    )
                if asked.type == "json":
                    # Whether it is, must be known before the answer begins.
                    data = await one.read()
                    await bounded.check_json(data)
                    one = msgspec.structs.replace(one, body=data)
            found.append((key, one))
        body = _several(found, as_text=asked.type == "text", with_metadata=asked.withMetadata)
        if total > _LITTLE:
            return http.Response(200, _JSON, body)
        return http.Response(200, _JSON, b"".join([part async for part in body]))

    def _asked(self, data: bytes) -> tuple[_Bulk, list[str]]:
        try:
            asked = self._bulk.decode(data)
            keys = bounded.texts(asked.keys, MAX_BULK)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise errors.InvalidParams("This is no bulk get.") from None
        if keys is None or not 1 <= len(keys) <= MAX_BULK:
            raise errors.InvalidParams(f"A bulk get has 1 to {MAX_BULK} keys.")
        if asked.type not in ("text", "json"):
            raise errors.InvalidParams('A bulk get is of type "text" or "json".')
        _check_cache(asked.cacheTtl)
        return asked, list(dict.fromkeys(keys))


async def _several(
    found: list[tuple[str, namespaces.Found | None]], *, as_text: bool, with_metadata: bool
) -> AsyncGenerator[bytes]:
    """The answer to a bulk get. Values are encoded as they are sent: as text each byte may become six."""
    ready = bytearray(b"{")
    found.reverse()
    first = True
    while found:
        key, one = found.pop()
        ready += (b"" if first else b",") + msgspec.json.encode(key) + b":"
        first = False
        if one is None:
            ready += b"null"
            continue
        if with_metadata:
            ready += b'{"metadata":%b,"value":' % (b"null" if one.metadata is None else one.metadata.encode())
        async with contextlib.aclosing((bounded.text if as_text else bounded.pieces)(one.body)) as parts:
            async for part in parts:
                ready += part
                if len(ready) >= http.CHUNK:
                    yield bytes(ready)
                    ready.clear()
        if with_metadata:
            ready += b"}"
    yield bytes(ready) + b"}"


async def _read_off(request: http.Request) -> None:
    """Take the rest of a refused value: workerd looks at no answer that comes before its request is out."""
    left = _REFUSED
    async for part in request.body:
        left -= len(part)
        if left < 0:
            return


def _query(text: str) -> dict[str, str]:
    try:
        pairs = urllib.parse.parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=20)
    except ValueError:
        raise errors.InvalidParams("The query is not well formed.") from None
    found = dict(pairs)
    if len(found) != len(pairs):
        raise errors.InvalidParams("The query has the same parameter twice.")
    return found


def _integer(asked: dict[str, str], name: str) -> int | None:
    text = asked.get(name)
    if text is None:
        return None
    if _INTEGER.fullmatch(text) is None:
        raise errors.InvalidParams(f"{name} is a whole number.")
    return int(text)


def _check_cache(seconds: float | None) -> None:
    if seconds is not None and not seconds >= LEAST_CACHE_S:
        raise errors.InvalidParams(f"cache_ttl is at least {LEAST_CACHE_S} seconds.")
