"""Attacks on the people in front of the pages, over the wire: consent, other sites' forms, names that are code."""

import html
import re

import httpx2
import pytest

from support import byoauth, idp, visitors
from support.idp import House

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_PAYLOAD = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


@pytest.mark.requirement("oauth:attacks:confused-deputy")
async def test_cve_2026_27124_every_client_is_consented_to_even_with_a_session_that_knows_another(
    house: House, http: httpx2.AsyncClient
) -> None:
    issuer = house.issuer(http)
    clients = [await idp.client(house, issuer, f"client {n}") for n in range(2)]
    async with idp.signed_in(house, "ada") as ada:
        assert "code" in await ada.agree(issuer.begin(clients[0], house.gate.acme.url).address)
        page = await ada.open(issuer.begin(clients[1], house.gate.acme.url).address)
        assert page.status_code == 200
        assert "client 1" in page.text
        assert visitors.form(page, "/authorize").buttons
        # Nor does a client's own wish, a narrower scope or another server skip it.
        for other in (
            issuer.begin(clients[1], house.gate.acme.url, prompt="none"),
            issuer.begin(clients[1], house.gate.acme.url, scope="mcp:read"),
            issuer.begin(clients[0], house.gate.second.url),
        ):
            assert "code=" not in visitors.location(await ada.http.get(other.address)), other.address


@pytest.mark.requirement("oauth:attacks:confused-deputy")
async def test_an_answer_to_the_consent_page_is_bound_to_the_browser_and_the_request_that_it_was_shown_for(
    house: House, http: httpx2.AsyncClient
) -> None:
    issuer = house.issuer(http)
    client = await idp.client(house, issuer)
    async with idp.signed_in(house, "ada") as ada, idp.signed_in(house, "bob") as bob:
        address = issuer.begin(client, house.gate.acme.url).address
        shown = visitors.form(await ada.open(address), "/authorize")
        other = visitors.form(await bob.open(address), "/authorize")
        async with house.visitor("ada") as nobody:
            await nobody.open(address)
            tries = [await bob.post(shown, {"answer": "allow"}), await nobody.post(shown, {"answer": "allow"})]
        for stolen in (set(shown.fields), {"form_token"}, {"ticket"}):
            mixed = {name: other.fields.get(name, "") for name in stolen}
            tries.append(await ada.post(shown, {**mixed, "answer": "allow"}))
        for answer in tries:
            assert 400 <= answer.status_code < 500, answer.text[:2000]
            assert visitors.location(answer) == ""
        assert "code" in visitors.came(await ada.post(shown, {"answer": "allow"}))


_FOREIGN = (
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
    # With our own Origin, which is then not what gives them away.
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
)


@pytest.mark.requirement("oauth:attacks:login-csrf")
@pytest.mark.parametrize("headers", _FOREIGN)
async def test_login_csrf_another_sites_form_signs_nobody_in_and_allows_nothing(
    house: House, http: httpx2.AsyncClient, headers: dict[str, str]
) -> None:
    async with house.visitor("ada") as ada:
        login = visitors.form(await ada.open("/account/acme/login"), "/login")
        typed = {"email": ada.email, "password": ada.password}
        before = dict(ada.http.cookies)
        answer = await ada.post(login, typed, headers)
        assert answer.status_code in (400, 403), answer.text[:2000]
        assert dict(ada.http.cookies) == before
    issuer = house.issuer(http)
    client = await idp.client(house, issuer)
    async with idp.signed_in(house, "ada") as ada:
        shown = visitors.form(await ada.open(issuer.begin(client, house.gate.acme.url).address), "/authorize")
        answer = await ada.post(shown, {"answer": "allow"}, headers)
        assert answer.status_code in (400, 403), answer.text[:2000]
        assert visitors.location(answer) == ""


@pytest.mark.requirement("oauth:attacks:login-csrf")
async def test_ghsa_2gjv_f568_6cxp_a_form_without_the_cookie_that_it_was_made_for_is_refused(house: House) -> None:
    async with house.visitor("ada") as ada, house.visitor("ada") as other:
        login = visitors.form(await ada.open("/account/acme/login"), "/login")
        typed = {"email": ada.email, "password": ada.password}
        for answer in (await other.post(login, typed), await ada.post(login, {**typed, "form_token": ""})):
            assert answer.status_code in (400, 403)
            assert not any("smcp-acme" in name for name in answer.cookies)
        assert visitors.location(await ada.post(login, typed)) != ""


@pytest.mark.requirement("oauth:attacks:fixation")
async def test_session_fixation_a_cookie_from_before_the_login_is_not_the_one_behind_it(house: House) -> None:
    async with house.visitor("ada") as ada, house.visitor("ada") as attacker:
        name = "smcp-acme"
        planted = "a" * 43
        ada.http.cookies.set(name, planted)
        page = await ada.sign_in()
        assert page.status_code == 200
        mine = {cookie.name: cookie.value for cookie in ada.http.cookies.jar if cookie.value != planted}[name]
        assert mine is not None
        assert len(mine) >= 22  # 128 bits in base64
        attacker.http.cookies.set(name, planted)
        assert visitors.form(await attacker.open("/account/acme"), "/login")
        # A second login does not go on with the first one's session either.
        attacker.http.cookies.clear()
        attacker.http.cookies.set(name, mine)
        assert "ada@acme.example" in (await attacker.open("/account/acme")).text
        await ada.open("/account/acme/logout")
        await ada.send(visitors.form(await ada.open("/account/acme/logout"), "/logout"))
        assert visitors.form(await attacker.open("/account/acme"), "/login")


@pytest.mark.requirement("oauth:attacks:xss")
async def test_cve_2025_62800_a_name_or_an_error_that_is_code_is_shown_as_text(
    house: House, http: httpx2.AsyncClient
) -> None:
    issuer = house.issuer(http)
    client = await idp.client(house, issuer, _PAYLOAD, client_uri="https://x.example/")
    async with idp.signed_in(house, "ada") as ada:
        pages = [
            await ada.open(issuer.begin(client, house.gate.acme.url, state=_PAYLOAD).address),
            await ada.open(issuer.begin(_PAYLOAD, house.gate.acme.url).address),
            await ada.open(issuer.begin(client, house.gate.acme.url, redirect=_PAYLOAD).address),
            await ada.open(f"/account/acme/{httpx2.QueryParams({'x': _PAYLOAD})}"),
            await ada.open(f"/account/acme/device?{httpx2.QueryParams({'code': _PAYLOAD, 'user_code': _PAYLOAD})}"),
            await ada.open(f"/account/acme?{httpx2.QueryParams({'done': _PAYLOAD, 'error': _PAYLOAD})}"),
        ]
        async with house.visitor("ada") as other:
            other.email = _PAYLOAD
            pages.append(await other.sign_in())
            pages.append(await other.open(issuer.begin(client, house.gate.acme.url).address))
    assert html.escape("<script>") in pages[0].text
    for page in pages:
        assert "<script>alert" not in page.text, page.url
        assert "<img src=x" not in page.text, page.url
        if page.headers.get("content-type", "").startswith("text/html"):
            _hardened(page)


def _hardened(page: httpx2.Response) -> None:
    policy = page.headers["content-security-policy"]
    found = [part.strip().partition(" ") for part in policy.split(";") if part.strip()]
    directives = {name: value for name, _, value in found}
    assert directives["default-src"] == "'none'"
    assert directives["frame-ancestors"] == "'none'"
    assert directives["base-uri"] == "'none'"
    assert "unsafe" not in policy
    assert "form-action" in directives
    assert not [name for name in visitors.attributes(page) if name.startswith("on") or name == "style"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] in ("no-referrer", "same-origin")


@pytest.mark.requirement("oauth:attacks:impersonation")
async def test_localhost_impersonation_the_consent_page_says_where_the_answer_goes_and_warns(
    house: House, http: httpx2.AsyncClient
) -> None:
    issuer = house.issuer(http)
    uris = [byoauth.LOOPBACK, "https://app.example/cb"]
    client = await idp.client(house, issuer, "Claude", redirect_uris=uris)
    async with idp.signed_in(house, "ada") as ada:
        local = (await ada.open(issuer.begin(client, house.gate.acme.url).address)).text
        web = (await ada.open(issuer.begin(client, house.gate.acme.url, redirect=uris[1]).address)).text
    assert "Nobody has checked who this is." in local
    assert "Nobody has checked who this is." in web
    assert "A program on this computer asks." in local
    assert "A program on this computer asks." not in web
    assert "app.example" in web
    assert "127.0.0.1" in local
    for page in (local, web):
        assert house.gate.acme.url in page
        assert "ada@acme.example" in page


@pytest.mark.requirement("oauth:attacks:unknown-users")
async def test_a_wrong_password_and_an_unknown_user_are_told_the_same(house: House) -> None:
    told: list[tuple[int, str]] = []
    for email, address in (("ada@acme.example", "203.0.113.31"), ("nobody@acme.example", "203.0.113.32")):
        async with house.visitor("ada") as visitor:
            login = visitors.form(await visitor.open("/account/acme/login"), "/login")
            typed = {"email": email, "password": "wrong horse battery staple"}
            answer = await visitor.post(login, typed, {"X-Forwarded-For": address})
            page = re.sub(r'value="[^"]*"|nonce="[^"]*"|data-options="[^"]*"', "", answer.text)
            told.append((answer.status_code, page.replace(email, "somebody")))
    assert told[0] == told[1]
    assert told[0][0] == 403


@pytest.mark.requirement("oauth:attacks:no-default")
async def test_a_fresh_platform_has_nobody_and_no_password(house: House, http: httpx2.AsyncClient) -> None:
    async with visitors.Visitor(house.base_url, "platform") as stranger:
        for email, password in (("admin@localhost", "admin"), ("admin", "admin"), ("root@smcp", ""), ("", "")):
            login = visitors.form(await stranger.open("/account/platform/login"), "/login")
            answer = await stranger.post(login, {"email": email, "password": password})
            assert 400 <= answer.status_code < 500, email
        page = await stranger.open("/account/platform/setup")
        refused = await stranger.post(
            visitors.form(page, "/setup"),
            {"secret": "guessed", "email": "x@x.example", "name": "x", "password": visitors.PASSWORD},
        )
        assert 400 <= refused.status_code < 500
    for path in ("/whoami", "/tenants", "/tenants/acme/users", "/tenants/acme/keys", "/tenants/acme/clients"):
        assert (await http.get(f"{house.api}{path}")).status_code == 401
