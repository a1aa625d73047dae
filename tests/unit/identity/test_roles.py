"""The book of a tenant's roles, and keys that are narrowed, rotated and told of."""

import asyncio
import pathlib

import pytest

from smcp.access import policy
from smcp.access import roles as model
from smcp.access.actions import Action
from smcp.identity import roles
from smcp.identity.authn import api_key, base
from smcp.kernel import clock, errors, ids
from smcp.stores import tenant as stores
from smcp.tenancy import tenants as tenancy
from support import storage

ACME, UMBRA = ids.tenant("acme"), ids.tenant("umbra")
DAY = 86400.0


class Room:
    """Tenants, keys and roles on one store, with a clock that stands still."""

    def __init__(self, store: stores.Store) -> None:
        self.store = store
        self.time = clock.FrozenClock()
        self.tenants = tenancy.Tenants(store, self.time)
        self.roles = roles.Roles(store, self.time)
        self.keys = api_key.ApiKeys(
            store, self.tenants.active, self.time, self.roles, tenant_served=self.tenants.served
        )

    async def refusal(self, credential: str) -> str:
        """The private reason of the refusal of `credential`."""
        with pytest.raises(errors.Unauthenticated) as refused:
            await self.keys.authenticate(credential)
        return refused.value.detail


@pytest.fixture
async def room(store: stores.Store) -> Room:
    made = Room(store)
    await made.tenants.create("acme")
    await made.tenants.create("umbra")
    return made


def _role(name: str, *actions: str, **conditions: object) -> model.Custom:
    return model.Custom(name=name, actions=actions, **conditions)  # pyright: ignore[reportArgumentType]


@pytest.mark.requirement("oauth:roles:book")
async def test_a_role_gives_what_the_book_says_of_it_and_nothing_in_another_tenant(room: Room) -> None:
    await room.roles.set(ACME, _role("reader", "mcp:list", tools=("get_*",), servers=("time",)))
    held = await room.roles.rules(ACME, ("reader", "mcp_user", "none"))
    assert held.rules == (
        policy.Rule("reader", frozenset({Action.MCP_LIST}), frozenset({"time"}), ("get_*",), read_only=False),
    )
    assert room.roles.unchanged(ACME, ("reader",), held.revision) is True
    assert (await room.roles.rules(UMBRA, ("reader",))).rules == ()
    assert [role.name for role in await room.roles.list(ACME)] == ["reader"]
    await room.roles.set(ACME, _role("reader", "mcp:call"))
    assert room.roles.unchanged(ACME, ("reader",), held.revision) is False
    assert room.roles.unchanged(ACME, ("mcp_user",), held.revision) is True
    await room.roles.delete(ACME, "reader")
    assert (await room.roles.rules(ACME, ("reader",))).rules == ()
    for name in ("reader", "none", "admin"):
        with pytest.raises(errors.NotFound):
            await room.roles.delete(ACME, name)
        with pytest.raises(errors.NotFound):
            await room.roles.find(ACME, name)


@pytest.mark.requirement("oauth:roles:book")
async def test_a_book_takes_so_many_roles_and_loses_none_to_others_who_write(room: Room) -> None:
    names = [f"role-{number}" for number in range(model.MOST)]
    await asyncio.gather(*(room.roles.set(ACME, _role(name, "mcp:list")) for name in names))
    assert [role.name for role in await room.roles.list(ACME)] == sorted(names)
    with pytest.raises(errors.InvalidParams, match="Delete one first"):
        await room.roles.set(ACME, _role("one-more", "mcp:list"))
    await room.roles.set(ACME, _role("role-0", "mcp:call"))


@pytest.mark.requirement("oauth:roles:next-request")
async def test_a_key_that_memory_knows_follows_its_role_at_once(room: Room) -> None:
    await room.roles.set(ACME, _role("reader", "mcp:list"))
    issued = await room.keys.create(ACME, ["reader"], "", expires_in_s=None)
    first = await room.keys.authenticate(issued.text)
    assert (first.roles, first.rules[0].actions) == (("reader",), {Action.MCP_LIST})
    recall = room.keys.recall(issued.text)
    assert recall is not None
    assert recall() is first
    await room.roles.set(ACME, _role("reader", "mcp:call"))
    assert recall() is None
    second = await room.keys.authenticate(issued.text)
    assert second.rules[0].actions == {Action.MCP_CALL}
    again = room.keys.recall(issued.text)
    assert again is not None
    assert again() is second
    # Others' roles and keys do not concern it.
    await room.roles.set(UMBRA, _role("reader", "mcp:call"))
    assert again() is second
    await room.roles.delete(ACME, "reader")
    assert again() is None
    assert (await room.keys.authenticate(issued.text)).rules == ()


@pytest.mark.requirement("oauth:keys:narrowed")
async def test_a_key_says_what_it_is_narrowed_to_and_refuses_what_can_not_be(room: Room) -> None:
    issued = await room.keys.create(
        ACME,
        ["mcp_user"],
        "",
        expires_in_s=DAY,
        scopes=["mcp:read", "mcp:read"],
        servers=["time"],
        networks=["2001:db8::/32", "203.0.113.9"],
    )
    who = await room.keys.authenticate(issued.text)
    assert (who.scopes, who.servers) == ({"mcp:read"}, {"time"})
    assert who.networks == ("2001:db8::/32", "203.0.113.9/32")
    assert who.expires == issued.key.expires == room.time.now() + DAY
    refused: tuple[dict[str, list[str]], ...] = (
        {"roles": ["none"]},
        {"roles": []},
        {"scopes": []},
        {"scopes": ["openid"]},
        {"servers": []},
        {"servers": ["../x"]},
        {"networks": ["203.0.113.9/24"]},
        {"networks": ["::ffff:203.0.113.9"]},
        {"networks": ["anywhere"]},
        {"networks": [f"10.0.0.{number}" for number in range(33)]},
    )
    for wrong in refused:
        given = {"roles": ["mcp_user"], **wrong}
        with pytest.raises((errors.InvalidParams, errors.BadName)):
            await room.keys.create(ACME, given.pop("roles"), "", expires_in_s=None, **given)  # pyright: ignore[reportArgumentType]
    with pytest.raises(errors.InvalidParams, match="all servers"):
        await room.keys.create(ids.PLATFORM, ["operator"], "", expires_in_s=None, servers=["time"])


@pytest.mark.requirement("oauth:keys:rotation")
async def test_both_keys_work_during_the_overlap_and_then_the_new_one_alone(room: Room) -> None:
    old = await room.keys.create(
        ACME, ["mcp_user"], "ci", expires_in_s=30 * DAY, scopes=["mcp:call"], networks=["10.0.0.0/8"]
    )
    room.time.advance(20 * DAY)
    new = await room.keys.rotate(ACME, old.key.id, overlap_s=3600)
    fields = ("tenant", "label", "roles", "scopes", "servers", "networks")
    assert [getattr(new.key, name) for name in fields] == [getattr(old.key, name) for name in fields]
    assert (new.key.created, new.key.expires) == (room.time.now(), room.time.now() + 30 * DAY)
    ended = await room.keys.find(ACME, old.key.id)
    assert (ended.successor, ended.expires) == (new.key.id, room.time.now() + 3600)
    for one in (old, new):
        assert (await room.keys.authenticate(one.text)).id == one.key.id
    with pytest.raises(errors.Conflict, match=new.key.id):
        await room.keys.rotate(ACME, old.key.id)
    room.time.advance(3600)
    assert await room.refusal(old.text) == base.Reason.EXPIRED
    await room.keys.authenticate(new.text)
    with pytest.raises(errors.NotFound):
        await room.keys.rotate(UMBRA, new.key.id)
    await room.keys.revoke(ACME, new.key.id)
    with pytest.raises(errors.Conflict, match="ended"):
        await room.keys.rotate(ACME, new.key.id)


@pytest.mark.requirement("oauth:keys:rotation")
async def test_an_overlap_never_makes_a_key_live_longer_and_two_rotations_leave_one_successor(room: Room) -> None:
    short = await room.keys.create(ACME, ["mcp_user"], "", expires_in_s=600)
    await room.keys.rotate(ACME, short.key.id)
    assert (await room.keys.find(ACME, short.key.id)).expires == short.key.expires
    for_ever = await room.keys.create(ACME, ["mcp_user"], "", expires_in_s=None)
    racing = await asyncio.gather(*(room.keys.rotate(ACME, for_ever.key.id) for _ in range(8)), return_exceptions=True)
    won = [one for one in racing if isinstance(one, api_key.Issued)]
    assert len(won) == 1
    assert all(isinstance(one, errors.Conflict) for one in racing if one is not won[0])
    assert (await room.keys.find(ACME, for_ever.key.id)).successor == won[0].key.id
    alive = [key.id for key in await room.keys.list(ACME) if key.revoked is None]
    assert sorted(alive) == sorted(
        [short.key.id, (await room.keys.find(ACME, short.key.id)).successor, for_ever.key.id, won[0].key.id]
    )


@pytest.mark.requirement("oauth:keys:life")
async def test_that_a_key_in_use_ends_soon_is_told_once_and_not_of_one_that_has_a_successor(
    tmp_path: pathlib.Path,
) -> None:
    async with storage.opened(tmp_path) as store:
        room = Room(store)
        await room.tenants.create("acme")
        told: list[tuple[str, float]] = []
        room.keys.when_ending = lambda _tenant, key, ends: told.append((key, ends))
        issued = await room.keys.create(ACME, ["mcp_user"], "", expires_in_s=api_key.LIFE_S)

        async def use() -> None:
            await room.keys.authenticate(issued.text)
            await room.keys.close()

        await use()
        assert (told, room.keys.ends_soon(issued.key)) == ([], False)
        room.time.advance(api_key.LIFE_S - api_key.NOTICE_S)
        await use()
        assert told == [(issued.key.id, issued.key.expires)]
        assert room.keys.ends_soon(issued.key)
        room.time.advance(DAY)
        await use()
        assert len(told) == 1
        # A key of a day is not told of all its life long.
        brief = await room.keys.create(ACME, ["mcp_user"], "", expires_in_s=DAY)
        assert not room.keys.ends_soon(brief.key)
        await room.keys.rotate(ACME, brief.key.id)
        room.time.advance(DAY / 2)
        assert not room.keys.ends_soon(await room.keys.find(ACME, brief.key.id))
