"""`smcp reset`: start over on this machine."""

import pathlib

import click

from smcp.cli import session


@click.command("reset")
@click.option("--data", metavar="DIR", help="The data directory; by default the one that 'smcp up' uses.")
@click.option("--config", type=click.Path(dir_okay=False, path_type=pathlib.Path), help="The platform's settings file.")
@session.destructive
@session.local
def reset_command(
    cli: session.Session, data: str | None, config: pathlib.Path | None, *, yes: bool, dry_run: bool
) -> None:
    """Remove this machine's platform data and the profiles that 'smcp up' made for it.

    Every tenant, server, key and audit entry is gone for good. Refused while the platform runs.
    """
    from smcp.cli import datadir

    loaded = datadir.load_settings(config, {"platform": {"data_dir": data}})
    place = datadir.DataDir(pathlib.Path(loaded.platform.data_dir))
    notes = place.notes()
    with place.hold():
        made = [one.name for one in notes.made if datadir.still(cli.profiles, one)]
        what = f"everything in {place.path}" + (f" and the profiles {', '.join(made)}" if made else "")
        document = {"data_dir": str(place.path), "profiles": made}
        if dry_run:
            if cli.out.as_json:
                cli.out.json({"dry_run": True, **document})
            else:
                cli.out.text(f"Would remove {what}:")
                cli.out.text("\n".join(f"  {entry}" for entry in place.content()))
            return
        cli.confirm(f"Remove {what}? All tenants, servers and keys are gone for good.", yes=yes)
        place.empty()
        for name in made:
            cli.profiles.remove(name)
    if cli.out.as_json:
        cli.out.json({"removed": True, **document})
    else:
        cli.out.text(f"Removed {what}.")
        if loaded.platform.root_key_file:
            cli.out.note(f"The root key {loaded.platform.root_key_file} is outside of it and was left alone.")
