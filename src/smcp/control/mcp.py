"""Trying a server's tools without an MCP client: the same stages, the same limits, one answer."""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from smcp.access.policy import Action
from smcp.control import views
from smcp.control.endpoint import Call, Nothing, endpoint
from smcp.kernel import errors

_HOSTED: Final = (
    errors.ServerFailed,
    errors.ServerTimeout,
    errors.ServerStopped,
    errors.SecretMissing,
    errors.SandboxMissing,
)


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which tool, and what it gets."""

    tool: Annotated[str, Meta(min_length=1, max_length=256)]
    arguments: dict[str, Any] = {}


@endpoint(
    "GET",
    "/api/v1/tenants/{tenant}/servers/{server}/tools",
    action=Action.MCP_LIST,
    raises=_HOSTED,
    answer_example={"tools": [{"name": "get_current_time", "inputSchema": {"type": "object"}}]},
)
async def tools(call: Call[Nothing, Nothing]) -> views.Tools:
    """List the server's tools, as the server tells them now."""
    listed = await call.services.invoke(call.principal, call.tenant, call.server, "tools/list", {})
    return views.Tools(listed["tools"])


@endpoint(
    "POST",
    "/api/v1/tenants/{tenant}/servers/{server}/call",
    action=Action.MCP_CALL,
    raises=_HOSTED,
    body_example={"tool": "get_current_time", "arguments": {"timezone": "Europe/Berlin"}},
    answer_example={"content": [{"type": "text", "text": "…"}], "isError": False},
)
async def call_tool(call: Call[ToolCall, Nothing]) -> dict[str, Any]:
    """Call a tool.

    The answer is MCP's CallToolResult. A tool's own failure is a 200 with `isError` true, as in MCP.
    """
    params = {"name": call.body.tool, "arguments": call.body.arguments}
    return await call.services.invoke(call.principal, call.tenant, call.server, "tools/call", params)


ENDPOINTS: Final = (tools, call_tool)
