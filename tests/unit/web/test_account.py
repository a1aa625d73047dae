"""What people see and do in their account."""

import time
import urllib.parse
from collections.abc import AsyncIterator

import pytest

from smcp.access import policy
from smcp.identity.accounts import totp
from support import humans, pages


@pytest.mark.requirement("oauth:pages:account")
@pytest.mark.parametrize("path", ["", "/sessions", "/clients", "/security"])
async def test_who_is_not_signed_in_signs_in_first_and_goes_on_there(person: pages.Browser, path: str) -> None:
    page = await person.get(f"/account/acme{path}")
    assert "Sign in" in page.text
    answer = await person.send(page, email=pages.EMAIL, password=pages.PASSWORD)
    assert answer.headers["location"] == f"/account/acme{path}"


@pytest.mark.requirement("oauth:pages:account")
async def test_a_person_ends_sessions_of_their_own_only(person: pages.Browser, world: pages.World) -> None:
    await person.sign_in()
    bob = await world.person("bob@example.org", "Bob")
    async with pages.browser(world) as second, pages.browser(world) as other:
        await second.sign_in()
        await other.sign_in("bob@example.org")
        theirs = (await world.people.sessions.list(bob))[0].id
        await person.send(await person.get("/account/acme/sessions"), end=theirs)
        assert len(await world.people.sessions.list(bob)) == 1
        await person.send(await person.get("/account/acme/sessions"), end="others")
        assert len(await world.people.sessions.list(world.ada)) == 1
        assert pages.EMAIL not in (await second.get("/account/acme")).text
        assert pages.EMAIL in (await person.get("/account/acme")).text


@pytest.mark.requirement("oauth:people:codes-told")
async def test_the_account_tells_of_wrong_codes_behind_the_right_password(
    person: pages.Browser, world: pages.World
) -> None:
    await person.sign_in()
    begun = await world.people.accounts.begin_app(world.ada, "SMCP")
    secret = pages.secret(begun.text)
    await world.people.accounts.confirm_app(world.ada, totp.hotp(secret, totp.step(time.time())))
    assert "wrong codes in a row" not in (await person.get("/account/acme")).text
    async with pages.browser(world) as stranger:
        page = await stranger.sign_in()
        for _ in range(6):
            page = await stranger.send(page, code=humans.wrong_code(secret, time.time()))
            assert page.status_code == 403
    shown = (await person.get("/account/acme")).text
    assert "6 wrong codes in a row were typed behind your right password" in shown
    assert 'href="/account/acme/security">change it' in shown


@pytest.mark.requirement("oauth:pages:account", "oauth:pages:sign-in")
async def test_an_authenticator_is_set_up_asked_for_and_removed(person: pages.Browser, world: pages.World) -> None:
    await person.sign_in()
    page = await person.get("/account/acme/security")
    number = next(at for at, (action, _) in enumerate(pages.Forms(page.text).forms) if action.endswith("/totp"))
    begun = await person.send(page, number)
    text = begun.text.partition('<dd class="mono">')[2].partition("</dd>")[0]
    secret = pages.secret(text)
    assert "<svg" in begun.text
    wrong = await person.send(begun, code=humans.wrong_code(secret, time.time()))
    assert wrong.status_code == 400
    assert 'role="alert"' in wrong.text
    codes = await person.send(wrong, code=totp.hotp(secret, totp.step(time.time())))
    recovery = codes.text.partition('<li class="mono">')[2].partition("</li>")[0]
    await person.send(await person.get("/account/acme/logout"))
    second = await person.sign_in()
    assert "One more step" in second.text
    refused = await person.send(second, code=humans.wrong_code(secret, time.time()))
    assert refused.status_code == 403
    assert (await person.send(refused, code=recovery)).status_code == 303
    page = await person.get("/account/acme/security")
    number = next(at for at, (action, _) in enumerate(pages.Forms(page.text).forms) if action.endswith("/totp/remove"))
    await person.send(page, number)
    assert not (await world.people.accounts.own(world.ada)).app


@pytest.mark.requirement("oauth:pages:account")
async def test_a_password_is_changed_by_who_has_just_signed_in(person: pages.Browser, world: pages.World) -> None:
    await person.sign_in()
    page = await person.get("/account/acme/security")
    number = next(at for at, (action, _) in enumerate(pages.Forms(page.text).forms) if action.endswith("/password"))
    short = await person.send(page, number, new="short")
    assert short.status_code == 400
    other = "four other words altogether"
    assert (await person.send(page, number, new=other)).status_code == 303
    assert pages.EMAIL in (await person.get("/account/acme")).text
    async with pages.browser(world) as second:
        assert (await second.sign_in()).status_code == 403
        assert (await second.sign_in(password=other)).status_code == 303


@pytest.mark.requirement("oauth:pages:account")
async def test_how_somebody_signs_in_is_not_changed_in_a_borrowed_browser(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async with pages.serving(tmp_path_factory.mktemp("old"), aged=True) as world, pages.browser(world) as person:
        await person.sign_in()
        page = await person.get("/account/acme/security")
        world.time.advance(601)
        assert "Sign in again" in (await person.get("/account/acme/security")).text
        for number, (action, _) in enumerate(pages.Forms(page.text).forms):
            if "/security/" in action:
                await person.send(page, number, new="four other words altogether", passkey="passkey-x")
        own = await world.people.accounts.own(world.ada)
        assert (own.app, own.passkeys) == (False, ())
        await person.sign_in_again()
        assert pages.EMAIL in (await person.get("/account/acme")).text


@pytest.mark.requirement("oauth:pages:account")
async def test_an_invitation_makes_an_account_once(person: pages.Browser, world: pages.World) -> None:
    issued = await world.people.invitations.invite(
        pages.ACME, "eve@example.org", "", [policy.Role.MCP_USER], by=world.by
    )
    page = await person.get("/account/acme/invite")
    wrong = await person.send(page, secret="smci_acme_nothing", name="Eve", password=pages.PASSWORD)
    assert wrong.status_code == 400
    assert 'role="alert"' in wrong.text
    weak = await person.send(page, secret=issued.text, name="Eve", password="short")
    assert weak.status_code == 400
    assert "short" not in weak.text.partition("<form")[2].replace("At least", "")
    joined = await person.send(page, secret=issued.text, name="Eve", password=pages.PASSWORD)
    assert joined.status_code == 303
    assert "eve@example.org" in (await person.get("/account/acme")).text
    async with pages.browser(world) as other:
        page = await other.get("/account/acme/invite")
        assert (await other.send(page, secret=issued.text, name="X", password=pages.PASSWORD)).status_code == 400


@pytest.mark.requirement("oauth:pages:account")
async def test_a_fresh_platform_is_set_up_with_the_code_that_was_printed(
    person: pages.Browser, world: pages.World
) -> None:
    issued = await world.people.invitations.set_up(by=None)
    assert (await person.get("/account/acme/setup")).status_code == 404
    page = await person.get("/account/platform/setup")
    done = await person.send(page, secret=issued.text, email="root@example.org", name="Root", password=pages.PASSWORD)
    assert (done.status_code, done.headers["location"]) == (303, "/account/platform?done=joined")
    again = await person.send(
        page, secret=issued.text, email="other@example.org", name="Other", password=pages.PASSWORD
    )
    assert again.status_code == 400


@pytest.mark.requirement("oauth:people:slow-body")
async def test_a_session_that_ends_while_its_form_comes_changes_nothing(
    person: pages.Browser, world: pages.World
) -> None:
    """Attack: a thief of a session trickles the form for another password until its owner has signed out everywhere."""
    await person.sign_in()
    page = await person.get("/account/acme/security")
    action, hidden = next(form for form in pages.Forms(page.text).forms if form[0].endswith("/password"))
    (user,) = await world.people.users.list(pages.ACME)
    other = "amber lantern bicycle nine"
    sent = urllib.parse.urlencode({**hidden, "password": other, "again": other}).encode()

    async def trickled() -> AsyncIterator[bytes]:
        yield sent[:10]
        async with pages.browser(world) as second:  # the server has begun to read by then
            await second.get("/account/acme/login")
        await world.people.users.end_everything(pages.ACME, user.id)
        yield sent[10:]

    headers = {
        "Origin": world.base,
        "Sec-Fetch-Site": "same-origin",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    answer = await person.http.post(action, content=trickled(), headers=headers)
    assert answer.status_code >= 400
    async with pages.browser(world) as second:
        assert (await second.sign_in()).status_code == 303
