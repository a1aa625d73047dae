"""Two tenants, the same names of buckets and keys, operations in any order: each sees what a simple model says it has.

What a tenant stores says whose it is, so bytes of the other one would show wherever they came out.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from contract import backends
from contract.backends import ACME, OTHER
from contract.kv import UNHURRIED
from smcp.kernel import clock as clocks
from smcp.kernel import errors, ids
from smcp.stores import bucket_model, buckets
from support.buckets import nothing_left, pieces, whole

# Each step waits for the disk, and some disks take their time.
pytestmark = pytest.mark.timeout(600)

T = TypeVar("T")

Place = tuple[ids.TenantId, str]
places = st.tuples(st.sampled_from([ACME, OTHER]), st.sampled_from(["photos", "photos-2"]))
keys = st.sampled_from(["a", "a/b", "a/c/d", "b", "é", "acme", "objects"])
sizes = st.sampled_from([0, 1, 100, 1000, 2500])
conditions = st.sampled_from(["", "absent", "same", "other"])


class Buckets(RuleBasedStateMachine):
    """The model: tenant and bucket → key → bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.model: dict[Place, dict[str, bytes]] = {
            (tenant, name): {} for tenant in (ACME, OTHER) for name in ("photos", "photos-2")
        }
        self.uploads: list[tuple[Place, str, str, dict[int, bytes]]] = []
        self.count = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize()
    def open(self) -> None:
        self.store = self.run(backends.opened(Path(self.directory.name), clocks.FrozenClock()))
        self.buckets = buckets.Buckets(self.store, segment=1000)

    def bucket(self, place: Place) -> buckets.Bucket:
        return self.buckets.bucket(*place)

    def content(self, place: Place, size: int) -> bytes:
        """Bytes that say whose they are, never the same twice."""
        self.count += 1
        return (f"{place[0]}/{place[1]}/{self.count};".encode() * size)[:size]

    @rule(place=places, key=keys, size=sizes, condition=conditions)
    def put(self, place: Place, key: str, size: int, condition: str) -> None:
        content, there = self.content(place, size), self.model[place].get(key)
        etag = hashlib.md5(there or b"", usedforsecurity=False).hexdigest()
        only_if = {
            "": None,
            "absent": bucket_model.Condition(differs=(bucket_model.Etag(wildcard=True),)),
            "same": bucket_model.Condition(matches=(bucket_model.Etag(etag),)),
            "other": bucket_model.Condition(differs=(bucket_model.Etag(etag),)),
        }[condition]
        holds = {"": True, "absent": there is None, "same": there is not None, "other": there is None}[condition]
        try:
            self.run(self.bucket(place).put(key, pieces(content), only_if=only_if))
        except errors.PreconditionFailed:
            assert not holds
        else:
            assert holds
            self.model[place][key] = content

    @rule(place=places, key=keys, start=st.integers(0, 2500), length=st.none() | st.integers(1, 2500))
    def get(self, place: Place, key: str, start: int, length: int | None) -> None:
        there = self.model[place].get(key)
        if there is not None:
            start = min(start, max(0, len(there) - 1))

        async def read() -> None:
            found = await self.bucket(place).get(key, bucket_model.Range(start, length))
            assert (found is None) is (there is None)
            if found is not None and there is not None:
                assert await whole(found) == there[start : None if length is None else start + length]
                assert found.object.size == len(there)

        self.run(read())

    @rule(place=places, some=st.sets(keys, max_size=4))
    def delete(self, place: Place, some: set[str]) -> None:
        gone = [self.model[place].pop(key, None) for key in some]
        assert self.run(self.bucket(place).delete(*some)) == sum(one is not None for one in gone)

    @rule(place=places, prefix=st.sampled_from(["", "a", "a/", "é"]))
    def page(self, place: Place, prefix: str) -> None:
        page = self.run(self.bucket(place).page(prefix=prefix))
        wanted = {key: len(content) for key, content in self.model[place].items() if key.startswith(prefix)}
        assert {listed.key: listed.object.size for listed in page.objects} == wanted

    @rule(place=places, key=keys)
    def open_upload(self, place: Place, key: str) -> None:
        upload = self.run(self.bucket(place).uploads.create(key))
        self.uploads.append((place, key, upload, {}))

    @rule(which=st.integers(0, 99), number=st.integers(1, 3), size=sizes)
    def upload_part(self, which: int, number: int, size: int) -> None:
        if self.uploads:
            place, key, upload, parts = self.uploads[which % len(self.uploads)]
            parts[number] = self.content(place, size)
            self.run(self.bucket(place).uploads.part(key, upload, number, pieces(parts[number])))

    @rule(which=st.integers(0, 99), other=places, complete=st.booleans())
    def end_upload(self, which: int, other: Place, complete: bool) -> None:
        if not self.uploads:
            return
        place, key, upload, parts = self.uploads.pop(which % len(self.uploads))
        if other != place:  # another's id, or the same tenant's in another bucket, is no upload there
            with pytest.raises(errors.ObjectRefused):
                self.run(self.bucket(other).uploads.abort(key, upload))
        if complete and parts:
            number, content = max(parts.items())
            etag = hashlib.md5(content, usedforsecurity=False).hexdigest()
            named = [bucket_model.Published(number, etag)]
            self.run(self.bucket(place).uploads.complete(key, upload, named))
            self.model[place][key] = content
            # Its etag is not the MD5 of its bytes: the model writes it anew.
            self.run(self.bucket(place).put(key, pieces(content)))
        else:
            self.run(self.bucket(place).uploads.abort(key, upload))

    @rule()
    def begin_anew(self) -> None:
        self.buckets = buckets.Buckets(self.store, segment=700)
        for tenant in (ACME, OTHER):
            self.run(self.buckets.sweep(tenant))

    def teardown(self) -> None:
        for place, key, upload, _ in self.uploads:
            self.run(self.bucket(place).uploads.abort(key, upload))
        for place, there in self.model.items():
            assert [listed.key for listed in self.run(self.bucket(place).page()).objects] == sorted(
                there, key=str.encode
            )
            for key, content in there.items():
                assert self.run(self._whole(place, key)) == content
        for tenant in (ACME, OTHER):
            self.run(nothing_left(self.store, tenant))
        self.run(self.store.close())
        self.runner.close()
        self.directory.cleanup()

    async def _whole(self, place: Place, key: str) -> bytes:
        return await whole(await self.bucket(place).get(key))


TestBuckets = pytest.mark.requirement("workers:objects:never-cross")(Buckets.TestCase)
TestBuckets.settings = settings(max_examples=25, stateful_step_count=50, deadline=None, suppress_health_check=UNHURRIED)
