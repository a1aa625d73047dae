"""`smcp deploy`: a package, a folder, a bundle or an entry of a client's configuration becomes a running server."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, Final

import click

from smcp.cli import client, failures, operations, pack, parcels, remotes, session
from smcp.deploy import clientconfig
from smcp.kernel import errors

_SCHEMES: Final = ("pypi:", "npm:", "upload:")
_file = click.Path(dir_okay=False, path_type=pathlib.Path)


@click.command("deploy")
@click.argument("sources", metavar="SOURCE", nargs=-1)
@session.tenant_option()
@click.option("--name", metavar="NAME", help="The server's name; by default made from the package's or the folder's.")
@click.option("--manifest", type=_file, help="An smcp.toml that says how to run it; a folder's own is taken by itself.")
@click.option("--include", metavar="PATH", multiple=True, help="Send this part of a folder although it is ignored.")
@click.option("--config", metavar="KEY=VALUE", multiple=True, help="A value for an option of a bundle; no secret.")
@click.option("--config-from", type=_file, help="A TOML file with values for a bundle's options, secrets included.")
@click.option(
    "--header-secret",
    metavar="[HEADER=]SECRET",
    multiple=True,
    help="Of a remote server: a header and the secret that is its value; SECRET alone: Authorization.",
)
@click.option(
    "--wire",
    type=click.Choice(["auto", "streamable", "sse"]),
    help="Of a remote server: how it speaks; by default found out.",
)
@click.option("--from-config", type=_file, help="Deploy servers of this mcpServers file; SOURCE are their names.")
@click.option("--all", "everything", is_flag=True, help="With --from-config: all of its servers.")
@click.option("--env", metavar="NAME=VALUE", multiple=True, help="With --from-config: a value that the file has not.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent; send nothing.")
@session.remote
def deploy_command(
    cli: session.Session, sources: tuple[str, ...], tenant: str | None, *, dry_run: bool, **options: Any
) -> None:
    """Deploy a server, or the next version of one.

    SOURCE is pypi:NAME[==VERSION], npm:NAME[@VERSION], a folder with a lock file, an .mcpb bundle, or the address of a
    remote server (https://HOST/PATH). The new version is live once it has answered; until then, and when it fails, the
    version before it serves.
    """
    if options["from_config"] is not None:
        made = _from_config(cli, sources, options)
    elif options["everything"] or options["env"]:
        raise _usage("--all and --env belong to --from-config.")
    else:
        made = [_parcel(sources, options)]
    if dry_run:
        _dry_run(cli, made)
        return
    with cli.connect(tenant) as api:
        owner = cli.tenant(tenant, api)
        results = [_send(cli, api, owner, one) for one in made]
    if cli.out.as_json:
        # One order, one document as ever; several, a list of them.
        cli.out.json({"items": results} if options["from_config"] is not None else results[0])


def deploy(cli: session.Session, api: client.Client, owner: str, body: client.Json) -> client.Json:
    """Submit, follow, and return the succeeded operation."""
    operation = api.post(client.path("tenants", owner, "deployments"), body)
    with operations.progress(cli.out, f"Deploying {body['source']} for {owner}") as tell:
        return operations.succeeded(operations.follow(api, operation, tell))


def _send(cli: session.Session, api: client.Client, owner: str, parcel: parcels.Parcel) -> client.Json:
    operation = deploy(cli, api, owner, parcels.prepare(cli, api, owner, parcel))
    server = str(operation.get("server"))
    shown = api.get(client.path("tenants", owner, "servers", server))
    if not cli.out.as_json:
        cli.out.fields(
            (
                ("server", f"{owner}/{server}"),
                ("deployment", operation.get("deployment")),
                ("endpoint", shown.get("endpoint")),
            )
        )
        cli.out.note(f"Next: smcp tools {owner}/{server}")
    return {"operation": operation, "server": shown}


def _parcel(sources: tuple[str, ...], options: dict[str, Any]) -> parcels.Parcel:
    name: str | None = options["name"]
    manifest = None if options["manifest"] is None else pack.read_text(options["manifest"])
    if not sources and manifest is not None:
        # A remote server's manifest says where it is, so there may be nothing else to name.
        sources = tuple(filter(None, (remotes.address(manifest),)))
    if len(sources) != 1:
        raise _usage("Say what to deploy: one of pypi:NAME, npm:NAME, a folder, an .mcpb bundle, or an address.")
    [source] = sources
    path = pathlib.Path(source)
    if not remotes.is_address(source) and path.is_dir():
        # As with a folder's own manifest otherwise: it says what the folder stands for.
        manifest = manifest if manifest is not None else pack.manifest(path)
        source = remotes.address(manifest) or source
    if remotes.is_address(source):
        return _elsewhere(source, name, manifest, options)
    if options["header_secret"] or options["wire"]:
        raise _usage("--header-secret and --wire belong to the address of a remote server (https://…).")
    is_package = source.startswith(_SCHEMES)
    is_folder = not is_package and path.is_dir()
    if options["include"] and not is_folder:
        raise _usage("--include belongs to a folder.")
    if (options["config"] or options["config_from"]) and (is_package or is_folder):
        raise _usage("--config and --config-from belong to an .mcpb bundle.")
    if is_package:
        return parcels.package(source, name, manifest)
    if is_folder:
        return parcels.folder(path, name, manifest, options["include"])
    if path.is_file():
        given = parcels.pairs(options["config"], "--config")
        return parcels.from_bundle(path, name, manifest, given, parcels.read_values(options["config_from"]))
    if os.sep in source or source.endswith(".mcpb"):
        raise _usage(f"There is no folder and no file {source}.")
    raise _usage(f"'{source[:80]}' is no source. A package of an index is written pypi:{source[:60]} or npm:…")


def _elsewhere(source: str, name: str | None, manifest: str | None, options: dict[str, Any]) -> parcels.Parcel:
    for other in ("include", "config", "config_from"):
        if options[other]:
            raise _usage(f"--{other.replace('_', '-')} does not go with a remote server: nothing of it is sent.")
    return remotes.parcel(source, name, manifest, options["header_secret"], options["wire"])


def _from_config(cli: session.Session, names: tuple[str, ...], options: dict[str, Any]) -> list[parcels.Parcel]:
    for other in ("name", "manifest", "include", "config", "config_from", "header_secret", "wire"):
        if options[other]:
            raise _usage(f"--{other.replace('_', '-')} does not go with --from-config: the file says it.")
    path: pathlib.Path = options["from_config"]
    try:
        entries = clientconfig.read(pack.read_text(path))
    except errors.SmcpError as error:
        raise _usage(error.public) from error
    found = clientconfig.translate(entries, path.resolve().parent)
    chosen = _chosen(found, names, everything=options["everything"])
    env = {key: values[-1] for key, values in parcels.pairs(options["env"], "--env").items()}
    made: list[parcels.Parcel] = []
    for one in chosen:
        for notice in one.notices:
            cli.out.note(f"{one.entry}: {notice}")
        if one.refused and not options["everything"]:
            raise _usage(f"{one.entry}: {one.refused}")
        if one.refused:
            cli.out.note(f"{one.entry} is left out. {one.refused}")
        else:
            made.append(parcels.from_entry(one, env))
    if not made:
        raise _usage("Nothing of the file can be deployed.")
    return made


def _chosen(
    found: Sequence[clientconfig.Translation], names: Sequence[str], *, everything: bool
) -> list[clientconfig.Translation]:
    listed = ", ".join(one.entry for one in found) or "none"
    if everything == bool(names):
        raise _usage(f"Say which servers of the file: their names, or --all. It has: {listed}.")
    for name in names:
        if name not in {one.entry for one in found}:
            raise _usage(f"The file has no server '{name[:80]}'. It has: {listed}.")
    return [one for one in found if everything or one.entry in names]


def _dry_run(cli: session.Session, made: Sequence[parcels.Parcel]) -> None:
    if cli.out.as_json:
        cli.out.json({"dry_run": True, "would_deploy": [one.shown() for one in made]})
        return
    for one in made:
        cli.out.fields(
            (
                ("would deploy", one.label),
                ("as", one.name),
                ("source", one.source),
                ("secrets", sorted(one.secrets)),
                ("needs a value", one.needs),
            )
        )
        if one.manifest:
            cli.out.text("manifest:\n" + "\n".join(f"  {line}" for line in one.manifest.strip().split("\n")))
        if one.chosen is not None:
            cli.out.text(f"{len(one.chosen.files)} files, {one.chosen.bytes / 1e6:.1f} MB:")
            for name in one.chosen.files:
                cli.out.text(f"  {name}")
            for line in one.chosen.left_out:
                cli.out.note(line)


def _usage(text: str) -> failures.Failure:
    return failures.Failure("usage", text, exit_code=failures.Exit.USAGE)
