"""How commands speak: text for people, or one JSON document on stdout with `--json`.

Much of what is printed was written by strangers (tool results, log lines, tool descriptions). For people every
control character is made visible, so that a hosted server can't drive the terminal that reads it (escape
sequences that retitle, overwrite or type); JSON escapes them by itself.
"""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from smcp.cli import failures

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

# C0 (without tab and newline), DEL, C1, and the bidirectional controls that reorder text (Unicode TR 36).
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def safe(text: object) -> str:
    """`text` with every control character made visible."""
    return _UNSAFE.sub(lambda match: f"\\x{ord(match[0]):02x}", str(text))


def moment(seconds: object) -> str:
    """Seconds since the epoch as UTC for people; '–' for None."""
    if not isinstance(seconds, int | float):
        return "–"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


class Output:
    """Where one command prints."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._console: Console | None = None

    @property
    def console(self) -> "Console":
        """The people's console on stdout. Made late: rich is needed by few commands."""
        if self._console is None:
            from rich.console import Console

            # Without a terminal rich assumes 80 columns and would fold what a pipe wants whole.
            width = None if sys.stdout.isatty() else 200
            self._console = Console(width=width, highlight=False)
        return self._console

    def json(self, value: object) -> None:
        """One JSON document on one line."""
        click.echo(json.dumps(value, separators=(",", ":")))

    def text(self, text: str) -> None:
        """Lines for people."""
        click.echo(safe(text))

    def note(self, text: str) -> None:
        """A remark beside the result: stderr, and only for people."""
        if not self.as_json:
            click.echo(safe(text), err=True)

    def progress(self, text: str, value: object) -> None:
        """What somebody has to see before there is a result: on stderr, with `--json` as a document of its own."""
        click.echo(json.dumps(value, separators=(",", ":")) if self.as_json else safe(text), err=True)

    def show(self, renderable: "RenderableType") -> None:
        """A rich table or panel; its texts have been made safe by who built it."""
        self.console.print(renderable)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
        """Rows for people, or the line `empty`."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
        for name in columns:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*(Text(safe("–" if cell is None else cell)) for cell in row))
        if table.row_count:
            self.console.print(table)
        else:
            self.text(empty)

    def fields(self, pairs: Iterable[tuple[str, object]]) -> None:
        """One thing, a field a line."""
        shown = [(name, value) for name, value in pairs if value not in (None, "", [], ())]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            text = ", ".join(map(str, _items(value))) if isinstance(value, list | tuple) else str(value)
            click.echo(f"{click.style(name.ljust(width), bold=True)}  {safe(text)}")

    def failure(self, failure: failures.Failure) -> None:
        """An error on stderr."""
        if self.as_json:
            click.echo(json.dumps(failure.as_json(), separators=(",", ":")), err=True)
            return
        click.echo(f"{click.style('Error:', fg='red', bold=True)} {safe(failure.message)}", err=True)
        if failure.hint:
            click.echo(safe(failure.hint), err=True)
        if failure.request_id:
            click.echo(f"(request {safe(failure.request_id)})", err=True)


def _items(value: Any) -> list[object]:
    return list(value)
