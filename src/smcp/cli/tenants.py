"""`smcp tenant …`: the operator's view of tenants."""

from collections.abc import Sequence

import click

from smcp.cli import client, complete, failures, limits, output, session


@click.group("tenant")
def tenant_command() -> None:
    """Create, list and suspend tenants, and set their plans (operator)."""


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


@tenant_command.command("plan")
@_name
@click.argument("plan", metavar="[free|standard|custom]", type=click.Choice(("free", "standard", "custom")))
@click.option("--base", type=click.Choice(("free", "standard")), help="What a custom plan changes (standard).")
@click.option("--limit", "numbers", metavar="NAME=NUMBER", multiple=True, help="A custom plan's own number; repeat it.")
@click.option("--dry-run", is_flag=True, help="Say what would be above the new plan; change nothing.")
@session.remote
def plan(
    cli: session.Session, tenant: str, plan: str, base: str | None, numbers: tuple[str, ...], *, dry_run: bool
) -> None:
    """Give a tenant another plan; 'smcp limits' lists what can be limited."""
    body: client.Json = {"plan": plan}
    if base:
        body["base"] = base
    if numbers:
        body["limits"] = _numbers(numbers)
    with cli.connect() as api:
        found = api.put(client.path("tenants", tenant, "plan"), body, dry_run="true" if dry_run else None)
    if cli.out.as_json:
        cli.out.json(found)
        return
    limits.show(cli, client.mapping(found.get("limits")))
    above = found.get("above")
    if above:
        cli.out.note("Used above the new plan; nothing goes, but nothing more is let in:")
        limits.rows(cli, above)
    if dry_run:
        cli.out.note("Nothing was changed.")


@tenant_command.command("rotate-signing-key")
@_name
@click.option("--now", "end_now", is_flag=True, help="Refuse at once what the keys before have signed: after a leak.")
@session.destructive
@session.remote
def rotate_signing_key(cli: session.Session, tenant: str, *, end_now: bool, yes: bool, dry_run: bool) -> None:
    """Sign a tenant's access tokens with a new key.

    That happens by itself every 90 days. What the keys before have signed stays good until it ends, an hour at most.
    With --now it is refused from the next request on; clients get new access tokens by themselves, and nobody has to
    log in again.
    """
    with cli.connect(tenant) as api:
        if end_now and not dry_run:
            cli.confirm(f"Refuse every access token of tenant {tenant} that was made before now?", yes=yes)
        where = client.path("tenants", tenant, "signing-key", "rotate")
        done = api.post(where, {"end_now": end_now}, dry_run="true" if dry_run else None)
    if cli.out.as_json:
        cli.out.json(done)
        return
    cli.out.fields(
        (
            ("new key", done.get("key")),
            ("good until their tokens end", done.get("kept")),
            ("refused from now on", done.get("ended")),
        )
    )
    if dry_run:
        cli.out.note("Nothing was changed.")


def _numbers(texts: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for text in texts:
        name, _, number = text.partition("=")
        if not number.isascii() or not number.isdigit():
            raise failures.Failure(
                "usage",
                f"'{text[:80]}' is not NAME=NUMBER, for example tenant_per_minute=5000.",
                exit_code=failures.Exit.USAGE,
            )
        found[name] = int(number)
    return found


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
