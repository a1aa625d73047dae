"""`smcp deploy`: a package becomes a running server."""

import pathlib

import click

from smcp.cli import client, failures, operations, session


@click.command("deploy")
@click.argument("source", metavar="pypi:NAME[==VERSION]")
@session.tenant_option()
@click.option("--name", metavar="NAME", help="The server's name; by default made from the package's.")
@click.option(
    "--manifest",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    help="An smcp.toml that says how to run it.",
)
@session.remote
def deploy_command(
    cli: session.Session, source: str, tenant: str | None, name: str | None, manifest: pathlib.Path | None
) -> None:
    """Deploy a package as a server, or as the next version of one.

    The new version is live once it has answered; until then, and when it fails, the version before it serves.
    """
    body: client.Json = {"source": source}
    if name:
        body["name"] = name
    if manifest is not None:
        body["manifest"] = _read(manifest)
    with cli.connect(tenant) as api:
        owner = cli.tenant(tenant, api)
        operation = deploy(cli, api, owner, body)
        server = str(operation.get("server"))
        shown = api.get(client.path("tenants", owner, "servers", server))
    if cli.out.as_json:
        cli.out.json({"operation": operation, "server": shown})
        return
    cli.out.fields(
        (
            ("server", f"{owner}/{server}"),
            ("deployment", operation.get("deployment")),
            ("endpoint", shown.get("endpoint")),
        )
    )
    cli.out.note(f"Next: smcp tools {owner}/{server}")


def deploy(cli: session.Session, api: client.Client, owner: str, body: client.Json) -> client.Json:
    """Submit, follow, and return the succeeded operation."""
    operation = api.post(client.path("tenants", owner, "deployments"), body)
    with operations.progress(cli.out, f"Deploying {body['source']} for {owner}") as tell:
        return operations.succeeded(operations.follow(api, operation, tell))


def _read(manifest: pathlib.Path) -> str:
    try:
        return manifest.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise failures.Failure(
            "usage", f"The manifest {manifest} can't be read as UTF-8 text.", exit_code=failures.Exit.USAGE
        ) from error
