"""Following long work: an operation's steps, live at a terminal and line by line elsewhere."""

import contextlib
import sys
from collections.abc import Callable, Generator
from typing import Final

import click

from smcp.cli import client, failures, output

_WAIT_S: Final = 0.25
_MOST_S: Final = 1.0
_LATER: Final = 1.1

Tell = Callable[[str], None]
"""Takes one line of progress."""


def follow(api: client.Client, operation: client.Json, tell: Tell) -> client.Json:
    """The operation once it is over; `tell` gets each step soon after it happens.

    The platform answers when it has ended, or after a moment that grows: a key has only so many questions a minute."""
    where = client.path("tenants", str(operation.get("tenant")), "operations", str(operation.get("id")))
    told, wait_s = 0, _WAIT_S
    while True:
        steps: list[client.Json] = operation.get("steps") or []
        for step in steps[told:]:
            tell(f"{step.get('stage')}: {step.get('text')}")
        told = len(steps)
        if operation.get("state") != "running":
            return operation
        if not api.wait_for(0.0):
            raise failures.Failure("interrupted", "Interrupted.", exit_code=failures.Exit.INTERRUPTED)
        operation = api.get(where, wait=wait_s)
        wait_s = min(_MOST_S, wait_s * _LATER)


def succeeded(operation: client.Json) -> client.Json:
    """`operation`, or its error raised."""
    if operation.get("state") == "succeeded":
        return operation
    raise failures.Failure(
        "deploy_failed",
        str(operation.get("error") or "The deployment failed."),
        hint="What was live before still is.",
        data=operation,
    )


@contextlib.contextmanager
def progress(out: output.Output, title: str) -> Generator[Tell]:
    """Progress on stderr: a spinner with the latest step at a terminal, else plain lines; nothing with `--json`."""
    if out.as_json:
        yield lambda line: None
        return
    if not sys.stderr.isatty():
        click.echo(output.safe(title), err=True)
        yield lambda line: click.echo(f"  {output.safe(line)}", err=True)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False)
    with console.status(Text(output.safe(title))) as status:

        def tell(line: str) -> None:
            console.print(Text(f"  {output.safe(line)}", style="dim"))
            status.update(Text(f"{output.safe(title)} · {output.safe(line)}"))

        yield tell
