"""`smcp audit …`: what happened, and whether the record of it is whole."""

import json

import click

from smcp.cli import client, failures, output, session


@click.group("audit")
def audit_command() -> None:
    """Read and verify the audit trail."""


@audit_command.command("show")
@session.tenant_option()
@click.option("--after", metavar="POSITION", type=click.IntRange(0), help="Only entries after this position.")
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="At most this many entries."
)
@session.remote
def show(cli: session.Session, tenant: str | None, after: int | None, limit: int) -> None:
    """Print a tenant's audit entries, oldest first. Operators: --tenant platform for the platform's own."""
    with cli.connect(tenant) as api:
        items = list(api.items(client.path("tenants", cli.tenant(tenant, api), "audit"), after=after, limit=limit))
    if cli.out.as_json:
        cli.out.json({"items": items})
        return
    rows = ((item.get("position"), output.moment(item.get("time")), *_event(item)) for item in items)
    cli.out.table(("position", "time (UTC)", "event", "actor", "outcome", "details"), rows, empty="No entries.")


@audit_command.command("verify")
@session.tenant_option()
@session.remote
def verify(cli: session.Session, tenant: str | None) -> None:
    """Check the hash chain: is any entry changed, removed or reordered?"""
    with cli.connect(tenant) as api:
        owner = cli.tenant(tenant, api)
        report = api.post(client.path("tenants", owner, "audit", "verify"))
    whole = report.get("ok") is True
    if cli.out.as_json:
        cli.out.json(report)
    elif whole:
        cli.out.text(
            f"The audit trail of {owner} is whole: "
            f"{report.get('entries')} entries, {report.get('checkpoints')} checkpoints."
        )
    if not whole:
        raise failures.Failure(
            "audit_broken",
            f"The audit trail of {owner} is not whole at position {report.get('position')}: {report.get('problem')}",
            hint="Keep the data as it is and find out who could write to it.",
        )


def _event(item: client.Json) -> tuple[object, object, object, str]:
    event = dict(client.mapping(item.get("event")))
    kind, actor, outcome = (event.pop(name, None) for name in ("event", "actor", "outcome"))
    for name in ("tenant", "request_id"):
        event.pop(name, None)
    details = " ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in event.items()
        if value not in (None, "")
    )
    return kind, actor, outcome, details
