"""What `smcp up` says once it is ready. Whole lines, without a frame, where something is meant to be copied."""

import json
import pathlib
import shlex
from collections.abc import Sequence

from smcp.cli import demo, output


def show(
    out: output.Output,
    url: str,
    file: pathlib.Path,
    operator: str | None,
    standing: demo.Standing | None,
    coming: Sequence[str],
) -> None:
    """The welcome. `coming` are servers that are being made meanwhile."""
    from rich import box
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    facts = Table.grid(padding=(0, 2))
    told = _facts(url, file, operator, standing)
    if coming:
        told.append(("To come", f"{', '.join(coming)}: a line each below, when it is live"))
    for name, value in told:
        facts.add_row(Text(name, style="bold"), Text(output.safe(value), overflow="fold"))
    out.show(Panel(facts, title="SMCP is ready", box=box.ROUNDED, expand=False, border_style="green"))
    if standing is not None:
        for heading, text in pastes(standing):
            out.show(Text(f"\n{heading}:", style="bold"))
            out.text(text)


def set_up_page(url: str) -> str:
    """Where the first account of the platform is made."""
    return f"{url}/account/platform/setup"


def set_up(out: output.Output, url: str, code: str) -> None:
    """How the first person gets an account. The code is shown this once."""
    from rich.text import Text

    out.show(Text("\nMake the first operator's account, within a day: open"))
    out.text(set_up_page(url))
    out.show(Text("and type this code, shown this once ('smcp user setup-link' makes another):"))
    out.text(code)


def _facts(url: str, file: pathlib.Path, operator: str | None, standing: demo.Standing | None) -> list[tuple[str, str]]:
    facts = [("Platform", url)]
    if standing is not None:
        facts.append(("Endpoint", standing.endpoint))
        facts.append(("API key", f"{'below and ' if standing.key else ''}in profile '{standing.profile}' of {file}"))
    if operator is not None:
        facts.append(("Operator", f"profile '{operator}' of {file}"))
    return facts


def pastes(standing: demo.Standing) -> list[tuple[str, str]]:
    """What to copy, as (heading, text). The key is in it at the first start only."""
    header = f"Bearer {standing.key or f'<the key of profile {standing.profile}>'}"
    server = {"type": "http", "url": standing.endpoint, "headers": {"Authorization": header}}
    once = [("The API key, shown this once", standing.key)] if standing.key else []
    return [
        *once,
        (
            "Add it to Claude Code",
            f'claude mcp add --transport http {demo.SERVER} {standing.endpoint} --header "Authorization: {header}"',
        ),
        ("Or to any client that reads mcpServers", json.dumps({"mcpServers": {demo.SERVER: server}}, indent=2)),
        ("Or try it here", shlex.join(standing.call)),
    ]
