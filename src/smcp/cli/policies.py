"""`smcp policy …`: what would be decided, and why."""

import click

from smcp.cli import client, failures, session

_DECISIONS = ("allow", "deny", "step_up", "conceal", "hidden")


@click.group("policy")
def policy_command() -> None:
    """Ask what would be decided."""


@policy_command.command("test")
@click.argument("action")
@session.tenant_option()
@click.option("--server", metavar="SERVER", default="", help="The server that is asked.")
@click.option("--tool", metavar="TOOL", default="", help="The tool that is called or listed.")
@click.option(
    "--role", "roles", metavar="ROLE", multiple=True, help="A role of whoever asks. May be given more than once."
)
@click.option("--scope", "scopes", metavar="SCOPE", multiple=True, help="A scope of their token; without, it has all.")
@click.option("--key", metavar="KEY-ID", default="", help="Ask for this API key instead.")
@click.option("--expect", type=click.Choice(_DECISIONS), help="Fail unless this is the answer.")
@session.remote
def test(
    cli: session.Session,
    action: str,
    tenant: str | None,
    server: str,
    tool: str,
    roles: tuple[str, ...],
    scopes: tuple[str, ...],
    key: str,
    expect: str | None,
) -> None:
    """Say whether somebody could do ACTION (like mcp:call), and why. Nothing is done."""
    body: client.Json = {
        "action": action,
        "server": server,
        "tool": tool,
        "roles": list(roles),
        "scopes": list(scopes),
        "key": key,
    }
    with cli.connect(tenant) as api:
        found = api.post(client.path("tenants", cli.tenant(tenant, api), "policy", "test"), body)
    answer = "hidden" if found.get("hidden") else str(found.get("decision"))
    if cli.out.as_json:
        cli.out.json(found)
    else:
        cli.out.text(answer)
        for line in found.get("because") or ():
            cli.out.note(f"  {line}")
    if expect is not None and expect != answer:
        raise failures.Failure("unexpected", f"The answer is {answer}, not {expect}.", exit_code=failures.Exit.FAILED)
