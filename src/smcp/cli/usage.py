"""`smcp usage`: who used what, by server, principal, hour or day."""

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click

from smcp.cli import client, failures, output, session

PARTS: Final = ("server", "principal", "hour", "day")
_AGO: Final = re.compile(r"(?P<number>\d{1,5})(?P<unit>[hd])", re.ASCII)
_SECONDS: Final = {"h": 3600.0, "d": 86400.0}
_GIB_H: Final = 1024.0**3 * 3600.0


class Moment(click.ParamType[float]):
    """`2026-11-23`, `2026-11-23T10:00` (UTC), or `12h` or `7d` ago: seconds since the epoch."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        ago = _AGO.fullmatch(str(value))
        if ago is not None:
            return time.time() - int(ago["number"]) * _SECONDS[ago["unit"]]
        try:
            moment = datetime.fromisoformat(str(value))
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            self.fail(f"'{str(value)[:80]}' is no time, like 2026-11-23, 2026-11-23T10:00, 12h or 7d.", param, ctx)


@click.command("usage")
@session.tenant_option()
@click.option("--all", "everybody", is_flag=True, help="Every tenant, for operators.")
@click.option(
    "--by",
    default="server",
    show_default=True,
    metavar="PARTS",
    help="Any of server, principal, hour, day, with commas (with --all: hour or day); '' for one sum.",
)
@click.option("--from", "since", type=Moment(), help="Beginning (UTC), or how long ago: 12h, 7d. By default a day ago.")
@click.option("--to", "until", type=Moment(), help="End. By default now.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@session.remote
def usage_command(
    cli: session.Session,
    tenant: str | None,
    everybody: bool,
    by: str,
    since: float | None,
    until: float | None,
    as_csv: bool,
) -> None:
    """Show what a tenant used: calls, bytes, processor, memory, egress, storage."""
    if as_csv and cli.out.as_json:
        raise failures.Failure("usage", "Choose --csv or --json.", exit_code=failures.Exit.USAGE)
    parts = [part for part in by.split(",") if part]
    if everybody:
        parts = [part for part in parts if part != "server"]
    with cli.connect(None if everybody else tenant) as api:
        where = client.path("usage") if everybody else client.path("tenants", cli.tenant(tenant, api), "usage")
        asked: client.Json = {"by": ",".join(parts), "from": since, "to": until}
        items = list(api.items(where, **asked))
    if cli.out.as_json:
        cli.out.json({"items": items})
    elif as_csv:
        _csv(cli, items)
    else:
        _table(cli, items, [*(["tenant"] if everybody else []), *_times(parts), *_names(parts)])


def _times(parts: Sequence[str]) -> list[str]:
    return ["time"] if {"hour", "day"} & set(parts) else []


def _names(parts: Sequence[str]) -> list[str]:
    return [part for part in ("server", "principal") if part in parts]


def _csv(cli: session.Session, items: Sequence[client.Json]) -> None:
    from smcp.kernel import tables

    columns = list(items[0]) if items else []
    rows = ([_plain(name, item.get(name)) for name in columns] for item in items)
    cli.out.text(tables.comma_separated(columns, rows, end="\n").rstrip("\n"))


def _plain(name: str, value: object) -> object:
    if name == "time" and isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return "unknown" if value is None and name in ("cpu_s", "memory_byte_s") else value


def _table(cli: session.Session, items: Sequence[client.Json], names: Sequence[str]) -> None:
    columns = ("calls", "errors", "in", "out", "cpu s", "memory GiB h", "egress out", "egress in", "storage GiB h")
    rows = (
        (
            *(output.moment(item.get(name)) if name == "time" else item.get(name) or "–" for name in names),
            item.get("calls"),
            item.get("errors"),
            item.get("received_bytes"),
            item.get("sent_bytes"),
            _partly(_rounded(item.get("cpu_s"), 1.0, 1), item.get("cpu_unknown_s")),
            _partly(_rounded(item.get("memory_byte_s"), _GIB_H, 3), item.get("memory_unknown_s")),
            item.get("egress_sent_bytes"),
            item.get("egress_received_bytes"),
            _rounded(item.get("storage_byte_s"), _GIB_H, 3),
        )
        for item in items
    )
    cli.out.table((*names, *columns), rows, empty="No usage.")


def _rounded(value: object, unit: float, digits: int) -> str:
    return f"{value / unit:.{digits}f}" if isinstance(value, int | float) else "unknown"


def _partly(shown: str, unknown_s: object) -> str:
    """A number that is known for a part of the time only is at least that."""
    return f"≥ {shown}" if unknown_s and shown != "unknown" else shown
