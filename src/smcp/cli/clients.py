"""`smcp client …`: OAuth clients. A new client's secret is shown once."""

import json
import pathlib

import click

from smcp.cli import client, failures, output, session

_METHODS = ("client_secret_basic", "client_secret_post", "none", "private_key_jwt")


@click.group("client")
def client_command() -> None:
    """Create, list, show and revoke OAuth clients."""


@client_command.command("create")
@click.argument("name")
@session.tenant_option()
@click.option("--role", "roles", multiple=True, metavar="ROLE", help="What it may do as itself. May be repeated.")
@click.option("--redirect-uri", "uris", multiple=True, metavar="URL", help="Where people's consent is answered to.")
@click.option("--auth-method", type=click.Choice(_METHODS), help="How it proves who it is; by default by a secret.")
@click.option(
    "--jwks",
    "keys",
    metavar="FILE",
    type=click.Path(path_type=pathlib.Path),
    help="Its public keys (a JSON Web Key Set): then it signs, and there is no secret.",
)
@click.option("--jwks-uri", "keys_at", metavar="URL", help="Or where they are (https), so that they can change there.")
@session.remote
def create(
    cli: session.Session,
    name: str,
    tenant: str | None,
    roles: tuple[str, ...],
    uris: tuple[str, ...],
    auth_method: str | None,
    keys: pathlib.Path | None,
    keys_at: str | None,
) -> None:
    """Create a client: with roles for a program without a person, with redirect URIs for one that people use."""
    body: client.Json = {"name": name, "roles": list(dict.fromkeys(roles)), "redirect_uris": list(dict.fromkeys(uris))}
    if auth_method is None and (keys is not None or keys_at is not None):
        auth_method = "private_key_jwt"
    if auth_method is not None:
        body["auth_method"] = auth_method
    if keys is not None:
        body["jwks"] = _key_set(keys)
    if keys_at is not None:
        body["jwks_uri"] = keys_at
    with cli.connect(tenant) as api:
        owner = cli.tenant(tenant, api)
        made = api.post(client.path("tenants", owner, "clients"), body)
    if cli.out.as_json:
        cli.out.json(made)
        return
    _show(client.mapping(made.get("client")), cli)
    if made.get("secret"):
        cli.out.note("This is the only time the secret is shown:")
        cli.out.text(str(made["secret"]))


@client_command.command("list")
@session.tenant_option()
@session.remote
def list_clients(cli: session.Session, tenant: str | None) -> None:
    """List a tenant's clients: made here, registered by themselves, or known by their document."""
    with cli.connect(tenant) as api:
        items = list(api.items(client.path("tenants", cli.tenant(tenant, api), "clients")))
    if cli.out.as_json:
        cli.out.json({"items": items})
        return
    rows = (
        (
            item.get("ref"),
            item.get("name"),
            item.get("host"),
            item.get("kind"),
            _state(item),
            output.moment(item.get("created")),
        )
        for item in items
    )
    cli.out.table(("client", "name", "host", "kind", "state", "created (UTC)"), rows, empty="No clients.")


@client_command.command("show")
@click.argument("named", metavar="CLIENT")
@session.tenant_option()
@session.remote
def show(cli: session.Session, named: str, tenant: str | None) -> None:
    """Show a client. CLIENT is as 'smcp client list' shows it, or the address of its document."""
    with cli.connect(tenant) as api:
        found = _found(api, cli.tenant(tenant, api), named)
    if cli.out.as_json:
        cli.out.json(found)
    else:
        _show(found, cli)


@client_command.command("revoke")
@click.argument("named", metavar="CLIENT")
@session.tenant_option()
@session.destructive
@session.remote
def revoke(cli: session.Session, named: str, tenant: str | None, *, yes: bool, dry_run: bool) -> None:
    """Revoke a client for good: what was issued to it ends with the next request."""
    with cli.connect(tenant) as api:
        owner = cli.tenant(tenant, api)
        found = _found(api, owner, named)
        label = f"{found.get('ref')} ({found.get('name')}) of tenant {owner}"
        told: client.Json = {"would_revoke": found}
        if not cli.goes_on(f"revoke client {label}", session.FOR_GOOD, yes=yes, dry_run=dry_run, shown=told):
            return
        revoked = api.delete(client.path("tenants", owner, "clients", str(found.get("ref"))))
    if cli.out.as_json:
        cli.out.json(revoked)
    else:
        cli.out.text(f"Revoked {label}.")


def _found(api: client.Client, tenant: str, named: str) -> client.Json:
    """The client that is meant, by what the list shows or by its document's address."""
    if not named.startswith("https://"):
        return api.get(client.path("tenants", tenant, "clients", named))
    for item in api.items(client.path("tenants", tenant, "clients")):
        if item.get("id") == named:
            return item
    raise failures.Failure("not_found", f"Tenant {tenant} has no client {named}.", exit_code=failures.Exit.NOT_FOUND)


def _key_set(file: pathlib.Path) -> client.Json:
    try:
        found = client.as_object(json.loads(file.read_text("utf-8")))
    except (OSError, ValueError):
        found = None
    if found is None:
        raise failures.Failure(
            "usage",
            f"{file} is no JSON Web Key Set.",
            hint='It is a JSON object: {"keys": [ … ]}, with public keys only.',
            exit_code=failures.Exit.USAGE,
        )
    return found


def _state(item: client.Json) -> str:
    if item.get("revoked") is not None:
        return "revoked"
    return "in use" if item.get("adopted") is not None or item.get("kind") == "administrator" else "unused"


def _show(found: client.Json, cli: session.Session) -> None:
    cli.out.fields(
        (
            ("client", found.get("id")),
            ("ref", found.get("ref")),
            ("tenant", found.get("tenant")),
            ("kind", found.get("kind")),
            ("name", found.get("name")),
            ("host", found.get("host")),
            ("redirect URIs", found.get("redirect_uris")),
            ("auth method", found.get("auth_method")),
            ("keys at", found.get("jwks_uri")),
            ("grant types", found.get("grant_types")),
            ("roles", found.get("roles")),
            ("state", _state(found)),
        )
    )
