"""`smcp login`, `smcp whoami` and `smcp logout`: a person instead of a key."""

import os
import threading
import webbrowser
from typing import Final

import click

from smcp.cli import client, failures, loopback, oauth, profiles, session

_TIMEOUT_S: Final = 30.0


@click.command("login")
@click.argument("url", required=False)
@session.tenant_option()
@click.option("--device", is_flag=True, help="Show a code to enter in a browser on another machine.")
@click.option("--no-browser", is_flag=True, help="Only show the address; open no browser.")
@click.option("--read-only", is_flag=True, help="Ask for reading only; else for all that your roles allow.")
@click.option("--save-profile", metavar="NAME", help="Keep the login in this profile; by default in the tenant's name.")
@session.remote
def login_command(
    cli: session.Session,
    url: str | None,
    tenant: str | None,
    save_profile: str | None,
    *,
    device: bool,
    no_browser: bool,
    read_only: bool,
) -> None:
    """Log in to the platform at URL as a person, and keep the login in a profile.

    Without URL, and without --tenant, those of the profile in use are taken. A browser opens; there you log in and
    agree. The login is renewed by itself for as long as it is used at least every 30 days.
    """
    url, tenant = _place(cli, url, tenant)
    name = _free(cli.profiles, save_profile, tenant, url)
    cli.warn_plain(url)
    scope = oauth.READING if read_only else oauth.EVERYTHING
    with (
        client.told(url, "the address given"),
        client.connection(url, "the address given", timeout_s=_TIMEOUT_S, ca_file=cli.ca_file) as http,
    ):
        issuer = oauth.Issuer(http, url, tenant)
        tokens = _by_device(cli, issuer, scope) if device else _by_browser(cli, issuer, scope, opens=not no_browser)
    cli.profiles.save(name, profiles.Profile(url, tenant, "", tokens))
    _told(cli, name, url, tenant)


@click.command("whoami")
@session.tenant_option()
@session.remote
def whoami_command(cli: session.Session, tenant: str | None) -> None:
    """Show whom the credential in use belongs to, and what it is narrowed to."""
    with cli.connect(tenant) as api:
        me = api.get(client.path("whoami"))
        url = api.url
    if cli.out.as_json:
        cli.out.json({**me, "url": url})
        return
    names = ("tenant", "id", "kind", "label", "roles", "client", "scopes")
    cli.out.fields([("platform", url), *((name, me.get(name)) for name in names)])


@click.command("logout")
@session.tenant_option()
@click.option("--forget", is_flag=True, help="Remove the profile even where the platform can't be told.")
@session.remote
def logout_command(cli: session.Session, tenant: str | None, *, forget: bool) -> None:
    """End a login: the platform refuses its tokens from now on, and the profile is removed."""
    chosen = profiles.choose(cli.profiles, os.environ, named=cli.profile, tenant=tenant)
    if chosen.tokens is None:
        raise failures.Failure(
            "usage",
            f"{chosen.source[0].upper()}{chosen.source[1:]} holds a key, not a login.",
            hint="--profile chooses another one. A key is ended with 'smcp key revoke'.",
            exit_code=failures.Exit.USAGE,
        )
    try:
        with (
            client.told(chosen.url, chosen.source),
            client.connection(chosen.url, chosen.source, timeout_s=_TIMEOUT_S, ca_file=cli.ca_file) as http,
        ):
            oauth.Issuer(http, chosen.url, chosen.tenant).revoke(chosen.tokens)
        revoked = True
    except failures.Failure as failure:
        if not forget:
            failure.hint = f"{failure.hint} 'smcp logout --forget' removes the profile all the same.".strip()
            raise
        revoked = False
    cli.profiles.remove(chosen.name)
    if cli.out.as_json:
        cli.out.json({"profile": chosen.name, "revoked": revoked})
        return
    cli.out.text(f"Logged out; profile '{chosen.name}' is removed.")
    if not revoked:
        cli.out.note("The platform was not told: end the login on your account page there.")


def _by_browser(cli: session.Session, issuer: oauth.Issuer, scope: str, *, opens: bool) -> profiles.Tokens:
    with loopback.Listener() as listener:
        attempt = issuer.begin(listener.redirect, scope)
        cli.out.progress(f"Log in and agree at this address:\n\n  {attempt.address}\n", {"open": attempt.address})
        if opens and not _opened(attempt.address):
            cli.out.note("No browser could be opened here. On a machine without one: smcp login --device")
        came = listener.wait(attempt.state)
        return issuer.finish(attempt, came)


def _by_device(cli: session.Session, issuer: oauth.Issuer, scope: str) -> profiles.Tokens:
    device = issuer.ask_device(scope)
    cli.out.progress(
        f"In a browser, on any machine, open {device.verification_uri} and enter the code:\n\n  {device.user_code}\n",
        {"user_code": device.user_code, "verification_uri": device.verification_uri, "open": device.complete},
    )
    return issuer.wait_for_device(device, threading.Event().wait)


def _opened(address: str) -> bool:
    """Open the person's browser. The address is one argument of a program's; no shell reads it."""
    try:
        return webbrowser.open(address)
    except (webbrowser.Error, OSError):
        return False


def _place(cli: session.Session, url: str | None, tenant: str | None) -> tuple[str, str]:
    if url is None or tenant is None:
        if url is not None:
            raise failures.Failure(
                "usage", "Say which tenant: --tenant NAME.", exit_code=failures.Exit.USAGE, hint="Operators: platform."
            )
        chosen = profiles.choose(cli.profiles, os.environ, named=cli.profile, tenant=tenant)
        url, tenant = chosen.url, tenant or chosen.tenant
    return url.rstrip("/"), tenant


def _free(known: profiles.Profiles, asked: str | None, tenant: str, url: str) -> str:
    """The profile's name. Another profile is never overwritten: its key would be lost."""
    present = known.load()

    def usable(name: str) -> bool:
        found = present.get(name)
        return found is None or (found.tokens is not None and (found.url, found.tenant) == (url, tenant))

    name = asked or tenant
    profiles.check_name(name)
    if usable(name):
        return name
    if asked:
        raise failures.Failure(
            "profiles",
            f"There is a profile '{name}' already in {known.file}; what it holds would be lost.",
            hint="Choose another name.",
            exit_code=failures.Exit.USAGE,
        )
    return next(spare for number in range(2, 10_000) if usable(spare := f"{name}-{number}"))


def _told(cli: session.Session, name: str, url: str, tenant: str) -> None:
    if cli.out.as_json:
        cli.out.json({"profile": name, "url": url, "tenant": tenant})
        return
    cli.out.text(f"Logged in. The login is in profile '{name}' of {cli.profiles.file}.")
    chosen = profiles.choose(cli.profiles, os.environ, tenant=tenant)
    if chosen.name != name:
        cli.out.note(f"Commands about {tenant} use {chosen.source}; choose the login with --profile {name}.")
