"""A client for the suite's client leg, over the driver for remote servers: `python -m support.upstream_client URL`.

The suite starts a server and this command, and says in the environment what it is to be tried with. What is tested is
how the driver speaks to a server: header fields, sessions, streams that break, questions that are answered.
"""

import asyncio
import contextlib
import json
import os
import sys
from typing import Any

from smcp.kernel import errors, jsonrpc
from smcp.protocol import eras
from smcp.runtime import peer
from smcp.runtime.drivers import conversation
from support import conversations


def _arguments(schema: dict[str, Any]) -> dict[str, Any]:
    """Something for each property that must be there."""
    made: dict[str, Any] = {}
    properties: dict[str, Any] = schema.get("properties") or {}
    for name in schema.get("required") or properties:
        told: dict[str, Any] = properties.get(name) or {}
        kinds: dict[str, Any] = {"number": 2, "integer": 2, "boolean": True, "array": [], "object": {}}
        made[name] = told.get("default", kinds.get(str(told.get("type")), "text"))
    return made


def _answers(requests: dict[str, Any]) -> dict[str, Any]:
    kinds: dict[str, Any] = {
        "elicitation/create": {"action": "accept", "content": {"name": "a", "confirmed": True}},
        "roots/list": {"roots": []},
        "sampling/createMessage": {"role": "assistant", "content": {"type": "text", "text": "x"}, "model": "m"},
    }
    return {key: kinds[one["method"]] for key, one in requests.items()}


async def _call(instance: conversation.Conversation, params: jsonrpc.Json, able: jsonrpc.Json, *, modern: bool) -> None:
    """One call, and again with answers for as long as it asks for some."""
    for _ in range(8):
        meta = {"_meta": {**conversations.meta(), eras.META_CAPABILITIES: able}} if modern else {}
        number, call = instance.calls.ask("tools/call", jsonrpc.encode({**params, **meta}))
        try:
            async with asyncio.timeout(conversations.WAIT_S):
                await call.completed()
        finally:
            instance.calls.forget(number)
        if call.failure is not None:
            print(f"{params['name']}: {call.failure.public}", file=sys.stderr)
            return
        result: dict[str, Any] = json.loads(call.response).get("result") or {}
        if result.get("resultType", "complete") != "input_required":
            return
        params = {name: params[name] for name in ("name", "arguments")}
        if "inputRequests" in result:
            params["inputResponses"] = _answers(result["inputRequests"])
        if "requestState" in result:
            params["requestState"] = result["requestState"]


async def _read(client: peer.Peer) -> None:
    """The first resource and the first prompt, where there are some."""
    kinds = (("resources", "resources/read", "uri"), ("prompts", "prompts/get", "name"))
    for what, method, named in kinds:
        with contextlib.suppress(errors.SmcpError):
            found: list[Any] = (await client.request(f"{what}/list")).get(what) or []
            for one in found[:1]:
                await client.request(method, {named: one[named]})


async def _run(url: str) -> None:
    modern = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", "") in eras.MODERN
    context: dict[str, Any] = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}")
    able: jsonrpc.Json = {"elicitation": {"form": {}}, "sampling": {}, "roots": {}}
    async with conversations.far() as far:
        instance = await far.start(conversations.spec(url), modern=modern)
        client = peer.Peer(instance, modern=modern, timeout_s=conversations.WAIT_S)
        await client.introduce()
        tools = await client.tools()
        calls = context.get("toolCalls") or [
            {"name": one["name"], "arguments": _arguments(one.get("inputSchema") or {})} for one in tools
        ]
        await _read(client)
        for one in calls:
            try:
                params = {"name": one["name"], "arguments": one.get("arguments") or {}}
                await _call(instance, params, able, modern=modern)
            except errors.SmcpError as error:
                print(f"{one['name']}: {error.public}", file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1]))
