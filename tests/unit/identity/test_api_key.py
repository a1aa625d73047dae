"""API keys on a real store: made, checked, revoked, expired, and never kept."""

import asyncio
import inspect
import pathlib
import sqlite3

import pytest

from smcp.access import policy
from smcp.identity import roles
from smcp.identity.authn import api_key, base, key_text
from smcp.kernel import clock, crypto, errors, ids, settings
from smcp.stores import local
from smcp.stores import tenant as stores
from smcp.tenancy import tenants as tenancy
from support import storage

ACME, UMBRA = ids.tenant("acme"), ids.tenant("umbra")
USER = [policy.Role.MCP_USER]


def everything_below(directory: pathlib.Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


class Room:
    """Tenants and keys on one store, with a clock that stands still."""

    def __init__(self, store: stores.Store) -> None:
        self.store = store
        self.time = clock.FrozenClock()
        self.tenants = tenancy.Tenants(store, self.time)
        self.keys = api_key.ApiKeys(store, self.tenants.active, self.time, roles.Roles(store, self.time))

    async def refusal(self, credential: str) -> str:
        """The private reason of the refusal of `credential`."""
        with pytest.raises(errors.Unauthenticated) as refused:
            await self.keys.authenticate(credential)
        assert refused.value.public == errors.Unauthenticated.text
        return refused.value.detail


@pytest.fixture
async def room(store: stores.Store) -> Room:
    made = Room(store)
    await made.tenants.create("acme")
    await made.tenants.create("umbra")
    return made


@pytest.mark.requirement("identity:api-key:principal")
async def test_a_key_is_its_principal_cold_and_warm(room: Room) -> None:
    issued = await room.keys.create(ACME, [policy.Role.READ_ONLY, policy.Role.ADMIN], "laptop", expires_in_s=None)
    expected = policy.Principal(ACME, issued.key.id, "api_key", (policy.Role.ADMIN, policy.Role.READ_ONLY), "laptop")
    assert await room.keys.authenticate(issued.text) == expected
    assert await room.keys.authenticate(issued.text) == expected
    # Another process, which has nothing in memory, says the same.
    assert (
        await api_key.ApiKeys(
            room.store, room.tenants.active, room.time, roles.Roles(room.store, room.time)
        ).authenticate(issued.text)
        == expected
    )


@pytest.mark.requirement("identity:api-key:principal")
async def test_an_operators_key_is_made_and_checked_in_the_same_way(room: Room) -> None:
    issued = await room.keys.create(ids.PLATFORM, [policy.Role.OPERATOR], "", expires_in_s=None)
    assert (await room.keys.authenticate(issued.text)).tenant == ids.PLATFORM


@pytest.mark.requirement("identity:api-key:roles")
async def test_a_key_has_roles_that_its_tenant_can_have(room: Room) -> None:
    for tenant, wanted in (
        (ACME, [policy.Role.OPERATOR]),
        (ACME, [policy.Role.ADMIN, policy.Role.OPERATOR]),
        (ACME, []),
        (ids.PLATFORM, [policy.Role.ADMIN]),
    ):
        with pytest.raises(errors.InvalidParams):
            await room.keys.create(tenant, wanted, "", expires_in_s=None)
    assert await room.keys.list(ACME) == []


@pytest.mark.requirement("identity:api-key:limits")
async def test_labels_and_lives_are_bounded(room: Room) -> None:
    for label, life in (("x" * 81, None), ("a\nb", None), ("", 0.0), ("", -1.0), ("", float("nan")), ("", 1e12)):
        with pytest.raises(errors.InvalidParams):
            await room.keys.create(ACME, USER, label, expires_in_s=life)


@pytest.mark.requirement("identity:api-key:no-tenant")
async def test_no_key_is_made_for_a_tenant_that_is_not_served(room: Room) -> None:
    await room.tenants.suspend(ACME)
    with pytest.raises(errors.TenantSuspended):
        await room.keys.create(ACME, USER, "", expires_in_s=None)
    with pytest.raises(errors.NotFound):
        await room.keys.create(ids.tenant("nobody"), USER, "", expires_in_s=None)


@pytest.mark.requirement("identity:api-key:kept-hashed")
async def test_the_secret_is_nowhere_in_what_is_stored_or_shown(tmp_path: pathlib.Path) -> None:
    async with storage.opened(tmp_path) as store:
        room = Room(store)
        await room.tenants.create("acme")
        issued = await room.keys.create(ACME, USER, "", expires_in_s=None)
        await room.keys.authenticate(issued.text)
        parsed = key_text.parse(issued.text)
        assert parsed is not None
        shown = repr(issued) + repr(issued.key) + repr(await room.keys.list(ACME)) + repr(vars(room.keys))
        opened = [entry.value async for entry in store.tenant(ACME).kv.snapshot()]
        assert parsed.secret not in shown
        assert issued.key.digest.hex() not in shown
        assert repr(issued.key.digest) not in shown
        assert opened
        assert not any(parsed.secret.encode() in value for value in opened)
    raw = everything_below(tmp_path)
    assert raw
    assert parsed.secret.encode() not in raw


@pytest.mark.requirement("identity:api-key:kept-hashed")
async def test_the_digest_depends_on_a_key_of_the_tenants_own_ring(room: Room) -> None:
    issued = await room.keys.create(ACME, USER, "", expires_in_s=None)
    parsed = key_text.parse(issued.text)
    assert parsed is not None
    pepper = room.store.ring.data_key(ACME, "identity.api-key digest")
    assert issued.key.digest == crypto.keyed_digest(pepper, ACME, parsed.id, parsed.secret)
    other = room.store.ring.data_key(UMBRA, "identity.api-key digest")
    assert issued.key.digest != crypto.keyed_digest(other, ACME, parsed.id, parsed.secret)


@pytest.mark.requirement("identity:api-key:tenant-bound")
async def test_a_key_is_nothing_in_another_tenant(room: Room) -> None:
    issued = await room.keys.create(ACME, USER, "", expires_in_s=None)
    parsed = key_text.parse(issued.text)
    assert parsed is not None
    assert await room.refusal(key_text.compose(UMBRA, parsed.id, parsed.secret)) == base.Reason.UNKNOWN
    assert await room.refusal(key_text.compose(ids.PLATFORM, parsed.id, parsed.secret)) == base.Reason.UNKNOWN
    with pytest.raises(errors.NotFound):
        await room.keys.revoke(UMBRA, issued.key.id)
    assert await room.keys.list(UMBRA) == []


@pytest.mark.requirement("identity:api-key:revocation")
async def test_a_revoked_key_is_refused_from_the_next_request_on(room: Room) -> None:
    issued = await room.keys.create(ACME, USER, "", expires_in_s=None)
    other = await room.keys.create(ACME, USER, "", expires_in_s=None)
    await room.keys.authenticate(issued.text)
    room.time.advance(5)
    revoked = await room.keys.revoke(ACME, issued.key.id)
    assert revoked.revoked == room.time.now()
    assert await room.refusal(issued.text) == base.Reason.REVOKED
    await room.keys.authenticate(other.text)
    room.time.advance(5)
    assert await room.keys.revoke(ACME, issued.key.id) == revoked


@pytest.mark.requirement("identity:api-key:revocation")
async def test_no_request_that_begins_after_the_revocation_returned_is_let_in(room: Room) -> None:
    """Against requests in flight: each is asked again and again while the key is being revoked."""
    issued = await room.keys.create(ACME, USER, "", expires_in_s=None)
    done = asyncio.Event()
    let_in_late = 0

    async def ask() -> None:
        nonlocal let_in_late
        while True:
            late = done.is_set()
            try:
                await room.keys.authenticate(issued.text)
            except errors.Unauthenticated:
                return
            let_in_late += late
            await asyncio.sleep(0)

    asking = [asyncio.create_task(ask()) for _ in range(8)]
    await room.keys.revoke(ACME, issued.key.id)
    done.set()
    await asyncio.gather(*asking)
    assert let_in_late == 0


@pytest.mark.requirement("identity:api-key:revocation")
@pytest.mark.parametrize("name", ["key-0000000000", "key-000000000000", "", "0", "../key", "key-" + "0" * 5000])
async def test_revoking_what_is_no_key_is_not_found(room: Room, name: str) -> None:
    with pytest.raises(errors.NotFound):
        await room.keys.revoke(ACME, name)


@pytest.mark.requirement("identity:api-key:expiry")
async def test_a_key_ends_at_its_time_cold_and_warm(room: Room) -> None:
    issued = await room.keys.create(ACME, USER, "", expires_in_s=60)
    room.time.advance(59.9)
    await room.keys.authenticate(issued.text)
    room.time.advance(0.1)
    assert await room.refusal(issued.text) == base.Reason.EXPIRED
    cold = api_key.ApiKeys(room.store, room.tenants.active, room.time, roles.Roles(room.store, room.time))
    with pytest.raises(errors.Unauthenticated):
        await cold.authenticate(issued.text)


@pytest.mark.requirement("identity:api-key:checksum-first")
async def test_a_malformed_key_is_refused_before_anything_is_looked_up(tmp_path: pathlib.Path) -> None:
    async with storage.opened(tmp_path) as store:
        room = Room(store)
        await room.tenants.create("acme")
        issued = await room.keys.create(ACME, USER, "", expires_in_s=None)
        asked: list[ids.TenantId] = []

        async def active(tenant: ids.TenantId) -> None:
            asked.append(tenant)

        keys = api_key.ApiKeys(store, active, room.time, roles.Roles(store, room.time))
        before = store.counts.calls.copy()
        last = "1" if issued.text[-1] == "0" else "0"
        for credential in (
            issued.text[:-1] + last,
            issued.text.upper(),
            "smcp_",
            "smcp_" + "é" * 50,
            "\ud800",
            "x" * 10**6,
        ):
            with pytest.raises(errors.Unauthenticated) as refused:
                await keys.authenticate(credential)
            assert refused.value.detail == base.Reason.MALFORMED
        assert asked == []
        assert store.counts.calls == before


@pytest.mark.requirement("identity:api-key:memory")
async def test_a_warm_key_is_checked_without_touching_the_store(room: Room) -> None:
    issued = await room.keys.create(ACME, USER, "", expires_in_s=None)
    await room.keys.authenticate(issued.text)
    await room.keys.close()
    before = room.store.counts.calls.copy()
    for _ in range(100):
        await room.keys.authenticate(issued.text)
    assert room.store.counts.calls == before


@pytest.mark.requirement("identity:api-key:fail-closed")
async def test_without_the_store_a_warm_key_is_not_let_in(tmp_path: pathlib.Path) -> None:
    async with storage.opened(tmp_path) as store:
        room = Room(store)
        await room.tenants.create("acme")
        issued = await room.keys.create(ACME, USER, "", expires_in_s=None)
        await room.keys.authenticate(issued.text)
    with pytest.raises(errors.Unavailable):
        await room.keys.authenticate(issued.text)


@pytest.mark.requirement("stores:tenant:proof")
async def test_a_warm_key_waits_for_the_stores_late_answer_and_is_let_in_with_it(tmp_path: pathlib.Path) -> None:
    time = clock.FrozenClock()
    store = local.open_local(tmp_path, settings.Settings(), time)
    await store.start()
    try:
        room = Room(store)
        await room.tenants.create("acme")
        issued = await room.keys.create(ACME, USER, "", expires_in_s=None)
        await room.keys.authenticate(issued.text)
        time.advance(10)
        assert not store.fresh()
        assert (await room.keys.authenticate(issued.text)).id == issued.key.id
        assert store.fresh()
    finally:
        await store.close()


@pytest.mark.requirement("identity:api-key:suspended")
async def test_a_suspended_tenants_key_is_told_so_and_a_guess_is_not(room: Room) -> None:
    issued = await room.keys.create(ACME, USER, "", expires_in_s=None)
    gone = await room.keys.create(ACME, USER, "", expires_in_s=None)
    await room.keys.revoke(ACME, gone.key.id)
    await room.keys.authenticate(issued.text)
    await room.tenants.suspend(ACME)
    with pytest.raises(errors.TenantSuspended):
        await room.keys.authenticate(issued.text)
    with pytest.raises(errors.TenantSuspended):
        await api_key.ApiKeys(
            room.store, room.tenants.active, room.time, roles.Roles(room.store, room.time)
        ).authenticate(issued.text)
    parsed = key_text.parse(issued.text)
    assert parsed is not None
    assert await room.refusal(key_text.compose(ACME, parsed.id, key_text.new_secret())) == base.Reason.UNKNOWN
    assert await room.refusal(gone.text) == base.Reason.REVOKED
    await room.tenants.resume(ACME)
    await room.keys.authenticate(issued.text)


@pytest.mark.requirement("identity:api-key:last-used")
async def test_last_used_is_noted_once_a_minute_and_apart_from_the_key(room: Room) -> None:
    issued = await room.keys.create(ACME, USER, "", expires_in_s=None)
    assert (await room.keys.list(ACME))[0].last_used is None
    writes: list[int] = []
    room.store.watch(("key-use",), lambda _tenant, _key, revision: writes.append(revision))
    touched: list[int] = []
    room.store.watch(("key",), lambda _tenant, _key, revision: touched.append(revision))
    first = room.time.now()
    for _ in range(50):
        await room.keys.authenticate(issued.text)
        room.time.advance(1)
    await room.keys.close()
    assert len(writes) == 1
    assert (await room.keys.list(ACME))[0].last_used == first
    room.time.advance(60)
    await room.keys.authenticate(issued.text)
    await room.keys.close()
    assert len(writes) == 2
    assert touched == []
    # A process that starts anew does not write what is known already.
    fresh = api_key.ApiKeys(room.store, room.tenants.active, room.time, roles.Roles(room.store, room.time))
    await fresh.authenticate(issued.text)
    await fresh.close()
    assert len(writes) == 2


@pytest.mark.requirement("identity:api-key:last-used")
async def test_a_refused_key_is_not_used(room: Room) -> None:
    issued = await room.keys.create(ACME, USER, "", expires_in_s=None)
    await room.keys.revoke(ACME, issued.key.id)
    await room.refusal(issued.text)
    await room.keys.close()
    assert (await room.keys.list(ACME))[0].last_used is None


@pytest.mark.requirement("identity:api-key:list")
async def test_all_keys_are_listed_also_beyond_one_page(room: Room) -> None:
    made = {(await room.keys.create(ACME, USER, "", expires_in_s=None)).key.id for _ in range(30)}
    listed = await room.keys.list(ACME)
    assert {key.id for key in listed} == made
    assert [key.id for key in listed] == sorted(made)


@pytest.mark.requirement("identity:api-key:constant-time")
def test_secrets_are_compared_in_constant_time_only() -> None:
    """By structure, since a timing test proves nothing: digests meet in `crypto.equal`, which is `compare_digest`."""
    source = inspect.getsource(api_key)
    compared = [line for line in source.splitlines() if "digest" in line and ("==" in line or "!=" in line)]
    assert compared == []
    assert source.count("crypto.equal(") == 2
    assert "hmac.compare_digest" in inspect.getsource(crypto.equal)


@pytest.mark.requirement("identity:api-key:tampered")
async def test_a_key_record_moved_to_another_id_opens_nothing(tmp_path: pathlib.Path) -> None:
    """Somebody who can write the database copies a known key's row over another's."""
    async with storage.opened(tmp_path) as store:
        room = Room(store)
        await room.tenants.create("acme")
        weak = await room.keys.create(ACME, [policy.Role.READ_ONLY], "", expires_in_s=None)
        strong = await room.keys.create(ACME, [policy.Role.ADMIN], "", expires_in_s=None)
    with sqlite3.connect(tmp_path / "store" / "kv.db") as database:
        rows = database.execute("SELECT key, value FROM kv").fetchall()
        value = {bytes(key): data for key, data in rows}
        source = next(key for key in value if strong.key.id.encode() in key)
        target = next(key for key in value if weak.key.id.encode() in key)
        database.execute("UPDATE kv SET value = ? WHERE key = ?", (value[source], target))
    database.close()
    async with storage.opened(tmp_path) as store:
        with pytest.raises(errors.TamperedData):
            await Room(store).keys.authenticate(weak.text)
        await Room(store).keys.authenticate(strong.text)
