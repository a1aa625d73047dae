"""Which clients give way when a tenant's room is needed, and how many one person makes lasting."""

import json
from typing import Final

import pytest

from smcp.audit import identity as audited
from smcp.identity.oauth import adoptions, clients, grants, lifetimes, metadata_document, refusals, room
from smcp.kernel import errors
from support import authorizing
from support.authorizing import ACME

DAY_S: Final = 86_400.0


class Small:
    """A tenant with ten places for clients, of which one is for administrators."""

    def __init__(self, made: authorizing.Room) -> None:
        self.made = made
        self.time = made.time
        self.grants = grants.Grants(made.store, made.time, made.trail, lifetimes.Lifetimes())
        self.clients = clients.Clients(
            made.store, made.documents, made.time, made.tenants.active, made.trail.write, most=10
        )
        self.clients.in_use = self.grants.in_use

    async def register(self, name: str = "App") -> clients.Client:
        """A client that registers itself."""
        described = authorizing.metadata(client_name=name)
        return (await self.clients.register(ACME, described, request_id="req-1")).client

    async def administrators(self) -> clients.Client:
        """A client of an administrator."""
        issued = await self.clients.create(ACME, authorizing.metadata(), grant_types=(), roles=())
        return issued.client

    async def consent(self, client: clients.Client, person: str = "user-1") -> clients.Client:
        """A person lets a client act for them."""
        adopted = await self.clients.adopt(client, actor=person, request_id="req-2")
        await self.grants.approve(ACME, person, client.id, "files", ("mcp:read",))
        return adopted

    async def withdraw(self, client: clients.Client, person: str = "user-1") -> None:
        """A person takes it back."""
        await self.grants.withdraw(ACME, person, client.id, actor=person, why="asked")

    def documented(self, number: int) -> clients.Client:
        """A client with a document, as it was read."""
        url = f"https://app.example/{number}"
        body = json.dumps(authorizing.document(url)).encode()
        return metadata_document.parse(ACME, url, body, self.time.now())

    async def there(self) -> set[str]:
        """The ids on record."""
        return {one.id for one in await self.clients.list(ACME)} - {clients.CLI}


@pytest.fixture
def small(room: authorizing.Room) -> Small:
    """Ten places."""
    return Small(room)


async def full(small: Small) -> None:
    with pytest.raises(refusals.Refused) as refused:
        await small.register()
    assert (refused.value.status, refused.value.code) == (429, "temporarily_unavailable")


@pytest.mark.requirement("oauth:client:gives-way", "attack:oauth:members-room")
async def test_a_member_who_approves_and_takes_back_does_not_hold_the_tenants_room(small: Small) -> None:
    """Attack: approve clients, so that they last, take it back, and again, until no client is taken any more."""
    held: list[clients.Client] = []
    for _ in range(9):
        held.append(await small.consent(await small.register()))
        small.time.advance(2 * 3600)
    standing, logged_in, *given_back = held
    for one in (logged_in, *given_back):
        await small.withdraw(one)
    made = small.grants.new(
        ACME, kind=grants.USER, subject="user-2", client=logged_in.id, server="files", how=clients.DEVICE_CODE
    )
    await small.grants.add(made)
    await full(small)
    own = await small.administrators()  # the last place
    with pytest.raises(refusals.Refused):
        await small.administrators()
    small.time.advance(room.STALE_S)
    # One goes for each that comes, the oldest first; not what somebody lets act, and no administrator's.
    fresh = [await small.register() for _ in range(7)]
    await full(small)
    assert await small.there() == {standing.id, logged_in.id, own.id, *(one.id for one in fresh)}
    with pytest.raises(clients.UnknownClient):
        await small.clients.known(ACME, given_back[0].id)
    assert await small.clients.known(ACME, standing.id) == standing
    gone = [one.client for one in await small.made.told() if isinstance(one, audited.ClientRevoked)]
    assert gone == [one.id for one in given_back]


@pytest.mark.requirement("oauth:client:gives-way")
async def test_who_is_consented_to_again_stays_also_where_it_was_chosen_to_go(small: Small) -> None:
    held: list[clients.Client] = []
    for _ in range(9):
        held.append(await small.consent(await small.register()))
        small.time.advance(60)
    for one in held:
        await small.withdraw(one)
    small.time.advance(room.STALE_S)
    await small.register()
    assert held[0].id not in await small.there()
    # The others were found unused when it was looked; since then somebody has approved one.
    await small.consent(held[1])
    await small.register()
    assert held[1].id in await small.there()
    assert held[2].id not in await small.there()


@pytest.mark.requirement("oauth:client:gives-way", "attack:oauth:members-room")
async def test_revoked_clients_give_way_after_days_and_documents_stay_revoked(small: Small) -> None:
    revoked: list[str] = []
    for number in range(9):
        client = small.documented(number) if number < 2 else await small.register()
        await small.consent(client)
        await small.clients.revoke(ACME, client.id)
        revoked.append(client.id)
        small.time.advance(60)
    # Documents that are revoked take no place: nobody but an administrator makes them.
    fresh = [await small.consent(await small.register()) for _ in range(2)]
    await full(small)
    small.time.advance(room.STALE_S)
    fresh += [await small.consent(await small.register()) for _ in range(7)]
    assert await small.there() == {*revoked[:2], *(one.id for one in fresh)}
    with pytest.raises(clients.UnknownClient):
        await small.clients.adopt(small.documented(0), actor="user-1", request_id="req-3")
    # The oldest first: nothing is left that could go.
    await full(small)


@pytest.mark.requirement("oauth:client:gives-way")
async def test_nothing_that_was_approved_gives_way_where_nobody_can_say_what_is_in_use(small: Small) -> None:
    small.clients.in_use = None
    for _ in range(9):
        client = await small.consent(await small.register())
        await small.withdraw(client)
    small.time.advance(2 * room.STALE_S)
    await full(small)


@pytest.mark.requirement("oauth:client:gives-way")
async def test_every_approval_and_grant_is_seen_however_many_there_are(small: Small) -> None:
    wanted: set[str] = set()
    for person in range(3):
        for number in range(4):
            await small.grants.approve(ACME, f"user-{person}", f"client-{person}{number}", "files", ("mcp:read",))
            wanted.add(f"client-{person}{number}")
            made = small.grants.new(
                ACME, kind=grants.USER, subject=f"user-{person}", client=f"own-{number}", server="files", how="x"
            )
            await small.grants.add(made)
            wanted.add(f"own-{number}")
    assert await small.grants.in_use(ACME) == wanted
    assert await small.grants.in_use(authorizing.UMBRA) == set()


@pytest.mark.requirement("oauth:client:adoptions", "attack:oauth:members-room")
async def test_one_person_makes_only_so_many_clients_lasting_in_a_day(room: authorizing.Room) -> None:
    """Attack: approve one client after the other, each of which then lasts."""
    first = (await room.register()).client
    kept = await room.clients.adopt(first, actor="user-1", request_id="")
    for _ in range(adoptions.MOST - 1):
        await room.clients.adopt((await room.register()).client, actor="user-1", request_id="")
    one_more = (await room.register()).client
    # Another process does not begin a new day.
    for known in (room.clients, authorizing.Room(room.store).clients):
        with pytest.raises(errors.RateLimited) as refused:
            await known.adopt(one_more, actor="user-1", request_id="")
    assert "tomorrow" in str(refused.value)
    assert (await room.clients.known(ACME, one_more.id)).strange
    # What lasts already goes on, and others have a day of their own.
    assert await room.clients.adopt(kept, actor="user-1", request_id="") == kept
    assert not (await room.clients.adopt(one_more, actor="user-2", request_id="")).strange
    room.time.advance(adoptions.DAY_S)
    more = (await room.register()).client
    assert not (await room.clients.adopt(more, actor="user-1", request_id="")).strange


@pytest.mark.requirement("oauth:client:adoptions")
def test_one_person_holds_less_than_an_eighth_of_what_is_there_for_all() -> None:
    held = grants.MOST_APPROVALS + adoptions.MOST * (room.STALE_S / DAY_S)
    assert held < (room.MOST - room.MOST // room.KEPT) / 8
