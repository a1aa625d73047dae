"""The official SDKs' clients log in by themselves, with a person in front of Chromium and nobody in between.

Discovery from a 401, registration (a document of their own, or dynamic), login and consent, a call, a refresh, a
step-up, and the end of it all on the person's own page.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator
from typing import Any

import httpx2
import mcp_types as types
import pytest
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import (
    AuthorizationCodeResult,
    OAuthClientInformationFull,
    OAuthClientMetadata,
    OAuthToken,
)
from pydantic import AnyUrl

from support import agents, byoauth, idp, node, wire
from support.idp import House

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

_STEP_S = 120.0
WAYS = ("document", "dynamic")


class _Storage:
    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.client: OAuthClientInformationFull | None = None
        self.saved = 0

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens
        self.saved += 1

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info


class _Python:
    """The Python SDK's client with its provider, and the person behind it."""

    def __init__(self, house: House, agent: agents.Agent, landing: agents.Landing, document: str | None) -> None:
        self.url = house.gate.acme.url
        self.storage = _Storage()
        self.agent = agent
        self.answer = "allow"
        self.opened: list[str] = []
        self.landing = landing
        self._document = document

    def provider(self) -> OAuthClientProvider:
        return OAuthClientProvider(
            server_url=self.url,
            client_metadata=OAuthClientMetadata(
                client_name="Python SDK",
                redirect_uris=[AnyUrl(self.landing.redirect)],
                grant_types=["authorization_code", "refresh_token"],
                response_types=["code"],
                token_endpoint_auth_method="none",
            ),
            storage=self.storage,
            redirect_handler=self._open,
            callback_handler=self._came,
            client_metadata_url=self._document,
        )

    async def _open(self, address: str) -> None:
        self.opened.append(address)
        await self.agent.answer(address, self.answer)

    async def _came(self) -> AuthorizationCodeResult:
        came = await asyncio.wait_for(self.landing.came.get(), _STEP_S)
        return AuthorizationCodeResult(code=came.get("code", ""), state=came.get("state"), iss=came.get("iss"))

    @contextlib.asynccontextmanager
    async def connected(self, provider: OAuthClientProvider) -> AsyncGenerator[Client]:
        async with (
            httpx2.AsyncClient(auth=provider, timeout=_STEP_S) as http,
            Client(streamable_http_client(self.url, http_client=http), mode="legacy") as client,
        ):
            yield client


async def _call(client: Client) -> str:
    called = await client.call_tool("do", {"act": "echo", "text": "hello"})
    (block,) = called.content
    assert isinstance(block, types.TextContent)
    return block.text


def _document(house: House, way: str, landing: agents.Landing, name: str) -> str | None:
    if way == "dynamic":
        return None
    return house.documents.client(f"/{name}.json", client_name=name, redirect_uris=[landing.redirect])


@pytest.mark.requirement("oauth:proof:python-sdk")
@pytest.mark.parametrize("way", WAYS)
async def test_the_python_sdk_logs_in_calls_refreshes_steps_up_and_is_taken_back(house: House, way: str) -> None:
    async with agents.landing() as landing, agents.person(house.people["ada"][1]) as agent:
        document = _document(house, way, landing, "python-sdk")
        sdk = _Python(house, agent, landing, document)
        provider = sdk.provider()
        async with sdk.connected(provider) as client:
            assert "hello" in await _call(client)
            assert len(sdk.opened) == 1
            assert sdk.storage.tokens is not None
            assert sdk.storage.client is not None
            assert sdk.storage.client.client_id == document or way == "dynamic"
            # The next call finds an access token that has ended, and renews it without the person.
            first = sdk.storage.tokens
            provider.context.token_expiry_time = 1.0
            assert "hello" in await _call(client)
            assert len(sdk.opened) == 1
            assert sdk.storage.tokens.access_token != first.access_token
            assert sdk.storage.tokens.refresh_token != first.refresh_token
        await _steps_up(house, sdk)
        await agent.take_back(house.base_url, "acme")
        sdk.answer = "deny"
        with pytest.raises(Exception, match=r"authorization code|access_denied|unhandled errors"):
            async with sdk.connected(sdk.provider()) as client:
                await _call(client)
        assert len(sdk.opened) == 3
    assert "Use the server's tools" in agent.asked[0]
    assert house.gate.acme.url in agent.asked[0]


async def _steps_up(house: House, sdk: _Python) -> None:
    """A token that may only read, from another window of the same client, is enough until something is called."""
    assert sdk.storage.client is not None
    sdk.storage.tokens = await _narrow(house, str(sdk.storage.client.client_id), sdk.landing.redirect)
    async with sdk.connected(sdk.provider()) as client:
        assert (await client.list_tools()).tools
        assert len(sdk.opened) == 1
        assert "hello" in await _call(client)
    assert len(sdk.opened) == 2
    assert set(str(sdk.storage.tokens.scope).split()) == {"mcp:read", "mcp:call"}


async def _narrow(house: House, client: str, redirect: str) -> OAuthToken:
    async with httpx2.AsyncClient(timeout=_STEP_S) as http, idp.signed_in(house, "ada") as ada:
        issuer = house.issuer(http)
        attempt = issuer.begin(client, house.gate.acme.url, redirect=redirect, scope="mcp:read")
        got = byoauth.pair(await issuer.redeem(attempt, (await ada.agree(attempt.address))["code"]))
    return OAuthToken.model_validate(got.said)


class _Script:
    """The TypeScript SDK's client in a process of its own, and the person behind it."""

    def __init__(self, process: asyncio.subprocess.Process, agent: agents.Agent, landing: agents.Landing) -> None:
        self._process = process
        self._agent = agent
        self._landing = landing
        self.answer = "allow"
        self.opened = 0

    async def step(self, **order: Any) -> dict[str, Any]:
        """Begin a step (none: the connection), do what a person does, and return how it ended."""
        if order:
            await self._tell(order)
        while True:
            said = await self._said()
            if "done" in said:
                return said
            self.opened += 1
            await self._agent.answer(said["open"], self.answer)
            came = await asyncio.wait_for(self._landing.came.get(), _STEP_S)
            await self._tell({"came": str(httpx2.QueryParams(came))})

    async def _tell(self, what: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        await self._process.stdin.drain()

    async def _said(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), _STEP_S)
        if not line:
            assert self._process.stderr is not None
            raise AssertionError((await self._process.stderr.read()).decode()[-4000:])
        return dict(json.loads(line))

    async def end(self) -> None:
        """The client closes its connection and its process ends."""
        await self._tell({"do": "end"})
        assert await asyncio.wait_for(self._process.wait(), _STEP_S) == 0


@contextlib.asynccontextmanager
async def _script(
    house: House, agent: agents.Agent, landing: agents.Landing, document: str | None
) -> AsyncGenerator[_Script]:
    await asyncio.to_thread(node.ensure)
    process = await asyncio.create_subprocess_exec(
        node.program(),
        node.CLIENTS / "oauth.mjs",
        house.gate.acme.url,
        landing.redirect,
        *([] if document is None else [document]),
        cwd=node.CLIENTS,
        env=dict(os.environ),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield _Script(process, agent, landing)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.requirement("oauth:proof:typescript-sdk")
@pytest.mark.parametrize("way", WAYS)
async def test_the_typescript_sdk_logs_in_calls_refreshes_steps_up_and_is_taken_back(house: House, way: str) -> None:
    async with agents.landing() as landing, agents.person(house.people["ada"][1]) as agent:
        document = _document(house, way, landing, "typescript-sdk")
        async with _script(house, agent, landing, document) as script:
            connected = await script.step()
            assert connected["done"] == "connect", connected
            assert set(connected["scope"].split()) == {"mcp:read", "mcp:call"}
            assert connected["client"] == document or way == "dynamic"
            assert "hello" in (await script.step(do="call"))["text"]
            assert script.opened == 1
            renewed = await script.step(do="expire")
            assert ("hello" in renewed["text"], renewed["saved"], script.opened) == (True, 1, 1), renewed
            narrow = await _narrow(house, connected["client"], landing.redirect)
            stepped = await script.step(do="narrow", tokens=narrow.model_dump(mode="json", exclude_none=True))
            assert "hello" in stepped["text"], stepped
            assert set(stepped["scope"].split()) == {"mcp:read", "mcp:call"}
            assert script.opened == 2
            await agent.take_back(house.base_url, "acme")
            script.answer = "deny"
            ended = await script.step(do="call")
            assert "error" in ended
            assert script.opened == 3
            await script.end()


@pytest.mark.requirement("oauth:proof:python-sdk")
async def test_what_a_client_is_told_of_a_server_it_has_no_token_for(house: House, http: httpx2.AsyncClient) -> None:
    for url in (house.gate.acme.url, house.gate.acme.url.replace("/tool/", "/none/")):
        fields, body = wire.modern("tools/list")
        answer = await http.post(url, headers=fields, content=body)
        told = answer.headers["www-authenticate"]
        assert answer.status_code == 401
        assert 'scope="mcp:read mcp:call"' in told
        document = url.replace("/t/", "/.well-known/oauth-protected-resource/t/")
        assert f'resource_metadata="{document}"' in told
        assert (await http.get(document)).json()["resource"] == url
