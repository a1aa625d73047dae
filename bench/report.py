"""What the bench found, as data and as a table."""

from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from bench import figures, load


class Row(NamedTuple):
    """One line: what was asked, at how many connections."""

    name: str
    sample: load.Sample
    hosted_us: float
    """CPU of the hosted server (and its walls) per call; 0 for the yardstick."""
    ratio: float
    """Calls a second, as a share of the yardstick's at as many connections."""


class Facts(NamedTuple):
    """What is not a rate. MiB, KiB and milliseconds."""

    cold_start_ms: float
    warm_start_ms: float
    first_call_ms: float
    warm_call_ms: float
    idle_mib: float
    hosted_mib: float
    sessions: int
    session_ms: float
    session_kib: float
    session_hosted_kib: float


class Calls(NamedTuple):
    """What calls through the platform cost."""

    rows: Sequence[Row]
    facts: Facts


class Report(NamedTuple):
    """All of one run."""

    machine: str
    load: float
    """The machine's load average of one minute at the end: what else ran makes every figure worse."""
    calls: Calls | None
    sandbox: Sequence[figures.Figure]
    notes: Sequence[str]
    seconds: float

    def as_data(self) -> dict[str, object]:
        """For `--json`."""
        found: dict[str, object] = {"machine": self.machine, "load": self.load}
        if self.calls is not None:
            rows = [
                {"name": row.name, **row.sample._asdict(), "hosted_us": row.hosted_us, "ratio": row.ratio}
                for row in self.calls.rows
            ]
            found |= {"rows": rows, **self.calls.facts._asdict()}
        sandbox = [one._asdict() for one in self.sandbox]
        return {**found, "sandbox": sandbox, "notes": list(self.notes), "seconds": self.seconds}


def show(report: Report) -> None:
    """Print the tables."""
    console = Console(width=110)
    if report.calls is not None:
        console.print(_calls(report.calls.rows))
        console.print(_facts(report.calls.facts))
        console.print()
    if report.sandbox:
        console.print(_sandbox(report.sandbox))
    for note in report.notes:
        console.print(f"  {note}", markup=False, highlight=False)
    console.print(f"  {report.machine}; load {report.load:.1f}; {report.seconds:.0f} s", highlight=False)


def _calls(rows: Sequence[Row]) -> Table:
    table = Table(
        title="tools/call through SMCP, beside a bare uvicorn app; CPU per call, on one core",
        box=box.SIMPLE_HEAD,
        title_justify="left",
    )
    table.add_column("what", no_wrap=True)
    for name in ("connections", "calls/s", "p50 ms", "p99 ms", "CPU µs", "hosted µs", "of yardstick"):
        table.add_column(name, justify="right")
    last = ""
    for row in rows:
        if row.name != last and last:
            table.add_section()
        sample = row.sample
        table.add_row(
            "" if row.name == last else row.name,
            str(sample.connections),
            f"{sample.per_second:,.0f}",
            f"{sample.p50_ms:.2f}",
            f"{sample.p99_ms:.2f}",
            f"{sample.cpu_us:.0f}",
            f"{row.hosted_us:.0f}" if row.hosted_us else "",
            f"{row.ratio:.0%}",
        )
        last = row.name
    return table


def _facts(facts: Facts) -> Table:
    lines = Table.grid(padding=(0, 2))
    for name, text in (
        ("platform, first start / next start", f"{facts.cold_start_ms:,.0f} / {facts.warm_start_ms:,.0f} ms"),
        ("call that starts the server / warm call", f"{facts.first_call_ms:.0f} / {facts.warm_call_ms:.1f} ms"),
        ("memory, platform idle / hosted server", f"{facts.idle_mib:.0f} / {facts.hosted_mib:.0f} MiB"),
        (
            f"each of {facts.sessions} legacy sessions, platform / its server",
            f"{facts.session_kib:.0f} / {facts.session_hosted_kib:,.0f} KiB, {facts.session_ms:.0f} ms to open",
        ),
    ):
        lines.add_row(name, text)
    return lines


def _sandbox(found: Sequence[figures.Figure]) -> Table:
    table = Table(title="what the sandbox costs", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("", no_wrap=True)
    for name in ("median", "p95", "of bare"):
        table.add_column(name, justify="right", no_wrap=True)
    last = ("", "")
    for one in found:
        if (one.topic, one.subject) != last:
            if any(last):
                table.add_section()
            table.add_row(f"[bold]{one.topic}: {one.subject}[/bold]")
        table.add_row(
            f"  {one.how}",
            f"{one.median:,.2f} {one.unit}",
            f"{one.p95:,.2f} {one.unit}" if one.samples > 1 else "",
            "" if one.ratio is None else f"{one.ratio:,.1f}×",
        )
        last = (one.topic, one.subject)
    return table
