"""`smcp role …`: roles of a tenant's own."""

from typing import Any

import click

from smcp.cli import client, output, session


@click.group("role")
def role_command() -> None:
    """Make, list and delete a tenant's own roles."""


@role_command.command("set")
@click.argument("role")
@session.tenant_option()
@click.option(
    "--allow", "actions", metavar="ACTION", multiple=True, required=True,
    help="What it gives, like mcp:call or server:*. May be given more than once.",
)  # fmt: skip
@click.option("--description", metavar="TEXT", default="", help="What the role is for.")
@click.option(
    "--server", "servers", metavar="SERVER", multiple=True, help="It reaches this server only, and others named."
)
@click.option("--tool", "tools", metavar="PATTERN", multiple=True, help="Only tools whose name fits, like 'get_*'.")
@click.option("--read-only", is_flag=True, help="Only tools that say of themselves that they change nothing.")
@session.remote
def set_role(
    cli: session.Session,
    role: str,
    tenant: str | None,
    actions: tuple[str, ...],
    description: str,
    servers: tuple[str, ...],
    tools: tuple[str, ...],
    *,
    read_only: bool,
) -> None:
    """Make ROLE, or replace it. Whoever has it may do what it says with their next request."""
    body: client.Json = {
        "actions": list(actions),
        "description": description,
        "servers": list(servers),
        "tools": list(tools),
        "read_only": read_only,
    }
    with cli.connect(tenant) as api:
        made = api.put(client.path("tenants", cli.tenant(tenant, api), "roles", role), body)
    _show(cli, made)


@role_command.command("list")
@session.tenant_option()
@session.remote
def list_roles(cli: session.Session, tenant: str | None) -> None:
    """List a tenant's own roles."""
    with cli.connect(tenant) as api:
        items = list(api.items(client.path("tenants", cli.tenant(tenant, api), "roles")))
    if cli.out.as_json:
        cli.out.json({"items": items})
        return
    rows = (
        (item.get("name"), item.get("description"), _joined(item.get("actions")), _conditions(item)) for item in items
    )
    cli.out.table(
        ("role", "description", "gives", "only for"),
        rows,
        empty="No roles of its own. Every tenant has admin, mcp_user, read_only.",
    )


@role_command.command("show")
@click.argument("role")
@session.tenant_option()
@session.remote
def show(cli: session.Session, role: str, tenant: str | None) -> None:
    """Show what ROLE gives: a tenant's own, or admin, mcp_user, read_only."""
    with cli.connect(tenant) as api:
        found = api.get(client.path("tenants", cli.tenant(tenant, api), "roles", role))
    _show(cli, found)


@role_command.command("delete")
@click.argument("role")
@session.tenant_option()
@session.destructive
@session.remote
def delete(cli: session.Session, role: str, tenant: str | None, *, yes: bool, dry_run: bool) -> None:
    """Delete ROLE: it gives nothing any more to whoever has it."""
    with cli.connect(tenant) as api:
        owner = cli.tenant(tenant, api)
        where = client.path("tenants", owner, "roles", role)
        found = api.get(where)
        if not cli.goes_on(
            f"delete role {role} of tenant {owner}", yes=yes, dry_run=dry_run, shown={"would_delete": found}
        ):
            return
        api.delete(where)
    if cli.out.as_json:
        cli.out.json({"deleted": role})
    else:
        cli.out.text(f"Deleted role {role}.")


def _show(cli: session.Session, role: client.Json) -> None:
    if cli.out.as_json:
        cli.out.json(role)
        return
    cli.out.fields(
        (
            ("role", role.get("name")),
            ("description", role.get("description")),
            ("gives", role.get("actions")),
            ("only for", _conditions(role)),
            ("changed (UTC)", output.moment(role.get("changed"))),
        )
    )


def _joined(items: Any) -> str:
    return ", ".join(str(item) for item in items or ())


def _conditions(role: client.Json) -> str:
    parts = [
        f"{what} {_joined(role.get(name))}"
        for name, what in (("servers", "servers"), ("tools", "tools"))
        if role.get(name)
    ]
    if role.get("read_only"):
        parts.append("tools that only read")
    return "; ".join(parts) or "–"
