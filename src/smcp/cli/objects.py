"""`smcp object …`: the objects that Workers keep in buckets, from outside."""

import json
import mimetypes
import pathlib
import re
import sys
from typing import Final

import click

from smcp.cli import client, complete, downloads, failures, kept, output, parcels, session

_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", re.ASCII)


_bucket: Final = click.argument(
    "bucket", metavar="TENANT/BUCKET", type=kept.PlaceType("TENANT/BUCKET", _BUCKET, "acme/photos", complete.buckets)
)
_key: Final = click.argument("key", metavar="KEY", type=kept.KeyType(complete.object_keys))
_file: Final = click.Path(dir_okay=False, allow_dash=True, path_type=pathlib.Path)


@click.group("object")
def object_command() -> None:
    """Read and write the objects that Workers keep in buckets."""


@object_command.command("buckets")
@session.tenant_option()
@session.remote
def buckets(cli: session.Session, tenant: str | None) -> None:
    """List a tenant's buckets. One is there while something is in it."""
    with cli.connect(tenant) as api:
        items = list(api.items(client.path("tenants", cli.tenant(tenant, api), "buckets")))
    if cli.out.as_json:
        cli.out.json({"items": items})
        return
    rows = ((one.get("name"), one.get("objects")) for one in items)
    cli.out.table(("bucket", "objects"), rows, empty="There is nothing in any bucket.")


@object_command.command("list")
@_bucket
@click.option("--prefix", metavar="TEXT", default="", help="Only keys that begin so.")
@click.option("--delimiter", metavar="TEXT", default="", help="Show keys up to this text once, as one line: /")
@click.option("--limit", "-n", metavar="N", type=click.IntRange(1), help="Only the first N lines; by default all.")
@session.remote
def list_objects(cli: session.Session, bucket: kept.Place, prefix: str, delimiter: str, limit: int | None) -> None:
    """List the objects of a bucket, in the order of their keys' bytes."""
    with cli.connect(bucket.tenant) as api:
        items, prefixes = _listed(api, bucket, prefix, delimiter, limit)
    if cli.out.as_json:
        cli.out.json({"items": items, "prefixes": prefixes})
        return
    rows: list[tuple[object, ...]] = [
        (
            one.get("key"),
            one.get("bytes"),
            output.moment(one.get("uploaded")),
            client.mapping(one.get("http")).get("Content-Type"),
        )
        for one in items
    ]
    rows += [(text, None, None, None) for text in prefixes]
    rows.sort(key=lambda row: str(row[0]).encode())
    cli.out.table(("key", "bytes", "written (UTC)", "type"), rows, empty=f"There is no such object in {bucket}.")


@object_command.command("head")
@_bucket
@_key
@session.remote
def head(cli: session.Session, bucket: kept.Place, key: str) -> None:
    """Show what is known of an object."""
    with cli.connect(bucket.tenant) as api:
        found = api.get(_path(bucket, "about", key))
    if cli.out.as_json:
        cli.out.json(found)
        return
    cli.out.fields(
        (
            ("key", found.get("key")),
            ("bytes", str(found.get("bytes"))),
            ("etag", found.get("etag")),
            ("written", output.moment(found.get("uploaded"))),
            ("class", found.get("storage_class")),
            *client.mapping(found.get("http")).items(),
            *((f"metadata {name}", value) for name, value in client.mapping(found.get("metadata")).items()),
            *client.mapping(found.get("checksums")).items(),
        )
    )


@object_command.command("get")
@_bucket
@_key
@click.argument("target", metavar="[FILE]", type=_file, default="-")
@session.remote
def get(cli: session.Session, bucket: kept.Place, key: str, target: pathlib.Path) -> None:
    """Read an object into FILE, or to standard output.

    A file gets its name when it is whole. What was interrupted goes on where it ended, if the object is still the same.
    """
    to_file = str(target) != "-"
    if cli.out.as_json and not to_file:
        raise _usage("With --json, say the file that the object goes to.")
    if not to_file and sys.stdout.isatty():
        raise _usage("An object's bytes do not go to a terminal: say a file, or put '> file' or '| program' behind it.")
    with cli.connect(bucket.tenant) as api:
        found = api.get(_path(bucket, "about", key))
        wanted = downloads.Wanted(_path(bucket, "objects", key), int(found["bytes"]), str(found["etag"]))
        if to_file:
            downloads.to_file(cli.out, api, wanted, target)
        else:
            downloads.to_stream(cli.out, api, wanted, sys.stdout.buffer)
    if cli.out.as_json:
        cli.out.json(found | {"file": str(target)})
    elif to_file:
        cli.out.text(f"Wrote {found['bytes']} bytes of {key} in {bucket} to {target}.")


@object_command.command("put")
@_bucket
@_key
@click.argument("source", metavar="[FILE]", type=_file, default="-")
@click.option("--type", "kind", metavar="TYPE", help="Its media type; by default what FILE's name says.")
@click.option("--cache-control", metavar="TEXT", help="The header Cache-Control for whoever serves it.")
@click.option("--metadata", metavar="NAME=VALUE", multiple=True, help="Keep this with it; may be given again.")
@click.option("--absent", is_flag=True, help="Only if there is no object of this key.")
@session.remote
def put(
    cli: session.Session,
    bucket: kept.Place,
    key: str,
    source: pathlib.Path,
    kind: str | None,
    cache_control: str | None,
    metadata: tuple[str, ...],
    *,
    absent: bool,
) -> None:
    """Write an object from FILE, or from standard input.

    It takes the place of what was there when the last byte has arrived.
    """
    custom = {name: values[-1] for name, values in parcels.pairs(metadata, "--metadata").items()}
    with downloads.opened(source) as (file, size), cli.connect(bucket.tenant) as api:
        chunks = downloads.watched(cli.out, iter(lambda: file.read(downloads.CHUNK), b""), size)
        made = api.send(
            _path(bucket, "objects", key),
            chunks,
            verb="PUT",
            size=size,
            content_type=kind or mimetypes.guess_type(source.name)[0],
            cache_control=cache_control,
            metadata=json.dumps(custom, ensure_ascii=False) if custom else None,
            absent="true" if absent else None,
        )
    if cli.out.as_json:
        cli.out.json(made)
    else:
        cli.out.text(f"Wrote {made.get('bytes')} bytes to {key} in {bucket}.")


@object_command.command("delete")
@_bucket
@click.argument("keys", metavar="KEY…", type=kept.KeyType(complete.object_keys), nargs=-1, required=True)
@session.destructive
@session.remote
def delete(cli: session.Session, bucket: kept.Place, keys: tuple[str, ...], *, yes: bool, dry_run: bool) -> None:
    """Delete objects."""
    with cli.connect(bucket.tenant) as api:
        for key in keys:
            api.get(_path(bucket, "about", key))  # before anything is deleted: is there one for each?
        named = keys[0] if len(keys) == 1 else f"{len(keys)} objects"
        shown = {"would_delete": list(keys)}
        if not cli.goes_on(f"delete {named} in {bucket}", session.FOR_GOOD, yes=yes, dry_run=dry_run, shown=shown):
            return
        for key in keys:
            api.delete(_path(bucket, "objects", key))
    if cli.out.as_json:
        cli.out.json({"deleted": list(keys), "bucket": str(bucket)})
    else:
        cli.out.text(f"Deleted {named} in {bucket}.")


@object_command.command("delete-bucket")
@_bucket
@session.destructive
@session.remote
def delete_bucket(cli: session.Session, bucket: kept.Place, *, yes: bool, dry_run: bool) -> None:
    """Delete a bucket with all its objects and open uploads."""
    with cli.connect(bucket.tenant) as api:
        found = api.delete(_path(bucket), dry_run="true")
        what = f"delete the bucket {bucket} with {found.get('objects')} objects ({found.get('bytes')} bytes)"
        if not cli.goes_on(what, session.FOR_GOOD, yes=yes, dry_run=dry_run, shown={"would_delete": found}):
            return
        gone = api.delete(_path(bucket))
    if cli.out.as_json:
        cli.out.json(gone)
    else:
        cli.out.text(f"Deleted the bucket {bucket} with {gone.get('objects')} objects.")


def _listed(
    api: client.Client, bucket: kept.Place, prefix: str, delimiter: str, limit: int | None
) -> tuple[list[client.Json], list[str]]:
    items: list[client.Json] = []
    prefixes: list[str] = []
    after = None
    while True:
        left = 1000 if limit is None else min(1000, limit - len(items) - len(prefixes))
        page = api.get(_path(bucket), prefix=prefix or None, delimiter=delimiter or None, after=after, limit=left)
        items += page.get("items") or []
        prefixes += page.get("prefixes") or []
        after = page.get("next")
        if after is None or (limit is not None and len(items) + len(prefixes) >= limit):
            return items, prefixes


def _path(bucket: kept.Place, *more: str) -> str:
    return client.path("tenants", bucket.tenant, "buckets", bucket.name, *more)


def _usage(text: str) -> failures.Failure:
    return failures.Failure("usage", text, exit_code=failures.Exit.USAGE)
