"""Tools that a principal's roles leave out: not on its lists, and by name as if they did not exist.

`access.tools.Choice` says which; most principals have none, and nothing here is asked for them. Whether a tool only
reads is what it said when it was deployed: what it says today would let it open itself to more callers.

A list is cut where the hosted server's answer is taken from it (`runtime.calls.Call.shape`): behind that, no way of
sending, keeping or resuming it has the rest. A call by name is answered here, for a tool that is left out and for one
that does not exist alike.
"""

import functools
from typing import Final

import msgspec

from smcp.access import policy, tools
from smcp.gateway import exchange, route, targets
from smcp.kernel import errors, jsonrpc

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_list = msgspec.json.Decoder(list[msgspec.Raw])


class _Named(msgspec.Struct, frozen=True):
    name: str


_named = msgspec.json.Decoder(_Named)
_TEXT: Final = 128
_CALL: Final = "tools/call"


def permit(choice: tools.Choice, target: targets.Target, method: str, params: jsonrpc.Json) -> None:
    """Raises for what somebody with some of the tools only can't ask for; to be called before a copy gets anything.

    Besides `require`: a method that the gateway doesn't know may be another way to call a tool, or to have what one
    has brought (`tasks/result`, an extension), and nothing says of which. It does not exist then: -32601.
    """
    if method == _CALL:
        require(choice, target, params)
    elif route.action(method) is policy.Action.MCP_CALL:
        raise errors.MethodNotFound(f"There is no such method: {method[:_TEXT]}")


def require(choice: tools.Choice, target: targets.Target, params: jsonrpc.Json) -> None:
    """Raises for a call of a tool that is not there for the caller, or that the caller may only see.

    `errors.InvalidParams` is what MCP wants for an unknown tool ("Tools: Error handling"): -32602. Before anything is
    compared with the tool's schema, which would tell that there is one.
    """
    name = params.get("name")
    if not isinstance(name, str):
        return  # no call of anything: the check of the params says so
    reads = target.only_reads(name)
    if not target.knows(name) or not choice.shows(name, read_only=reads):
        raise errors.UnknownTool(f"Unknown tool: {name[:_TEXT]}")
    if not choice.calls(name, read_only=reads):
        raise errors.Forbidden("Your roles let you see this tool, but not call it.")


def listed(choice: tools.Choice, target: targets.Target, result: bytes | msgspec.Raw) -> bytes:
    """The result of `tools/list` with the tools of `choice` only. Raises `errors.ParseError` for what is no list."""
    try:
        members = _members.decode(result)
        kept = [raw for raw in _list.decode(members.get("tools", b"[]")) if _shown(choice, target, raw)]
    except (msgspec.DecodeError, RecursionError) as error:
        raise errors.ParseError("The hosted server's list of tools can't be read.") from error
    return jsonrpc.encode({**members, "tools": kept})


def _shown(choice: tools.Choice, target: targets.Target, raw: msgspec.Raw) -> bool:
    name = _named.decode(raw).name
    return choice.shows(name, read_only=target.only_reads(name))


def offered(choice: tools.Choice | None, target: targets.Target, method: str, result: jsonrpc.Json) -> jsonrpc.Json:
    """As `listed`, of what the platform asked for itself; other results as they are."""
    if choice is None or method != "tools/list":
        return result
    every: list[jsonrpc.Json] = result["tools"]
    return {
        **result,
        "tools": [
            tool
            for tool in every
            if choice.shows(str(tool.get("name")), read_only=target.only_reads(str(tool.get("name"))))
        ],
    }


def prepare(x: exchange.Exchange) -> None:
    """The call has just been handed over: have its list cut before anybody sees it."""
    if x.choice is not None and x.call is not None and x.target is not None and x.call.method == "tools/list":
        x.call.shape = functools.partial(listed, x.choice, x.target)


def digest(choice: tools.Choice | None) -> str:
    """The same for the same tools; empty for all of them."""
    return "" if choice is None else choice.digest


def choose(principal: policy.Principal, resource: policy.Resource) -> tools.Choice | None:
    """Which tools the principal has; None for all. Most principals have no rules at all."""
    return tools.choice(principal, resource) if principal.rules else None
