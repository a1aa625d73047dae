"""A person in front of Chromium, and the place on their machine where a client waits for the answer."""

import asyncio
import contextlib
import urllib.parse
from collections.abc import AsyncGenerator

from playwright import async_api

from support import chromium, serving
from support.visitors import PASSWORD

_PAGE = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 34\r\nConnection: close\r\n\r\n"


class Agent:
    """Signs in where that is asked, and answers what a client asks for."""

    def __init__(self, page: async_api.Page, email: str, password: str = PASSWORD) -> None:
        self.page = page
        self.email = email
        self.password = password
        self.asked: list[str] = []
        """What each consent page said."""

    async def answer(self, address: str, answer: str = "allow") -> None:
        """Go to `address`, and answer there."""
        await self.page.goto(address)
        await self._sign_in()
        await self._answer(answer)

    async def enter_code(self, address: str, code: str, answer: str = "allow") -> None:
        """Enter the code that a device shows at `address`, and answer."""
        await self.page.goto(address)
        await self._sign_in()
        await self.page.fill("input[name=code]", code)
        await self.page.click("main form button.main")
        await self._answer(answer)

    async def take_back(self, base_url: str, tenant: str) -> None:
        """Take back what was allowed to every client, on the account's own page."""
        await self.page.goto(f"{base_url}/account/{tenant}/clients")
        await self._sign_in()
        while await self.page.locator("button[name=revoke]").count():
            async with self.page.expect_navigation():
                await self.page.locator("button[name=revoke]").first.click()

    async def _sign_in(self) -> None:
        if await self.page.locator("input[name=password]").count():
            await self.page.fill("input[name=email]", self.email)
            await self.page.fill("input[name=password]", self.password)
            async with self.page.expect_navigation():
                await self.page.click("form:has(input[name=password]) button")

    async def _answer(self, answer: str) -> None:
        button = self.page.locator(f"button[name=answer][value={answer}]")
        await button.wait_for()
        self.asked.append(await self.page.inner_text("main"))
        await button.click()
        await self.page.wait_for_load_state()


@contextlib.asynccontextmanager
async def person(email: str) -> AsyncGenerator[Agent]:
    """Somebody in a browser of their own; no page of it does what it must not."""
    async with chromium.opened() as browser:
        page = await chromium.tab(browser)
        watched = chromium.Canary(page, "http://127.0.0.1:")
        yield Agent(page, email)
        assert watched.seen == []


class Landing:
    """Where a client on this machine gets its answers: a port of 127.0.0.1."""

    def __init__(self, port: int, came: "asyncio.Queue[dict[str, str]]") -> None:
        self.redirect = f"http://127.0.0.1:{port}/callback"
        self.came = came


@contextlib.asynccontextmanager
async def landing() -> AsyncGenerator[Landing]:
    """Listens until the end."""
    came: asyncio.Queue[dict[str, str]] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        parts = urllib.parse.urlsplit(head.split(" ", 2)[1])
        if parts.path == "/callback":
            came.put_nowait(dict(urllib.parse.parse_qsl(parts.query)))
        writer.write((_PAGE + "<!doctype html><title>back</title>").encode())
        await writer.drain()

    # A browser opens connections by which it then asks nothing.
    async with serving.served(serve) as port:
        yield Landing(port, came)
