"""A modern client as a test plays it that asks a server of the legacy era."""

from typing import Any, Final

import httpx2

from support import wire

ASKABLE: Final[wire.Json] = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}
OFFERS: Final[wire.Json] = {
    "resources": {"subscribe": True, "listChanged": True},
    "tools": {"listChanged": True},
    "tasks": {"list": {}},
}
"""What the scripted server says that it has, beside logging."""


def form(message: str, key: str = "") -> wire.Json:
    """A question to the user, perhaps with a key of its own."""
    params: wire.Json = {"message": message, "requestedSchema": {"type": "object", "properties": {}}}
    return {
        "method": "elicitation/create",
        "params": {**params, **({"_meta": {"io.smcp/inputKey": key}} if key else {})},
    }


def accept(**content: Any) -> wire.Json:
    """What a user filled in."""
    return {"action": "accept", "content": content}


class Modern:
    """One key of a modern client."""

    def __init__(self, caller: wire.Caller, capabilities: wire.Json | None = None, **meta: Any) -> None:
        self.caller = caller
        told = ASKABLE if capabilities is None else capabilities
        self.meta: wire.Json = {"io.modelcontextprotocol/clientCapabilities": told, **meta}
        self._id = 0

    async def ask(self, method: str, params: wire.Json | None = None) -> httpx2.Response:
        """Any request."""
        self._id += 1
        return await self.caller.modern(method, {"_meta": self.meta, **(params or {})}, self._id)

    async def call(self, act: str, again: wire.Json | None = None, **arguments: Any) -> wire.Json:
        """The last message of a call of the scripted tool; `again`: what a retry carries."""
        return (await self.messages(act, again, **arguments))[-1]

    async def messages(self, act: str, again: wire.Json | None = None, **arguments: Any) -> list[wire.Json]:
        """All of them."""
        answer = await self.ask("tools/call", {"name": "do", "arguments": {"act": act, **arguments}, **(again or {})})
        return wire.messages(answer)

    async def said(self, act: str, **arguments: Any) -> Any:
        """What the tool answers."""
        return wire.said(await self.call(act, **arguments))


def retry(asked: wire.Json, **responses: wire.Json) -> wire.Json:
    """What a retry carries."""
    return {"requestState": asked["result"]["requestState"], "inputResponses": responses}
