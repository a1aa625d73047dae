"""What workerd asks of a bucket, as it says it in JSON: no more is made of it than it may mean."""

from typing import Annotated, Final, TypeVar

import msgspec

from smcp.kernel import errors
from smcp.runtime.bindings import bounded
from smcp.stores import bucket_model as model

T = TypeVar("T")

_NONE: Final = msgspec.Raw(b"null")
"""What is left out: a union with None would take nothing but that."""
Count = Annotated[int, msgspec.Meta(ge=0)]


# The names are workerd's.
class Field(msgspec.Struct, frozen=True):
    k: str = ""
    v: str = ""


class Http(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    content_type: str | None = None
    content_language: str | None = None
    content_disposition: str | None = None
    content_encoding: str | None = None
    cache_control: str | None = None
    cache_expiry: Count | None = None


class Etag(msgspec.Struct, frozen=True):
    value: str = ""
    type: str = "strong"


class Condition(msgspec.Struct, frozen=True, rename="camel"):
    etag_matches: list[Etag] | None = None
    etag_does_not_match: list[Etag] | None = None
    uploaded_before: Count | None = None
    uploaded_after: Count | None = None
    seconds_granularity: bool = False


class Range(msgspec.Struct, frozen=True):
    offset: Count | None = None
    length: Count | None = None
    suffix: Count | None = None


class Asked(msgspec.Struct, frozen=True, rename="camel", tag_field="method"):
    object: str = ""
    ssec: msgspec.Raw = _NONE


class Head(Asked, tag="head", frozen=True):
    pass


class Get(Asked, tag="get", frozen=True):
    range: Range | None = None
    range_header: str | None = None
    only_if: Condition | None = None


class Said(Asked, frozen=True):
    custom_fields: list[Field] = []
    http_fields: Http = Http()
    storage_class: str = "Standard"


class Put(Said, tag="put", frozen=True):
    only_if: Condition | None = None
    md5: bytes | None = None
    sha1: str | None = None
    sha256: str | None = None
    sha384: str | None = None
    sha512: str | None = None


class Create(Said, tag="createMultipartUpload", frozen=True):
    pass


class Part(Asked, tag="uploadPart", frozen=True):
    upload_id: str = ""
    part_number: int = 0


class Published(msgspec.Struct, frozen=True):
    etag: str = ""
    part: int = 0


class Complete(Asked, tag="completeMultipartUpload", frozen=True):
    upload_id: str = ""
    parts: list[Published] = []


class Abort(Asked, tag="abortMultipartUpload", frozen=True):
    upload_id: str = ""


class Delete(Asked, tag="delete", frozen=True):
    objects: list[str] | None = None


class List(Asked, tag="list", frozen=True):
    limit: int = model.MOST_LISTED
    prefix: str = ""
    cursor: str = ""
    delimiter: str = ""
    start_after: str = ""
    include: list[int] = []


class Large(msgspec.Struct, frozen=True, tag_field="method"):
    """What may be large: only how many there are bounds what is made of it."""

    ssec: msgspec.Raw = _NONE


class LargeComplete(Large, tag="completeMultipartUpload", frozen=True, rename="camel"):
    object: str = ""
    upload_id: str = ""
    parts: msgspec.Raw = msgspec.Raw(b"[]")


class LargeDelete(Large, tag="delete", frozen=True):
    object: str = ""
    objects: msgspec.Raw = _NONE


class LargePut(Large, tag="put", frozen=True):
    pass


class LargeCreate(Large, tag="createMultipartUpload", frozen=True):
    pass


READS: Final = msgspec.json.Decoder(Head | Get | List, strict=False)
WRITES: Final = msgspec.json.Decoder(Put | Create | Part | Complete | Abort | Delete, strict=False)
_LARGE: Final = msgspec.json.Decoder(LargeComplete | LargeDelete | LargePut | LargeCreate, strict=False)
_PARTS: Final = msgspec.json.Decoder(list[Published], strict=False)


def parsed(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    """What is asked. Raises `errors.BadRequest`."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.BadRequest("The request is none that a bucket knows.", detail=str(error)) from error


def large(data: bytes) -> Complete | Delete:
    """As `parsed`, for what is large. Whatever it says, no more is made of it than such a request may have.

    Raises `errors.BadRequest` and `errors.ObjectRefused`.
    """
    asked = parsed(_LARGE, data)
    no_key_of_theirs(asked)
    if isinstance(asked, LargePut | LargeCreate):
        raise model.refused(model.Reason.METADATA, f"Metadata has at most {model.MOST_HTTP_BYTES} bytes.")
    try:
        if isinstance(asked, LargeDelete):
            if asked.objects == _NONE:
                return Delete(object=asked.object)
            keys = bounded.texts(asked.objects, model.MOST_DELETED)
            if keys is None:
                raise model.refused(model.Reason.ARGUMENT, f"At most {model.MOST_DELETED} keys are deleted at once.")
            return Delete(objects=keys)
        # Each is an object: braces in an etag are none that this platform gave.
        if bytes(asked.parts).count(b"{") > model.MOST_PARTS:
            raise model.refused(model.Reason.PART, f"An upload has at most {model.MOST_PARTS} parts.")
        return Complete(object=asked.object, upload_id=asked.upload_id, parts=_PARTS.decode(asked.parts))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.BadRequest("The request is none that a bucket knows.", detail=str(error)) from error


def no_key_of_theirs(asked: Asked | Large) -> None:
    """Raises `errors.ObjectRefused` for a key to encrypt with."""
    if asked.ssec != _NONE:
        raise model.refused(
            model.Reason.ARGUMENT,
            "Keys of your own (ssecKey) are not taken: every object is sealed under its tenant's.",
        )
