"""A bucket as workerd asks for it: the wire of its R2 binding.

What is asked is JSON (workerd's `r2-api.capnp`): of `get`, `head` and `list` in the header `CF-R2-Request` of a GET, of
everything else at the beginning of a PUT's body, whose length `CF-R2-Metadata-Size` has; behind it come an object's
bytes. Answers to a GET are laid out in the same way, those to a PUT are JSON. 64-bit numbers are texts. An error is a
status with `CF-R2-Error`: a code of https://developers.cloudflare.com/r2/api/error-codes/ and a text that the code of
the Worker is shown. 404 with 10007 is null there, and 412 with 10031 an object without its body.
"""

import asyncio
import contextlib
import functools
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

import msgspec

from smcp.kernel import errors, ids
from smcp.runtime.bindings import bounded, http, r2
from smcp.stores import bucket_model as model
from smcp.stores import buckets, heavy

REQUEST: Final = b"cf-r2-request"
SIZE: Final = b"CF-R2-Metadata-Size"
ERROR: Final = b"CF-R2-Error"

MOST_REQUEST: Final = 8 * 1024 * 1024
"""Bytes of JSON: a thousand keys to delete, each of the longest and each character escaped."""
_SMALL: Final = 64 * 1024
MOST_DISCARDED: Final = 128 * 1024 * 1024
"""Bytes of a body that is not wanted that are read nevertheless, so that the Worker gets to know why."""

_RANGE: Final = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))", re.ASCII | re.IGNORECASE)

_CODES: Final = {
    model.Reason.KEY: (400, 10020),
    model.Reason.METADATA: (400, 10012),
    model.Reason.TOO_LARGE: (400, 100100),
    model.Reason.TOO_SMALL: (400, 10011),
    model.Reason.INCOMPLETE: (400, 10013),
    model.Reason.DIGEST: (400, 10037),
    model.Reason.RANGE: (416, 10039),
    model.Reason.UPLOAD: (404, 10024),
    model.Reason.PART: (400, 10025),
    model.Reason.UNEVEN: (400, 10048),
    model.Reason.ARGUMENT: (400, 10029),
}
_OTHERS: Final[tuple[tuple[type[errors.SmcpError], int, int], ...]] = (
    (errors.PreconditionFailed, 412, 10031),
    (errors.QuotaExceeded, 403, 10042),
    (errors.RateLimited, 429, 10058),
    (errors.RequestTimeout, 400, 10054),
    (errors.Conflict, 429, 10058),
    # The tenant is being erased. As 404 it would read as if there were no such object.
    (errors.NotFound, 503, 10043),
    (errors.Unavailable, 503, 10043),
    (errors.BadRequest, 400, 10029),
)
_FAULT: Final = (500, 10001)
_CHECKSUMS: Final = {"md5": "0", "sha1": "1", "sha256": "2", "sha384": "3", "sha512": "4"}


class Binding:
    """One bucket of one tenant, for the Workers that have it bound."""

    def __init__(self, every: buckets.Buckets, tenant: ids.TenantId, bucket: str, places: heavy.Heavy) -> None:
        """`places`: for lists and large requests, the same for all that is the tenant's."""
        self._every = every
        self._tenant = tenant
        self._bucket = bucket
        self._share = places.share(tenant)

    async def answer(self, request: http.Request) -> http.Response:
        """The handler for a door. Raises nothing that the Worker could do something about."""
        try:
            bucket = self._every.bucket(self._tenant, self._bucket)
            if request.method == "GET":
                return await self._read(bucket, r2.parsed(r2.READS, request.headers.get(REQUEST, b"")))
            if request.method == "PUT":
                return await self._write(bucket, request)
            raise errors.BadRequest
        except errors.SmcpError as error:
            # workerd hears an answer only when its body is out, and tells the code of a lost connection before that.
            await _discard(request.body)
            return _refused(error)

    # --- reading --------------------------------------------------------------------------------------------

    async def _read(self, bucket: buckets.Bucket, asked: r2.Head | r2.Get | r2.List) -> http.Response:
        r2.no_key_of_theirs(asked)
        if isinstance(asked, r2.List):
            return await bounded.kept(self._share, functools.partial(_list, bucket, asked))
        if isinstance(asked, r2.Head):
            found = await bucket.head(asked.object)
            return _missing() if found is None else _prefixed(msgspec.json.encode(_shown(asked.object, found)))
        span = _span(asked)
        try:
            reading = await bucket.get(asked.object, span, _condition(asked.only_if))
        except errors.PreconditionFailed as error:
            if error.found is None:
                return _missing()
            shown = msgspec.json.encode(_shown(asked.object, error.found))
            return _prefixed(shown, status=412, headers=_error(10031, error.public))
        if reading is None:
            return _missing()
        shown = _shown(asked.object, reading.object)
        shown["range"] = {"offset": str(reading.start), "length": str(reading.end - reading.start)}
        return _prefixed(msgspec.json.encode(shown), reading=reading)

    # --- writing --------------------------------------------------------------------------------------------

    async def _write(self, bucket: buckets.Bucket, request: http.Request) -> http.Response:
        digits = request.headers.get(SIZE.lower(), b"")
        if not digits.isdigit() or len(digits) > 9 or int(digits) > MOST_REQUEST:
            raise errors.BadRequest("The request has no size, or is too large.")
        size = int(digits)
        if size > _SMALL:
            return await self._act_large(bucket, request, size)
        head, rest = await _cut(request.body, size)
        return await self._act(bucket, request, size, r2.parsed(r2.WRITES, head), rest)

    async def _act_large(self, bucket: buckets.Bucket, request: http.Request, size: int) -> http.Response:
        place = await self._share.take()
        try:
            try:
                async with asyncio.timeout(self._share.hold_s):  # whoever sends slowly keeps no place for that
                    head, rest = await _cut(request.body, size)
            except TimeoutError:
                raise errors.RequestTimeout from None
            return await self._act(bucket, request, size, await asyncio.to_thread(r2.large, head), rest)
        finally:
            place.release()

    async def _act(
        self,
        bucket: buckets.Bucket,
        request: http.Request,
        size: int,
        asked: r2.Put | r2.Create | r2.Part | r2.Complete | r2.Abort | r2.Delete,
        rest: AsyncGenerator[bytes, None],
    ) -> http.Response:
        r2.no_key_of_theirs(asked)
        length = None if request.length is None else request.length - size
        uploads = bucket.uploads
        key = asked.object
        if isinstance(asked, r2.Put):
            made = await bucket.put(
                key,
                rest,
                length=length,
                about=_about(asked),
                only_if=_condition(asked.only_if),
                checksums=_checksums(asked),
            )
            return _json(_shown(key, made))
        if isinstance(asked, r2.Part):
            etag = await uploads.part(key, asked.upload_id, asked.part_number, rest, length=length)
            return _json({"etag": etag})
        if isinstance(asked, r2.Create):
            return _json({"uploadId": await uploads.create(key, _about(asked))})
        if isinstance(asked, r2.Complete):
            parts = [model.Published(one.part, one.etag) for one in asked.parts]
            return _json(_shown(key, await uploads.complete(key, asked.upload_id, parts)))
        if isinstance(asked, r2.Abort):
            await uploads.abort(key, asked.upload_id)
        else:
            await bucket.delete(*([key] if asked.objects is None else asked.objects))
        return _json({})


async def _list(bucket: buckets.Bucket, asked: r2.List, _: contextlib.AsyncExitStack) -> http.Response:
    if not 1 <= asked.limit <= model.MOST_LISTED:
        message = f"A list has a limit from 1 to {model.MOST_LISTED}."
        return http.Response(400, _error(10022, message))
    page = await bucket.page(
        prefix=asked.prefix,
        delimiter=asked.delimiter,
        cursor=asked.cursor,
        start_after=asked.start_after,
        limit=asked.limit,
    )
    answer: dict[str, Any] = {
        "objects": [
            _shown(one.key, one.object, with_http=0 in asked.include, with_custom=1 in asked.include)
            for one in page.objects
        ],
        "truncated": page.cursor is not None,
        "delimitedPrefixes": page.prefixes,
    }
    if page.cursor is not None:
        answer["cursor"] = page.cursor
    return _prefixed(msgspec.json.encode(answer))


async def _cut(body: AsyncIterator[bytes], size: int) -> tuple[bytes, AsyncGenerator[bytes, None]]:
    """The first `size` bytes of a body, and what comes behind them. Raises `errors.ObjectRefused` when shorter."""
    head = bytearray()
    while len(head) < size:
        part = await anext(body, None)
        if part is None:
            raise model.refused(model.Reason.INCOMPLETE, "The request ended early.")
        head += part

    async def rest() -> AsyncGenerator[bytes, None]:
        if len(head) > size:
            yield bytes(head[size:])
        async for part in body:
            yield part

    return bytes(head[:size]), rest()


async def _discard(body: AsyncIterator[bytes]) -> None:
    left = MOST_DISCARDED
    with contextlib.suppress(errors.SmcpError):  # what is answered says more
        async for part in body:
            left -= len(part)
            if left <= 0:
                return


def _about(asked: r2.Said) -> model.About:
    if asked.storage_class not in ("Standard", "InfrequentAccess"):
        raise model.refused(model.Reason.ARGUMENT, "The storage class is Standard or InfrequentAccess.")
    fields = msgspec.structs.asdict(asked.http_fields)
    fields["cache_expiry"] = _time(asked.http_fields.cache_expiry)
    custom = {field.k: field.v for field in asked.custom_fields}
    return model.About(model.HttpFields(**fields), custom, asked.storage_class)


def _checksums(asked: r2.Put) -> dict[str, bytes]:
    found = {} if asked.md5 is None else {"md5": asked.md5}
    try:
        for name in ("sha1", "sha256", "sha384", "sha512"):
            text: str | None = getattr(asked, name)
            if text is not None:
                found[name] = bytes.fromhex(text)
    except ValueError as error:
        raise model.refused(model.Reason.DIGEST, "A checksum is not hexadecimal.") from error
    return found


def _condition(asked: r2.Condition | None) -> model.Condition | None:
    if asked is None:
        return None
    return model.Condition(
        _etags(asked.etag_matches),
        _etags(asked.etag_does_not_match),
        _time(asked.uploaded_before),
        _time(asked.uploaded_after),
        asked.seconds_granularity,
    )


def _time(milliseconds: int | None) -> int | None:
    """A time as workerd writes it: what is before 1970 comes as an unsigned number."""
    if milliseconds is None or milliseconds < 1 << 63:
        return milliseconds
    if milliseconds >= 1 << 64:
        raise model.refused(model.Reason.ARGUMENT, "A time is out of range.")
    return milliseconds - (1 << 64)


def _etags(asked: list[r2.Etag] | None) -> tuple[model.Etag, ...] | None:
    if asked is None:
        return None
    return tuple(model.Etag(one.value, one.type == "weak", one.type == "wildcard") for one in asked)


def _span(asked: r2.Get) -> model.Range | None:
    if asked.range is not None:
        return model.Range(asked.range.offset, asked.range.length, asked.range.suffix)
    # Anything but one range of bytes is as if there were none (RFC 9110, 14.2).
    found = _RANGE.fullmatch((asked.range_header or "").strip())
    if found is None:
        return None
    if found[3] is not None:
        return model.Range(suffix=int(found[3]))
    start = int(found[1])
    if found[2] is None:
        return model.Range(start)
    return None if int(found[2]) < start else model.Range(start, int(found[2]) - start + 1)


def _shown(key: str, found: model.Object, *, with_http: bool = True, with_custom: bool = True) -> dict[str, Any]:
    """An object as JSON that workerd reads."""
    shown: dict[str, Any] = {
        "name": key,
        "version": found.version,
        "size": str(found.size),
        "etag": found.etag,
        "uploaded": str(found.uploaded),
        "checksums": {_CHECKSUMS[name]: value.hex() for name, value in found.checksums.items()},
        "storageClass": found.about.storage_class,
    }
    if with_http:
        fields = r2.Http(**msgspec.structs.asdict(found.about.http))
        shown["httpFields"] = msgspec.to_builtins(fields)
        if fields.cache_expiry is not None:
            shown["httpFields"]["cacheExpiry"] = str(fields.cache_expiry % (1 << 64))
    if with_custom:
        shown["customFields"] = [{"k": name, "v": value} for name, value in found.about.custom.items()]
    return shown


class _Body:
    """An answer's JSON and an object's bytes behind it."""

    __slots__ = ("_first", "_rest")

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes, None]) -> None:
        self._first = first
        self._rest = rest

    def __aiter__(self) -> "_Body":
        return self

    async def __anext__(self) -> bytes:
        first, self._first = self._first, b""
        return first or await anext(self._rest)

    async def aclose(self) -> None:
        """Let go of the object."""
        await self._rest.aclose()


def _prefixed(
    shown: bytes,
    *,
    status: int = 200,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    reading: buckets.Reading | None = None,
) -> http.Response:
    headers = ((SIZE, b"%d" % len(shown)), *headers)
    if reading is None:
        return http.Response(status, headers, shown)
    return http.Response(status, headers, _Body(shown, reading.body), length=len(shown) + reading.end - reading.start)


def _json(value: dict[str, Any]) -> http.Response:
    return http.Response(200, ((b"Content-Type", b"application/json"),), msgspec.json.encode(value))


def _missing() -> http.Response:
    return http.Response(404, _error(10007, "The specified key does not exist."))


def _error(code: int, message: str) -> tuple[tuple[bytes, bytes], ...]:
    # In ASCII: it is a header.
    return ((ERROR, json.dumps({"version": 0, "v4code": code, "message": message}).encode("ascii")),)


def _refused(error: errors.SmcpError) -> http.Response:
    if isinstance(error, errors.ObjectRefused):
        status, code = _CODES[model.Reason(error.reason)]
        return http.Response(status, _error(code, error.public))
    for kind, status, code in _OTHERS:
        if isinstance(error, kind):
            return http.Response(status, _error(code, error.public))
    # The platform's own log has the cause: what it says is not for the tenant.
    asyncio.get_running_loop().call_exception_handler({"message": "a bucket failed", "exception": error})
    status, code = _FAULT
    return http.Response(status, _error(code, error.public))
