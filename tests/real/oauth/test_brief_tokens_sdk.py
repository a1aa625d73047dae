"""Windows of the official Python SDK with one stored login, whose tokens live five seconds, all notice it at once.

By itself the SDK (2.3) can't begin with a stored login that has ended. Its storage has no place for the metadata of the
issuer nor for when a token ends, so it takes any stored token for a good one, and after a 401 it asks the person and
does not try the refresh token. A window of a program that has found these out once (`OAuthClientProvider.context`) can.
Within one provider nothing races: it holds a lock from a request to its answer. So each window here has its own.
"""

import asyncio
import contextlib
import dataclasses
import pathlib
import ssl
import time
from collections.abc import AsyncGenerator
from typing import Any, Final

import anyio
import httpx2
import mcp_types as types
import pytest
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from pydantic import AnyUrl

from smcp.identity.oauth import lifetimes
from support import byoauth, shortlived, visitors, wire

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

_WINDOWS: Final = 25
_ROUNDS: Final = 2
_LIVES: Final = lifetimes.Lifetimes(access_s=5.0)
_WAIT_S: Final = 300.0
_EMAIL: Final = "ada@acme.example"
_METADATA: Final = OAuthClientMetadata(
    client_name="Python SDK",
    redirect_uris=[AnyUrl(byoauth.LOOPBACK)],
    grant_types=["authorization_code", "refresh_token"],
    response_types=["code"],
    token_endpoint_auth_method="none",
)
_TRUST: Final = ssl.create_default_context()
"""Nothing here is https, and reading the machine's certificates for each window would take seconds."""


class _Storage:
    """The stored login of all windows."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None
        self.saved = 0
        self.together: asyncio.Barrier | None = None

    async def get_tokens(self) -> OAuthToken | None:
        found, barrier = self.tokens, self.together
        if barrier is not None:
            await barrier.wait()  # all have read it before one of them renews it
            self.together = None
        return found

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens
        self.saved += 1

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


class _Window:
    """One window of a program: a provider, and what it asked of its person."""

    def __init__(self, url: str, storage: _Storage, ada: visitors.Visitor, like: "_Window | None" = None) -> None:
        """`like`: another window of the program, which has found the issuer and knows when the stored token ends."""
        self.url = url
        self.asked: list[str] = []
        """Why, each time that a login was asked for."""
        self._ada = ada
        self._came: dict[str, str] = {}
        self.provider = OAuthClientProvider(url, _METADATA.model_copy(), storage, self._open, self._answer)
        if like is not None:
            self.provider.context = dataclasses.replace(
                like.provider.context,
                lock=anyio.Lock(),
                redirect_handler=self._open,
                callback_handler=self._answer,
            )

    @property
    def held(self) -> str:
        """Its access token."""
        tokens = self.provider.context.current_tokens
        return "" if tokens is None else tokens.access_token

    async def _open(self, address: str) -> None:
        # The SDK comes here after each 401. A slow machine may have let a token end on its way: then the login is not
        # lost, only the SDK does not try.
        if not self.held:
            self.asked.append("no token")
        elif byoauth.parts(self.held)[1]["exp"] > time.time():
            self.asked.append("refused before its time")
        self._came = await self._ada.agree(address)

    async def _answer(self) -> AuthorizationCodeResult:
        return AuthorizationCodeResult(code=self._came["code"], state=self._came["state"], iss=self._came["iss"])

    async def ended(self) -> None:
        """Returns when its access token has ended."""
        for _ in range(600):
            if not self.provider.context.is_token_valid():
                return
            await asyncio.sleep(0.1)  # nobody tells a client
        raise AssertionError("it has not ended")

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncGenerator[Client]:
        """A session with the server."""
        async with (
            httpx2.AsyncClient(auth=self.provider, timeout=_WAIT_S, trust_env=False, verify=_TRUST) as http,
            Client(streamable_http_client(self.url, http_client=http)) as client,
        ):
            yield client

    async def goes_on(self, start: asyncio.Barrier) -> None:
        """Begin with the stored login, and call again each time that all windows' tokens have ended."""
        seen = {self.held}
        async with self.connected() as client:
            await _call(client)
            for _ in range(_ROUNDS):
                assert self.held not in seen
                seen.add(self.held)
                await self.ended()
                await start.wait()
                await _call(client)
        assert self.held not in seen


async def _call(client: Client) -> None:
    called = await client.call_tool("do", {"act": "echo", "text": "hello"})
    (block,) = called.content
    assert isinstance(block, types.TextContent)
    assert "hello" in block.text


class _Api:
    """The admin API for one key."""

    def __init__(self, http: httpx2.AsyncClient, running: shortlived.Running) -> None:
        self._http = http
        self._running = running

    async def __call__(self, method: str, path: str, body: Any = None, key: str = "") -> Any:
        url = f"{self._running.base_url}/api/v1{path}"
        bearer = {"Authorization": f"Bearer {key or self._running.key}"}
        answer = await self._http.request(method, url, json=body, headers=bearer)
        assert answer.is_success, answer.text
        return answer.json()

    async def deployed(self) -> str:
        """The address of a server of acme."""
        key = (await self("POST", "/tenants/acme/keys", {"roles": ["admin"]}))["secret"]
        order = {"source": f"pypi:{wire.SCRIPTED}", "name": "tool"}
        operation = await self("POST", "/tenants/acme/deployments", order, key)
        async with asyncio.timeout(_WAIT_S):
            while operation["state"] == "running":
                await asyncio.sleep(0.1)  # the API has no event for it
                operation = await self("GET", f"/tenants/acme/operations/{operation['id']}", key=key)
        assert operation["state"] == "succeeded", operation
        return str((await self("GET", "/tenants/acme/servers/tool", key=key))["endpoint"])


@contextlib.asynccontextmanager
async def _world(folder: pathlib.Path) -> AsyncGenerator[tuple[str, visitors.Visitor]]:
    """A server with a person who may use it, in front of her browser."""
    shelf = folder / "wheels"
    shelf.mkdir()
    wire.wheel(shelf)
    with shortlived.opened(folder / "data", _LIVES, shelf) as running:
        async with (
            httpx2.AsyncClient(timeout=_WAIT_S, trust_env=False) as http,
            visitors.Visitor(running.base_url, "acme", _EMAIL) as ada,
        ):
            api = _Api(http, running)
            await api("POST", "/tenants", {"id": "acme"})
            url = await api.deployed()
            made = await api("POST", "/tenants/acme/invitations", {"email": _EMAIL, "roles": ["mcp_user"]})
            await ada.join(made["code"])
            yield url, ada


@pytest.mark.requirement("oauth:proof:brief-tokens-sdk", "oauth:proof:python-sdk")
async def test_with_five_second_tokens_racing_windows_of_the_python_sdk_ask_for_no_login(
    tmp_path: pathlib.Path,
) -> None:
    async with _world(tmp_path) as (url, ada):
        storage = _Storage()
        first = _Window(url, storage, ada)
        async with first.connected() as client:
            await _call(client)
        assert first.asked == ["no token"]
        assert storage.tokens is not None
        assert storage.tokens.expires_in == 5
        await first.ended()
        windows = [_Window(url, storage, ada, like=first) for _ in range(_WINDOWS)]
        storage.together = asyncio.Barrier(_WINDOWS)
        start = asyncio.Barrier(_WINDOWS)
        before = storage.saved
        async with asyncio.TaskGroup() as group:
            for window in windows:
                group.create_task(window.goes_on(start))
        assert [window.asked for window in windows] == [[]] * _WINDOWS
        assert storage.saved - before >= _WINDOWS * (1 + _ROUNDS)
        # What was stored last is as good as any: who comes then goes on with it.
        later = _Window(url, storage, ada, like=windows[-1])
        await later.ended()
        async with later.connected() as client:
            await _call(client)
        assert later.asked == []
