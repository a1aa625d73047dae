"""KV namespaces of Workers, from outside: listed, read, written, deleted."""

import asyncio
import base64
import codecs
import contextlib
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from smcp.access.policy import Action
from smcp.audit import events
from smcp.control import views
from smcp.control.endpoint import Binary, Call, Nothing, Stream, endpoint
from smcp.kernel import errors
from smcp.runtime.bindings import bounded
from smcp.stores import heavy, kvrules, namespaces

_KEY: Final[dict[str, Any]] = {"name": "user/42", "bytes": 5, "expires": None, "metadata": {"kind": "note"}}
_VALUE: Final[dict[str, Any]] = _KEY | {"value": "hello", "value_base64": None}
_PATH: Final = "/api/v1/tenants/{tenant}/kv"
_SPACE: Final = f"{_PATH}/{{namespace}}"
_SEND_S: Final = 300.0
"""Seconds for a client to read a large value: it may be far away, and be reading text of six times the size."""
_ENCODED: Final = 48 * 1024
"""Bytes that become base64 at once; a multiple of three."""
_ITEM: Final = f"{_SPACE}/keys/{{item}}"

_Limit = Annotated[int, Meta(ge=1, le=kvrules.MAX_LIST, description="Most items in one answer.")]


class Spaces(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Paging by the names of namespaces."""

    after: Annotated[
        str, Meta(max_length=64, pattern="^[A-Za-z0-9_-]*$", description="The `next` of the page before.")
    ] = ""
    limit: _Limit = 100


class Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Paging through keys."""

    prefix: Annotated[str, Meta(max_length=512, description="Only keys that begin so.")] = ""
    after: Annotated[
        str, Meta(max_length=1024, pattern="^[A-Za-z0-9_-]*$", description="The `next` of the page before.")
    ] = ""
    limit: _Limit = 100


class Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What goes with a value."""

    metadata: (
        Annotated[str, Meta(max_length=kvrules.MAX_METADATA, description="JSON that is kept with the value.")] | None
    ) = None
    expires: (
        Annotated[
            int, Meta(ge=0, le=2**53, description="When the key ends; seconds since the Unix epoch, a minute from now.")
        ]
        | None
    ) = None


class Dry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether only to tell."""

    dry_run: Annotated[bool, Meta(description="Say what would be deleted; change nothing.")] = False


@endpoint("GET", _PATH, action=Action.KV_READ, answer_example={"items": [{"name": "notes"}], "next": None})
async def index(call: Call[Nothing, Spaces]) -> views.Listing[views.KvNamespace]:
    """List a tenant's KV namespaces.

    By name. A namespace is there while it holds a key: it need not be made, and need not be bound to a Worker.
    """
    found = await call.services.namespaces.names(call.tenant, after=call.query.after, limit=call.query.limit + 1)
    shown = found[: call.query.limit]
    return views.Listing([views.KvNamespace(one) for one in shown], shown[-1] if len(found) > len(shown) else None)


@endpoint(
    "DELETE",
    _SPACE,
    action=Action.KV_WRITE,
    raises=(errors.BadName,),
    answer_example={"name": "notes", "keys": 3, "bytes": 4096, "dry_run": False},
)
async def clear(call: Call[Nothing, Dry]) -> views.KvCleared:
    """Delete a KV namespace with all its keys. This can't be undone.

    Keys that are written meanwhile stay.
    """
    namespace, kept = call.path["namespace"], call.services.namespaces
    size = await kept.size(call.tenant, namespace)
    if not size.keys:
        raise errors.NotFound("There is no such KV namespace here: it holds nothing.")
    if not call.query.dry_run:
        # Before: some of it may be gone when the rest fails.
        call.changed(events.KvCleared, namespace=namespace, keys=size.keys)
        size = await kept.clear(call.tenant, namespace)
    return views.KvCleared(namespace, size.keys, size.bytes, call.query.dry_run)


@endpoint(
    "GET",
    _SPACE,
    action=Action.KV_READ,
    raises=(errors.BadName,),
    answer_example={"items": [_KEY], "next": None},
)
async def keys(call: Call[Nothing, Keys]) -> views.Listing[views.KvKey]:
    """List the keys of a KV namespace, without their values.

    In the order of their bytes in UTF-8. Empty also for a namespace that does not exist. `next` fits this prefix only.
    """
    asked = call.query
    page = await call.services.namespaces.list(
        call.tenant, call.path["namespace"], prefix=asked.prefix, cursor=asked.after, limit=asked.limit
    )
    shown = [views.KvKey(one.name, one.size, one.expires, _json(one.metadata)) for one in page.keys]
    return views.Listing(shown, page.cursor)


@endpoint("GET", _ITEM, action=Action.KV_READ, raises=(errors.BadName,), answer_example=_VALUE)
async def get(call: Call[Nothing, Nothing]) -> views.KvValue | Stream:
    """Read a key of a KV namespace.

    A tenant's large values are read a few at a time; for more of them the answer is 429.
    """
    found = await call.services.namespaces.get(call.tenant, call.path["namespace"], call.path["item"])
    if found is None:
        raise errors.NotFound
    told = views.KvValue(call.path["item"], found.size, found.expires, _json(found.metadata), None, None)
    if found.size > heavy.SMALL:
        return await _streamed(call, found, told)
    text, coded = _shown(await found.read())
    return msgspec.structs.replace(told, value=text, value_base64=coded)


@endpoint("PUT", _ITEM, action=Action.KV_WRITE, raises=(errors.BadName,), answer_example=_KEY)
async def put(call: Call[Binary, Written]) -> views.KvKey:
    """Write a key of a KV namespace.

    The body is the value, as application/octet-stream, at most 25 MiB. It replaces all that the key had, its metadata
    and its end included. The tenant's code reads it from then on.
    """
    namespace, item, with_it = call.path["namespace"], call.path["item"], call.query
    size = await call.services.namespaces.put(
        call.tenant,
        namespace,
        item,
        call.body.chunks,
        metadata=None if with_it.metadata is None else _one_line(with_it.metadata),
        expires=with_it.expires,
    )
    call.changed(events.KvPut, namespace=namespace, key=_digest(call), bytes=size)
    return views.KvKey(item, size, with_it.expires, _json(with_it.metadata))


@endpoint("DELETE", _ITEM, action=Action.KV_WRITE, raises=(errors.BadName,), status=204)
async def delete(call: Call[Nothing, Nothing]) -> None:
    """Delete a key of a KV namespace. This can't be undone."""
    if not await call.services.namespaces.delete(call.tenant, call.path["namespace"], call.path["item"]):
        raise errors.NotFound
    call.changed(events.KvDeleted, namespace=call.path["namespace"], key=_digest(call))


def _digest(call: Call[Any, Any]) -> events.Digest:
    # Keys are the tenant's own, and may be names of people.
    return call.services.trail.digest(call.tenant, call.path["item"])


async def _streamed(call: Call[Nothing, Nothing], found: namespaces.Found, told: views.KvValue) -> Stream:
    """As JSON that is made as it is sent: each byte of a value may become six."""
    async with contextlib.AsyncExitStack() as held:
        held.push_async_callback(found.close)
        place = await call.services.heavy.common(call.tenant, "the admin API's values").take()
        held.callback(place.release)
        data = await found.read()
        parts = _encoded(told, data, as_text=await asyncio.to_thread(_is_text, data))
        chunks = bounded.Held(parts, held.pop_all())
        return Stream(chunks, None, media_type="application/json", within_s=_SEND_S)


async def _encoded(told: views.KvValue, data: bytes, *, as_text: bool) -> AsyncGenerator[bytes]:
    both = b'null,"value_base64":null}'
    whole = msgspec.json.encode(told)
    if as_text:
        yield whole.removesuffix(both)
        async with contextlib.aclosing(bounded.text(data)) as parts:
            async for part in parts:
                yield part
        yield both.removeprefix(b"null")
        return
    yield whole.removesuffix(b"null}") + b'"'
    for start in range(0, len(data), _ENCODED):
        yield base64.b64encode(data[start : start + _ENCODED])
    yield b'"}'


def _is_text(data: bytes) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(data), _ENCODED):
            decoder.decode(data[start : start + _ENCODED])
        decoder.decode(b"", True)
    except UnicodeDecodeError:
        return False
    return True


def _shown(data: bytes) -> tuple[str | None, str | None]:
    try:
        return data.decode(), None
    except UnicodeDecodeError:
        return None, base64.b64encode(data).decode("ascii")


def _json(metadata: str | None) -> Any:
    return None if metadata is None else msgspec.json.decode(metadata)


def _one_line(metadata: str) -> str:
    try:
        return msgspec.json.format(metadata, indent=-1)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        raise errors.InvalidParams("In the query: metadata is JSON.") from None


ENDPOINTS: Final = (index, clear, keys, get, put, delete)
