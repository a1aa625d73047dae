"""`smcp dev`: a folder as a server, deployed again at each change."""

import hashlib
import os
import pathlib

import click

from smcp.cli import failures, session

_folder = click.Path(path_type=pathlib.Path)


@click.command("dev")
@click.argument("folder", type=_folder, default=".")
@click.option("--port", type=click.IntRange(0, 65535), default=8787, show_default=True, help="0 takes a free one.")
@click.option(
    "--name", metavar="NAME", help="The server's name; by default the manifest's, the project's, the folder's."
)
@click.option("--include", metavar="PATH", multiple=True, help="Send this part of the folder although it is ignored.")
@click.option("--data", metavar="DIR", help="Where state is kept from run to run; by default a place for this folder.")
@session.local
def dev_command(
    cli: session.Session, folder: pathlib.Path, port: int, name: str | None, include: tuple[str, ...], data: str | None
) -> None:
    """Run FOLDER as a server here, and deploy it again whenever a file of it changes.

    A platform of its own starts, in the same sandbox as everywhere; the server's log is printed as it comes. What a
    change breaks is told, and the version before goes on serving. Ctrl-C ends it. With --json, one object a line.
    """
    import asyncio

    import uvloop

    from smcp.cli import datadir, developing

    if not folder.is_dir():
        raise failures.Failure("usage", f"There is no folder {folder}.", exit_code=failures.Exit.USAGE)
    root = folder.resolve()
    wanted = datadir.load_settings(None, {"gateway": {"port": port, "host": "127.0.0.1"}})
    wanted = datadir.placed(wanted, data or str(_place(wanted.platform.directory(), root)))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(developing.Developing(cli, wanted, root, name, include).run())


def _place(data: pathlib.Path, root: pathlib.Path) -> pathlib.Path:
    """Beside the data of `smcp up`, never in it: two platforms must not share one."""
    digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:10]
    return data.with_name(f"{data.name}-dev") / f"{root.name[:40] or 'root'}-{digest}"
