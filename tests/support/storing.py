"""What tenants' code does with KV and objects at random, and what it must see: tests/fixtures/workers/storing.js.

A lane is one caller of a tenant's Worker. Its keys begin with its own name, so that nothing that the tenant's other
lanes do changes what it must see. The lanes of another tenant have the same names and keys. Each operation follows from
the seed and from what the lane has done before; cursors and uploads that a lane has had are tried by its namesake of
the other tenant too.
"""

import hashlib
import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

NAMES: Final = ("a", "b/c", "b/d", "b/e/f", "é", "x y%2F?&#", "z")
_SHOWN: Final = 300
_PART: Final = 5 * 1024 * 1024
_TIMES: Final = (1, 1, 1, 1, 20, 60)
"""How often a text is repeated: KV keeps it in the key's record, or in a record of its own."""
_LARGE: Final = 4000
"""So often repeated, it is an object for KV too."""
_DAY_S: Final = 86_400
_WEIGHTS: Final = {
    "kv_get": 12, "kv_with_metadata": 6, "kv_several": 3, "kv_put": 14, "kv_put_large": 1, "kv_delete": 5,
    "kv_list": 6, "kv_begin": 2, "kv_go_on": 2, "kv_go_on_with_theirs": 1,
    "put": 12, "get": 10, "get_range": 8, "head": 5, "delete": 5, "list": 6, "begin": 2, "go_on": 2,
    "go_on_with_theirs": 1, "multipart": 3, "open": 3, "complete": 2, "abort": 1, "complete_theirs": 1,
    "abort_theirs": 1,
}  # fmt: skip

Answer = dict[str, Any]
"""`value`, or `error`: a message."""


class Operation(NamedTuple):
    """A call of the Worker, and what looks at its answer and raises AssertionError."""

    call: list[Any]
    check: Callable[[Answer], None]


class Note(NamedTuple):
    """What a key of KV has."""

    text: str
    metadata: Any
    expiration: int | None


class File(NamedTuple):
    """What an object is."""

    text: str
    etag: str
    custom: dict[str, str]


class Cursor(NamedTuple):
    """Where a list goes on, and the last key before that."""

    prefix: str
    text: str
    last: str


class Upload(NamedTuple):
    """One that was begun."""

    key: str
    id: str


class Lane:
    """One caller, and what there is of what it has done."""

    def __init__(self, name: str, canary: str, seed: str) -> None:
        self.canary = canary
        """Is in every value and in all metadata that it writes."""
        self.notes: dict[str, Note] = {}
        self.files: dict[str, File] = {}
        self._name = name
        self._chance = random.Random(seed)
        self._written = 0
        self._kv_cursor: Cursor | None = None
        self._cursor: Cursor | None = None
        self._uploads: list[Upload] = []
        self._begun: list[Upload] = []
        """Those that a batch may end: what it opens itself is for the next one."""
        self._theirs: tuple[Cursor | None, Cursor | None, Upload | None] = (None, None, None)

    def meet(self, other: "Lane") -> None:
        """See what the other tenant's lane has had until now."""
        uploads = other._uploads
        self._theirs = (other._kv_cursor, other._cursor, uploads[-1] if uploads else None)

    def batch(self, size: int) -> list[Operation]:
        """What it does next. Each operation must be carried out, in order, before the next batch is asked for."""
        self._begun = list(self._uploads)
        kinds = self._chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()), k=size)
        return [getattr(self, f"_{kind}")() for kind in kinds]

    def last(self) -> list[Operation]:
        """Read all that there is, in one batch."""
        keys = [f"{self._name}/{name}" for name in NAMES]
        reads = [read(key) for key in keys for read in (self._kv_with_metadata, self._get)]
        return [*reads, self._kv_list(f"{self._name}/"), self._list(f"{self._name}/")]

    # --- chances --------------------------------------------------------------------------------------------

    def _key(self) -> str:
        return f"{self._name}/{self._chance.choice(NAMES)}"

    def _prefix(self) -> str:
        return f"{self._name}/{self._chance.choice(('', '', 'b', 'b/', 'é', 'none'))}"

    def _value(self, times: int = 0) -> tuple[str, int]:
        self._written += 1
        return f"{self.canary} {self._name} {self._written} ", times or self._chance.choice(_TIMES)

    def _custom(self) -> dict[str, str]:
        return {"who": self.canary, "n": str(self._written)} if self._chance.random() < 0.5 else {}

    # --- KV -------------------------------------------------------------------------------------------------

    def _kv_get(self) -> Operation:
        key = self._key()
        return Operation(["kvGet", key], _is(_shown(self._text(key))))

    def _text(self, key: str) -> str | None:
        note = self.notes.get(key)
        return None if note is None else note.text

    def _kv_with_metadata(self, key: str = "") -> Operation:
        key = key or self._key()
        note = self.notes.get(key)
        return Operation(["kvMeta", key], _is([_shown(self._text(key)), None if note is None else note.metadata]))

    def _kv_several(self) -> Operation:
        keys = [f"{self._name}/{name}" for name in self._chance.sample(NAMES, 3)]
        return Operation(["kvSeveral", keys], _is({key: _shown(self._text(key)) for key in keys}))

    def _kv_put(self, times: int = 0) -> Operation:
        key, (text, times) = self._key(), self._value(times)
        metadata = {"who": [self.canary, self._written]} if self._chance.random() < 0.3 else None
        ends = int(time.time()) + _DAY_S if self._chance.random() < 0.2 else None
        self.notes[key] = Note(text * times, metadata, ends)
        given = {"metadata": metadata, "expiration": ends}
        options = {name: value for name, value in given.items() if value is not None}
        return Operation(["kvPut", key, [text, times], options], _is(None))

    def _kv_put_large(self) -> Operation:
        return self._kv_put(_LARGE)

    def _kv_delete(self) -> Operation:
        key = self._key()
        self.notes.pop(key, None)
        return Operation(["kvDelete", key], _is(None))

    def _kv_list(self, prefix: str = "") -> Operation:
        prefix, limit = prefix or self._prefix(), self._chance.choice((1, 2, 3, 1000))
        return Operation(["kvList", prefix, limit], _is(_paged(self._noted(prefix), limit)))

    def _noted(self, prefix: str, after: str = "") -> list[Any]:
        """Keys as `list` gives them."""
        found: list[Any] = []
        for key in _sorted(self.notes, prefix, after):
            note, one = self.notes[key], {"name": key}
            given = {"metadata": note.metadata, "expiration": note.expiration}
            found.append(one | {name: value for name, value in given.items() if value is not None})
        return found

    def _kv_begin(self) -> Operation:
        prefix = f"{self._name}/"
        names = _sorted(self.notes, prefix)

        def check(answer: Answer) -> None:
            found, cursor = _value(answer)
            assert (found, cursor is not None) == (names[:1], len(names) > 1), answer
            if cursor is not None:
                self._kv_cursor = Cursor(prefix, cursor, names[0])

        return Operation(["kvBegin", prefix], check)

    def _kv_go_on(self) -> Operation:
        at = self._kv_cursor
        if at is None:
            return self._kv_begin()
        return Operation(["kvGoOn", at.prefix, at.text], _is(self._noted(at.prefix, at.last)))

    def _kv_go_on_with_theirs(self) -> Operation:
        at = self._theirs[0]
        if at is None:
            return self._kv_begin()
        return Operation(["kvGoOn", at.prefix, at.text], _refused("KV GET failed: 400 "))

    # --- objects --------------------------------------------------------------------------------------------

    def _put(self) -> Operation:
        key, (text, times), custom = self._key(), self._value(), self._custom()
        file = self.files[key] = File(text * times, _md5(text * times).hexdigest(), custom)
        return Operation(["put", key, [text, times], custom], _is(_about(file)))

    def _get(self, key: str = "") -> Operation:
        key = key or self._key()
        file = self.files.get(key)
        return Operation(["get", key, None], _is(file and [_about(file), _shown(file.text)]))

    def _get_range(self) -> Operation:
        key = self._key()
        file = self.files.get(key)
        size = len(file.text) if file else 100
        start, length = self._chance.randrange(size), self._chance.randrange(1, size)
        span, part = self._chance.choice(
            (
                ({"offset": start}, slice(start, None)),
                ({"offset": start, "length": length}, slice(start, start + length)),
                ({"suffix": length}, slice(-length, None)),
            )
        )
        return Operation(["get", key, span], _is(file and [_about(file), _shown(file.text[part])]))

    def _head(self) -> Operation:
        key = self._key()
        return Operation(["head", key], _is(_about(self.files.get(key))))

    def _delete(self) -> Operation:
        keys = [f"{self._name}/{name}" for name in self._chance.sample(NAMES, self._chance.choice((1, 1, 3)))]
        for key in keys:
            self.files.pop(key, None)
        return Operation(["delete", keys], _is(None))

    def _list(self, prefix: str = "") -> Operation:
        prefix, limit = prefix or self._prefix(), self._chance.choice((1, 2, 3, 1000))
        delimiter = self._chance.choice((None, "/"))
        entries: list[tuple[str, Any]] = []
        for one in self._filed(prefix):
            at = one[0].find("/", len(prefix)) if delimiter else -1
            entry = ("prefix", one[0][: at + 1]) if at >= 0 else ("object", one)
            if entry not in entries:
                entries.append(entry)
        pages = [
            [[one for kind, one in page if kind == "object"], [one for kind, one in page if kind == "prefix"]]
            for page in _paged(entries, limit)
        ]
        return Operation(["list", prefix, delimiter, limit], _is(pages))

    def _filed(self, prefix: str, after: str = "") -> list[list[Any]]:
        """Objects as `list` gives them."""
        found = _sorted(self.files, prefix, after)
        return [[key, len(self.files[key].text), self.files[key].etag] for key in found]

    def _begin(self) -> Operation:
        prefix = f"{self._name}/"
        files = self._filed(prefix)

        def check(answer: Answer) -> None:
            found, cursor = _value(answer)
            assert (found, cursor is not None) == (files[:1], len(files) > 1), answer
            if cursor is not None:
                self._cursor = Cursor(prefix, cursor, files[0][0])

        return Operation(["begin", prefix], check)

    def _go_on(self) -> Operation:
        return self._gone_on(self._cursor)

    def _go_on_with_theirs(self) -> Operation:
        # R2's cursor names a place, and gives no right: behind it are the lane's own objects.
        return self._gone_on(self._theirs[1])

    def _gone_on(self, at: Cursor | None) -> Operation:
        if at is None:
            return self._begin()
        return Operation(["goOn", at.prefix, at.text], _is(self._filed(at.prefix, at.last)))

    # --- uploads --------------------------------------------------------------------------------------------

    def _multipart(self) -> Operation:
        key, custom = self._key(), self._custom()
        values = self._parts()
        return Operation(["multipart", key, values, custom], _is(self._composed(key, values, custom)))

    def _parts(self) -> list[tuple[str, int]]:
        """One part, or, as the first of two has at least 5 MiB, rarely two."""
        first = self._value()
        if self._chance.random() >= 0.03:
            return [first]
        return [(first[0], _PART // len(first[0]) + 1), self._value()]

    def _composed(self, key: str, values: Sequence[tuple[str, int]], custom: dict[str, str]) -> Any:
        """The object of these parts."""
        parts = [text * times for text, times in values]
        etag = f"{_md5(b''.join(_md5(part).digest() for part in parts)).hexdigest()}-{len(parts)}"
        self.files[key] = File("".join(parts), etag, custom)
        return _about(self.files[key])

    def _open(self) -> Operation:
        key = self._key()

        def check(answer: Answer) -> None:
            self._uploads.append(Upload(key, _value(answer)))

        return Operation(["open", key], check)

    def _complete(self) -> Operation:
        if not self._begun:
            return self._multipart()
        upload, values = self._taken(), self._parts()
        wanted = self._composed(upload.key, values, {})
        return Operation(["complete", *upload, values], _is(wanted))

    def _abort(self) -> Operation:
        if not self._begun:
            return self._head()
        return Operation(["abort", *self._taken()], _is(None))

    def _taken(self) -> Upload:
        upload = self._begun.pop(0)
        self._uploads.remove(upload)
        return upload

    def _complete_theirs(self) -> Operation:
        upload = self._theirs[2]
        if upload is None:
            return self._head()
        return Operation(["complete", *upload, [self._value(1)]], _refused("(10024)"))

    def _abort_theirs(self) -> Operation:
        upload = self._theirs[2]
        if upload is None:
            return self._head()
        return Operation(["abort", *upload], _refused("(10024)"))


def _value(answer: Answer) -> Any:
    assert "error" not in answer, answer
    return answer["value"]


def _is(wanted: Any) -> Callable[[Answer], None]:
    def check(answer: Answer) -> None:
        assert _value(answer) == wanted, (answer, wanted)

    return check


def _refused(text: str) -> Callable[[Answer], None]:
    def check(answer: Answer) -> None:
        assert text in answer.get("error", ""), (answer, text)

    return check


def _shown(text: str | None) -> Any:
    """A value as the Worker shows it."""
    if text is None or len(text) <= _SHOWN:
        return text
    return {"size": len(text), "start": text[:_SHOWN], "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _about(file: File | None) -> Any:
    return file and {"size": len(file.text), "etag": file.etag, "custom": file.custom}


def _md5(data: str | bytes) -> "hashlib._Hash":  # pyright: ignore[reportPrivateUsage]  hashlib names its type so
    return hashlib.md5(data.encode() if isinstance(data, str) else data, usedforsecurity=False)


def _sorted(keys: Iterable[str], prefix: str, after: str = "") -> list[str]:
    return sorted((key for key in keys if key.startswith(prefix) and key.encode() > after.encode()), key=str.encode)


def _paged(found: Sequence[Any], limit: int) -> list[list[Any]]:
    """One page at least."""
    return [list(found[at : at + limit]) for at in range(0, len(found) or 1, limit)]
