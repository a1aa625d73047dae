"""Chromium for tests: Debian's, without a window, that reaches nothing but this machine, and what a page did in it.

`opened` starts one; each test gets its own, so that no cookie is left over from another. `Canary` collects what a page
must never do: run a script of somebody else's, meet its own policy, ask another host for something.
"""

import contextlib
import os
import shutil
from collections.abc import AsyncGenerator
from typing import Any, Final, Literal

from playwright import async_api

_NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
_FLAGS: Final = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-dev-shm-usage",
    # Whatever a page wants from elsewhere fails at once, as it would on a machine without a network.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1, EXCLUDE ::1",
)
PATIENCE_MS: Final = 120_000
"""How long one step of a test waits for what it expects, in milliseconds."""


def executable() -> str:
    """Where Chromium is. `CHROMIUM` names another one. Fails where there is none, and says how to get it."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    assert found, "Chromium is needed for the tests of the pages. Run: sudo apt-get install chromium"
    return found


@contextlib.asynccontextmanager
async def opened() -> AsyncGenerator[async_api.Browser]:
    """A browser; closed in the end, with everything in it."""
    # Chromium's own sandbox needs a user of its own, which root has not.
    flags = [*_FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    async with async_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable(), args=flags, timeout=PATIENCE_MS)
        try:
            yield browser
        finally:
            await browser.close()


async def tab(
    browser: async_api.Browser,
    *,
    dark: bool = False,
    phone: bool = False,
    javascript: bool = True,
) -> async_api.Page:
    """A page in a context of its own: as another person's browser, with no cookies."""
    scheme: Literal["dark", "light"] = "dark" if dark else "light"
    context = await browser.new_context(
        color_scheme=scheme,
        viewport={"width": 390, "height": 844} if phone else {"width": 1024, "height": 768},
        java_script_enabled=javascript,
        ignore_https_errors=True,
        locale="en-GB",
    )
    context.set_default_timeout(PATIENCE_MS)
    return await context.new_page()


class Canary:
    """What a page did that it must not do."""

    def __init__(self, page: async_api.Page, *ours: str) -> None:
        """`ours` are the addresses that it may ask (their beginnings)."""
        self.seen: list[str] = []
        self._ours = ours
        page.on("dialog", self._dialog)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.seen.append(f"error: {error}"))
        page.on("request", self._request)

    async def _dialog(self, dialog: async_api.Dialog) -> None:
        self.seen.append(f"dialog: {dialog.message}")
        await dialog.dismiss()

    def _console(self, message: async_api.ConsoleMessage) -> None:
        # A violation of the page's policy is told here, too. An answer of 4xx is none.
        if "Failed to load resource" not in message.text:
            self.seen.append(f"console: {message.text}")

    def _request(self, request: async_api.Request) -> None:
        if not request.url.startswith(self._ours):
            self.seen.append(f"request: {request.url}")


async def authenticator(page: async_api.Page) -> Any:
    """Give `page` a passkey device that always agrees (Chromium's virtual authenticator). Returns its session."""
    session: Any = await page.context.new_cdp_session(page)
    await session.send("WebAuthn.enable")
    await session.send(
        "WebAuthn.addVirtualAuthenticator",
        {
            "options": {
                "protocol": "ctap2",
                "transport": "internal",
                "hasResidentKey": True,
                "hasUserVerification": True,
                "isUserVerified": True,
                "automaticPresenceSimulation": True,
            }
        },
    )
    return session
