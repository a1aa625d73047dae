"""Signing in and out: password, code, passkey.

A person who has to sign in on the way to something finds the page in the place of what they asked for; a sealed ticket
in it says where they go on afterwards. What is wrong with an attempt is never told (`accounts.SignInRefused`).
"""

import msgspec
from starlette import responses

from smcp.audit import identity as events
from smcp.identity.accounts import accounts, passkeys
from smcp.kernel import errors
from smcp.web import edge, forms, tickets

_HOME = tickets.Kept(tickets.Place.ACCOUNT)


async def ask(
    visit: edge.Visit, kept: tickets.Kept, *, told: str = "", email: str = "", why: str = "", status: int = 200
) -> responses.Response:
    """The page for signing in, on the way to `kept`; its note is the name of the application that waits."""
    ticket = visit.seal(tickets.Step.SIGN_IN, kept)
    passkey = None
    if passkeys.usable(visit.origin):
        begun = visit.services.accounts.begin_passkey(visit.tenant, visit.origin)
        options = msgspec.json.encode(begun.options).decode()
        # The challenge stands beside what is kept: a sign-in by passkey goes on where one by password does.
        passkey = {"options": options, "step": begun.step}
    return visit.page(
        "login.html",
        status=status,
        targets=kept.targets,
        popup=kept.place is tickets.Place.AUTHORIZE,
        ticket=ticket,
        passkey=passkey,
        client=kept.note,
        told=told,
        why=why,
        email=email,
    )


async def login(visit: edge.Visit) -> responses.Response:
    """`/account/{tenant}/login`."""
    if not visit.posted:
        return await ask(visit, _HOME) if visit.found is None else visit.go(tickets.Place.ACCOUNT)
    kept = visit.open(tickets.Step.SIGN_IN)
    email = forms.line(visit.form, "email")
    try:
        signed = await visit.services.accounts.sign_in(
            visit.tenant,
            email,
            visit.form.get("password", ""),
            visit.address,
            device=visit.device,
            request_id=visit.request_id,
        )
    except accounts.SignInRefused as refused:
        return await ask(visit, kept, told=_failed(visit, refused), email=email, status=403)
    except errors.RateLimited as error:
        return _slowed(await ask(visit, kept, told=error.public, email=email, status=429), error)
    if isinstance(signed, accounts.NeedsSecond):
        return _ask_second(visit, msgspec.structs.replace(kept, step=signed.pending))
    return await _enter(visit, kept, signed)


async def second(visit: edge.Visit) -> responses.Response:
    """`/account/{tenant}/second`: the code behind the password."""
    if not visit.posted:
        return visit.go(tickets.Place.ACCOUNT)
    kept = visit.open(tickets.Step.SECOND)
    try:
        signed = await visit.services.accounts.second(
            visit.tenant,
            kept.step,
            visit.form.get("code", ""),
            visit.address,
            device=visit.device,
            request_id=visit.request_id,
        )
    except accounts.SignInRefused as refused:
        return _ask_second(visit, kept, told=_failed(visit, refused), status=403)
    except errors.RateLimited as error:
        return _slowed(_ask_second(visit, kept, told=error.public, status=429), error)
    return await _enter(visit, kept, signed)


async def passkey(visit: edge.Visit) -> responses.Response:
    """`/account/{tenant}/passkey`: what the browser made of a challenge."""
    if not visit.posted:
        return visit.go(tickets.Place.ACCOUNT)
    kept = visit.open(tickets.Step.SIGN_IN)
    try:
        signed = await visit.services.accounts.finish_passkey(
            visit.tenant,
            visit.form.get("step", ""),
            visit.form.get("credential", ""),
            visit.address,
            device=visit.device,
            request_id=visit.request_id,
        )
    except accounts.SignInRefused:
        told = "This passkey did not work here. Try again, or sign in with your password."
        return await ask(visit, kept, told=told, status=403)
    return await _enter(visit, kept, signed)


async def logout(visit: edge.Visit) -> responses.Response:
    """`/account/{tenant}/logout`."""
    if visit.found is None:
        return visit.page("told.html", title="Signed out", text="You are signed out.")
    if not visit.posted:
        return visit.page("logout.html", here="logout")
    await visit.services.sessions.end(visit.session)
    await visit.services.trail.write(
        events.SignedOut(
            tenant=visit.tenant,
            actor=visit.user.id,
            request_id=visit.request_id,
            user=visit.user.id,
            why="asked",
        )
    )
    visit.leave()
    return visit.page_signed_out("told.html", title="Signed out", text="You are signed out.")


def _ask_second(visit: edge.Visit, kept: tickets.Kept, *, told: str = "", status: int = 200) -> responses.Response:
    return visit.page(
        "second.html",
        status=status,
        targets=kept.targets,
        popup=kept.place is tickets.Place.AUTHORIZE,
        ticket=visit.seal(tickets.Step.SECOND, kept),
        told=told,
    )


async def _enter(visit: edge.Visit, kept: tickets.Kept, signed: accounts.SignedIn) -> responses.Response:
    await visit.enter(signed)
    return visit.go(kept.place, kept.query)


def _failed(visit: edge.Visit, refused: accounts.SignInRefused) -> str:
    """Count it against the address, too. Raises `errors.RateLimited`."""
    visit.services.limiter.unauthenticated(visit.address)
    return refused.public


def _slowed(answer: responses.Response, error: errors.RateLimited) -> responses.Response:
    for name, value in error.headers:
        answer.headers[name] = value
    return answer
