"""`smcp user …`: people of a tenant, and how they get in. A code is shown once."""

import unicodedata
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from smcp.cli import client, failures, output, session


@click.group("user")
def user_command() -> None:
    """Invite people, and manage their accounts. USER is an id, or the e-mail address of the account."""


_user = click.argument("user", metavar="USER")


def _roles(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--role",
        "roles",
        multiple=True,
        required=True,
        metavar="ROLE",
        help="admin, mcp_user, read_only, operator, or one of the tenant's own; may be given more than once.",
    )(function)


@user_command.command("invite")
@click.argument("email", metavar="EMAIL")
@session.tenant_option()
@_roles
@click.option("--name", metavar="TEXT", default="", help="What the person is called.")
@session.remote
def invite(cli: session.Session, email: str, tenant: str | None, roles: Sequence[str], name: str) -> None:
    """Invite a person. The code is shown this once only, and is yours to pass on: nothing is sent."""
    body: client.Json = {"email": email, "roles": list(dict.fromkeys(roles))}
    if name:
        body["name"] = name
    with cli.connect(tenant) as api:
        made = api.post(client.path("tenants", cli.tenant(tenant, api), "invitations"), body)
    _code(cli, made, "seven days")


@user_command.command("invitations")
@session.tenant_option()
@session.remote
def invitations(cli: session.Session, tenant: str | None) -> None:
    """List the invitations that wait (never the codes)."""
    with cli.connect(tenant) as api:
        items = list(api.items(client.path("tenants", cli.tenant(tenant, api), "invitations")))
    if cli.out.as_json:
        cli.out.json({"items": items})
        return
    rows = (
        (
            item.get("id"),
            item.get("email") or "set-up",
            _names(item),
            output.moment(item.get("expires")),
            item.get("by"),
        )
        for item in items
    )
    cli.out.table(("invitation", "for", "roles", "ends (UTC)", "by"), rows, empty="No invitations wait.")


@user_command.command("withdraw")
@click.argument("invitation", metavar="INVITATION-ID")
@session.tenant_option()
@session.remote
def withdraw(cli: session.Session, invitation: str, tenant: str | None) -> None:
    """Take an invitation back."""
    with cli.connect(tenant) as api:
        api.delete(client.path("tenants", cli.tenant(tenant, api), "invitations", invitation))
    if cli.out.as_json:
        cli.out.json({"withdrawn": invitation})
    else:
        cli.out.text(f"Withdrew {invitation}.")


@user_command.command("list")
@session.tenant_option()
@session.remote
def list_users(cli: session.Session, tenant: str | None) -> None:
    """List a tenant's people."""
    with cli.connect(tenant) as api:
        items = list(api.items(client.path("tenants", cli.tenant(tenant, api), "users")))
    if cli.out.as_json:
        cli.out.json({"items": items})
        return
    rows = (
        (
            item.get("id"),
            item.get("email"),
            item.get("name"),
            _names(item),
            _state(item),
            output.moment(item.get("created")),
        )
        for item in items
    )
    cli.out.table(
        ("user", "e-mail", "name", "roles", "state", "created (UTC)"),
        rows,
        empty="Nobody yet. 'smcp user invite' invites somebody.",
    )


@user_command.command("show")
@_user
@session.tenant_option()
@session.remote
def show(cli: session.Session, user: str, tenant: str | None) -> None:
    """Show a person's account."""
    with cli.connect(tenant) as api:
        found = api.get(_there(cli, api, tenant, user))
    _show(cli, found)


@user_command.command("roles")
@_user
@session.tenant_option()
@_roles
@session.remote
def roles(cli: session.Session, user: str, tenant: str | None, roles: Sequence[str]) -> None:
    """Give a person these roles instead of their own, from the next request on."""
    with cli.connect(tenant) as api:
        where = _there(cli, api, tenant, user, "roles")
        changed = api.put(where, {"roles": list(dict.fromkeys(roles))})
    _show(cli, changed)


@user_command.command("disable")
@_user
@session.tenant_option()
@session.destructive
@session.remote
def disable(cli: session.Session, user: str, tenant: str | None, *, yes: bool, dry_run: bool) -> None:
    """Close a person's account: sessions and tokens are refused from the next request on."""
    _destroy(cli, user, tenant, "disable", "close the account of", yes=yes, dry_run=dry_run)


@user_command.command("enable")
@_user
@session.tenant_option()
@session.remote
def enable(cli: session.Session, user: str, tenant: str | None) -> None:
    """Open a closed account again; what ended stays ended."""
    with cli.connect(tenant) as api:
        _show(cli, api.post(_there(cli, api, tenant, user, "enable")))


@user_command.command("sessions")
@_user
@session.tenant_option()
@session.remote
def sessions(cli: session.Session, user: str, tenant: str | None) -> None:
    """List a person's open browser sessions."""
    with cli.connect(tenant) as api:
        items = list(api.items(_there(cli, api, tenant, user, "sessions")))
    if cli.out.as_json:
        cli.out.json({"items": items})
        return
    rows = (
        (
            item.get("id"),
            output.moment(item.get("created")),
            output.moment(item.get("seen")),
            ", ".join(map(str, item.get("methods") or ())),
            item.get("address"),
            item.get("agent"),
        )
        for item in items
    )
    columns = ("session", "opened (UTC)", "last used (UTC)", "with", "from", "browser")
    cli.out.table(columns, rows, empty="No open sessions.")


@user_command.command("sign-out")
@_user
@session.tenant_option()
@session.destructive
@session.remote
def sign_out(cli: session.Session, user: str, tenant: str | None, *, yes: bool, dry_run: bool) -> None:
    """End a person's browser sessions, and what clients hold in their name. They can sign in again."""
    _destroy(cli, user, tenant, "sign-out", "sign out", yes=yes, dry_run=dry_run)


@user_command.command("reset")
@_user
@session.tenant_option()
@session.remote
def reset(cli: session.Session, user: str, tenant: str | None) -> None:
    """Let a person begin anew who has lost the password or the codes. The code is shown this once only."""
    with cli.connect(tenant) as api:
        made = api.post(_there(cli, api, tenant, user, "invitation"))
    _code(cli, made, "seven days")


@user_command.command("setup-link")
@session.remote
def setup_link(cli: session.Session) -> None:
    """Make another set-up code, while nobody has an account of the platform (operator)."""
    with cli.connect() as api:
        made = api.post(client.path("setup"))
    _code(cli, made, "a day")


def _there(cli: session.Session, api: client.Client, tenant: str | None, user: str, *more: str) -> str:
    """Where USER is, or something of theirs. An address is looked for among the tenant's people."""
    owner = cli.tenant(tenant, api)
    if "@" in user:
        wanted = unicodedata.normalize("NFC", user.strip()).lower()
        every = api.items(client.path("tenants", owner, "users"))
        user = next((str(one["id"]) for one in every if one.get("email") == wanted), "")
        if not user:
            raise failures.Failure(
                "not_found",
                f"Nobody in tenant {owner} has an account with the address {wanted}.",
                hint="'smcp user list' shows who has one; who was invited has none yet ('smcp user invitations').",
                exit_code=failures.Exit.NOT_FOUND,
            )
    return client.path("tenants", owner, "users", user, *more)


def _destroy(
    cli: session.Session, user: str, tenant: str | None, way: str, words: str, *, yes: bool, dry_run: bool
) -> None:
    with cli.connect(tenant) as api:
        where = _there(cli, api, tenant, user)
        found = api.get(where)
        what = f"{words} {found.get('name')} ({found.get('email')})"
        if cli.goes_on(what, yes=yes, dry_run=dry_run, shown={f"would_{way.replace('-', '_')}": found}):
            _show(cli, api.post(f"{where}/{way}"))


def _code(cli: session.Session, made: client.Json, life: str) -> None:
    if cli.out.as_json:
        cli.out.json(made)
        return
    cli.out.note(f"Within {life}, once, at")
    cli.out.text(str(made.get("url")))
    cli.out.note("with this code, shown this once:")
    cli.out.text(str(made.get("code")))


def _names(item: client.Json) -> str:
    return ", ".join(map(str, item.get("roles") or ()))


def _state(item: client.Json) -> str:
    return "closed" if item.get("disabled") else "active"


def _show(cli: session.Session, user: client.Json) -> None:
    if cli.out.as_json:
        cli.out.json(user)
        return
    cli.out.fields(
        (
            ("user", user.get("id")),
            ("tenant", user.get("tenant")),
            ("e-mail", user.get("email")),
            ("name", user.get("name")),
            ("roles", user.get("roles")),
            ("state", _state(user)),
            ("created", output.moment(user.get("created"))),
            *((name, user.get(field)) for field, name in _WAYS if field in user),
        )
    )


_WAYS: Final = (
    ("app", "authenticator app"),
    ("recovery_codes", "recovery codes left"),
    ("passkeys", "passkeys"),
    ("sessions", "open sessions"),
)
