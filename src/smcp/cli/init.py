"""`smcp init`: a new server's folder, from a template that can be deployed as it is."""

import os
import pathlib
from typing import Final

import click

from smcp.cli import failures, output, session

_HERE: Final = pathlib.Path(__file__).with_name("templates")
_TOKEN: Final = b"server-name"
"""Stands in the templates where the server's name belongs; each of them is a project all the same."""
TEMPLATES: Final = ("worker-ts", "worker-js", "python", "node")
_IGNORED: Final = {
    "worker-ts": "node_modules\n.wrangler\n.dev.vars\n",
    "worker-js": ".wrangler\n.dev.vars\n",
    "python": ".venv\n__pycache__\n",
    "node": "node_modules\n",
}
"""What git is to leave alone. No file of the templates: it would count for the repository that they are in."""
_folder = click.Path(path_type=pathlib.Path)


@click.command("init")
@click.argument("folder", metavar="NAME", type=_folder)
@click.option(
    "--template",
    type=click.Choice(TEMPLATES),
    default=TEMPLATES[0],
    show_default=True,
    help="A Worker in TypeScript or JavaScript, or a Python or Node.js program.",
)
@session.local
def init_command(cli: session.Session, folder: pathlib.Path, template: str) -> None:
    """Make the folder NAME with a new server in it, which can be deployed as it is.

    NAME is a new or empty folder; its last part names the server. Nothing is fetched, and nothing that is there is
    changed.
    """
    from smcp.deploy import clientconfig

    name = clientconfig.server_name(folder.absolute().name)
    if not name:
        raise _failure(f"'{folder.name[:80]}' makes no name of a server: letters and digits are needed.")
    files = _write(folder, template, name)
    shown = output.safe(str(folder))
    steps = [f"cd {shown}", "smcp dev", "smcp deploy . --tenant TENANT"]
    if cli.out.as_json:
        document = {"server": name, "template": template, "folder": str(folder), "files": files, "next": steps}
        cli.out.json(document)
        return
    cli.out.fields((("server", name), ("template", template), ("folder", str(folder)), ("files", files)))
    cli.out.note("Next: " + "; ".join(steps))


def _write(folder: pathlib.Path, template: str, name: str) -> list[str]:
    """Make the folder; the files in it. Raises `failures.Failure` for one that holds something."""
    source = _HERE / template
    wanted = {
        path.relative_to(source).as_posix(): path.read_bytes().replace(_TOKEN, name.encode())
        for path in sorted(source.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    wanted[".gitignore"] = _IGNORED[template].encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.listdir(folder):
            raise _failure(f"{folder} is not empty, and nothing is overwritten. Name a new folder.")
        for place, content in wanted.items():
            path = folder / place
            path.parent.mkdir(parents=True, exist_ok=True)
            # Exclusive: what somebody put there meanwhile is not followed, and not lost.
            with path.open("xb") as file:
                file.write(content)
    except OSError as error:
        raise _failure(f"{folder} can't be made: {error.strerror or error}.") from error
    return sorted(wanted)


def _failure(text: str) -> failures.Failure:
    return failures.Failure("usage", text, exit_code=failures.Exit.USAGE)
