"""A target for what hosted code makes its process ask of a bucket: near misses of R2's requests, on a real store.

Whatever it is, the answer is one that workerd reads: an object or a list with its size in front, or an error with a
code; none of it is a fault of the platform's, and nothing is left of what was refused.
"""

import asyncio
import functools
import json
import pathlib
import random
import tempfile
from collections.abc import AsyncGenerator
from typing import Any, Final

from contract import backends
from fuzz import grammar
from fuzz.engine import Target
from smcp.kernel import clock
from smcp.runtime.bindings import http, objects
from smcp.stores import buckets, heavy
from support.buckets import nothing_left

_READS: Final = ("get", "head", "list")
_WRITES: Final = (
    "put",
    "delete",
    "createMultipartUpload",
    "uploadPart",
    "completeMultipartUpload",
    "abortMultipartUpload",
    "nothing",
)
_TEXTS: Final = ("", "k", "a/b", "é", "\x00", "\x7f", "x" * 1025, "*", "-1", "0", "f" * 64, "\ud800", "cGE=")
_NUMBERS: Final = (0, 1, -1, 2, 5, 2**53, 2**64, 1.5, "1", "0", "18446744073709551615", "x", None, True)
_runner = asyncio.Runner()


@functools.cache
def _kit() -> tuple[tempfile.TemporaryDirectory[str], backends.tenant.Store, objects.Binding]:
    directory = tempfile.TemporaryDirectory()
    store = _runner.run(backends.opened(pathlib.Path(directory.name), clock.SystemClock(), quota_bytes=10_000_000))
    return directory, store, objects.Binding(buckets.Buckets(store), backends.ACME, "photos", heavy.Heavy())


def _asked(dice: random.Random, method: str) -> dict[str, Any]:
    text, number = (lambda: dice.choice(_TEXTS)), (lambda: dice.choice(_NUMBERS))
    etags = [{"value": text(), "type": dice.choice(("strong", "weak", "wildcard", "x"))} for _ in range(2)]
    every: dict[str, Any] = {
        "object": dice.choice(("k", "a/b", text())),
        "objects": [text() for _ in range(dice.randrange(4))],
        "range": {name: number() for name in dice.sample(("offset", "length", "suffix"), dice.randrange(3))},
        "rangeHeader": dice.choice(("bytes=0-1", "bytes=-1", "bytes=5-", "bytes=2-1", text())),
        "onlyIf": {"etagMatches": etags, "etagDoesNotMatch": etags[:1], "uploadedBefore": number()},
        "customFields": [{"k": text(), "v": text()}],
        "httpFields": {"contentType": text(), "cacheExpiry": number()},
        "md5": dice.choice(("AAAAAAAAAAAAAAAAAAAAAA==", text())),
        "sha256": dice.choice(("0" * 64, text())),
        "storageClass": dice.choice(("Standard", text())),
        "uploadId": text(),
        "partNumber": number(),
        "parts": [{"part": number(), "etag": text()}],
        "limit": number(),
        "prefix": text(),
        "cursor": text(),
        "delimiter": dice.choice(("/", text())),
        "include": [number()],
        "ssec": {"key": text()},
    }
    chosen = dice.sample(sorted(every), dice.randrange(5))
    return {"version": 1, "method": method, "object": every["object"], **{name: every[name] for name in chosen}}


def _made(dice: random.Random) -> bytes:
    read = bool(dice.randrange(2))
    asked = json.dumps(_asked(dice, dice.choice(_READS if read else _WRITES)), ensure_ascii=bool(dice.randrange(2)))
    data = asked.encode("utf-8", "surrogatepass")
    if not dice.randrange(3):
        data = grammar.mutated(dice, data)
    return (
        (b"R" if read else b"W%d " % dice.choice((len(data), len(data), len(data) + 1, 3)))
        + data
        + b"bytes"[: dice.randrange(6)]
    )


def _check(data: bytes) -> None:
    _, store, binding = _kit()
    _runner.run(_answered(store, binding, data))


async def _answered(store: backends.tenant.Store, binding: objects.Binding, data: bytes) -> None:
    faults: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: faults.append(context))

    async def body(content: bytes) -> AsyncGenerator[bytes]:
        for at in range(0, len(content), 7):
            yield content[at : at + 7]

    if data[:1] == b"R":
        request = http.Request("GET", "/", {objects.REQUEST: data[1:]}, body(b""), 0)
    else:
        size, _, content = data[1:].partition(b" ")
        request = http.Request("PUT", "/", {b"cf-r2-metadata-size": size}, body(content), len(content))
    answer = await binding.answer(request)
    said = answer.body if isinstance(answer.body, bytes) else b"".join([chunk async for chunk in answer.body])
    headers = dict(answer.headers)
    if answer.status >= 400:
        error = json.loads(headers[objects.ERROR])
        assert error["v4code"] not in (0, 10001), error
        assert headers[objects.ERROR].isascii()
    if objects.SIZE in headers or answer.status < 400:
        json.loads(said[: int(headers.get(objects.SIZE, len(said)))])
    assert not faults, faults
    await nothing_left(store)


TARGETS: Final = (Target("r2", _made, _check),)
