"""`smcp key …`: API keys. A new key is shown once, or goes straight into a profile and is not shown at all."""

import click

from smcp.cli import client, failures, output, profiles, session

_SCOPES = ("mcp:read", "mcp:call", "api:read", "api:write", "api:admin")


@click.group("key")
def key_command() -> None:
    """Create, list, rotate and revoke API keys."""


@key_command.command("create")
@session.tenant_option()
@click.option(
    "--role", "roles", metavar="ROLE", multiple=True, required=True,
    help="admin, mcp_user, read_only, or a role of the tenant's own ('smcp role list'). May be given more than once.",
)  # fmt: skip
@click.option(
    "--scope", "scopes", multiple=True, type=click.Choice(_SCOPES), help="What the key may be used for; by default all."
)
@click.option("--server", "servers", metavar="SERVER", multiple=True, help="The key reaches this server, and no other.")
@click.option(
    "--network",
    "networks",
    metavar="NETWORK",
    multiple=True,
    help="The key may be used from here only: 203.0.113.0/24.",
)
@click.option("--label", metavar="TEXT", default="", help="What the key is for.")
@click.option("--expires-in-days", type=click.IntRange(1, 3650), metavar="DAYS", help="By default 90.")
@click.option("--never-expires", is_flag=True, help="The key lives until somebody revokes it.")
@click.option("--save-profile", metavar="NAME", help="Put the key into this profile instead of showing it.")
@session.remote
def create(
    cli: session.Session,
    tenant: str | None,
    roles: tuple[str, ...],
    scopes: tuple[str, ...],
    servers: tuple[str, ...],
    networks: tuple[str, ...],
    label: str,
    expires_in_days: int | None,
    save_profile: str | None,
    *,
    never_expires: bool,
) -> None:
    """Create a key. It is shown this once only."""
    if never_expires and expires_in_days is not None:
        raise click.UsageError("--never-expires and --expires-in-days exclude each other.")
    if save_profile is not None:
        _check_free(cli.profiles, save_profile)
    with cli.connect(tenant) as api:
        owner = cli.tenant(tenant, api)
        body: client.Json = {"roles": list(dict.fromkeys(roles))}
        if label:
            body["label"] = label
        if never_expires or expires_in_days is not None:
            body["expires_in_days"] = expires_in_days
        narrowed = {"scopes": scopes, "servers": servers, "networks": networks}
        body |= {name: list(values) for name, values in narrowed.items() if values}
        made = api.post(client.path("tenants", owner, "keys"), body)
        secret = str(made.get("secret", ""))
        if save_profile is not None:
            cli.profiles.save(save_profile, profiles.Profile(api.url, owner, secret))
    _made(cli, made, secret, save_profile)


def _made(cli: session.Session, made: client.Json, secret: str, save_profile: str | None) -> None:
    key: client.Json = made.get("key") or {}
    if cli.out.as_json:
        shown = {"secret": secret} if save_profile is None else {"profile": save_profile}
        cli.out.json({"key": key, **shown})
        return
    _show(key, cli)
    if save_profile is not None:
        cli.out.text(f"The key is in profile '{save_profile}' of {cli.profiles.file}.")
        return
    cli.out.note("This is the only time the key is shown:")
    cli.out.text(secret)


@key_command.command("list")
@session.tenant_option()
@session.remote
def list_keys(cli: session.Session, tenant: str | None) -> None:
    """List a tenant's keys (never the secrets)."""
    with cli.connect(tenant) as api:
        items = list(api.items(client.path("tenants", cli.tenant(tenant, api), "keys")))
    if cli.out.as_json:
        cli.out.json({"items": items})
        return
    rows = (
        (
            item.get("id"),
            item.get("label"),
            ", ".join(map(str, item.get("roles") or ())),
            _state(item),
            output.moment(item.get("created")),
            output.moment(item.get("last_used")),
        )
        for item in items
    )
    cli.out.table(("key", "label", "roles", "state", "created (UTC)", "last used (UTC)"), rows, empty="No keys.")


@key_command.command("rotate")
@click.argument("key", metavar="KEY-ID")
@session.tenant_option()
@click.option(
    "--overlap-hours", type=click.FloatRange(0, 720), default=24.0, show_default=True, metavar="HOURS",
    help="How long the old key still works beside the new one.",
)  # fmt: skip
@click.option("--save-profile", metavar="NAME", help="Put the new key into this profile, in place of what it has.")
@session.remote
def rotate(cli: session.Session, key: str, tenant: str | None, overlap_hours: float, save_profile: str | None) -> None:
    """Replace a key by a new one that is worth the same. The old one works on for a while, then ends."""
    if save_profile is not None:
        profiles.check_name(save_profile)
    with cli.connect(tenant) as api:
        owner = cli.tenant(tenant, api)
        made = api.post(client.path("tenants", owner, "keys", key, "rotate"), {"overlap_hours": overlap_hours})
        secret = str(made.get("secret", ""))
        if save_profile is not None:
            cli.profiles.save(save_profile, profiles.Profile(api.url, owner, secret))
    _made(cli, made, secret, save_profile)


@key_command.command("revoke")
@click.argument("key", metavar="KEY-ID")
@session.tenant_option()
@session.destructive
@session.remote
def revoke(cli: session.Session, key: str, tenant: str | None, *, yes: bool, dry_run: bool) -> None:
    """Revoke a key; the next request with it is refused."""
    if key.startswith("smcp_"):
        raise failures.Failure(
            "usage",
            "That is a key, not a key's id. Anyone who sees it may use it: revoke it.",
            hint="'smcp key list' shows the ids.",
            exit_code=failures.Exit.USAGE,
        )
    with cli.connect(tenant) as api:
        owner = cli.tenant(tenant, api)
        if dry_run:
            found = next(
                (item for item in api.items(client.path("tenants", owner, "keys")) if item.get("id") == key), None
            )
            if found is None:
                raise failures.Failure(
                    "not_found", f"Tenant {owner} has no key {key}.", exit_code=failures.Exit.NOT_FOUND
                )
            if cli.out.as_json:
                cli.out.json({"dry_run": True, "would_revoke": found})
            else:
                cli.out.text(f"Would revoke key {key} of tenant {owner} ({found.get('label') or 'no label'}).")
            return
        cli.confirm(f"Revoke key {key} of tenant {owner}? Whoever uses it is locked out at once.", yes=yes)
        revoked = api.delete(client.path("tenants", owner, "keys", key))
    if cli.out.as_json:
        cli.out.json(revoked)
    else:
        cli.out.text(f"Revoked {key}.")


def _check_free(known: profiles.Profiles, name: str) -> None:
    """Before the key is made: a key that can't be saved is a key that nobody has."""
    profiles.check_name(name)
    if name in known.load():
        raise failures.Failure(
            "profiles",
            f"There is a profile '{name}' already in {known.file}; its key would be lost.",
            hint="Choose another name.",
            exit_code=failures.Exit.USAGE,
        )


def _state(key: client.Json) -> str:
    if key.get("revoked") is not None:
        return "revoked"
    expires = key.get("expires")
    if expires is None:
        return "active"
    return f"until {output.moment(expires)}{' (rotate it)' if key.get('notice') else ''}"


def _show(key: client.Json, cli: session.Session) -> None:
    cli.out.fields(
        (
            ("key", key.get("id")),
            ("tenant", key.get("tenant")),
            ("label", key.get("label")),
            ("roles", key.get("roles")),
            *((name, key.get(name)) for name in ("scopes", "servers", "networks") if key.get(name)),
            ("state", _state(key)),
        )
    )
