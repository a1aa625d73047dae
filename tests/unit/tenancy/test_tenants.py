"""The life of a tenant, on a real store."""

import asyncio
import pathlib

import pytest

from smcp.kernel import clock, errors, ids
from smcp.stores import tenant as stores
from smcp.tenancy import tenants as room
from support import storage

ACME = ids.tenant("acme")


@pytest.fixture
def tenants(store: stores.Store) -> room.Tenants:
    return room.Tenants(store, clock.FrozenClock(now=1_800_000_000.0))


@pytest.mark.requirement("tenancy:tenants:create")
async def test_a_new_tenant_is_active_and_has_storage_of_its_own(store: stores.Store, tenants: room.Tenants) -> None:
    made = await tenants.create("acme", "Acme Ltd")
    assert made == room.Tenant(
        id=ACME, display_name="Acme Ltd", state=room.State.ACTIVE, plan="standard", created=1_800_000_000.0
    )
    assert await tenants.get(ACME) == made
    await tenants.active(ACME)
    await store.tenant(ACME).kv.put(("a",), b"b")


@pytest.mark.requirement("tenancy:tenants:create")
async def test_a_name_is_given_once_also_when_two_ask_at_the_same_time(tenants: room.Tenants) -> None:
    answers = await asyncio.gather(*(tenants.create("acme", f"Acme {n}") for n in range(5)), return_exceptions=True)
    made = [answer for answer in answers if isinstance(answer, room.Tenant)]
    assert len(made) == 1
    assert sum(isinstance(answer, errors.Conflict) for answer in answers) == 4
    assert await tenants.get(ACME) == made[0]


@pytest.mark.requirement("tenancy:tenants:names")
@pytest.mark.parametrize("name", ["platform", "admin", "Acme", "a--b", "-a", "", "a" * 31, "acme\n", "ａｃｍｅ", "a_b"])
async def test_a_reserved_or_ambiguous_name_is_refused(tenants: room.Tenants, name: str) -> None:
    with pytest.raises(errors.BadName):
        await tenants.create(name)


@pytest.mark.requirement("tenancy:tenants:names")
@pytest.mark.parametrize("shown", ["x" * 81, "a\x1b[31mred", "a\nb", "a\u202eb"])
async def test_a_display_name_can_not_forge_what_people_see(tenants: room.Tenants, shown: str) -> None:
    with pytest.raises(errors.InvalidParams):
        await tenants.create("acme", shown)
    with pytest.raises(errors.NotFound):
        await tenants.get(ACME)


@pytest.mark.requirement("tenancy:tenants:no-half")
async def test_a_crash_between_the_key_and_the_record_leaves_no_tenant_and_a_name_that_can_be_taken(
    tmp_path: pathlib.Path,
) -> None:
    async with storage.opened(tmp_path) as store:
        await store.provision(ACME)  # what `create` had done when the process died
    async with storage.opened(tmp_path) as store:
        tenants = room.Tenants(store, clock.SystemClock())
        with pytest.raises(errors.NotFound):
            await tenants.active(ACME)
        assert await tenants.list() == []
        await tenants.create("acme")
        await tenants.active(ACME)


@pytest.mark.requirement("tenancy:tenants:suspend")
async def test_suspension_and_resumption_count_from_the_next_request(tenants: room.Tenants) -> None:
    await tenants.create("acme")
    await tenants.active(ACME)
    assert (await tenants.suspend(ACME)).state is room.State.SUSPENDED
    with pytest.raises(errors.TenantSuspended):
        await tenants.active(ACME)
    assert await tenants.suspend(ACME) == await tenants.get(ACME)
    assert (await tenants.resume(ACME)).state is room.State.ACTIVE
    await tenants.active(ACME)


@pytest.mark.requirement("tenancy:tenants:suspend")
async def test_suspension_outlives_a_restart(tmp_path: pathlib.Path) -> None:
    async with storage.opened(tmp_path) as store:
        tenants = room.Tenants(store, clock.SystemClock())
        await tenants.create("acme")
        await tenants.suspend(ACME)
    async with storage.opened(tmp_path) as store:
        with pytest.raises(errors.TenantSuspended):
            await room.Tenants(store, clock.SystemClock()).active(ACME)


@pytest.mark.requirement("tenancy:tenants:suspend")
async def test_what_does_not_exist_is_neither_active_nor_suspended(tenants: room.Tenants) -> None:
    for call in (tenants.active, tenants.suspend, tenants.resume, tenants.get):
        with pytest.raises(errors.NotFound):
            await call(ACME)


@pytest.mark.requirement("tenancy:tenants:platform")
async def test_the_platform_tenant_is_always_active_and_no_tenant_among_others(tenants: room.Tenants) -> None:
    await tenants.active(ids.PLATFORM)
    with pytest.raises(errors.NotFound):
        await tenants.suspend(ids.PLATFORM)
    assert await tenants.list() == []


@pytest.mark.requirement("tenancy:tenants:list")
async def test_tenants_are_listed_in_order_and_in_pages(tenants: room.Tenants) -> None:
    for name in ("cc", "aa", "bb", "a-1"):
        await tenants.create(name)
    first = await tenants.list(limit=2)
    rest = await tenants.list(after=first[-1].id, limit=10)
    assert [tenant.id for tenant in (*first, *rest)] == ["a-1", "aa", "bb", "cc"]
