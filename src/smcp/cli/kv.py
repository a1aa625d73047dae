"""`smcp kv …`: what Workers keep in KV namespaces, from outside."""

import base64
import pathlib
import re
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

import click

from smcp.cli import client, complete, failures, kept, output, session

_CHUNK: Final = 65_536
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION: Final = re.compile(r"([0-9]{1,9})([smhd])", re.ASCII)


class _DurationType(click.ParamType[int]):
    """How long, in seconds."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = _DURATION.fullmatch(str(value))
        if match is None:
            self.fail(f"'{str(value)[:80]}' is not a duration, for example 90s, 15m, 12h or 7d.", param, ctx)
        return int(match[1]) * _SECONDS[match[2]]


_space: Final = click.argument(
    "space",
    metavar="TENANT/NAMESPACE",
    type=kept.PlaceType("TENANT/NAMESPACE", _NAMESPACE, "acme/notes", complete.namespaces),
)
_key: Final = click.argument("key", metavar="KEY", type=kept.KeyType(complete.kv_keys))
_file: Final = click.Path(dir_okay=False, allow_dash=False, path_type=pathlib.Path)


@click.group("kv")
def kv_command() -> None:
    """Read and write what Workers keep in KV namespaces."""


@kv_command.command("namespaces")
@session.tenant_option()
@session.remote
def namespaces(cli: session.Session, tenant: str | None) -> None:
    """List a tenant's KV namespaces. One is there while it holds a key."""
    with cli.connect(tenant) as api:
        items = list(api.items(client.path("tenants", cli.tenant(tenant, api), "kv")))
    if cli.out.as_json:
        cli.out.json({"items": items})
    else:
        cli.out.table(("namespace",), ((one.get("name"),) for one in items), empty="No KV namespace holds anything.")


@kv_command.command("list")
@_space
@click.option("--prefix", metavar="TEXT", default=None, help="Only keys that begin so.")
@click.option("--limit", "-n", metavar="N", type=click.IntRange(1), help="Only the first N; by default all.")
@session.remote
def list_keys(cli: session.Session, space: kept.Place, prefix: str | None, limit: int | None) -> None:
    """List the keys of a KV namespace, in the order of their bytes."""
    with cli.connect(space.tenant) as api:
        items = list(api.items(_path(space), limit=limit, prefix=prefix))
    if cli.out.as_json:
        cli.out.json({"items": items})
        return
    rows = (
        (one.get("name"), one.get("bytes"), output.moment(one.get("expires")), _compact(one.get("metadata")))
        for one in items
    )
    cli.out.table(("key", "bytes", "ends (UTC)", "metadata"), rows, empty=f"{space} holds no such key.")


@kv_command.command("get")
@_space
@_key
@click.option("--output", "-o", "target", metavar="FILE", type=_file, help="Write the value to this file.")
@session.remote
def get(cli: session.Session, space: kept.Place, key: str, target: pathlib.Path | None) -> None:
    """Print the value of a key, byte for byte where it goes to a file or a pipe."""
    with cli.connect(space.tenant) as api:
        found = api.get(_path(space, "keys", key))
    if cli.out.as_json:
        cli.out.json(found)
        return
    text = found.get("value")
    value = text.encode() if isinstance(text, str) else base64.b64decode(str(found.get("value_base64")))
    if target is not None:
        _write(target, value)
    elif sys.stdout.isatty():
        # Whoever wrote the value must not drive this terminal.
        cli.out.text(value.decode("utf-8", "backslashreplace"))
    else:
        click.echo(value, nl=False)


@kv_command.command("put")
@_space
@_key
@click.argument("value", metavar="[VALUE]", required=False)
@click.option("--from-file", metavar="FILE", type=_file, help="Take the value from this file, byte for byte.")
@click.option("--metadata", metavar="JSON", help="Keep this with the value.")
@click.option(
    "--expires", metavar="DURATION", type=_DurationType(), help="End the key after so long: 90s, 15m, 12h, 7d."
)
@session.remote
def put(
    cli: session.Session,
    space: kept.Place,
    key: str,
    value: str | None,
    from_file: pathlib.Path | None,
    metadata: str | None,
    expires: int | None,
) -> None:
    """Write a key, in place of all it had.

    The value is VALUE, or read from --from-file, or from standard input, byte for byte. Others on this machine can see
    VALUE in the process list.
    """
    ends = None if expires is None else int(time.time()) + expires
    chunks = _chunks(value, from_file)
    with cli.connect(space.tenant) as api:
        made = api.send(_path(space, "keys", key), chunks, verb="PUT", metadata=metadata, expires=ends)
    if cli.out.as_json:
        cli.out.json(made)
    else:
        cli.out.text(f"Wrote {made.get('bytes')} bytes to {key} in {space}.")


@kv_command.command("delete")
@_space
@_key
@session.destructive
@session.remote
def delete(cli: session.Session, space: kept.Place, key: str, *, yes: bool, dry_run: bool) -> None:
    """Delete a key."""
    with cli.connect(space.tenant) as api:
        if dry_run:
            api.get(_path(space, "keys", key))  # as the deletion, it fails where there is no such key
        what = f"delete {key} in {space}"
        if not cli.goes_on(what, session.FOR_GOOD, yes=yes, dry_run=dry_run, shown={"would_delete": key}):
            return
        api.delete(_path(space, "keys", key))
    if cli.out.as_json:
        cli.out.json({"deleted": key, "namespace": str(space)})
    else:
        cli.out.text(f"Deleted {key} in {space}.")


@kv_command.command("clear")
@_space
@session.destructive
@session.remote
def clear(cli: session.Session, space: kept.Place, *, yes: bool, dry_run: bool) -> None:
    """Delete a KV namespace with all its keys."""
    with cli.connect(space.tenant) as api:
        found = api.delete(_path(space), dry_run="true")
        what = f"delete the KV namespace {space} with {found.get('keys')} keys ({found.get('bytes')} bytes)"
        if not cli.goes_on(what, session.FOR_GOOD, yes=yes, dry_run=dry_run, shown={"would_delete": found}):
            return
        gone = api.delete(_path(space))
    if cli.out.as_json:
        cli.out.json(gone)
    else:
        cli.out.text(f"Deleted the KV namespace {space} with {gone.get('keys')} keys.")


def _path(space: kept.Place, *more: str) -> str:
    return client.path("tenants", space.tenant, "kv", space.name, *more)


def _compact(metadata: object) -> str:
    import json

    return "" if metadata is None else json.dumps(metadata, ensure_ascii=False, separators=(",", ":"))


def _chunks(value: str | None, from_file: pathlib.Path | None) -> Iterator[bytes]:
    if value is not None and from_file is not None:
        raise failures.Failure("usage", "Say the value or --from-file, not both.", exit_code=failures.Exit.USAGE)
    if value is not None:
        return iter([value.encode("utf-8", "surrogateescape")])
    if from_file is not None:
        return _from(from_file)
    if sys.stdin.isatty():
        raise failures.Failure(
            "usage",
            "There is no value.",
            hint="smcp kv put TENANT/NAMESPACE KEY VALUE, or --from-file FILE, or < FILE",
            exit_code=failures.Exit.USAGE,
        )
    return iter(lambda: sys.stdin.buffer.read(_CHUNK), b"")


def _from(source: pathlib.Path) -> Iterator[bytes]:
    try:
        file = source.open("rb")
    except OSError as error:
        raise failures.Failure(
            "usage", f"{source} can't be read: {error.strerror}.", exit_code=failures.Exit.USAGE
        ) from error

    def pieces() -> Iterator[bytes]:
        with file:
            while data := file.read(_CHUNK):
                yield data

    return pieces()


def _write(target: pathlib.Path, value: bytes) -> None:
    try:
        target.write_bytes(value)
    except OSError as error:
        raise failures.Failure(
            "usage", f"{target} can't be written: {error.strerror}.", exit_code=failures.Exit.USAGE
        ) from error
