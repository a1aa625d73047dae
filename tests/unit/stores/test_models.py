"""Whatever is done in whatever order, storage answers as a simple model does: raw, and through a tenant's handle."""

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from contract import backends
from contract.kv import UNHURRIED, in_order, segments
from smcp.kernel import clock as clocks
from smcp.kernel import errors
from smcp.stores import tenant
from smcp.stores.kv import base as kv_base
from smcp.stores.kv import sqlite as kv_sqlite
from smcp.stores.log import base as log_base
from smcp.stores.log import sqlite as log_sqlite

# Each step waits for the disk, and some disks take their time.
pytestmark = pytest.mark.timeout(600)

T = TypeVar("T")
names = st.lists(segments, min_size=1, max_size=2).map(tuple)


class Machine(RuleBasedStateMachine):
    """A loop, a directory and a clock that outlive the restarts of what is in them."""

    sealed = False

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name)
        self.clock = clocks.FrozenClock()
        self.store: tenant.Store | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    async def handle(self) -> tenant.Handle:
        """A tenant's handle of a store that was just opened."""
        self.store = await backends.opened(self.path, self.clock)
        return self.store.tenant(backends.ACME)

    async def close(self) -> None:
        if self.store is not None:
            await self.store.close()

    def teardown(self) -> None:
        self.run(self.close())
        self.runner.close()
        self.directory.cleanup()


class KVMachine(Machine):
    """The model: key → value, revision, end."""

    kv: kv_base.KV

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[kv_base.Key, tuple[bytes, int, float | None]] = {}
        self.heard: dict[kv_base.Key, bytes | None] = {}
        self.latest = 0

    async def open(self) -> kv_base.KV:
        kv: kv_base.KV = (
            (await self.handle()).kv if self.sealed else kv_sqlite.SqliteKV(self.path / "kv.db", self.clock)
        )
        kv.watch((), lambda change: self.heard.__setitem__(change.key, change.value))
        return kv

    async def close(self) -> None:
        await self.kv.close()
        await super().close()

    @initialize()
    def begin(self) -> None:
        self.kv = self.run(self.open())

    @rule()
    def restart(self) -> None:
        self.run(self.close())
        self.kv = self.run(self.open())

    @rule(seconds=st.sampled_from([0.5, 3, 30]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.model = {k: v for k, v in self.model.items() if v[2] is None or v[2] > self.clock.now()}

    @rule(
        ops=st.lists(
            st.tuples(
                names, st.none() | st.binary(max_size=3), st.sampled_from([None, 2.0, 20.0]), st.sampled_from("xx=0!")
            ),
            min_size=1,
            max_size=4,
            unique_by=lambda op: op[0],
        )
    )
    def apply(self, ops: list[tuple[kv_base.Key, bytes | None, float | None, str]]) -> None:
        batch: list[kv_base.Op] = []
        holds = True
        for key, value, ttl, kind in ops:
            current = self.model[key][1] if key in self.model else kv_base.ABSENT
            expect = {"x": None, "=": current, "0": kv_base.ABSENT, "!": current + 1}[kind]
            holds = holds and expect in (None, current)
            batch.append(kv_base.Delete(key, expect) if value is None else kv_base.Put(key, value, ttl, expect))
        if not holds:
            with pytest.raises(errors.Conflict):
                self.run(self.kv.apply(batch))
            return
        revision = self.run(self.kv.apply(batch))
        assert revision > self.latest
        self.latest = revision
        for key, value, ttl, _ in ops:
            if value is None:
                self.model.pop(key, None)
                assert self.heard.get(key) is None
            else:
                self.model[key] = (value, revision, None if ttl is None else self.clock.now() + ttl)
                assert self.heard[key] == value

    @rule(key=names)
    def get(self, key: kv_base.Key) -> None:
        known = self.model.get(key)
        assert self.run(self.kv.get(key)) == (known and kv_base.Entry(key, *known))

    @rule(prefix=st.just(()) | names, limit=st.integers(1, 5))
    def scan(self, prefix: kv_base.Key, limit: int) -> None:
        wanted = [key for key in in_order(list(self.model)) if key[: len(prefix)] == prefix]
        assert self.run(self.kv.scan(prefix, limit=limit)) == [kv_base.Entry(k, *self.model[k]) for k in wanted[:limit]]

    @invariant()
    def snapshot(self) -> None:
        async def whole() -> list[kv_base.Entry]:
            return [entry async for entry in self.kv.snapshot()]

        assert self.run(whole()) == [kv_base.Entry(k, *self.model[k]) for k in in_order(list(self.model))]


class SealedKVMachine(KVMachine):
    """Through the handle, whose usage must also be what is stored."""

    sealed = True

    @invariant()
    def usage(self) -> None:
        assert self.store is not None
        handle = self.store.tenant(backends.ACME)
        assert self.run(handle.usage()) == tuple(reversed(self.run(self.kv.size(()))))


class LogMachine(Machine):
    """The model: stream → records with their ends; and the last position ever given."""

    log: log_base.Log

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[log_base.Stream, list[tuple[log_base.Record, float | None]]] = {}
        self.lasts: dict[log_base.Stream, int] = {}

    async def open(self) -> log_base.Log:
        if self.sealed:
            return (await self.handle()).log
        return log_sqlite.SqliteLog(self.path / "log.db", self.clock)

    async def close(self) -> None:
        await self.log.close()
        await super().close()

    @initialize()
    def begin(self) -> None:
        self.log = self.run(self.open())

    @rule()
    def restart(self) -> None:
        self.run(self.close())
        self.log = self.run(self.open())

    @rule(
        stream=names,
        records=st.lists(st.binary(max_size=3), min_size=1, max_size=3),
        ttl=st.sampled_from([None, 2.0, 20.0]),
        kind=st.sampled_from("xx=!"),
    )
    def append(self, stream: log_base.Stream, records: list[bytes], ttl: float | None, kind: str) -> None:
        last = self.lasts.get(stream, 0)
        expect = {"x": None, "=": last, "!": last + 1}[kind]
        if kind == "!":
            with pytest.raises(errors.Conflict):
                self.run(self.log.append(stream, records, ttl=ttl, expect=expect))
            return
        assert self.run(self.log.append(stream, records, ttl=ttl, expect=expect)) == last + len(records)
        now = self.clock.now()
        self.model.setdefault(stream, []).extend(
            (log_base.Record(last + n, now, data), None if ttl is None else now + ttl)
            for n, data in enumerate(records, 1)
        )
        self.lasts[stream] = last + len(records)

    @rule(seconds=st.sampled_from([0.5, 3, 30]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: not self.sealed)  # a tenant's handle can't trim; the platform does
    @rule()
    def trim(self) -> None:
        now = self.clock.now()
        kept = {s: [r for r in records if r[1] is None or r[1] > now] for s, records in self.model.items()}
        removed = sum(map(len, self.model.values())) - sum(map(len, kept.values()))
        assert self.run(self.log.trim(now=now)) == removed
        self.model = kept

    @precondition(lambda self: not self.sealed)  # sealed records are longer than the model's
    @rule(stream=names, most=st.integers(0, 9))
    def shrink(self, stream: log_base.Stream, most: int) -> None:
        kept = self.model.get(stream, [])
        while sum(len(record.data) for record, _ in kept) > most:
            kept = kept[1:]
        assert self.run(self.log.shrink(stream, most=most)) == sum(len(record.data) for record, _ in kept)
        if stream in self.model:
            self.model[stream] = kept

    @rule(prefix=names)
    def drop(self, prefix: log_base.Stream) -> None:
        self.run(self.log.drop(prefix))
        for stream in [stream for stream in self.lasts if stream[: len(prefix)] == prefix]:
            del self.lasts[stream]
            self.model.pop(stream, None)

    @rule(stream=names, after=st.integers(0, 4), limit=st.integers(1, 4))
    def read(self, stream: log_base.Stream, after: int, limit: int) -> None:
        wanted = [record for record, _ in self.model.get(stream, []) if record.position > after]
        assert self.run(self.log.read(stream, after=after, limit=limit)) == wanted[:limit]
        assert self.run(self.log.last(stream)) == self.lasts.get(stream, 0)

    @precondition(lambda self: not self.sealed)
    @invariant()
    def everything(self) -> None:
        streams = self.run(self.log.streams(()))
        assert streams == in_order([stream for stream, records in self.model.items() if records])
        for stream in streams:
            assert self.run(self.log.read(stream)) == [record for record, _ in self.model[stream]]


class SealedLogMachine(LogMachine):
    """Through the handle. The store trims by itself when it starts, so nothing ends here."""

    sealed = True

    def wait(self, seconds: float) -> None:
        """Time stands still."""


_SETTINGS = settings(max_examples=12, stateful_step_count=25, deadline=None, suppress_health_check=UNHURRIED)


def _case(machine: type[RuleBasedStateMachine]) -> type[Any]:
    case = machine.TestCase
    case.settings = _SETTINGS
    return case


TestKV = pytest.mark.requirement("stores:kv:model")(_case(KVMachine))
TestSealedKV = pytest.mark.requirement("stores:kv:model")(_case(SealedKVMachine))
TestLog = pytest.mark.requirement("stores:log:model")(_case(LogMachine))
TestSealedLog = pytest.mark.requirement("stores:log:model")(_case(SealedLogMachine))
