"""Two tenants use namespaces and keys of the same names: each finds what a model of it alone says."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from contract import backends
from contract.backends import ACME, OTHER
from contract.kv import UNHURRIED
from smcp.kernel import clock as clocks
from smcp.kernel import ids
from smcp.stores import namespaces
from smcp.stores import tenant as stores

EXAMPLES, STEPS = 280, 50
tenants = st.sampled_from([ACME, OTHER])
spaces = st.sampled_from(["notes", "note"])
keys = st.sampled_from(["a", "a/", "a\0", "aé", "b", "\U0010ffff"])
sizes = st.sampled_from([0, 3, namespaces.INLINE, namespaces.INLINE + 1, namespaces.BESIDE + 1])


class Machine(RuleBasedStateMachine):
    """The model: (tenant, namespace, key) → value, metadata, end."""

    runner: asyncio.Runner
    store: stores.Store
    clock: clocks.FrozenClock
    done = 0

    def __init__(self) -> None:
        super().__init__()
        self.every = namespaces.Namespaces(self.store)
        self.model: dict[tuple[ids.TenantId, str, str], tuple[bytes, str | None, int | None]] = {}

    def run(self, work: Any) -> Any:
        Machine.done += 1
        self.model = {k: v for k, v in self.model.items() if v[2] is None or v[2] > self.clock.now()}
        return self.runner.run(work)

    @rule(tenant=tenants, space=spaces, key=keys, size=sizes, mark=st.integers(0, 255), lasts=st.sampled_from([0, 60]))
    def put(self, tenant: ids.TenantId, space: str, key: str, size: int, mark: int, lasts: int) -> None:
        value = (tenant.encode() + bytes([mark])) * (size // 4 + 1)
        expires = int(self.clock.now()) + lasts if lasts else None
        metadata = f'"{tenant}{mark}"' if mark % 2 else None
        self.run(self.every.put(tenant, space, key, value[:size], metadata=metadata, expires=expires))
        self.model[tenant, space, key] = (value[:size], metadata, expires)

    @rule(tenant=tenants, space=spaces, key=keys)
    def get(self, tenant: ids.TenantId, space: str, key: str) -> None:
        async def read() -> tuple[bytes, str | None, int | None] | None:
            found = await self.every.get(tenant, space, key)
            return None if found is None else (await found.read(), found.metadata, found.expires)

        assert self.run(read()) == self.model.get((tenant, space, key))

    @rule(tenant=tenants, space=spaces, key=keys)
    def delete(self, tenant: ids.TenantId, space: str, key: str) -> None:
        there = self.run(self.every.delete(tenant, space, key))
        assert there == (self.model.pop((tenant, space, key), None) is not None)

    @rule(tenant=tenants, space=spaces, prefix=st.just("") | keys, limit=st.integers(1, 3))
    def list(self, tenant: ids.TenantId, space: str, prefix: str, limit: int) -> None:
        page = self.run(self.every.list(tenant, space, prefix=prefix, limit=limit))
        wanted = sorted(k[2] for k in self.model if k[:2] == (tenant, space) and k[2].startswith(prefix))
        assert [one.name for one in page.keys] == wanted[:limit]
        assert (page.cursor is None) == (len(wanted) <= limit)

    @rule(tenant=tenants)
    def names(self, tenant: ids.TenantId) -> None:
        assert self.run(self.every.names(tenant)) == sorted({k[1] for k in self.model if k[0] == tenant})

    @rule(tenant=tenants, space=spaces)
    def clear(self, tenant: ids.TenantId, space: str) -> None:
        size = self.run(self.every.clear(tenant, space))
        gone = [self.model.pop(k)[0] for k in list(self.model) if k[:2] == (tenant, space)]
        assert size == namespaces.Size(keys=len(gone), bytes=sum(map(len, gone)))

    @rule(tenant=tenants)
    def sweep(self, tenant: ids.TenantId) -> None:
        self.run(self.every.sweep(tenant))

    @rule(seconds=st.sampled_from([1, 61]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    def teardown(self) -> None:
        async def emptied() -> None:
            for tenant in (ACME, OTHER):
                for space in ("note", "notes"):
                    await self.every.clear(tenant, space)
                await self.every.sweep(tenant)
                handle = self.store.tenant(tenant)
                assert await handle.objects.list(("worker-kv",)) == []
                for prefix in ("worker-kv", "worker-kv-value", "worker-kv-blob"):
                    assert await handle.kv.scan((prefix,)) == []

        self.runner.run(emptied())


@pytest.mark.real
@pytest.mark.requirement("workers:kv:tenants")
@pytest.mark.timeout(600)
def test_ten_thousand_operations_of_two_tenants_never_cross() -> None:
    clock = clocks.FrozenClock()
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory() as directory:
        Machine.runner, Machine.clock = runner, clock
        Machine.store = runner.run(backends.opened(Path(directory), clock))
        try:
            run_state_machine_as_test(
                Machine,
                settings=settings(
                    max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=UNHURRIED
                ),
            )
        finally:
            runner.run(Machine.store.close())
    assert Machine.done >= 10_000
