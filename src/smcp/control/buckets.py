"""Buckets of objects, from outside: listed, read and written as streams, deleted."""

import datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from smcp.access.policy import Action
from smcp.audit import events
from smcp.control import views
from smcp.control.endpoint import Call, Large, Nothing, Stream, endpoint
from smcp.kernel import errors
from smcp.stores import bucket_model as model
from smcp.stores import buckets

_ABOUT: Final[dict[str, Any]] = {
    "key": "2026/report.txt",
    "bytes": 5,
    "etag": "5d41402abc4b2a76b9719d911017c592",
    "version": "7f3a0c5e9b1d4826a0c1e2f3a4b5c6d7",
    "uploaded": 1800000000.0,
    "storage_class": "Standard",
    "http": {"Content-Type": "text/plain"},
    "metadata": {"by": "ada"},
    "checksums": {"md5": "5d41402abc4b2a76b9719d911017c592"},
}
_PATH: Final = "/api/v1/tenants/{tenant}/buckets"
_BUCKET: Final = f"{_PATH}/{{bucket}}"
_OBJECT: Final = f"{_BUCKET}/objects/{{object}}"
_HTTP: Final = {
    "content_type": "Content-Type",
    "content_language": "Content-Language",
    "content_disposition": "Content-Disposition",
    "content_encoding": "Content-Encoding",
    "cache_control": "Cache-Control",
}

_Text = Annotated[str, Meta(max_length=1024)]
_Bytes = Annotated[int, Meta(ge=0, le=2**53)]


class Names(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Paging by the names of buckets."""

    after: Annotated[str, Meta(max_length=63, pattern="^[a-z0-9-]*$", description="The `next` of the page before.")] = (
        ""
    )
    limit: Annotated[int, Meta(ge=1, le=1000, description="Most items in one answer.")] = 100


class Listing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Paging through a bucket."""

    prefix: Annotated[str, Meta(max_length=model.MOST_KEY_BYTES, description="Only keys that begin so.")] = ""
    delimiter: Annotated[
        str, Meta(max_length=100, description="Keys that have it behind the prefix are told as what they begin with.")
    ] = ""
    after: Annotated[
        str, Meta(max_length=4096, pattern="^[A-Za-z0-9_=-]*$", description="The `next` of the page before.")
    ] = ""
    limit: Annotated[int, Meta(ge=1, le=model.MOST_LISTED, description="Most items in one answer.")] = 100


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which bytes, and of which object."""

    offset: Annotated[_Bytes, Meta(description="The first byte that is wanted.")] = 0
    length: Annotated[int, Meta(ge=1, le=2**53, description="How many; left out: all behind it.")] | None = None
    etag: Annotated[_Text, Meta(description="Only if this is still the object's etag.")] | None = None


class Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What goes with an object."""

    content_type: _Text | None = None
    content_language: _Text | None = None
    content_disposition: _Text | None = None
    content_encoding: _Text | None = None
    cache_control: _Text | None = None
    metadata: Annotated[str, Meta(max_length=8192, description="Further metadata: a JSON object of texts.")] | None = (
        None
    )
    sha256: (
        Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="The SHA-256 of the body; another body is refused.")]
        | None
    ) = None
    absent: Annotated[bool, Meta(description="Only if there is no object of this key.")] = False


class Dry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether only to tell."""

    dry_run: Annotated[bool, Meta(description="Say what would be deleted; change nothing.")] = False


@endpoint(
    "GET", _PATH, action=Action.OBJECT_READ, answer_example={"items": [{"name": "photos", "objects": 3}], "next": None}
)
async def index(call: Call[Nothing, Names]) -> views.Listing[views.Bucket]:
    """List a tenant's buckets.

    By name. A bucket is there while something is in it: it need not be made, and need not be bound to a Worker.
    """
    found = await call.services.buckets.names(call.tenant, after=call.query.after, limit=call.query.limit + 1)
    shown = [views.Bucket(one.name, one.objects) for one in found[: call.query.limit]]
    return views.Listing(shown, shown[-1].name if len(found) > len(shown) else None)


@endpoint(
    "DELETE",
    _BUCKET,
    action=Action.OBJECT_WRITE,
    answer_example={"name": "photos", "objects": 3, "bytes": 4096, "dry_run": False},
)
async def clear(call: Call[Nothing, Dry]) -> views.BucketDeleted:
    """Delete a bucket with all its objects and open uploads. This can't be undone.

    Objects that are written meanwhile may stay.
    """
    bucket = _bucket(call)
    if not await call.services.buckets.has(call.tenant, bucket.name):
        raise errors.NotFound("There is no such bucket here: nothing is in it.")
    size = await bucket.size()
    if not call.query.dry_run:
        call.changed(events.ObjectDeleted, bucket=bucket.name, objects=size.objects)
        await bucket.empty()
    return views.BucketDeleted(bucket.name, size.objects, size.bytes, call.query.dry_run)


@endpoint(
    "GET",
    _BUCKET,
    action=Action.OBJECT_READ,
    raises=(errors.ObjectRefused,),
    answer_example={"items": [_ABOUT], "prefixes": ["2025/"], "next": None},
)
async def listing(call: Call[Nothing, Listing]) -> views.ObjectPage:
    """List the objects of a bucket, without their bytes.

    In the order of the keys' bytes in UTF-8. Empty also for a bucket that does not exist.
    """
    asked = call.query
    page = await _bucket(call).page(
        prefix=asked.prefix, delimiter=asked.delimiter, cursor=asked.after, limit=asked.limit
    )
    return views.ObjectPage([_shown(one.key, one.object) for one in page.objects], list(page.prefixes), page.cursor)


@endpoint(
    "GET",
    f"{_BUCKET}/about/{{object}}",
    action=Action.OBJECT_READ,
    raises=(errors.ObjectRefused,),
    answer_example=_ABOUT,
)
async def about(call: Call[Nothing, Nothing]) -> views.Object:
    """Show an object without its bytes."""
    found = await _bucket(call).head(call.path["object"])
    if found is None:
        raise errors.NotFound
    return _shown(call.path["object"], found)


@endpoint(
    "GET", _OBJECT, action=Action.OBJECT_READ, raises=(errors.Conflict, errors.ObjectRefused, errors.TamperedData)
)
async def get(call: Call[Nothing, Part]) -> Stream:
    """Read an object.

    The answer is its bytes, or a part of them, with its etag in the header ETag. If its etag is not the one that was
    asked for, the answer is 409.
    """
    asked = call.query
    only_if = None if asked.etag is None else model.Condition(matches=(model.Etag(asked.etag),))
    span = model.Range(asked.offset, asked.length) if asked.offset or asked.length else None
    try:
        reading = await _bucket(call).get(call.path["object"], span, only_if)
    except errors.PreconditionFailed as error:
        raise errors.Conflict("The object is another one by now.") from error
    if reading is None:
        raise errors.NotFound
    when = datetime.datetime.fromtimestamp(reading.object.uploaded / 1000, datetime.UTC)
    headers = (
        ("ETag", reading.object.quoted_etag),
        ("Last-Modified", when.strftime("%a, %d %b %Y %H:%M:%S GMT")),
    )
    return Stream(reading.body, reading.end - reading.start, headers)


@endpoint("PUT", _OBJECT, action=Action.OBJECT_WRITE, raises=(errors.ObjectRefused,), answer_example=_ABOUT)
async def put(call: Call[Large, Said]) -> views.Object:
    """Write an object.

    The body is its bytes, as application/octet-stream, at most 5 GiB. It replaces what was there as a whole, and only
    when the last byte has arrived. The tenant's code reads it from then on.
    """
    asked = call.query
    http = model.HttpFields(**{name: getattr(asked, name) for name in _HTTP})
    told = model.About(http, _metadata(asked.metadata))
    only_if = model.Condition(differs=(model.Etag(wildcard=True),)) if asked.absent else None
    checksums = {} if asked.sha256 is None else {"sha256": bytes.fromhex(asked.sha256)}
    try:
        made = await _bucket(call).put(
            call.path["object"],
            call.body.chunks,
            length=call.body.length,
            about=told,
            only_if=only_if,
            checksums=checksums,
        )
    except errors.PreconditionFailed as error:
        raise errors.Conflict("There is an object of this key already.") from error
    call.changed(events.ObjectPut, bucket=call.path["bucket"], key=_digest(call), bytes=made.size)
    return _shown(call.path["object"], made)


@endpoint("DELETE", _OBJECT, action=Action.OBJECT_WRITE, raises=(errors.ObjectRefused,), status=204)
async def delete(call: Call[Nothing, Nothing]) -> None:
    """Delete an object. This can't be undone."""
    if not await _bucket(call).delete(call.path["object"]):
        raise errors.NotFound
    call.changed(events.ObjectDeleted, bucket=call.path["bucket"], key=_digest(call))


def _bucket(call: Call[Any, Any]) -> buckets.Bucket:
    return call.services.buckets.bucket(call.tenant, call.path["bucket"])


def _digest(call: Call[Any, Any]) -> events.Digest:
    # Keys are the tenant's own, and may be names of people.
    return call.services.trail.digest(call.tenant, call.path["object"])


def _metadata(text: str | None) -> dict[str, str]:
    try:
        return {} if text is None else msgspec.json.decode(text, type=dict[str, str])
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        raise errors.InvalidParams("In the query: metadata is a JSON object of texts.") from None


def _shown(key: str, found: model.Object) -> views.Object:
    http = {shown: value for name, shown in _HTTP.items() if (value := getattr(found.about.http, name)) is not None}
    return views.Object(
        key=key,
        bytes=found.size,
        etag=found.etag,
        version=found.version,
        uploaded=found.uploaded / 1000,
        storage_class=found.about.storage_class,
        http=http,
        metadata=found.about.custom,
        checksums={name: value.hex() for name, value in found.checksums.items()},
    )


ENDPOINTS: Final = (index, clear, listing, about, get, put, delete)
