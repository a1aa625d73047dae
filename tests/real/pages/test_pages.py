"""The pages in Chromium: what people with a keyboard, a phone or no scripts do, and what an attacker's text does not.

The server is in this process; the browser is Debian's Chromium. Each test has a browser of its own.
"""

import datetime
import os
import pathlib
import re
import time
import urllib.parse
from collections.abc import AsyncGenerator

import pytest
from playwright import async_api

from smcp.identity.accounts import totp
from support import chromium, pages

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

XSS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg onload=alert(1)>",
    "</title></p><iframe srcdoc='<script>parent.alert(1)</script>'>",
    "<a href=javascript:alert(1)>press</a>",
    "<meta http-equiv=refresh content=0;url=https://evil.example>",
    "<style>*{background:url(https://evil.example/x)}</style>",
    "<form action=https://evil.example><button>Allow</button></form>",
    "${alert(1)}{{constructor.constructor('alert(1)')()}}",
)


@pytest.fixture
async def world(tmp_path: pathlib.Path) -> AsyncGenerator[pages.World]:
    """A tenant, a person, the pages."""
    async with pages.serving(tmp_path) as made:
        yield made


@pytest.fixture
async def browser() -> AsyncGenerator[async_api.Browser]:
    """Chromium."""
    async with chromium.opened() as opened:
        yield opened


async def sign_in(page: async_api.Page) -> None:
    """Fill in the login page that is shown."""
    await page.get_by_label("E-mail address").fill(pages.EMAIL)
    await page.get_by_label("Password").fill(pages.PASSWORD)
    await page.get_by_role("button", name="Sign in", exact=True).click()


@pytest.mark.requirement("oauth:pages:chromium", "oauth:pages:form-action")
@pytest.mark.parametrize("javascript", [True, False], ids=["scripts", "no-scripts"])
async def test_a_client_gets_its_code(world: pages.World, browser: async_api.Browser, javascript: bool) -> None:
    """Login form, redirect, consent form, redirect to the client: all of it under the pages' own policies."""
    page = await chromium.tab(browser, javascript=javascript)
    canary = chromium.Canary(page, world.base, world.callback)
    await page.goto(world.link(await world.client("Notebook")))
    await sign_in(page)
    await page.get_by_role("button", name="Allow", exact=True).click()
    await page.wait_for_url(f"{world.callback}**")
    assert await page.title() == "landed"
    assert "code=" in world.landed[-1]
    assert canary.seen == []


@pytest.mark.requirement("oauth:pages:chromium", "oauth:pages:form-action")
async def test_a_client_that_is_allowed_already_gets_its_code_behind_the_login_form(
    world: pages.World, browser: async_api.Browser
) -> None:
    """Two redirects behind one form, the second to another site: Chromium holds both to the form's policy."""
    client = await world.client("Web", "https://app.example/cb")
    async with pages.browser(world) as before:
        await before.sign_in()
        await before.send(await before.get(world.link(client)), answer="allow")
    page = await chromium.tab(browser)
    await page.route("https://app.example/**", lambda route: route.fulfill(body="landed"))
    await page.goto(world.link(client))
    await sign_in(page)
    await page.wait_for_url("https://app.example/cb?**")
    assert "code=" in page.url


@pytest.mark.requirement("oauth:pages:headers")
async def test_a_client_is_told_nothing_by_a_referrer(world: pages.World, browser: async_api.Browser) -> None:
    client = await world.client("Web", "https://app.example/cb")
    page = await chromium.tab(browser)
    referrers: list[str | None] = []

    async def note(route: async_api.Route) -> None:
        referrers.append(await route.request.header_value("referer"))
        await route.fulfill(body="landed")

    await page.route("https://app.example/**", note)
    await page.goto(world.link(client))
    await sign_in(page)
    await page.get_by_role("button", name="Allow", exact=True).click()
    await page.wait_for_url("https://app.example/cb?**")
    assert referrers == [None]


@pytest.mark.requirement("oauth:pages:xss")
@pytest.mark.parametrize("text", XSS)
async def test_no_script_runs_whatever_a_client_is_called_attack_cve_2025_62800(
    world: pages.World, browser: async_api.Browser, text: str
) -> None:
    page = await chromium.tab(browser)
    canary = chromium.Canary(page, world.base, world.callback)
    client = await world.client("Plain")
    # As if a name had come on record that registration refuses.
    await world.rename(client, text)
    await page.goto(world.link(client, state=text))
    shown = await page.inner_text("h1")
    assert text in shown
    await sign_in(page)
    await page.get_by_role("button", name="Allow", exact=True).wait_for()
    assert text in await page.inner_text("h1")
    assert await page.locator("iframe, main style, main script, main svg, main img, main meta").count() == 0
    await page.get_by_role("button", name="Allow", exact=True).click()
    await page.wait_for_url(f"{world.callback}**")
    told = urllib.parse.parse_qs(urllib.parse.urlsplit(world.landed[-1]).query)
    assert told["state"] == [text]
    await page.goto(f"{world.base}/account/acme/clients")
    assert text in await page.inner_text("main")
    for path in (f"/account/acme/login?email={text}", f"/account/acme/security?done={text}", f"/account/{text}/login"):
        await page.goto(world.base + urllib.parse.quote(path, safe="/?="))
    await page.goto(f"{world.base}/oauth/acme/authorize?{urllib.parse.urlencode({'client_id': text, 'error': text})}")
    assert canary.seen == []


@pytest.mark.requirement("oauth:pages:xss")
async def test_what_a_person_types_comes_back_as_text(world: pages.World, browser: async_api.Browser) -> None:
    page = await chromium.tab(browser)
    canary = chromium.Canary(page, world.base)
    await page.goto(f"{world.base}/account/acme/invite")
    for text in XSS:
        await page.get_by_label("Invitation code").fill(text)
        await page.get_by_label("Your name").fill(text)
        await page.get_by_label("Choose a password").fill(pages.PASSWORD)
        async with page.expect_navigation():
            await page.get_by_role("button", name="Make the account").click()
        await page.get_by_role("alert").wait_for()
        assert await page.get_by_label("Your name").input_value() == text
    assert canary.seen == []


@pytest.mark.requirement("oauth:pages:headers")
async def test_a_page_is_shown_in_no_frame_attack_clickjacking(world: pages.World, browser: async_api.Browser) -> None:
    page = await chromium.tab(browser)
    link = world.link(await world.client("Notebook"))
    evil = urllib.parse.quote(f'<iframe src="{link}"></iframe>')
    # What the browser says of it comes when it comes, before or behind the end of the loading.
    async with page.expect_console_message(lambda message: "frame-ancestors" in message.text):
        # The same machine under another name is another origin.
        await page.goto(f"http://127.0.0.1:{world.port}/evil?html={evil}", wait_until="load")
    framed = page.frames[1]
    assert await framed.locator("form").count() == 0


@pytest.mark.requirement("oauth:pages:csrf", "oauth:pages:cookies")
async def test_another_sites_form_does_nothing_attack_csrf(world: pages.World, browser: async_api.Browser) -> None:
    page = await chromium.tab(browser)
    await page.goto(f"{world.base}/account/acme")
    await sign_in(page)
    await page.get_by_role("heading", name="Your account").wait_for()
    form = await page.context.new_page()
    for path, field in (("sessions", "end"), ("logout", "x"), ("login", "email")):
        html = (
            f'<form method="post" action="{world.base}/account/acme/{path}"><input name="{field}"><button>go</button>'
        )
        await form.goto(f"http://127.0.0.1:{world.port}/evil?html={urllib.parse.quote(html)}")
        async with form.expect_navigation():
            await form.get_by_role("button").click()
        assert "not sent from a page of this site" in await form.inner_text("main")
    await page.reload()
    assert pages.EMAIL in await page.inner_text("main")


@pytest.mark.requirement("oauth:pages:chromium", "oauth:pages:accessible")
async def test_the_keyboard_alone_is_enough(world: pages.World, browser: async_api.Browser) -> None:
    page = await chromium.tab(browser)
    await page.goto(world.link(await world.client("Notebook")))
    # The cursor is in the first field without a press of a key.
    await page.get_by_label("E-mail address").and_(page.locator(":focus")).wait_for()
    await page.keyboard.type(pages.EMAIL)
    await page.keyboard.press("Tab")
    await page.keyboard.type("a wrong password altogether")
    await page.keyboard.press("Enter")
    alert = page.get_by_role("alert").first
    await alert.wait_for()
    described = await page.get_by_label("Password").get_attribute("aria-describedby")
    assert described == await alert.get_attribute("id")
    # The address is kept, the cursor is in the password.
    await page.get_by_label("Password").and_(page.locator(":focus")).wait_for()
    await page.keyboard.type(pages.PASSWORD)
    await page.keyboard.press("Enter")
    await page.get_by_role("heading", name="Let “Notebook” use notes?").wait_for()
    await page.get_by_role("button", name="Allow", exact=True).and_(page.locator(":enabled")).wait_for()
    order: list[str] = []
    while not order or order[-1] != "Allow":
        await page.keyboard.press("Tab")
        order.append(await page.evaluate("document.activeElement.innerText.trim()"))
        assert len(order) < 10
        outline: str = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
    assert order == ["Skip to the page", "Don’t allow", "Allow"]
    await page.keyboard.press("Enter")
    await page.wait_for_url(f"{world.callback}**")
    assert "code=" in world.landed[-1]


@pytest.mark.requirement("oauth:pages:accessible")
async def test_a_screen_reader_finds_names_landmarks_and_what_is_wrong(
    world: pages.World, browser: async_api.Browser
) -> None:
    page = await chromium.tab(browser)
    await page.goto(world.link(await world.client("Notebook")))
    assert await page.get_attribute("html", "lang") == "en"
    tree = await page.locator("body").aria_snapshot()
    for line in ("- banner", "- main:", '- heading "Sign in to go on to “Notebook”" [level=1]', "- contentinfo"):
        assert line in tree, tree
    assert re.search(r'textbox "E-mail address"', tree)
    assert re.search(r'textbox "Password"', tree)
    await sign_in(page)
    await page.get_by_role("button", name="Allow", exact=True).wait_for()
    tree = await page.locator("body").aria_snapshot()
    assert '- note: "' in tree or "- note:" in tree
    await page.goto(f"{world.base}/account/acme/sessions")
    tree = await page.locator("body").aria_snapshot()
    assert '- navigation "Account"' in tree
    assert await page.locator("[aria-current=page]").inner_text() == "Sessions"


@pytest.mark.requirement("oauth:pages:guard")
async def test_what_grants_something_waits_until_the_page_is_in_front_attack_double_clickjacking(
    world: pages.World, browser: async_api.Browser
) -> None:
    page = await chromium.tab(browser)
    await page.goto(f"{world.base}/account/acme")
    await sign_in(page)
    await page.get_by_role("heading", name="Your account").wait_for()
    # A clock that the test moves on, so that nothing here depends on how fast this machine is. Installed, it goes on as
    # the machine's does; paused, it stands, on pages that come later too.
    await page.clock.install()
    await page.clock.pause_at(datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1))
    await page.goto(world.link(await world.client("Notebook")))
    allow = page.get_by_role("button", name="Allow", exact=True)
    assert await allow.is_disabled()
    assert await page.get_by_role("button", name="Don’t allow").is_enabled()
    await page.clock.run_for(601)
    assert await allow.is_enabled()


@pytest.mark.requirement("oauth:pages:sign-in", "oauth:pages:chromium")
async def test_a_passkey_is_added_and_signs_in(world: pages.World, browser: async_api.Browser) -> None:
    page = await chromium.tab(browser)
    canary = chromium.Canary(page, world.base, world.callback)
    await chromium.authenticator(page)
    await page.goto(f"{world.base}/account/acme/security")
    await sign_in(page)
    await page.get_by_label("Name for a new passkey").fill("My laptop")
    await page.get_by_role("button", name="Add a passkey").click()
    await page.get_by_role("status").wait_for()
    assert "The passkey is added." in await page.inner_text("main")
    assert "My laptop" in await page.inner_text("main")
    await page.context.clear_cookies()
    await page.goto(world.link(await world.client("Notebook")))
    await page.get_by_role("button", name="Use a passkey").click()
    await page.get_by_role("heading", name="Let “Notebook” use notes?").wait_for()
    assert canary.seen == []


@pytest.mark.requirement("oauth:pages:popup")
async def test_an_application_in_a_page_hears_of_the_window_that_it_opened(
    world: pages.World, browser: async_api.Browser
) -> None:
    """Web clients open the authorization in a window, whose last page tells them the answer by `window.opener`."""
    link = world.link(await world.client("Notebook"))
    page = await chromium.tab(browser)
    opens = f"<button onclick=\"window.opened = open('{link}', 'x', 'popup')\">connect</button>"
    await page.goto(f"http://127.0.0.1:{world.port}/evil?html={urllib.parse.quote(opens)}")
    async with page.expect_popup() as coming:
        await page.get_by_role("button").click()
    popup = await coming.value
    await sign_in(popup)
    await popup.get_by_role("button", name="Allow", exact=True).click()
    await popup.wait_for_url(f"{world.callback}**")
    assert await popup.evaluate("window.opener !== null")


@pytest.mark.requirement("oauth:pages:chromium")
@pytest.mark.parametrize(
    ("name", "dark", "phone"), [("light", False, False), ("dark", True, False), ("phone", False, True)]
)
async def test_pages_fit_in_light_in_dark_and_on_a_phone(
    world: pages.World, browser: async_api.Browser, name: str, dark: bool, phone: bool
) -> None:
    """With `SMCP_PICTURES` naming a folder, the pictures of the documentation are made there."""
    page = await chromium.tab(browser, dark=dark, phone=phone)
    kept = os.environ.get("SMCP_PICTURES")

    async def look(what: str) -> None:
        width = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1], what
        small: list[str] = await page.evaluate(
            "[...document.querySelectorAll('button, input:not([type=hidden])')].filter(one => one.offsetParent &&"
            " one.getBoundingClientRect().height < 44).map(one => one.outerHTML)"
        )
        assert small == []  # WCAG 2.2, 2.5.8 asks for 24 pixels; fingers like 44
        if kept:
            await page.screenshot(path=f"{kept}/{what}-{name}.png", full_page=True)

    await page.goto(world.link(await world.client("Notebook")))
    await look("login")
    await sign_in(page)
    await page.get_by_role("button", name="Allow", exact=True).and_(page.locator(":enabled")).wait_for()
    await look("consent")
    await page.get_by_role("button", name="Allow", exact=True).click()
    await page.wait_for_url(f"{world.callback}**")
    for path in ("", "sessions", "clients", "security", "logout"):
        await page.goto(f"{world.base}/account/acme/{path}".rstrip("/"))
        await look(path or "account")
    asked = await world.devices.begin(await world.client("Terminal"), "notes", ("mcp:call",))
    await page.goto(f"{world.base}/account/acme/device?user_code={asked.user_code}")
    await look("device")
    await page.get_by_role("button", name="Go on").click()
    await page.get_by_role("button", name="Allow", exact=True).and_(page.locator(":enabled")).wait_for()
    await look("device-confirm")
    await page.goto(f"{world.base}/account/acme/security")
    await page.get_by_role("button", name="Set up an authenticator").click()
    await page.get_by_role("img", name="QR code of the key below").wait_for()
    await look("totp")
    secret = pages.secret(await page.locator("dd.mono").inner_text())
    await page.get_by_label("Code that it shows now").fill(totp.hotp(secret, totp.step(time.time())))
    await page.get_by_role("button", name="Finish").click()
    await page.get_by_role("status").wait_for()
    await look("recovery")
