"""Clients on record: how they come, how they prove themselves, how they go, and that there is room."""

import asyncio
import collections
import pathlib
from typing import Any, Final

import pytest

from smcp.audit import identity as audited
from smcp.identity.oauth import clients, refusals, room
from smcp.kernel import clock, errors, ids, redact
from smcp.stores import tenant as stores
from support import authorizing, storage

BASIC: Final[dict[str, Any]] = {"token_endpoint_auth_method": "client_secret_basic"}


@pytest.mark.requirement("oauth:client:known")
async def test_a_client_that_registered_is_known_in_its_tenant_and_nowhere_else(room: authorizing.Room) -> None:
    issued = await room.register(client_name="App")
    found = await room.clients.find(authorizing.ACME, issued.client.id)
    assert (found, found.name, found.host, found.kind) == (issued.client, "App", "app.example", "dynamic")
    assert not found.verified
    # Another process, which has nothing in memory, says the same.
    other = authorizing.Room(room.store)
    assert await other.clients.known(authorizing.ACME, issued.client.id) == found
    for tenant, name in (
        (authorizing.UMBRA, found.id),
        (ids.PLATFORM, found.id),
        (authorizing.ACME, found.id.upper()),
        (authorizing.ACME, ""),
        (authorizing.ACME, "client-\x00"),
        (authorizing.ACME, "x" * 10_000),
        (ids.TenantId("nobody"), found.id),
    ):
        with pytest.raises(clients.UnknownClient):
            await room.clients.find(tenant, name)


def _everything_below(directory: pathlib.Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


@pytest.mark.requirement("oauth:client:secrets")
async def test_a_secret_is_shown_once_and_only_its_digest_is_kept(tmp_path: pathlib.Path) -> None:
    async with storage.opened(tmp_path) as store, authorizing.opened(store) as room:
        issued = await room.register(**BASIC)
        assert room.clients.proves(issued.client, issued.secret)
        assert room.clients.manages(issued.client, issued.manage)
        shown = repr(issued) + repr(issued.client) + repr(await room.clients.list(authorizing.ACME)) + str(room.log)
        shown += repr(await room.told())
        opened = b"".join([entry.value async for entry in store.tenant(authorizing.ACME).kv.snapshot()])
        for secret in (issued.secret, issued.manage):
            assert secret not in shown
            assert secret.encode() not in opened
            assert secret.rsplit("_", 1)[1] not in redact.text(f"sent {secret} along")
    assert issued.secret.encode() not in _everything_below(tmp_path)


@pytest.mark.requirement("oauth:client:secrets")
async def test_a_secret_is_one_clients_and_not_its_registration_token(room: authorizing.Room) -> None:
    one, two = await room.register(**BASIC), await room.register(**BASIC)
    public = await room.register()
    assert public.secret == ""
    for client, secret in (
        (one.client, two.secret),
        (one.client, one.manage),
        (one.client, one.secret[:-1]),
        (one.client, ""),
        (public.client, ""),
        (public.client, one.secret),
        (None, one.secret),
    ):
        assert not room.clients.proves(client, secret)
    assert not room.clients.manages(one.client, one.secret)
    assert not room.clients.manages(one.client, two.manage)


@pytest.mark.requirement("oauth:client:audit")
async def test_registering_and_revoking_are_on_record(room: authorizing.Room) -> None:
    issued = await room.register()
    told = [one for one in await room.told() if isinstance(one, audited.ClientRegistered)]
    assert [(one.client, one.how, one.request_id) for one in told] == [(issued.client.id, "dynamic", "req-1")]
    await room.clients.remove(issued.client, request_id="req-2")
    assert (await room.told())[-1].client == issued.client.id


@pytest.mark.requirement("oauth:client:revoked")
async def test_a_revoked_client_is_unknown_from_the_next_request_on_for_ever(room: authorizing.Room) -> None:
    issued = await room.register()
    ended: list[tuple[str, str]] = []

    async def end(tenant: ids.TenantId, client_id: str) -> None:
        ended.append((tenant, client_id))

    room.clients.when_revoked = end
    revoked = await room.clients.revoke(authorizing.ACME, issued.client.id)
    assert (revoked.revoked, revoked.epoch) == (room.time.now(), 1)
    assert ended == [(authorizing.ACME, issued.client.id)]
    for find in (room.clients.find, room.clients.known):
        with pytest.raises(clients.UnknownClient):
            await find(authorizing.ACME, issued.client.id)
    with pytest.raises(clients.UnknownClient):
        await room.clients.adopt(issued.client, actor="user-1", request_id="req-1")
    with pytest.raises(clients.UnknownClient):
        await room.clients.amend(issued.client, authorizing.metadata())
    room.time.advance(5)
    assert await room.clients.revoke(authorizing.ACME, issued.client.id) == revoked
    assert revoked in await room.clients.list(authorizing.ACME)
    for tenant in (authorizing.UMBRA, authorizing.ACME):
        with pytest.raises(errors.NotFound):
            await room.clients.revoke(tenant, "client-00000000000000000000000000")
    with pytest.raises(errors.NotFound):
        await room.clients.revoke(authorizing.UMBRA, issued.client.id)


@pytest.mark.requirement("oauth:client:built-in")
async def test_the_command_line_is_known_everywhere_until_it_is_revoked(room: authorizing.Room) -> None:
    for tenant in (authorizing.ACME, ids.PLATFORM):
        found = await room.clients.find(tenant, clients.CLI)
        assert found == clients.cli(tenant)
        assert await room.clients.adopt(found, actor="user-1", request_id="req-1") == found
    with pytest.raises(clients.UnknownClient):
        await room.clients.find(ids.TenantId("nobody"), clients.CLI)
    await room.clients.revoke(authorizing.ACME, clients.CLI)
    with pytest.raises(clients.UnknownClient):
        await room.clients.find(authorizing.ACME, clients.CLI)
    assert [one.revoked is None for one in await room.clients.list(authorizing.ACME)] == [False]
    assert (await room.clients.find(authorizing.UMBRA, clients.CLI)).revoked is None


@pytest.mark.requirement("oauth:client:administrator")
async def test_an_administrators_client_acts_as_itself_with_the_roles_that_it_was_given(room: authorizing.Room) -> None:
    issued = await room.clients.create(
        authorizing.ACME,
        authorizing.metadata(**BASIC),
        grant_types=(clients.CLIENT_CREDENTIALS,),
        roles=("mcp_user", "mcp_user"),
    )
    found = await room.clients.known(authorizing.ACME, issued.client.id)
    assert (found.kind, found.roles, found.grant_types) == ("administrator", ("mcp_user",), ("client_credentials",))
    assert found.verified
    assert room.clients.proves(found, issued.secret)
    assert issued.manage == ""
    assert not room.clients.manages(found, "")


@pytest.mark.requirement("oauth:client:amended")
async def test_a_client_may_describe_itself_anew_and_another_proof_is_another_epoch(room: authorizing.Room) -> None:
    issued = await room.register(**BASIC)
    same = await room.clients.amend(issued.client, authorizing.metadata(**BASIC, client_name="New"))
    assert (same.client.name, same.secret, same.client.epoch) == ("New", "", 0)
    assert room.clients.proves(same.client, issued.secret)
    public = await room.clients.amend(issued.client, authorizing.metadata())
    assert (public.secret, public.client.epoch) == ("", 1)
    assert not room.clients.proves(public.client, issued.secret)
    again = await room.clients.amend(issued.client, authorizing.metadata(**BASIC))
    assert again.client.epoch == 2
    assert room.clients.proves(again.client, again.secret)
    assert not room.clients.proves(again.client, issued.secret)
    assert room.clients.manages(again.client, issued.manage)


@pytest.mark.requirement("oauth:client:fail-closed", "attack:oauth:revocation-store-away")
async def test_while_the_store_is_away_no_client_is_known(room: authorizing.Room) -> None:
    issued = await room.register()
    await room.clients.find(authorizing.ACME, issued.client.id)
    await room.store.close()
    for find in (room.clients.find, room.clients.known):
        with pytest.raises(errors.Unavailable):
            await find(authorizing.ACME, issued.client.id)
    with pytest.raises(errors.Unavailable):
        await room.register()


@pytest.mark.requirement("oauth:client:no-tenant")
async def test_nobody_registers_at_a_tenant_that_is_not_served(room: authorizing.Room) -> None:
    await room.tenants.suspend(authorizing.UMBRA)
    for tenant in (authorizing.UMBRA, ids.TenantId("nobody")):
        with pytest.raises(clients.UnknownClient) as error:
            await room.register(tenant)
        # Whether a tenant exists is not told apart from whether it is suspended.
        assert str(error.value) == "invalid_client: There is no authorization server at this address."


class Small:
    """Room for three clients, two of them loose."""

    def __init__(self, store: stores.Store) -> None:
        self.time = clock.FrozenClock()
        self.records: dict[str, float] = {}
        self.kept: set[str] = set()
        self.stale: list[str] = []
        self.rooms = room.Rooms(self.time, self.count, self.unused, self.drop, most=3, most_loose=2)

    async def count(self, tenant: ids.TenantId) -> room.Found:
        """What is there."""
        loose = {key: at for key, at in self.records.items() if key not in self.kept}
        return room.Found(len(self.records), loose)

    async def unused(self, tenant: ids.TenantId) -> collections.deque[str]:
        """Those that nobody uses any more."""
        return collections.deque(self.stale)

    async def drop(self, tenant: ids.TenantId, key: str) -> bool:
        """Remove one that is loose."""
        if key in self.kept:
            return False
        del self.records[key]
        return True

    async def add(self, key: str, *, loose: bool = True) -> None:
        """One more."""
        async with self.rooms.one_more(authorizing.ACME, loose=loose) as shelf:
            self.records[key] = self.time.now()
            shelf.added(key, self.time.now() if loose else None)
            if not loose:
                self.kept.add(key)


@pytest.mark.requirement("oauth:client:room", "attack:oauth:registration-flood", "quirk:09:long-lived")
async def test_who_never_comes_back_gives_way_after_an_hour_and_who_is_used_never(store: stores.Store) -> None:
    small = Small(store)
    await small.add("first")
    await small.add("second")
    with pytest.raises(refusals.Refused) as full:
        await small.add("third")
    assert (full.value.status, full.value.code) == (429, "temporarily_unavailable")
    small.time.advance(room.LOOSE_S - 1)
    with pytest.raises(refusals.Refused):
        await small.add("third")
    small.time.advance(1)
    small.kept.add("first")
    small.rooms.stays(authorizing.ACME, "first")
    await small.add("third")  # there is room for two loose ones again
    await small.add("fourth")  # the second gives way, which is the oldest that nobody uses
    assert set(small.records) == {"first", "third", "fourth"}
    # All that is left is too young or in use.
    with pytest.raises(refusals.Refused):
        await small.add("fifth", loose=False)


@pytest.mark.requirement("oauth:client:room")
async def test_what_is_on_record_is_counted_after_a_restart_and_one_at_a_time(store: stores.Store) -> None:
    small = Small(store)
    results = await asyncio.gather(*(small.add(f"c{number}") for number in range(10)), return_exceptions=True)
    assert sum(result is None for result in results) == 2
    again = Small(store)
    again.records = small.records
    with pytest.raises(refusals.Refused):
        await again.add("more")


@pytest.mark.requirement("oauth:client:room")
async def test_a_client_that_somebody_consented_to_stays(room: authorizing.Room) -> None:
    issued = await room.register()
    adopted = await room.clients.adopt(issued.client, actor="user-1", request_id="req-1")
    assert adopted.adopted == room.time.now()
    room.time.advance(10)
    assert await room.clients.adopt(adopted, actor="user-2", request_id="req-2") == adopted
    gone = await room.register()
    await room.clients.remove(gone.client, request_id="req-3")
    with pytest.raises(clients.UnknownClient):
        await room.clients.adopt(gone.client, actor="user-1", request_id="req-1")


@pytest.mark.requirement("oauth:client:room")
def test_a_flood_of_registrations_within_the_rate_leaves_room() -> None:
    from smcp.web import register

    assert register.TENANT_PER_MINUTE * room.LOOSE_S / 60 < room.MOST_LOOSE < room.MOST
