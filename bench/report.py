"""What the bench found, as data and as a table."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from bench import calls, figures, sessions, translation, workers


class Facts(NamedTuple):
    """What is not a rate. MiB and milliseconds."""

    cold_start_ms: float
    warm_start_ms: float
    first_call_ms: float
    warm_call_ms: float
    idle_mib: float
    hosted_mib: float


class Calls(NamedTuple):
    """What calls through the platform cost."""

    rows: Sequence[calls.Row]
    facts: Facts


class Report(NamedTuple):
    """All of one run."""

    machine: str
    load: float
    """The machine's load average of one minute at the end: what else ran makes every figure worse."""
    calls: Calls | None
    sessions: sessions.Found | None
    translation: translation.Found | None
    workers: workers.Found | None
    sandbox: Sequence[figures.Figure]
    notes: Sequence[str]
    seconds: float

    def as_data(self) -> dict[str, object]:
        """For `--json`."""
        found: dict[str, object] = {"machine": self.machine, "load": self.load}
        if self.calls is not None:
            found |= {"rows": _as_data(self.calls.rows), **self.calls.facts._asdict()}
        if self.sessions is not None:
            streams = self.sessions.streams
            found["sessions"] = {
                **self.sessions._asdict(),
                "steps": [step._asdict() for step in self.sessions.steps],
                "streams": None if streams is None else streams._asdict(),
            }
        if self.translation is not None:
            found["translation"] = {
                "pairings": [row._asdict() for row in self.translation.rows],
                "idle": [one._asdict() for one in self.translation.idle],
            }
        if self.workers is not None:
            found["workers"] = {
                "rows": _as_data(self.workers.rows),
                "starts": [one._asdict() for one in self.workers.starts],
                "rests": [one._asdict() for one in self.workers.rests],
            }
        sandbox = [one._asdict() for one in self.sandbox]
        return {**found, "sandbox": sandbox, "notes": list(self.notes), "seconds": self.seconds}


def _as_data(rows: Sequence[calls.Row]) -> list[dict[str, object]]:
    return [
        {**row.sample._asdict(), **{name: value for name, value in row._asdict().items() if name != "sample"}}
        for row in rows
    ]


def show(report: Report) -> None:
    """Print the tables."""
    console = Console(width=120)
    if report.calls is not None:
        console.print(_calls(_CALLS, report.calls.rows))
        console.print(_facts(report.calls.facts))
        console.print()
    if report.sessions is not None:
        console.print(_sessions(report.sessions))
        console.print(_latencies(report.sessions))
        console.print()
    if report.translation is not None:
        console.print(_translation(report.translation))
        console.print(_idle(report.translation))
        console.print()
    if report.workers is not None:
        console.print(_calls(_WORKERS, report.workers.rows))
        console.print(_starts(report.workers.starts))
        console.print(_rests(report.workers.rests))
    if report.sandbox:
        console.print(_steps(report.sandbox))
    for note in report.notes:
        console.print(f"  {note}", markup=False, highlight=False)
    console.print(f"  {report.machine}; load {report.load:.1f}; {report.seconds:.0f} s", highlight=False)


def _table(title: str, first: str, *names: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column(first, no_wrap=True)
    for name in names:
        table.add_column(name, justify="right")
    return table


_COLUMNS: Final = (
    "CPU, child, load: processor time of the gateway, of the server\n"
    "behind it and of who measures, each call. MiB: the gateway's memory (Pss). open: a session and its first\n"
    "call. Each answer's id and text are checked: a figure stands for no error at all"
)
_CALLS: Final = (
    "tools/call of a lean echo server; the server's side on one core, the load on another.\n"
    f"ratio: calls/s beside the yardstick's. {_COLUMNS}"
)
_WORKERS: Final = (
    "tools/call of a lean Worker; two cores for everything, the load as well.\n"
    f"ratio: calls/s beside the first line's. {_COLUMNS}"
)


def _calls(title: str, rows: Sequence[calls.Row]) -> Table:
    table = _table(
        title,
        "what",
        *("calls/s", "ratio", "p50 ms", "p99 ms", "CPU µs", "child µs", "load µs", "MiB", "open ms"),
    )
    last = 0
    for row in rows:
        sample = row.sample
        if sample.connections != last:
            if last:
                table.add_section()
            table.add_row(f"[bold]{sample.connections} connection{'' if sample.connections == 1 else 's'}[/bold]")
        last = sample.connections
        table.add_row(
            f"  {row.name}",
            f"{sample.per_second:,.0f}",
            f"{row.ratio:.2f}",
            f"{sample.p50_ms:.2f}",
            f"{sample.p99_ms:.2f}",
            f"{sample.cpu_us:,.0f}",
            f"{row.hosted_us:.0f}" if row.hosted_us else "",
            f"{sample.load_us:.0f}",
            f"{row.memory_mib:.0f}",
            "" if row.open_ms is None else f"{row.open_ms:.1f}",
        )
    return table


def _grid(lines: Sequence[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for line in lines:
        table.add_row(*line)
    return table


def _facts(facts: Facts) -> Table:
    return _grid(
        [
            ("platform, first start / next start", f"{facts.cold_start_ms:,.0f} / {facts.warm_start_ms:,.0f} ms"),
            ("call that starts the server / warm call", f"{facts.first_call_ms:.0f} / {facts.warm_call_ms:.1f} ms"),
            ("memory, platform idle / hosted server", f"{facts.idle_mib:.0f} / {facts.hosted_mib:.0f} MiB"),
        ]
    )


def _sessions(found: sessions.Found) -> Table:
    table = _table(
        "legacy sessions over one shared child, 64 connections",
        *(
            "live sessions",
            "calls/s",
            "of the yardstick",
            "of the first",
            "CPU µs",
            "p99 ms",
            "platform MiB (Pss_Anon)",
        ),
    )
    for step in found.steps:
        table.add_row(
            f"{step.sessions:,}",
            f"{step.per_second:,.0f}",
            f"{step.of_yardstick:.2f}",
            f"{step.ratio:.2f}",
            f"{step.cpu_us:.0f}",
            f"{step.p99_ms:.2f}",
            f"{step.anon_kib / 1024:.1f}",
        )
    return table


def _latencies(found: sessions.Found) -> Table:
    lines: list[tuple[str, str]] = []
    if found.session_kib is not None:
        lines.append(("each session (growth of Pss_Anon in the last step)", f"{found.session_kib:.1f} KiB"))
    for name, taken in (
        ("session and first call, shared child", found.shared_ms),
        ("… Python server, a spare stands ready", found.spare_ms),
        ("… Python server, cold", found.cold_ms),
    ):
        if taken is not None:
            lines.append((name, f"{taken:.1f} ms"))
    if found.streams is not None:
        streams = found.streams
        told = f"{streams.kib:.1f} KiB each, {streams.cpu_ms:.1f} ms of CPU a second for all"
        lines.append((f"{streams.number:,} idle event streams", told))
    return _grid(lines)


def _translation(found: translation.Found) -> Table:
    table = _table(
        f"clients and servers of both eras, {translation.CONNECTIONS} connections\n"
        "ratios: beside the same client's calls to a server of its own era",
        "client",
        *("server", "calls/s", "ratio", "p50 ms", "CPU µs", "ratio", "server µs"),
    )
    for row in found.rows:
        table.add_row(
            row.client,
            row.server,
            f"{row.per_second:,.0f}",
            f"{row.ratio:.2f}",
            f"{row.p50_ms:.2f}",
            f"{row.cpu_us:.0f}",
            f"{row.cpu_ratio:.2f}",
            f"{row.hosted_us:.0f}",
        )
    return table


def _idle(found: translation.Found) -> Table:
    names = ("sessions", "platform, each", "copies of the server", "a copy")
    table = _table("idle legacy sessions, each called once", "", *names)
    for one in found.idle:
        table.add_row(
            one.how, f"{one.sessions:,}", f"{one.platform_kib:.1f} KiB", f"{one.copies:,}", f"{one.copy_mib:.1f} MiB"
        )
    return table


def _starts(found: Sequence[workers.Start]) -> Table:
    names = ("p50 ms", "asked", "p99 ms", "starts")
    table = _table("a call to a Worker that was stopped, to its answer through the endpoint", "", *names)
    for one in found:
        table.add_row(one.label, f"{one.p50_ms:.0f}", f"< {one.asked_ms:.0f}", f"{one.p99_ms:.0f}", f"{one.samples}")
    return table


def _rests(found: Sequence[workers.Rest]) -> Table:
    names = ("running", "MB each, private", "the largest", "stopped", "processes at most", "left")
    table = _table("Workers that nobody asks anything, each of a tenant of its own", "", *names)
    for one in found:
        table.add_row(
            one.label,
            f"{one.running}",
            f"{one.each_mb:.1f}",
            f"{one.most_mb:.1f}",
            f"{one.stopped}",
            f"{one.most}",
            f"{one.left}",
        )
    return table


def _steps(found: Sequence[figures.Figure]) -> Table:
    table = Table(title="what single steps cost", box=box.SIMPLE_HEAD, title_justify="left")
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
