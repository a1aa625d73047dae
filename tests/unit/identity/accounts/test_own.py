"""What people change of how they sign in, by a session that may have ended before it is written."""

import asyncio
import base64
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from smcp.identity.accounts import accounts, totp, users, ways
from smcp.kernel import errors
from support import authenticator, humans

Ending = Callable[[humans.Room, users.User], Awaitable[object]]


async def closed(room: humans.Room, user: users.User) -> None:
    await room.people.users.disable(humans.ACME, user.id)


async def closed_and_opened(room: humans.Room, user: users.User) -> None:
    await room.people.users.disable(humans.ACME, user.id)
    await room.people.users.enable(humans.ACME, user.id)


async def signed_out(room: humans.Room, user: users.User) -> None:
    await room.people.users.end_everything(humans.ACME, user.id)


async def other_password(room: humans.Room, user: users.User) -> None:
    await room.people.accounts.set_password(user, humans.OTHER)


ENDINGS = [closed, closed_and_opened, signed_out, other_password]


def now_code(room: humans.Room, text: str) -> str:
    return totp.hotp(base64.b32decode(text.replace(" ", "")), totp.step(room.time.now()))


async def ways_of(room: humans.Room, user: users.User) -> ways.Ways:
    kept = await ways.Store(room.store).get(humans.ACME, user.id)
    return msgspec.structs.replace(kept, password="")


@pytest.mark.requirement("oauth:people:own-as-it-was")
@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_request_that_waits_for_its_session_to_end_leaves_no_way_in(room: humans.Room, ending: Ending) -> None:
    """Attack: a thief's form drips in while the owner changes the password, or is closed: no app or passkey stays."""
    user = await room.person()
    mine = room.people.accounts
    key = authenticator.Authenticator(humans.ORIGIN)
    adding = await mine.begin_adding_passkey(user, humans.ORIGIN)
    await mine.finish_adding_passkey(user, adding.step, key.create(adding.options), "owner's")
    (owned,) = (await mine.own(user)).passkeys
    begun = await mine.begin_app(user, "SMCP")
    adding = await mine.begin_adding_passkey(user, humans.ORIGIN)
    second = authenticator.Authenticator(humans.ORIGIN).create(adding.options)
    await ending(room, user)
    before, told = await ways_of(room, user), len(await room.told())
    for asked in (
        mine.begin_app(user, "SMCP"),
        mine.confirm_app(user, now_code(room, begun.text)),
        mine.remove_app(user),
        mine.finish_adding_passkey(user, adding.step, second, "thief's"),
        mine.remove_passkey(user, owned.id),
    ):
        with pytest.raises(errors.Unauthenticated):
            await asked
    assert await ways_of(room, user) == before
    assert len(await room.told()) == told


@pytest.mark.requirement("oauth:people:own-as-it-was")
async def test_what_a_thief_began_is_not_finished_by_the_owners_next_session(room: humans.Room) -> None:
    """Attack: an app or passkey that was begun before everything ended, and whose secret a thief has, is confirmed."""
    user = await room.person()
    mine = room.people.accounts
    begun = await mine.begin_app(user, "SMCP")
    adding = await mine.begin_adding_passkey(user, humans.ORIGIN)
    answer = authenticator.Authenticator(humans.ORIGIN).create(adding.options)
    later = await room.people.users.end_everything(humans.ACME, user.id)
    with pytest.raises(errors.InvalidParams):
        await mine.confirm_app(later, now_code(room, begun.text))
    with pytest.raises(errors.InvalidParams):
        await mine.finish_adding_passkey(later, adding.step, answer, "thief's")
    own = await mine.own(later)
    assert (own.app, own.passkeys) == (False, ())
    # The same, begun by the session that finishes it.
    begun = await mine.begin_app(later, "SMCP")
    assert await mine.confirm_app(later, now_code(room, begun.text))


@pytest.mark.requirement("oauth:people:own-as-it-was")
async def test_other_roles_or_another_name_are_in_nobodys_way(room: humans.Room) -> None:
    user = await room.person()
    begun = await room.people.accounts.begin_app(user, "SMCP")
    await room.people.users.set_roles(humans.ACME, user.id, ["mcp_user"])
    await room.people.users.rename(humans.ACME, user.id, "Ada L.")
    assert await room.people.accounts.confirm_app(user, now_code(room, begun.text))
    now = await room.people.users.require(humans.ACME, user.id)
    assert (now.roles, now.name, now.epoch) == (("mcp_user",), "Ada L.", user.epoch)


@pytest.mark.requirement("oauth:people:own-as-it-was")
async def test_in_a_race_with_the_end_of_the_session_one_of_both_is_first(room: humans.Room) -> None:
    """Attack: the account is read, then everything ends, then the thief's app is written."""

    async def revision(kind: str, user: users.User) -> int:
        found = await room.store.tenant(humans.ACME).kv.get((kind, user.id))
        assert found is not None
        return found.revision

    for number in range(20):
        user = await room.person(email=f"n{number}@acme.example")
        # A process that has nothing in memory waits for the storage between its looks.
        other = room.again()
        said = await asyncio.gather(
            other.accounts.begin_app(user, "SMCP"),
            room.people.users.end_everything(humans.ACME, user.id),
            return_exceptions=True,
        )
        ended = await room.people.users.require(humans.ACME, user.id)
        assert ended.epoch == user.epoch + 1
        if isinstance(said[0], BaseException):
            assert isinstance(said[0], errors.Unauthenticated)
            assert (await ways_of(room, user)).totp_coming == b""
        else:
            assert await revision("user-ways", user) < await revision("user", user)
    assert isinstance(await room.sign_in("n0@acme.example"), accounts.SignedIn)
