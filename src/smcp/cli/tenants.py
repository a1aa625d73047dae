"""`smcp tenant …`: the operator's view of tenants."""

import click

from smcp.cli import client, complete, output, session


@click.group("tenant")
def tenant_command() -> None:
    """Create, list and suspend tenants (operator)."""


_name = click.argument("tenant", metavar="TENANT", shell_complete=complete.tenants)


@tenant_command.command("create")
@click.argument("tenant", metavar="TENANT")
@click.option("--display-name", metavar="TEXT", help="A name for people.")
@session.remote
def create(cli: session.Session, tenant: str, display_name: str | None) -> None:
    """Create a tenant."""
    body: client.Json = {"id": tenant}
    if display_name:
        body["display_name"] = display_name
    with cli.connect() as api:
        made = api.post(client.path("tenants"), body)
    _show(cli, made)
    cli.out.note(f"Next: smcp key create --tenant {tenant} --role admin --save-profile {tenant}")


@tenant_command.command("list")
@session.remote
def list_tenants(cli: session.Session) -> None:
    """List the tenants."""
    with cli.connect() as api:
        items = list(api.items(client.path("tenants")))
    if cli.out.as_json:
        cli.out.json({"items": items})
        return
    rows = (
        (item.get("id"), item.get("display_name"), item.get("state"), output.moment(item.get("created")))
        for item in items
    )
    cli.out.table(
        ("tenant", "name", "state", "created (UTC)"), rows, empty="No tenants yet. 'smcp tenant create NAME' makes one."
    )


@tenant_command.command("show")
@_name
@session.remote
def show(cli: session.Session, tenant: str) -> None:
    """Show one tenant."""
    with cli.connect(tenant) as api:
        _show(cli, api.get(client.path("tenants", tenant)))


@tenant_command.command("suspend")
@_name
@session.remote
def suspend(cli: session.Session, tenant: str) -> None:
    """Refuse every request of a tenant, at once; nothing is deleted."""
    with cli.connect() as api:
        _show(cli, api.post(client.path("tenants", tenant, "suspend")))


@tenant_command.command("resume")
@_name
@session.remote
def resume(cli: session.Session, tenant: str) -> None:
    """Serve a suspended tenant again."""
    with cli.connect() as api:
        _show(cli, api.post(client.path("tenants", tenant, "resume")))


def _show(cli: session.Session, tenant: client.Json) -> None:
    if cli.out.as_json:
        cli.out.json(tenant)
        return
    cli.out.fields(
        (
            ("tenant", tenant.get("id")),
            ("name", tenant.get("display_name")),
            ("state", tenant.get("state")),
            ("plan", tenant.get("plan")),
            ("created", output.moment(tenant.get("created"))),
        )
    )
