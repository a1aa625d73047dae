"""`smcp limits`: what a tenant may take, and what is left of it."""

from typing import Any

import click

from smcp.cli import client, output, session


@click.command("limits")
@session.tenant_option()
@session.remote
def limits_command(cli: session.Session, tenant: str | None) -> None:
    """Show a tenant's limits: what is used, what is left, and what is getting narrow."""
    with cli.connect(tenant) as api:
        found = api.get(client.path("tenants", cli.tenant(tenant, api), "limits"))
    if cli.out.as_json:
        cli.out.json(found)
        return
    show(cli, found)


def show(cli: session.Session, found: client.Json) -> None:
    """Print what the API answers about limits."""
    plan = f"{found.get('plan')} (on {found.get('base')})" if found.get("base") else found.get("plan")
    cli.out.fields((("tenant", found.get("tenant")), ("plan", plan)))
    rows(cli, found.get("limits"))


def rows(cli: session.Session, limits: Any) -> None:
    """Print limits as a table."""
    listed = [client.mapping(one) for one in limits or ()]
    cells = (
        (
            one.get("name"),
            amount(one.get("used"), one.get("unit")),
            amount(one.get("limit"), one.get("unit")),
            _percent(one.get("used"), one.get("limit")),
            output.moment(one.get("resets")),
            one.get("state"),
        )
        for one in listed
    )
    cli.out.table(("limit", "used", "of", "", "some back (UTC)", "state"), cells, empty="No limits.")


def amount(number: object, unit: object) -> str:
    """A number for people, with its unit where that is bytes."""
    if not isinstance(number, int):
        return "–"
    if unit == "bytes":
        for name, least in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
            if number >= least:
                return f"{number / least:.1f} {name}"
        return f"{number} bytes"
    return f"{number:,}"


def _percent(used: object, most: object) -> str:
    if not isinstance(used, int) or not isinstance(most, int):
        return ""
    return f"{100 * used // most} %" if most else ""
