"""What people see of their own account, and do to it: sessions, and how they sign in.

Who changes how they sign in has signed in within ten minutes (`browser.RECENT_S`): a borrowed browser must not become
a way in that stays.
"""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import segno
from markupsafe import Markup
from starlette import responses

from smcp.access import scopes
from smcp.audit import identity as events
from smcp.identity.accounts import passkeys, passwords
from smcp.identity.oauth import grants
from smcp.kernel import errors
from smcp.web import edge, forms, tickets
from smcp.web.pages import consent, signing

_DONE: Final = {
    "joined": "Your account is made. You are signed in.",
    "ended": "Ended.",
    "password": "The password is changed. Everything else that you were signed in to has ended.",
    "passkey": "The passkey is added.",
    "passkey-removed": "The passkey is removed.",
    "totp-removed": "The authenticator is removed.",
    "taken-back": "The access is taken back.",
}
"""What a page may tell that was done, by the word in its address: a closed list, so that no link puts words into it."""


# In this order: most browsers name others, too.
_BROWSERS: Final = {"Edg": "Edge", "OPR/": "Opera", "Firefox/": "Firefox", "Chrome/": "Chrome", "Safari/": "Safari"}
_SYSTEMS: Final = {
    "Android": "Android",
    "iPhone": "an iPhone",
    "iPad": "an iPad",
    "Windows": "Windows",
    "Mac OS X": "a Mac",
    "CrOS": "ChromeOS",
    "Linux": "Linux",
}


def done(visit: edge.Visit) -> str:
    """What was done just now."""
    return _DONE.get(forms.query(visit.request).get("done", ""), "")


def inside(place: tickets.Place = tickets.Place.ACCOUNT) -> Callable[[edge.Handler], edge.Handler]:
    """For pages of who is signed in: everybody else signs in first, and goes on at `place`."""

    def around(handler: edge.Handler) -> edge.Handler:
        async def ask_first(visit: edge.Visit) -> responses.Response:
            if visit.found is None:
                return await signing.ask(visit, tickets.Kept(place))
            return await handler(visit)

        return ask_first

    return around


def recently(handler: Callable[[edge.Visit], Awaitable[responses.Response]]) -> edge.Handler:
    """For pages that change how a person signs in."""

    async def ask_first(visit: edge.Visit) -> responses.Response:
        if visit.found is None or not visit.services.sessions.recent(visit.session):
            email = "" if visit.found is None else visit.user.email
            why = "" if visit.found is None else "Sign in again: this page changes how you sign in."
            return await signing.ask(visit, tickets.Kept(tickets.Place.SECURITY), email=email, why=why)
        return await handler(visit)

    return ask_first


@inside()
async def home(visit: edge.Visit) -> responses.Response:
    """`/account/{tenant}`."""
    guesses = await visit.services.accounts.guesses(visit.user)
    roles = [str(role) for role in visit.user.roles]
    return visit.page("account.html", here="", done=done(visit), roles=roles, guesses=guesses)


@inside(tickets.Place.SESSIONS)
async def sessions(visit: edge.Visit) -> responses.Response:
    """`/account/{tenant}/sessions`."""
    mine = await visit.services.sessions.list(visit.user)
    if not visit.posted:
        shown = sorted(mine, key=lambda one: one.created, reverse=True)
        seen = [
            {"id": one.id, "browser": _browser(one.agent), "created": one.created, "seen": one.seen} for one in shown
        ]
        return visit.page("sessions.html", here="sessions", done=done(visit), sessions=seen, own=visit.session.id)
    wanted = visit.form.get("end", "")
    # Only among one's own: another person's id is nobody's here.
    ending = [one for one in mine if one.id != visit.session.id and wanted in ("others", one.id)]
    for one in ending:
        await visit.services.sessions.end(one)
    if ending:
        await visit.services.trail.write(
            events.SignedOut(
                tenant=visit.tenant,
                actor=visit.user.id,
                request_id=visit.request_id,
                user=visit.user.id,
                why="asked",
                sessions=len(ending),
            )
        )
    return visit.done("sessions", "ended")


def _browser(agent: str) -> str:
    """What a browser calls itself, in a few words; for people to recognise it by, and for nothing else."""
    name = next((words for mark, words in _BROWSERS.items() if mark in agent), "")
    system = next((words for mark, words in _SYSTEMS.items() if mark in agent), "")
    if name and system:
        return f"{name} on {system}"
    return agent[:60] or "A browser"


@inside(tickets.Place.CLIENTS)
async def clients(visit: edge.Visit) -> responses.Response:
    """`/account/{tenant}/clients`: what this person lets act for them."""
    approvals = await visit.services.grants.approvals(visit.tenant, visit.user.id)
    if not visit.posted:
        shown = [await _approved(visit, one) for one in approvals]
        return visit.page("clients.html", here="clients", done=done(visit), clients=shown)
    wanted = visit.form.get("revoke", "")
    # Only among one's own.
    for one in approvals:
        if one.client == wanted:
            await visit.services.grants.withdraw(
                visit.tenant, visit.user.id, one.client, actor=visit.user.id, why="asked"
            )
    return visit.done("clients", "taken-back")


async def _approved(visit: edge.Visit, approval: grants.Approval) -> dict[str, Any]:
    name, host = approval.client, ""
    with contextlib.suppress(errors.NotFound):
        found = await visit.services.clients.look(visit.tenant, approval.client)
        name, host = found.name, consent.host(found)
    allowed = [
        {"server": server, "words": [words for scope, words in scopes.WORDS.items() if scope in scopes.whole(held)]}
        for server, held in sorted(approval.servers.items())
    ]
    return {"id": approval.client, "name": name, "host": host, "allowed": allowed, "last": approval.last}


@recently
async def security(visit: edge.Visit) -> responses.Response:
    """`/account/{tenant}/security`."""
    return await _security(visit)


@recently
async def password(visit: edge.Visit) -> responses.Response:
    """`…/security/password`."""
    if not visit.posted:
        return visit.go(tickets.Place.SECURITY)
    try:
        signed = await visit.services.accounts.set_password(
            visit.user, visit.form.get("new", ""), methods=visit.session.methods, request_id=visit.request_id
        )
    except errors.InvalidParams as error:
        return await _security(visit, told=error.public)
    # Everything that was open has ended, this browser's session too: it gets a new one.
    await visit.enter(signed)
    return visit.done("security", "password")


@recently
async def totp(visit: edge.Visit) -> responses.Response:
    """`…/security/totp`: begin with an authenticator."""
    if not visit.posted:
        return visit.go(tickets.Place.SECURITY)
    begun = await visit.services.accounts.begin_app(visit.user, f"SMCP {visit.tenant}")
    return _totp_page(visit, tickets.Kept(tickets.Place.SECURITY, step=f"{begun.text}\n{begun.address}"))


@recently
async def totp_finish(visit: edge.Visit) -> responses.Response:
    """`…/security/totp/finish`: it shows the right code, so it counts from now on."""
    if not visit.posted:
        return visit.go(tickets.Place.SECURITY)
    kept = visit.open(tickets.Step.TOTP)
    try:
        codes = await visit.services.accounts.confirm_app(
            visit.user, visit.form.get("code", ""), request_id=visit.request_id
        )
    except errors.InvalidParams as error:
        return _totp_page(visit, kept, told=error.public)
    return visit.page("recovery.html", here="security", codes=codes)


def _totp_page(visit: edge.Visit, kept: tickets.Kept, *, told: str = "") -> responses.Response:
    text, address = kept.step.split("\n")
    # Of our own library and of digits and letters alone; the one place that puts markup into a page.
    drawn = Markup(segno.make_qr(address).svg_inline(border=4, omitsize=True))  # noqa: S704
    return visit.page(
        "totp.html",
        status=400 if told else 200,
        here="security",
        told=told,
        qr=drawn,
        secret=text,
        ticket=visit.seal(tickets.Step.TOTP, kept),
    )


@recently
async def totp_remove(visit: edge.Visit) -> responses.Response:
    """`…/security/totp/remove`."""
    if visit.posted:
        await visit.services.accounts.remove_app(visit.user, request_id=visit.request_id)
        return visit.done("security", "totp-removed")
    return visit.go(tickets.Place.SECURITY)


@recently
async def passkey_add(visit: edge.Visit) -> responses.Response:
    """`…/security/passkey`: what the browser has made."""
    if not visit.posted:
        return visit.go(tickets.Place.SECURITY)
    try:
        await visit.services.accounts.finish_adding_passkey(
            visit.user,
            visit.form.get("step", ""),
            visit.form.get("credential", ""),
            forms.line(visit.form, "name"),
            request_id=visit.request_id,
        )
    except errors.InvalidParams as error:
        return await _security(visit, told=error.public)
    return visit.done("security", "passkey")


@recently
async def passkey_remove(visit: edge.Visit) -> responses.Response:
    """`…/security/passkey/remove`."""
    if visit.posted:
        await visit.services.accounts.remove_passkey(
            visit.user, visit.form.get("passkey", ""), request_id=visit.request_id
        )
        return visit.done("security", "passkey-removed")
    return visit.go(tickets.Place.SECURITY)


async def _security(visit: edge.Visit, *, told: str = "") -> responses.Response:
    own = await visit.services.accounts.own(visit.user)
    adding = None
    if passkeys.usable(visit.origin):
        begun = await visit.services.accounts.begin_adding_passkey(visit.user, visit.origin)
        adding = {"options": msgspec.json.encode(begun.options).decode(), "step": begun.step}
    return visit.page(
        "security.html",
        status=400 if told else 200,
        here="security",
        told=told,
        done=done(visit),
        own=own,
        adding=adding,
        shortest=passwords.MIN,
    )
