"""`smcp server …`: what runs, what it says, and which version is live."""

import time
from collections.abc import Iterable
from typing import Final

import click

from smcp.cli import client, failures, output, session

_WAIT_S: Final = 25.0
"""How long the platform may keep a question for the next line: less than proxies wait for an answer."""
_PACE_S: Final = 0.25
"""From one question to the next, however fast a server writes: a key has only so many a minute."""

_target = click.argument("target", metavar="TENANT/SERVER", type=session.TargetType())


@click.group("server")
def server_command() -> None:
    """Look at hosted servers, stop, start, roll back and delete them."""


def _path(target: session.Target, *more: str) -> str:
    return client.path("tenants", target.tenant, "servers", target.server, *more)


@server_command.command("list")
@session.tenant_option()
@session.remote
def list_servers(cli: session.Session, tenant: str | None) -> None:
    """List a tenant's servers."""
    with cli.connect(tenant) as api:
        owner = cli.tenant(tenant, api)
        items = list(api.items(client.path("tenants", owner, "servers")))
    if cli.out.as_json:
        cli.out.json({"items": items})
        return
    rows = (
        (f"{owner}/{item.get('name')}", item.get("desired"), item.get("live"), output.moment(item.get("created")))
        for item in items
    )
    cli.out.table(
        ("server", "state", "live deployment", "created (UTC)"),
        rows,
        empty=f"Tenant {owner} has no servers. 'smcp deploy pypi:mcp-server-time --tenant {owner}' makes one.",
    )


@server_command.command("show")
@_target
@session.remote
def show(cli: session.Session, target: session.Target) -> None:
    """Show a server: its endpoint, what is live, what runs."""
    with cli.connect(target.tenant) as api:
        _show(cli, target, api.get(_path(target)))


@server_command.command("logs")
@_target
@click.option("--follow", "-f", is_flag=True, help="Go on printing new lines until interrupted.")
@click.option("--after", metavar="POSITION", type=click.IntRange(0), help="Only lines after this position.")
@click.option("--limit", type=click.IntRange(1, 100_000), help="At most this many lines; by default all.")
@session.remote
def logs(cli: session.Session, target: session.Target, *, follow: bool, after: int | None, limit: int | None) -> None:
    """Print what a server wrote to its log. With --json, one object a line."""
    with cli.connect(target.tenant) as api:
        position = _print_logs(cli, api.items(_path(target, "logs"), after=after, limit=limit), after)
        if follow:
            _follow(cli, api, target, position)


def _follow(cli: session.Session, api: client.Client, target: session.Target, position: int | None) -> None:
    """Print each line as it comes, until Ctrl-C."""
    try:
        while True:
            asked = time.monotonic()
            page = api.get(_path(target, "logs"), after=position, wait=_WAIT_S)
            position = _print_logs(cli, page.get("items") or [], position)
            if not api.wait_for(max(0.0, asked + _PACE_S - time.monotonic())):
                return
    except KeyboardInterrupt as error:
        # That is how one ends this, so there is nothing to say about it.
        raise click.exceptions.Exit(failures.Exit.INTERRUPTED) from error


def _print_logs(cli: session.Session, lines: Iterable[client.Json], after: int | None) -> int | None:
    for line in lines:
        after = line.get("position", after)
        if cli.out.as_json:
            cli.out.json(line)
        else:
            cli.out.text(f"{output.moment(line.get('time'))}  {line.get('text')}")
    return after


@server_command.command("stop")
@_target
@session.remote
def stop(cli: session.Session, target: session.Target) -> None:
    """Stop a server; its endpoint answers 503 until it is started."""
    with cli.connect(target.tenant) as api:
        _show(cli, target, api.post(_path(target, "stop")))


@server_command.command("start")
@_target
@session.remote
def start(cli: session.Session, target: session.Target) -> None:
    """Start a stopped server."""
    with cli.connect(target.tenant) as api:
        _show(cli, target, api.post(_path(target, "start")))


@server_command.command("rollback")
@_target
@click.option("--to", metavar="DEPLOYMENT", help="By default the one before the live one.")
@session.remote
def rollback(cli: session.Session, target: session.Target, to: str | None) -> None:
    """Make an earlier deployment live again."""
    with cli.connect(target.tenant) as api:
        _show(cli, target, api.post(_path(target, "rollback"), {"to": to} if to else {}))


@server_command.command("deployments")
@_target
@session.remote
def deployments(cli: session.Session, target: session.Target) -> None:
    """List a server's deployments."""
    with cli.connect(target.tenant) as api:
        items = list(api.items(_path(target, "deployments")))
    if cli.out.as_json:
        cli.out.json({"items": items})
        return
    rows = (
        (
            item.get("number"),
            item.get("id"),
            item.get("source"),
            output.moment(item.get("created")),
            item.get("by"),
            "live" if item.get("live") else "",
        )
        for item in items
    )
    cli.out.table(("number", "deployment", "source", "created (UTC)", "by", ""), rows, empty="No deployments.")


@server_command.command("delete")
@_target
@session.destructive
@session.remote
def delete(cli: session.Session, target: session.Target, *, yes: bool, dry_run: bool) -> None:
    """Delete a server with its deployments and secrets."""
    with cli.connect(target.tenant) as api:
        found = api.get(_path(target))
        what = f"delete server {target} with all its deployments and secrets"
        if not cli.goes_on(what, session.FOR_GOOD, yes=yes, dry_run=dry_run, shown={"would_delete": found}):
            return
        api.delete(_path(target))
    if cli.out.as_json:
        cli.out.json({"deleted": str(target)})
    else:
        cli.out.text(f"Deleted {target}.")


def _show(cli: session.Session, target: session.Target, server: client.Json) -> None:
    if cli.out.as_json:
        cli.out.json(server)
        return
    deployment = client.mapping(server.get("deployment"))
    cli.out.fields(
        (
            ("server", str(target)),
            ("state", server.get("desired")),
            ("endpoint", server.get("endpoint")),
            ("live", server.get("live")),
            ("source", deployment.get("source")),
            *_remote(client.mapping(deployment.get("remote"))),
            ("tools", [client.mapping(tool).get("name") for tool in deployment.get("tools") or ()]),
            ("instances", server.get("instances")),
            *_running(client.mapping(server.get("running"))),
            ("created", output.moment(server.get("created"))),
        )
    )


def _remote(found: client.Json) -> tuple[tuple[str, object], ...]:
    """How a server is reached that runs elsewhere."""
    if not found:
        return ()
    headers = [f"{name} from the secret {secret}" for name, secret in client.mapping(found.get("headers")).items()]
    return (("runs", "elsewhere (remote)"), ("speaks", found.get("wire")), ("headers", headers))


def _running(found: client.Json) -> tuple[tuple[str, object], ...]:
    """What runs, as far as there is something to tell."""
    copies = [client.mapping(one) for one in found.get("copies") or ()]
    told = [
        f"{one.get('kind')}, {one.get('state')}, {one.get('outstanding')} in flight, {one.get('age_s')} s"
        for one in copies
    ]
    broken = found.get("breaker") not in (None, "closed")
    trouble = f"{found.get('breaker')}: its copies keep ending; next try in {found.get('retry_s')} s"
    return (("copies", told), *((("breaker", trouble),) if broken else ()))
