"""Pages of a bucket: keys in order, and what they have in common up to a delimiter."""

import base64
import binascii
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from smcp.kernel import errors
from smcp.stores import bucket_data as data
from smcp.stores import bucket_model as model
from smcp.stores.kv import base as kv

OBJECTS: Final = (data.PREFIX, "objects")
UPLOADS: Final = (data.PREFIX, "uploads")

MOST_BYTES: Final = 700 * 1024
"""workerd takes no list of more than 1 MiB."""

_OVERHEAD: Final = 400
_LOOK: Final = 32
_LAST: Final = "\U0010ffff"
_BEHIND: Final = _LAST * (model.MOST_KEY_BYTES // 4)
"""Behind a prefix, this comes after every key that begins with it: none has more bytes, no character is higher."""


class Query(NamedTuple):
    """What to list; texts are empty where nothing was given."""

    prefix: str
    delimiter: str
    cursor: str
    start_after: str
    limit: int
    most_bytes: int


class _Page:
    """What was found so far."""

    def __init__(self, query: Query, decode: Callable[[kv.Entry], model.Object]) -> None:
        self._query = query
        self._decode = decode
        self._bytes = 0
        self.objects: list[model.Listed] = []
        self.prefixes: list[str] = []
        self.last = ""
        """The key, or common prefix, that was added last."""

    def full(self) -> bool:
        count = len(self.objects) + len(self.prefixes)
        return count >= self._query.limit or (count > 0 and self._bytes > self._query.most_bytes)

    def common(self, key: str) -> str | None:
        """What stands for `key`, if not it itself."""
        start, delimiter = len(self._query.prefix), self._query.delimiter
        at = key.find(delimiter, start) if delimiter else -1
        return None if at < 0 else key[: at + len(delimiter)]

    def add(self, entry: kv.Entry) -> None:
        key = entry.key[-1]
        common = self.common(key)
        if common is None:
            found = self._decode(entry)
            self.objects.append(model.Listed(key, found))
            self._bytes += _OVERHEAD + len(msgspec.json.encode((key, found.about)))
        else:
            self.prefixes.append(common)
            self._bytes += len(msgspec.json.encode(common))
        self.last = common or key


async def page(store: kv.KV, bucket: str, query: Query, decode: Callable[[kv.Entry], model.Object]) -> model.Listing:
    """A page of `bucket`. Raises `errors.ObjectRefused`."""
    _check(query)
    below = (*OBJECTS, bucket)
    made = _Page(query, decode)
    after = max(_after(query.cursor), query.start_after, key=str.encode)
    look = query.limit + 1
    while True:
        entries = await store.scan(
            below, starts_with=query.prefix, after=(*below, after) if after else None, limit=look
        )
        for entry in entries:
            common = made.common(entry.key[-1])
            if common is not None and common == made.last:
                continue
            if made.full():
                return model.Listing(tuple(made.objects), tuple(made.prefixes), _cursor(made))
            made.add(entry)
        if len(entries) < look:
            return model.Listing(tuple(made.objects), tuple(made.prefixes), None)
        after = entries[-1].key[-1]
        if made.prefixes and made.last == made.prefixes[-1]:
            # Most of what was read may have been one common prefix: the rest of it is not read.
            after, look = made.last + _BEHIND, _LOOK


async def segments(store: kv.KV, below: kv.Key, after: str, limit: int) -> list[str]:
    """The segments that keys have right behind `below`, each once, in order, after `after`: one read for each."""
    found: list[str] = []
    while len(found) < limit:
        # Of keys as bytes, this one comes after all that extend the segment (`stores.keys`) and before the next.
        behind = (*below, after + "\0") if after else None
        entries = await store.scan(below, after=behind, limit=1)
        if not entries:
            break
        after = entries[0].key[len(below)]
        found.append(after)
    return found


def _check(query: Query) -> None:
    if not 1 <= query.limit <= model.MOST_LISTED:
        raise model.refused(model.Reason.ARGUMENT, f"A page has 1 to {model.MOST_LISTED} keys.")
    for text in (query.prefix, query.delimiter, query.start_after):
        if text:
            model.key(text)


def _cursor(made: _Page) -> str:
    kind = b"p" if made.prefixes and made.last == made.prefixes[-1] else b"k"
    return base64.urlsafe_b64encode(kind + made.last.encode()).decode()


def _after(cursor: str) -> str:
    """Where a page begins. A cursor is its caller's own word: it names a place, and gives no right."""
    if not cursor:
        return ""
    try:
        text = base64.b64decode(cursor.encode("ascii"), b"-_", validate=True).decode()
    except (ValueError, binascii.Error) as error:
        raise _no_cursor() from error
    if text[:1] not in ("p", "k") or len(text) == 1:
        raise _no_cursor()
    return text[1:] + (_BEHIND if text[0] == "p" else "")


def _no_cursor() -> errors.ObjectRefused:
    return model.refused(model.Reason.ARGUMENT, "The cursor is not one of this bucket's lists.")
