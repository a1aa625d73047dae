"""Every page, with the name of the form that is sent to it."""

from typing import Final

from starlette import routing

from smcp.web import assets, edge, services, shell, tickets
from smcp.web.pages import account, consent, device, joining, signing

_ACCOUNT: Final = "/account/{tenant}"

PAGES: Final[tuple[tuple[str, edge.Handler, str], ...]] = (
    ("/oauth/{tenant}/authorize", consent.show, "consent"),
    (_ACCOUNT, account.home, ""),
    (f"{_ACCOUNT}/login", signing.login, "login"),
    (f"{_ACCOUNT}/second", signing.second, "second"),
    (f"{_ACCOUNT}/passkey", signing.passkey, "passkey"),
    (f"{_ACCOUNT}/logout", signing.logout, "logout"),
    (f"{_ACCOUNT}/setup", joining.setup, "setup"),
    (f"{_ACCOUNT}/invite", joining.invite, "invite"),
    (f"{_ACCOUNT}/sessions", account.sessions, "sessions"),
    (f"{_ACCOUNT}/clients", account.clients, "clients"),
    (f"{_ACCOUNT}/device", device.code, "device"),
    (f"{_ACCOUNT}/device/answer", device.answer, "answer"),
    (f"{_ACCOUNT}/security", account.security, ""),
    (f"{_ACCOUNT}/security/password", account.password, "password"),
    (f"{_ACCOUNT}/security/totp", account.totp, "totp"),
    (f"{_ACCOUNT}/security/totp/finish", account.totp_finish, "totp-finish"),
    (f"{_ACCOUNT}/security/totp/remove", account.totp_remove, "totp-remove"),
    (f"{_ACCOUNT}/security/passkey", account.passkey_add, "passkey-add"),
    (f"{_ACCOUNT}/security/passkey/remove", account.passkey_remove, "passkey-remove"),
)
"""Path, handler, form. A page that takes no form has none."""


def pages(made: services.Services) -> list[routing.BaseRoute]:
    """The routes of all of them, and of the files that they are made with, for `control.app.build`."""
    shown = shell.Shell(made.version, made.clock.now)
    kept = tickets.Tickets(made.key, made.clock)
    return [
        *assets.routes(),
        *(routing.Route(path, edge.Page(made, shown, kept, handler, form)) for path, handler, form in PAGES),
    ]
