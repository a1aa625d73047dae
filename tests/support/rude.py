"""The rude server as a package, and bare requests to it: what a client library would hide is what is tested."""

import pathlib
from typing import Any, Final

import httpx2

from support.wheels import build_wheel

NAME: Final = "smcp-fixture-rude"
_SOURCE: Final = pathlib.Path(__file__).parents[1] / "fixtures" / "rude.py"
_MODERN: Final = "2026-07-28"


def wheel(directory: pathlib.Path) -> None:
    """Write its wheel into `directory`."""
    build_wheel(directory, NAME, modules={"rude.py": _SOURCE.read_text("utf-8")}, entry_points={NAME: "rude:main"})


def modern(method: str, **params: Any) -> dict[str, Any]:
    """Keyword arguments of httpx2's `post`/`stream` for one modern request, without the credential."""
    meta: dict[str, Any] = {
        "io.modelcontextprotocol/protocolVersion": _MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    headers = {"MCP-Protocol-Version": _MODERN, "Mcp-Method": method, "Accept": "application/json, text/event-stream"}
    if "name" in params:
        headers["Mcp-Name"] = params["name"]
    body: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
    return {"json": body, "headers": headers}


def legacy(method: str, session: str = "", **params: Any) -> dict[str, Any]:
    """The same for one legacy request."""
    headers = {"Accept": "application/json, text/event-stream", **({"Mcp-Session-Id": session} if session else {})}
    return {"json": {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, "headers": headers}


def client(key: str) -> httpx2.AsyncClient:
    """A client with a credential."""
    return httpx2.AsyncClient(headers={"Authorization": f"Bearer {key}"}, timeout=120.0)


async def opened(http: httpx2.AsyncClient, url: str) -> str:
    """The id of a new legacy session."""
    client = {"name": "client", "version": "1"}
    hello = legacy("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=client)
    answer = await http.post(url, **hello)
    assert answer.status_code == 200, answer.text
    return str(answer.headers["mcp-session-id"])
