"""`smcp volume …`: what servers keep, and how to go back."""

from typing import Final

import click

from smcp.cli import client, output, session

_target: Final = click.argument("target", metavar="TENANT/SERVER", type=session.TargetType())


@click.group("volume")
def volume_command() -> None:
    """Show, save, restore and delete what servers keep."""


def _path(target: session.Target, *more: str) -> str:
    return client.path("tenants", target.tenant, "servers", target.server, "volume", *more)


@volume_command.command("show")
@_target
@session.remote
def show(cli: session.Session, target: session.Target) -> None:
    """Show a server's volume and its snapshots, newest first."""
    with cli.connect(target.tenant) as api:
        found = api.get(_path(target))
    if cli.out.as_json:
        cli.out.json(found)
        return
    cli.out.fields(
        (
            ("volume", str(target)),
            ("path", found.get("path")),
            ("size", _amount(found.get("size_bytes"))),
            ("used", f"{_amount(found.get('used_bytes'))} in the newest snapshot"),
            ("state", "in use" if found.get("open") else "at rest"),
            ("not stored", found.get("unsaved")),
        )
    )
    rows = (
        (
            one.get("id"),
            output.moment(one.get("time")),
            _amount(one.get("bytes")),
            str(one.get("digest"))[:12],
            one.get("note"),
        )
        for one in map(client.mapping, found.get("snapshots") or ())
    )
    cli.out.table(("snapshot", "taken (UTC)", "size", "digest", "note"), rows, empty="No snapshots yet.")


@volume_command.command("snapshot")
@_target
@session.remote
def snapshot(cli: session.Session, target: session.Target) -> None:
    """Take a snapshot now, if anything has changed since the last one."""
    with cli.connect(target.tenant) as api:
        _tell(cli, "The newest snapshot is", api.post(_path(target, "snapshots")))


@volume_command.command("restore")
@_target
@click.argument("snapshot", metavar="[SNAPSHOT]", required=False)
@session.destructive
@session.remote
def restore(cli: session.Session, target: session.Target, snapshot: str | None, *, yes: bool, dry_run: bool) -> None:
    """Go back to a snapshot; by default the newest that holds something else than now.

    The server's copies end, with their sessions. What is there now stays in the history.
    """
    to = f"snapshot {snapshot}" if snapshot else "the state before the newest"
    with cli.connect(target.tenant) as api:
        shown = {"would_restore": snapshot, "volume": api.get(_path(target))} if dry_run else {}
        what = f"end the copies of {target} and take its volume back to {to}"
        if not cli.goes_on(what, yes=yes, dry_run=dry_run, shown=shown):
            return
        _tell(cli, "Restored as", api.post(_path(target, "restore"), {"snapshot": snapshot} if snapshot else {}))


@volume_command.command("delete")
@_target
@session.destructive
@session.remote
def delete(cli: session.Session, target: session.Target, *, yes: bool, dry_run: bool) -> None:
    """Delete a server's volume with all its snapshots."""
    with cli.connect(target.tenant) as api:
        found = api.get(_path(target))
        what = f"delete the volume of {target} with {len(found.get('snapshots') or ())} snapshots"
        if not cli.goes_on(what, session.FOR_GOOD, yes=yes, dry_run=dry_run, shown={"would_delete": found}):
            return
        api.delete(_path(target))
    if cli.out.as_json:
        cli.out.json({"deleted": str(target)})
    else:
        cli.out.text(f"Deleted the volume of {target}.")


def _tell(cli: session.Session, words: str, found: client.Json) -> None:
    if cli.out.as_json:
        cli.out.json(found)
        return
    note = f" ({found.get('note')})" if found.get("note") else ""
    cli.out.text(f"{words} {found.get('id')}, {_amount(found.get('bytes'))}{note}.")


def _amount(size: object) -> str:
    if not isinstance(size, int):
        return "–"
    for unit, least in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if size >= least:
            return f"{size / least:.1f} {unit}"
    return f"{size} bytes"
