"""`smcp secret …`: values for a server that nobody can read back. A value never stands on the command line."""

import base64
import pathlib
import sys
from typing import Any, Final

import click
from click import shell_completion

from smcp.cli import client, complete, failures, output, session

_LARGEST: Final = 65_536
_WHY: Final = (
    "A secret's value does not belong on the command line: every user of this machine can see it in the process list, "
    "and your shell keeps it in its history."
)
_HOW: Final = "Leave it away, and you are asked for it; or send it in: smcp secret set TENANT/SERVER NAME < file"

_target = click.argument("target", metavar="TENANT/SERVER", type=session.TargetType())


class _NameType(click.ParamType[str]):
    """The name of a secret; a value in its place is refused and not repeated."""

    name = "NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if "=" in text:
            raise _on_the_command_line()
        if not (text.isascii() and text.isidentifier() and len(text) <= 128):
            raise failures.Failure(
                "bad_name",
                "A secret's name is a letter or an underscore, then up to 127 letters, digits and underscores.",
                exit_code=failures.Exit.USAGE,
            )
        return text

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[shell_completion.CompletionItem[str]]:
        return [shell_completion.CompletionItem(name) for name in complete.secrets(ctx, incomplete)]


_name = click.argument("name", metavar="NAME", type=_NameType())
# What should not be there is taken, so that it can be refused for the right reason and without repeating it.
_EXTRA: Final = {"allow_extra_args": True}
_from_file = click.option(
    "--from-file",
    metavar="PATH",
    type=click.Path(dir_okay=False, allow_dash=False, path_type=pathlib.Path),
    help="Take the value from this file, byte for byte.",
)
_kind = click.option(
    "--file/--env",
    "as_file",
    default=None,
    help="The server gets it as the file /run/secrets/NAME, or as a variable of its environment. By default as before, "
    "at first as a variable.",
)


@click.group("secret")
def secret_command() -> None:
    """Set, list, rotate and delete the secrets of a server."""


@secret_command.command("set", context_settings=_EXTRA)
@_target
@_name
@_from_file
@_kind
@session.remote
def set_secret(
    cli: session.Session,
    target: session.Target,
    name: str,
    from_file: pathlib.Path | None,
    *,
    as_file: bool | None,
) -> None:
    """Set a secret of a server, also before the server is deployed.

    The value is read from --from-file, else from standard input (one newline at its end is left out), else you are
    asked for it. Copies of the server that run are replaced when they have answered their calls.
    """
    body = _body(name, from_file, as_file=as_file)
    with cli.connect(target.tenant) as api:
        _show(cli, target, api.put(_path(target, name), body))


@secret_command.command("rotate", context_settings=_EXTRA)
@_target
@_name
@_from_file
@_kind
@session.remote
def rotate(
    cli: session.Session,
    target: session.Target,
    name: str,
    from_file: pathlib.Path | None,
    *,
    as_file: bool | None,
) -> None:
    """Give a secret that exists a new value. The value is read as for 'smcp secret set'."""
    body = _body(name, from_file, as_file=as_file)
    with cli.connect(target.tenant) as api:
        _show(cli, target, api.post(_path(target, name, "rotate"), body))


@secret_command.command("list")
@_target
@session.remote
def list_secrets(cli: session.Session, target: session.Target) -> None:
    """List a server's secrets. Nothing shows their values."""
    with cli.connect(target.tenant) as api:
        items = list(api.items(_path(target)))
    if cli.out.as_json:
        cli.out.json({"items": items})
        return
    rows = (
        (item.get("name"), item.get("kind"), item.get("version"), output.moment(item.get("created")), item.get("by"))
        for item in items
    )
    cli.out.table(
        ("secret", "kind", "version", "set (UTC)", "by"),
        rows,
        empty=f"{target} has no secrets. 'smcp secret set {target} NAME' sets one.",
    )


@secret_command.command("delete")
@_target
@_name
@session.destructive
@session.remote
def delete(cli: session.Session, target: session.Target, name: str, *, yes: bool, dry_run: bool) -> None:
    """Delete a secret with all its versions."""
    with cli.connect(target.tenant) as api:
        found = next((item for item in api.items(_path(target)) if item.get("name") == name), None)
        if found is None:
            raise failures.Failure("not_found", f"{target} has no secret {name}.", exit_code=failures.Exit.NOT_FOUND)
        what = f"delete secret {name} of {target} with all its versions"
        if not cli.goes_on(what, session.FOR_GOOD, yes=yes, dry_run=dry_run, shown={"would_delete": found}):
            return
        api.delete(_path(target, name))
    if cli.out.as_json:
        cli.out.json({"deleted": name, "server": str(target)})
    else:
        cli.out.text(f"Deleted secret {name} of {target}.")


def _path(target: session.Target, *more: str) -> str:
    return client.path("tenants", target.tenant, "servers", target.server, "secrets", *more)


def _body(name: str, from_file: pathlib.Path | None, *, as_file: bool | None) -> client.Json:
    if click.get_current_context().args:
        raise _on_the_command_line()
    # In base64, so that any bytes get there as they are.
    body: client.Json = {"value_base64": base64.b64encode(_value(name, from_file)).decode()}
    if as_file is not None:
        body["kind"] = "file" if as_file else "env"
    return body


def _value(name: str, from_file: pathlib.Path | None) -> bytes:
    if from_file is not None:
        try:
            with from_file.open("rb") as file:
                value = file.read(_LARGEST + 1)
        except OSError as error:
            raise failures.Failure(
                "usage", f"{from_file} can't be read: {error.strerror}.", exit_code=failures.Exit.USAGE
            ) from error
    elif sys.stdin.isatty():
        text: str = click.prompt(f"Value of {name} (it is not shown)", hide_input=True, err=True)
        value = text.encode("utf-8", "surrogateescape")
    else:
        value = sys.stdin.buffer.read(_LARGEST + 3)
        value = value.removesuffix(b"\n").removesuffix(b"\r") if value.endswith(b"\n") else value
    if not value:
        raise failures.Failure(
            "usage", "There is no value: it is empty. Nothing was done.", exit_code=failures.Exit.USAGE
        )
    if len(value) > _LARGEST:
        raise failures.Failure(
            "too_large", f"A secret's value has at most {_LARGEST} bytes.", exit_code=failures.Exit.USAGE
        )
    return value


def _on_the_command_line() -> failures.Failure:
    return failures.Failure(
        "usage",
        f"{_WHY} Nothing was sent. If that was the real value, replace it where it comes from.",
        hint=_HOW,
        exit_code=failures.Exit.USAGE,
    )


def _show(cli: session.Session, target: session.Target, secret: client.Json) -> None:
    if cli.out.as_json:
        cli.out.json(secret)
        return
    cli.out.fields(
        (
            ("secret", secret.get("name")),
            ("server", str(target)),
            ("version", secret.get("version")),
            ("kind", secret.get("kind")),
        )
    )
