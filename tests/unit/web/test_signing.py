"""Signing in and out over HTTP, as browsers do and as attackers try."""

import urllib.parse

import httpx2
import pytest
from starlette.types import Receive, Scope, Send

from smcp.identity.accounts import browser
from smcp.kernel import ids
from support import pages


@pytest.mark.requirement("oauth:pages:sign-in")
async def test_a_person_signs_in_and_out(person: pages.Browser, world: pages.World) -> None:
    answer = await person.sign_in()
    assert (answer.status_code, answer.headers["location"]) == (303, "/account/acme")
    home = await person.get("/account/acme")
    assert pages.EMAIL in home.text
    out = await person.send(await person.get("/account/acme/logout"))
    assert out.status_code == 200
    assert "You are signed out." in out.text
    assert pages.EMAIL not in (await person.get("/account/acme")).text
    assert len(await world.told("SignedOut")) == 1


@pytest.mark.requirement("oauth:pages:sign-in")
async def test_what_is_wrong_is_not_told(person: pages.Browser) -> None:
    known = await person.sign_in(password="not the one")
    unknown = await person.sign_in(email="nobody@example.org")
    assert known.status_code == unknown.status_code == 403
    assert 'role="alert"' in known.text
    text = [page.text.partition('id="told"')[2].partition("</div>")[0] for page in (known, unknown)]
    assert text[0] == text[1] != ""


@pytest.mark.requirement("oauth:pages:csrf")
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "null"},
        {"Origin": "https://evil.example"},
        {"Origin": "https://inspector.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
    ],
)
async def test_a_form_from_elsewhere_is_refused_attack_csrf(
    person: pages.Browser, world: pages.World, headers: dict[str, str]
) -> None:
    page = await person.get("/account/acme/login")
    answer = await person.send(page, headers=headers, email=pages.EMAIL, password=pages.PASSWORD)
    assert answer.status_code == 403
    assert await world.people.sessions.list(world.ada) == []


@pytest.mark.requirement("oauth:pages:csrf")
async def test_a_form_that_was_made_for_another_browser_is_refused_attack_login_csrf(
    person: pages.Browser, world: pages.World
) -> None:
    """Somebody else's login page, sent from a visitor's browser, would sign the visitor in as somebody else."""
    async with pages.browser(world) as attacker:
        page = await attacker.get("/account/acme/login")
    await person.get("/account/acme/login")
    answer = await person.send(page, email=pages.EMAIL, password=pages.PASSWORD)
    assert answer.status_code == 403
    assert await world.people.sessions.list(world.ada) == []


@pytest.mark.requirement("oauth:pages:csrf")
@pytest.mark.parametrize("token", ["", "0" * 64, None])
async def test_a_form_without_its_token_is_refused(person: pages.Browser, token: str | None) -> None:
    action, hidden = pages.Forms((await person.get("/account/acme/login")).text).forms[0]
    fields = {**hidden, "email": pages.EMAIL, "password": pages.PASSWORD}
    if token is None:
        del fields["form_token"]
    else:
        fields["form_token"] = token
    assert (await person.http.post(action, data=fields)).status_code == 403


@pytest.mark.requirement("oauth:pages:csrf")
async def test_a_token_is_for_one_form_and_one_session(person: pages.Browser, world: pages.World) -> None:
    await person.sign_in()
    page = await person.get("/account/acme/logout")
    token = pages.Forms(page.text).forms[0][1]["form_token"]
    other = await person.http.post("/account/acme/sessions", data={"form_token": token, "end": "others"})
    assert other.status_code == 403
    await person.sign_in_again()
    assert (await person.send(page)).status_code == 403
    assert len(await world.people.sessions.list(world.ada)) == 1


@pytest.mark.requirement("oauth:pages:session-new")
async def test_a_planted_session_is_replaced_attack_session_fixation(world: pages.World) -> None:
    async with pages.browser(world) as attacker, pages.browser(world) as victim:
        await attacker.sign_in()
        planted = attacker.http.cookies.get("smcp-acme")
        assert planted is not None
        victim.http.cookies.set("smcp-acme", planted)
        before = await victim.send(await victim.get("/account/acme/logout"))
        assert before.status_code == 200
        victim.http.cookies.set("smcp-acme", planted)
        answer = await victim.sign_in()
        mine = [one for one in answer.headers.get_list("set-cookie") if one.startswith("smcp-acme=")]
        assert len(mine) == 1
        assert planted not in mine[0]


@pytest.mark.requirement("oauth:pages:cookies")
async def test_cookies_are_for_this_host_and_no_script(person: pages.Browser) -> None:
    answer = await person.sign_in()
    for cookie in answer.headers.get_list("set-cookie"):
        lowered = cookie.lower()
        assert "httponly" in lowered
        assert "samesite=lax" in lowered
        assert "path=/" in lowered
        assert "domain" not in lowered


@pytest.mark.requirement("oauth:pages:no-open-redirect")
@pytest.mark.parametrize("ticket", ["https://evil.example", "//evil.example", "", "A" * 50_000])
async def test_nobody_but_us_says_where_a_person_goes_on_attack_open_redirect(
    person: pages.Browser, ticket: str
) -> None:
    page = await person.get("/account/acme/login")
    answer = await person.send(page, email=pages.EMAIL, password=pages.PASSWORD, ticket=ticket)
    assert answer.status_code == 400
    assert "location" not in answer.headers


@pytest.mark.requirement("oauth:pages:no-open-redirect")
async def test_words_of_a_link_do_not_stand_on_a_page(person: pages.Browser) -> None:
    await person.sign_in()
    words = urllib.parse.quote("Call +1 555 to keep your account")
    page = await person.get(f"/account/acme/security?done={words}")
    assert page.status_code == 200
    assert "keep your account" not in page.text


@pytest.mark.requirement("oauth:pages:tenant")
@pytest.mark.parametrize(
    "path", ["/account/nobody/login", "/account/NOBODY", "/account/a--b/login", "/oauth/nobody/authorize"]
)
async def test_a_tenant_that_there_is_not_has_a_page_that_says_so(person: pages.Browser, path: str) -> None:
    answer = await person.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.requirement("oauth:pages:bounded")
async def test_forms_are_read_strictly_and_bounded(person: pages.Browser) -> None:
    action, hidden = pages.Forms((await person.get("/account/acme/login")).text).forms[0]
    origin = {"Origin": person.world.base}
    large = await person.http.post(action, data={**hidden, "email": "x" * 70_000}, headers=origin)
    assert large.status_code == 413
    form = {**origin, "Content-Type": "application/x-www-form-urlencoded"}
    for body in (b"a=1&a=2", b"a=%ff", b"a=\xff", b"&".join(b"f%d=1" % one for one in range(40))):
        assert (await person.http.post(action, content=body, headers=form)).status_code == 400
    assert (await person.http.post(action, json={}, headers=origin)).status_code == 415
    assert (await person.http.put(action, headers=origin)).status_code == 405


@pytest.mark.requirement("oauth:pages:cookies")
@pytest.mark.parametrize("name", ["browser", "device-acme", "device"])
async def test_no_tenants_name_makes_its_session_another_cookie_attack_cookie_collision(
    world: pages.World, name: str
) -> None:
    await world.tenants.create(name)
    async with pages.browser(world) as person:
        answer = await person.sign_in()
        mine = {one.partition("=")[0] for one in answer.headers.get_list("set-cookie")} | set(person.http.cookies)
        assert browser.cookie_name(ids.tenant(name), secure=False) not in mine
        await person.get(f"/account/{name}/login")
        assert pages.EMAIL in (await person.get("/account/acme")).text


@pytest.mark.requirement("oauth:pages:unexpected")
async def test_what_nobody_expected_is_a_page_that_tells_the_request_and_nothing_of_what_happened(
    world: pages.World, capsys: pytest.CaptureFixture[str]
) -> None:
    inner = await world.app()

    async def numbered(scope: Scope, receive: Receive, send: Send) -> None:
        await inner({**scope, "smcp.request_id": "req-of-this-one"}, receive, send)

    transport = httpx2.ASGITransport(numbered, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url=world.base) as client:
        ada = pages.Browser(world, client)
        page = await ada.get("/account/acme/login")
        await world.people.close()  # the threads that look at passwords have ended: no way of signing in expects that
        answer = await ada.send(page, email=pages.EMAIL, password=pages.PASSWORD)
    told = capsys.readouterr().err
    assert "RuntimeError: cannot schedule new futures after shutdown" in told
    assert pages.PASSWORD not in told
    assert (answer.status_code, answer.headers["content-type"]) == (500, "text/html; charset=utf-8")
    for name in ("cache-control", "x-content-type-options", "x-frame-options", "permissions-policy"):
        assert answer.headers[name] == page.headers[name]
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "req-of-this-one" in answer.text
    assert 'role="alert"' in answer.text
    for word in ("RuntimeError", "futures", "Traceback", pages.PASSWORD, pages.EMAIL):
        assert word not in answer.text
