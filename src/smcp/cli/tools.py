"""`smcp tools` and `smcp call`: try a hosted server without an MCP client."""

import json
import sys

import click

from smcp.cli import client, failures, session

_target = click.argument("target", metavar="TENANT/SERVER", type=session.TargetType())


@click.command("tools")
@_target
@session.remote
def tools_command(cli: session.Session, target: session.Target) -> None:
    """List a server's tools."""
    with cli.connect(target.tenant) as api:
        found = api.get(client.path("tenants", target.tenant, "servers", target.server, "tools"))
    if cli.out.as_json:
        cli.out.json(found)
        return
    items: list[client.Json] = found.get("tools") or []
    rows = ((item.get("name"), _arguments(item), item.get("description")) for item in items)
    cli.out.table(("tool", "arguments (* needed)", "description"), rows, empty=f"{target} offers no tools.")


@click.command("call")
@_target
@click.argument("tool")
@click.argument("arguments", metavar="[JSON]", default="{}")
@session.remote
def call_command(cli: session.Session, target: session.Target, tool: str, arguments: str) -> None:
    """Call a tool and print what it answers.

    JSON is an object with the tool's arguments; '-' reads it from stdin, where other users of this machine can't see
    it. The exit code is 1 when the tool says that it failed.
    """
    body = {"tool": tool, "arguments": _object(arguments)}
    with cli.connect(target.tenant) as api:
        result = api.post(client.path("tenants", target.tenant, "servers", target.server, "call"), body)
    failed = result.get("isError") is True
    if cli.out.as_json:
        cli.out.json(result)
    else:
        _print_result(cli, result)
    if failed:
        raise failures.Failure("tool_failed", f"The tool {tool} of {target} says that it failed.")


def _object(text: str) -> client.Json:
    if text == "-":
        text = sys.stdin.read()
    try:
        value = client.as_object(json.loads(text))
    except ValueError as error:
        raise failures.Failure(
            "usage",
            f"The arguments are not valid JSON: {error}.",
            hint="""Quote them for the shell: '{"timezone":"Europe/Berlin"}'""",
            exit_code=failures.Exit.USAGE,
        ) from error
    if value is None:
        raise failures.Failure(
            "usage", "The arguments are a JSON object, {…}, with a value for each name.", exit_code=failures.Exit.USAGE
        )
    return value


def _arguments(tool: client.Json) -> str:
    schema = client.mapping(tool.get("inputSchema"))
    needed: list[str] = schema.get("required") or []
    return " ".join(f"{name}*" if name in needed else name for name in client.mapping(schema.get("properties")))


def _print_result(cli: session.Session, result: client.Json) -> None:
    blocks: list[client.Json] = result.get("content") or []
    for block in blocks:
        if block.get("type") == "text":
            cli.out.text(str(block.get("text")))
        else:
            cli.out.text(f"({block.get('type')} {block.get('mimeType') or ''}; --json shows it whole)")
    if not blocks and "structuredContent" in result:
        cli.out.text(json.dumps(result["structuredContent"], indent=2))
