"""What buckets are made of: records, conditions and ranges, with the limits that Cloudflare R2 has.

Pure: nothing here touches storage. The names are R2's (https://developers.cloudflare.com/r2/platform/limits/ and
/r2/api/workers/workers-api-reference/), so that code written for one works with the other.
"""

import enum
import hashlib
import re
from typing import Final, Literal

import msgspec

from smcp.kernel import errors

MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB

MOST_KEY_BYTES: Final = 1024
MOST_CUSTOM_BYTES: Final = 2048
"""Of custom metadata, names and values together."""
MOST_HTTP_BYTES: Final = 8192
MOST_PUT: Final = 5 * GIB
"""Bytes in one upload, or in one part of a multipart upload."""
LEAST_PART: Final = 5 * MIB
"""Of each part but the last."""
MOST_PARTS: Final = 10_000
MOST_LISTED: Final = 1000
MOST_DELETED: Final = 1000
UPLOAD_LIFE_S: Final = 7 * 24 * 3600.0
"""How long a multipart upload may stay open."""

_BUCKET: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{1,61})[a-z0-9]", re.ASCII)
_UPLOAD: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)

HASHES: Final = {"md5": 16, "sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
"""The checksums that can be given, by name, and their lengths in bytes."""

StorageClass = Literal["Standard", "InfrequentAccess"]


class Reason(enum.StrEnum):
    """Why a request to a bucket is refused, for edges that have a code of their own for each."""

    KEY = "key"
    METADATA = "metadata"
    TOO_LARGE = "too large"
    TOO_SMALL = "too small"
    INCOMPLETE = "incomplete"
    DIGEST = "digest"
    RANGE = "range"
    UPLOAD = "upload"
    PART = "part"
    UNEVEN = "uneven"
    ARGUMENT = "argument"


def refused(reason: Reason, public: str) -> errors.ObjectRefused:
    """A request that the bucket does not take, and why."""
    return errors.ObjectRefused(public, reason=reason)


class HttpFields(msgspec.Struct, frozen=True, omit_defaults=True):
    """Header fields that are kept with an object for whoever serves it; None: not given."""

    content_type: str | None = None
    content_language: str | None = None
    content_disposition: str | None = None
    content_encoding: str | None = None
    cache_control: str | None = None
    cache_expiry: int | None = None
    """Milliseconds since the epoch."""


class About(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a writer says about an object."""

    http: HttpFields = HttpFields()
    custom: dict[str, str] = {}
    storage_class: StorageClass = "Standard"

    def check(self) -> None:
        """Raises `errors.ObjectRefused` when it is too much."""
        if sum(_length(name) + _length(value) for name, value in self.custom.items()) > MOST_CUSTOM_BYTES:
            raise refused(Reason.METADATA, f"Custom metadata has at most {MOST_CUSTOM_BYTES} bytes.")
        if sum(_length(text) for text in msgspec.structs.astuple(self.http) if isinstance(text, str)) > MOST_HTTP_BYTES:
            raise refused(Reason.METADATA, f"HTTP metadata has at most {MOST_HTTP_BYTES} bytes.")


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """Bytes that were written in one go, under a random name."""

    blob: str
    size: int


class Object(msgspec.Struct, frozen=True, omit_defaults=True):
    """An object without its bytes: what is in its record."""

    version: str
    """32 hexadecimal digits, others for each writing of a key."""
    size: int
    etag: str
    uploaded: int
    """Milliseconds since the epoch."""
    segment: int
    """Bytes in each stored segment of its pieces but their last."""
    about: About = About()
    checksums: dict[str, bytes] = {}
    pieces: tuple[Piece, ...] | None = ()
    """Where its bytes are, in order; None: they are so many that they have a record of their own."""

    @property
    def quoted_etag(self) -> str:
        """The etag as HTTP writes it."""
        return f'"{self.etag}"'


class Upload(msgspec.Struct, frozen=True, omit_defaults=True):
    """A multipart upload that is open."""

    key: str
    started: float
    segment: int
    about: About = About()


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """A part of an open upload."""

    piece: Piece
    etag: str


class Etag(msgspec.Struct, frozen=True):
    """An etag in a condition. `*` (any) is `wildcard`."""

    value: str = ""
    weak: bool = False
    wildcard: bool = False


class Condition(msgspec.Struct, frozen=True):
    """When to do it: as If-Match, If-None-Match, If-Unmodified-Since and If-Modified-Since (RFC 9110, section 13)."""

    matches: tuple[Etag, ...] | None = None
    differs: tuple[Etag, ...] | None = None
    before: int | None = None
    """Uploaded before then, in milliseconds since the epoch."""
    after: int | None = None
    whole_seconds: bool = False
    """Whether the time of the upload counts in whole seconds, as in HTTP's dates."""

    def holds(self, found: Object | None) -> bool:
        """Whether it does, for what is there now."""
        if found is None:
            # Nothing matches nothing; that something be older than a time asks for nothing that is there.
            return self.matches is None and self.after is None
        uploaded = found.uploaded // 1000 * 1000 if self.whole_seconds else found.uploaded
        same = self.matches is None or _among(found.etag, self.matches, weakly=False)
        other = self.differs is None or not _among(found.etag, self.differs, weakly=True)
        # A date is not looked at where an etag is given (RFC 9110, 13.1.3 and 13.1.4).
        before = self.before is None or self.matches is not None or uploaded < self.before
        after = self.after is None or self.differs is not None or uploaded > self.after
        return same and other and before and after


class Range(msgspec.Struct, frozen=True):
    """A part of an object: from `offset`, `length` bytes; or the last `suffix` bytes."""

    offset: int | None = None
    length: int | None = None
    suffix: int | None = None

    def of(self, size: int) -> tuple[int, int]:
        """Start and end (exclusive) in an object of `size` bytes. Raises `errors.ObjectRefused`."""
        if self.suffix is not None:
            if self.suffix <= 0 or self.offset is not None or self.length is not None:
                raise refused(Reason.RANGE, "A suffix is a number of bytes, at least one, and comes alone.")
            return max(0, size - self.suffix), size
        start = self.offset or 0
        if start < 0 or (start >= size and start > 0) or (self.length is not None and self.length <= 0):
            raise refused(Reason.RANGE, f"The range is not within the object, which has {size} bytes.")
        return start, size if self.length is None else min(start + self.length, size)


class Listed(msgspec.Struct, frozen=True):
    """A key and its object."""

    key: str
    object: Object


class Listing(msgspec.Struct, frozen=True):
    """A page of a bucket."""

    objects: tuple[Listed, ...]
    prefixes: tuple[str, ...]
    """What keys begin with up to the delimiter, where one was given: each stands for all those keys."""
    cursor: str | None
    """For the page behind it; None when this was the last."""


class Published(msgspec.Struct, frozen=True):
    """A part as its uploader names it when the upload is completed."""

    number: int
    etag: str


def bucket_name(text: str) -> str:
    """`text` if it names a bucket. Raises `errors.BadName`."""
    if _BUCKET.fullmatch(text) is None:
        raise errors.BadName(
            "A bucket's name is 3 to 63 lower-case letters, digits and hyphens (not at the ends): "
            f"'{text[:80]}' is not."
        )
    return text


def key(text: str) -> str:
    """`text` if it can be an object's key. Raises `errors.ObjectRefused`."""
    # workerd sends keys in a header, as they are but for what JSON escapes: with DEL in it, that would be none.
    if not 0 < _length(text) <= MOST_KEY_BYTES or "\x7f" in text:
        raise refused(Reason.KEY, f"A key is 1 to {MOST_KEY_BYTES} bytes of UTF-8, without the character DEL.")
    return text


def upload_id(text: str) -> str:
    """`text` if it can be an upload's id. Raises `errors.ObjectRefused`, as for one that does not exist."""
    if _UPLOAD.fullmatch(text) is None:
        raise no_upload()
    return text


def no_upload() -> errors.ObjectRefused:
    """The answer to an upload that does not exist (any more)."""
    return refused(Reason.UPLOAD, "The multipart upload does not exist: it was completed, aborted or has expired.")


def digests(given: dict[str, bytes]) -> "dict[str, hashlib._Hash]":  # pyright: ignore[reportPrivateUsage]  hashlib names its type so
    """A hash for each of `given`, and for MD5, which is the etag. Raises `errors.ObjectRefused` for a wrong one."""
    for name, value in given.items():
        if len(value) != HASHES.get(name):
            raise refused(Reason.DIGEST, f"'{name}' is no checksum of the right length.")
    return {name: hashlib.new(name, usedforsecurity=False) for name in {"md5", *given}}


def etag_of_parts(parts: list[Part]) -> str:
    """The etag of an object that was uploaded in parts: MD5 of their MD5s, and how many they were."""
    joined = b"".join(bytes.fromhex(part.etag) for part in parts)
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(parts)}"


def _length(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise refused(Reason.KEY, "The text is not valid Unicode.") from error


def _among(etag: str, given: tuple[Etag, ...], *, weakly: bool) -> bool:
    return any(one.wildcard or (one.value == etag and (weakly or not one.weak)) for one in given)
