"""Each back end, and the tenant's handle over it, keeps the contract of its interface."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from obstore import store as obstores

from contract import backends
from contract.kv import KVContract
from contract.log import LogContract
from contract.objects import ObjectsContract
from smcp.kernel import clock as clocks
from smcp.kernel import errors
from smcp.stores import tenant
from smcp.stores.kv import base as kv_base
from smcp.stores.kv import sqlite as kv_sqlite
from smcp.stores.log import base as log_base
from smcp.stores.log import sqlite as log_sqlite
from smcp.stores.objects import base as objects_base
from smcp.stores.objects import obstore
from smcp.stores.wrappers import sealed


class TestSqliteKV(KVContract):
    @pytest.fixture
    async def kv(self, tmp_path: Path, clock: clocks.FrozenClock) -> AsyncIterator[kv_base.KV]:
        kv = kv_sqlite.SqliteKV(tmp_path / "kv.db", clock)
        yield kv
        await kv.close()


class TestSqliteLog(LogContract):
    @pytest.fixture
    async def log(self, tmp_path: Path, clock: clocks.FrozenClock) -> AsyncIterator[log_base.Log]:
        log = log_sqlite.SqliteLog(tmp_path / "log.db", clock)
        yield log
        await log.close()


class TestDirectoryObjects(ObjectsContract):
    @pytest.fixture
    async def objects(self, tmp_path: Path) -> AsyncIterator[objects_base.Objects]:
        objects = obstore.ObstoreObjects.in_directory(tmp_path / "objects")
        yield objects
        await objects.close()


class TestRemoteObjects(ObjectsContract):
    """The way that S3 and its like take, on the one remote-like store that needs no network."""

    @pytest.fixture
    async def objects(self) -> AsyncIterator[objects_base.Objects]:
        objects = obstore.ObstoreObjects(obstores.MemoryStore())
        yield objects
        await objects.close()


class WithStore:
    @pytest.fixture
    def clock(self) -> clocks.FrozenClock:
        return clocks.FrozenClock()

    @pytest.fixture
    async def store(self, tmp_path: Path, clock: clocks.FrozenClock) -> AsyncIterator[tenant.Store]:
        store = await backends.opened(tmp_path, clock)
        yield store
        await store.close()


class TestTenantKV(WithStore, KVContract):
    @pytest.fixture
    def kv(self, store: tenant.Store) -> kv_base.KV:
        return store.tenant(backends.ACME).kv


class TestTenantLog(WithStore, LogContract):
    @pytest.fixture
    def log(self, store: tenant.Store, tmp_path: Path) -> log_base.Log:
        return store.tenant(backends.ACME).log

    async def trimmed(self, log: log_base.Log, now: float) -> int:
        pytest.fail("replaced below")

    async def test_trimming_removes_what_is_over_and_positions_never_return(
        self, log: log_base.Log, clock: clocks.FrozenClock
    ) -> None:
        with pytest.raises(errors.Forbidden):
            await log.trim(now=clock.now())


class TestSealedLog(LogContract):
    """Two handles of one tenant over one log, as two processes have them."""

    @pytest.fixture
    async def raw(self, tmp_path: Path, clock: clocks.FrozenClock) -> AsyncIterator[log_base.Log]:
        raw = log_sqlite.SqliteLog(tmp_path / "log.db", clock)
        yield raw
        await raw.close()

    @pytest.fixture
    def log(self, raw: log_base.Log) -> log_base.Log:
        return sealed.SealedLog(raw, backends.ACME, bytes(32))

    @pytest.fixture
    def twin(self, raw: log_base.Log) -> log_base.Log:
        return sealed.SealedLog(raw, backends.ACME, bytes(32))

    async def trimmed(self, log: log_base.Log, now: float) -> int:
        pytest.fail("replaced below")

    async def test_trimming_removes_what_is_over_and_positions_never_return(
        self, log: log_base.Log, clock: clocks.FrozenClock
    ) -> None:
        with pytest.raises(errors.Forbidden):
            await log.trim(now=clock.now())


class TestTenantObjects(WithStore, ObjectsContract):
    @pytest.fixture
    def objects(self, store: tenant.Store) -> objects_base.Objects:
        return store.tenant(backends.ACME).objects
