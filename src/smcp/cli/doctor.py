"""`smcp doctor`: is this machine fit to run a platform?"""

import pathlib
from typing import TYPE_CHECKING

import click

from smcp.cli import failures, output, session

if TYPE_CHECKING:
    from smcp.ops import doctor


@click.command("doctor")
@click.option("--data", metavar="DIR", help="The data directory; by default the one that 'smcp up' uses.")
@click.option("--config", type=click.Path(dir_okay=False, path_type=pathlib.Path), help="The platform's settings file.")
@session.local
def doctor_command(cli: session.Session, data: str | None, config: pathlib.Path | None) -> None:
    """Check this machine and say what to do about each gap."""
    from smcp.cli import datadir
    from smcp.ops import doctor

    checks = doctor.run(datadir.load_settings(config, {"platform": {"data_dir": data}}))
    failed = [check for check in checks if check.status is doctor.Status.FAIL]
    if cli.out.as_json:
        items = [{"name": one.name, "status": one.status, "why": one.why, "fix": one.fix} for one in checks]
        cli.out.json({"ok": not failed, "checks": items})
    else:
        for check in checks:
            show(check)
    if failed:
        raise failures.Failure("unfit", f"{len(failed)} of {len(checks)} checks failed: SMCP can't run here yet.")


def show(check: "doctor.Check", *, err: bool = False) -> None:
    """One finding for people, with what to do about it."""
    mark, colour = {"ok": ("✓", "green"), "warn": ("!", "yellow")}.get(check.status, ("✗", "red"))
    click.echo(f"{click.style(mark, fg=colour)} {check.name}: {output.safe(check.why)}", err=err)
    if check.fix:
        click.echo(f"    {output.safe(check.fix)}", err=err)
