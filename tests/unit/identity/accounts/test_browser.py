"""Browser sessions: opened by a sign-in, ended in every way there is, never planted and never kept in plain text."""

import pytest

from smcp.identity.accounts import browser, users
from smcp.kernel import errors, ids
from support import humans

ACME = humans.ACME


async def opened(room: humans.Room, user: users.User, previous: str = "") -> browser.Opened:
    return await room.people.sessions.open(
        user, ("password",), address=humans.HOME, agent="Browser/1\n" + "x" * 500, previous=previous
    )


@pytest.mark.requirement("oauth:people:browser-session")
async def test_a_session_is_found_by_its_cookie_alone(room: humans.Room) -> None:
    user = await room.person()
    made = await opened(room, user)
    found = await room.people.sessions.find(ACME, made.cookie)
    assert found is not None
    assert (found.user, found.session) == (user, made.session)
    assert found.session.agent == "Browser/1" + "x" * 190
    # A process with nothing in memory says the same.
    assert await room.again().sessions.find(ACME, made.cookie) == found
    for tenant, cookie in (
        (humans.UMBRA, made.cookie),
        (ids.PLATFORM, made.cookie),
        (ids.tenant("nowhere"), made.cookie),
        (ACME, made.session.id),
        (ACME, made.session.place),
        (ACME, ""),
        (ACME, "x" * 1000),
        (ACME, "é"),
    ):
        assert await room.people.sessions.find(tenant, cookie) is None


@pytest.mark.requirement("oauth:people:fixation")
async def test_a_sign_in_makes_another_cookie_and_ends_what_was_brought_along(room: humans.Room) -> None:
    user = await room.person()
    planted = await opened(room, user)
    made = await opened(room, user, previous=planted.cookie)
    assert made.cookie != planted.cookie
    assert len(made.cookie) >= 43  # 256 bits
    assert await room.people.sessions.find(ACME, planted.cookie) is None
    assert await room.people.sessions.find(ACME, made.cookie) is not None
    invented = await opened(room, user, previous="invented-by-somebody")
    assert await room.people.sessions.find(ACME, "invented-by-somebody") is None
    assert await room.people.sessions.find(ACME, invented.cookie) is not None


@pytest.mark.requirement("oauth:people:browser-session-ends")
async def test_a_session_ends_when_idle_and_after_seven_days(room: humans.Room) -> None:
    user = await room.person()
    made = await opened(room, user)
    room.time.advance(browser.IDLE_S - 1)
    assert await room.people.sessions.find(ACME, made.cookie)
    room.time.advance(browser.IDLE_S - 1)
    assert await room.people.sessions.find(ACME, made.cookie)
    room.time.advance(browser.IDLE_S)
    assert await room.people.sessions.find(ACME, made.cookie) is None
    made = await opened(room, user)
    while room.time.now() < made.session.created + browser.LIFE_S - 3600:
        assert await room.people.sessions.find(ACME, made.cookie)
        room.time.advance(3600)
    room.time.advance(3600)
    assert await room.people.sessions.find(ACME, made.cookie) is None


@pytest.mark.requirement("oauth:people:browser-session-ends")
async def test_a_session_ends_with_the_next_request_for_all_that_ends_it(room: humans.Room) -> None:
    user = await room.person()
    one, two = await opened(room, user), await opened(room, user)
    await room.people.sessions.end(one.session)
    await room.people.sessions.end(one.session)
    assert await room.people.sessions.find(ACME, one.cookie) is None
    assert await room.people.sessions.list(user) == [two.session]
    closed = await room.people.users.disable(ACME, user.id)
    assert await room.people.sessions.find(ACME, two.cookie) is None
    again = await room.people.users.enable(ACME, user.id)
    assert (closed.disabled, again.disabled) == (True, False)
    assert await room.people.sessions.find(ACME, two.cookie) is None  # what ended stays ended
    three = await opened(room, again)
    await room.people.users.end_everything(ACME, user.id)
    assert await room.people.sessions.find(ACME, three.cookie) is None
    with pytest.raises(errors.NotFound):
        await room.people.users.disable(ACME, "user-nobody")


@pytest.mark.requirement("oauth:people:browser-session")
async def test_roles_are_those_of_now(room: humans.Room) -> None:
    user = await room.person()
    made = await opened(room, user)
    await room.people.users.set_roles(ACME, user.id, ["read_only", "mcp_user", "read_only"])
    found = await room.people.sessions.find(ACME, made.cookie)
    assert found is not None
    assert found.user.roles == ("mcp_user", "read_only")


@pytest.mark.requirement("oauth:people:browser-session")
async def test_a_person_has_twenty_sessions_and_the_longest_idle_one_goes(room: humans.Room) -> None:
    user = await room.person()
    made: list[browser.Opened] = []
    for _ in range(browser.MOST + 2):
        room.time.advance(1)
        made.append(await opened(room, user))
    listed = await room.people.sessions.list(user)
    assert [one.id for one in listed] == [one.session.id for one in made[2:]]
    assert await room.people.sessions.find(ACME, made[1].cookie) is None


@pytest.mark.requirement("oauth:people:recent")
async def test_a_session_is_recent_for_ten_minutes(room: humans.Room) -> None:
    made = await opened(room, await room.person())
    assert room.people.sessions.recent(made.session)
    room.time.advance(browser.RECENT_S)
    found = await room.people.sessions.find(ACME, made.cookie)
    assert found is not None
    assert not room.people.sessions.recent(found.session)


@pytest.mark.requirement("oauth:people:kept-hashed")
async def test_no_cookie_is_in_what_is_stored_or_shown(room: humans.Room) -> None:
    made = await opened(room, await room.person())
    entries = [entry async for entry in room.store.tenant(ACME).kv.snapshot()]
    assert not any(made.cookie.encode() in entry.value or made.cookie in entry.key for entry in entries)
    assert made.cookie not in repr(made)
    assert made.session.place not in repr(made)


@pytest.mark.requirement("oauth:people:browser-session")
def test_over_https_the_cookies_name_binds_it_to_the_host() -> None:
    assert browser.cookie_name(ACME, secure=True) == "__Host-smcp-acme"
    assert browser.cookie_name(ACME, secure=False) == "smcp-acme"
