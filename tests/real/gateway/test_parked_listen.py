"""Modern clients listen at a server that speaks only the legacy wire."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator

import httpx2
import pytest

from support import upward, wire
from support.clients import Endpoint
from support.gates import Gate

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_TAG = "io.modelcontextprotocol/subscriptionId"


async def _messages(answer: httpx2.Response) -> AsyncIterator[wire.Json]:
    async for line in answer.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line[6:])


@contextlib.asynccontextmanager
async def listening(one: upward.Modern, id_: str, **wanted: object) -> AsyncGenerator[AsyncIterator[wire.Json]]:
    """The messages of a listener's stream."""
    fields, body = wire.modern("subscriptions/listen", {"notifications": wanted, "_meta": one.meta}, id_)
    headers = {**one.caller.bearer, **fields}
    async with one.caller.http.stream("POST", one.caller.url, headers=headers, content=body) as answer:
        assert answer.status_code == 200
        yield _messages(answer)


async def _changed(one: upward.Modern, *uris: str) -> None:
    notices = [{"method": "notifications/resources/updated", "params": {"uri": uri}} for uri in uris]
    notices.append({"method": "notifications/tools/list_changed"})
    await one.call("reply", before=notices, result={"content": []})


async def _asked(one: upward.Modern, method: str) -> list[str]:
    return [told["params"]["uri"] for told in await one.said("asked") if told["method"] == method]


@pytest.mark.requirement("gateway:upward:listen")
async def test_each_listener_hears_what_it_asked_for_once_and_the_last_to_go_unsubscribes(one: upward.Modern) -> None:
    async with listening(one, "a", resourceSubscriptions=["x:1"], promptsListChanged=True) as first:
        told = await anext(first)
        assert told["method"] == "notifications/subscriptions/acknowledged"
        # What the server has no prompts for is not promised.
        assert told["params"] == {"notifications": {"resourceSubscriptions": ["x:1"]}, "_meta": {_TAG: "a"}}
        async with listening(one, "b", resourceSubscriptions=["x:1", "x:2"], toolsListChanged=True) as second:
            granted = (await anext(second))["params"]["notifications"]
            assert granted == {"toolsListChanged": True, "resourceSubscriptions": ["x:1", "x:2"]}
            await _changed(one, "x:1", "x:2/below", "x:20")
            heard = [await anext(second) for _ in range(3)]
            assert [(told["params"].get("uri"), told["params"]["_meta"][_TAG]) for told in heard] == [
                ("x:1", "b"),
                ("x:2/below", "b"),
                (None, "b"),
            ]
            assert (await anext(first))["params"] == {"uri": "x:1", "_meta": {_TAG: "a"}}
        async with asyncio.timeout(120):
            while await _asked(one, "resources/unsubscribe") != ["x:2"]:
                pass
        await _changed(one, "x:1")
        assert (await anext(first))["params"]["uri"] == "x:1"
    async with asyncio.timeout(120):
        while await _asked(one, "resources/unsubscribe") != ["x:2", "x:1"]:
            pass
    assert await _asked(one, "resources/subscribe") == ["x:1", "x:2"]


@pytest.mark.requirement("gateway:upward:listen")
async def test_a_listener_is_told_when_its_deployment_is_replaced(gate: Gate, one: upward.Modern) -> None:
    def deploy(canary: str) -> str:
        manifest = (
            f"era = \"legacy\"\ndrain_s = 0\n[env]\nCANARY = '{canary}'\nOFFERS = '{json.dumps(upward.OFFERS)}'\n"
        )
        return gate.platform.deploy("acme", f"pypi:{wire.SCRIPTED}", "heard", gate.admin, manifest)

    url = await asyncio.to_thread(deploy, "first")
    mine = upward.Modern(wire.Caller(one.caller.http, Endpoint(url, gate.acme.key)))
    async with listening(mine, "a", toolsListChanged=True) as heard:
        await anext(heard)
        await asyncio.to_thread(deploy, "second")
        last = [told async for told in heard][-1]
    assert last["id"] == "a"
    assert last["result"]["resultType"] == "complete"
    assert last["result"]["_meta"][_TAG] == "a"
