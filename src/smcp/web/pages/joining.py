"""How an account begins: the set-up of a fresh platform, and invitations.

The code is typed or pasted into the page. It stands in no address, so it is in no history, no log and no referrer.
"""

from typing import Final

from starlette import responses

from smcp.identity.accounts import passwords
from smcp.kernel import errors, ids
from smcp.web import edge, forms, tickets


async def setup(visit: edge.Visit) -> responses.Response:
    """`/account/platform/setup`: the first operator."""
    if visit.tenant != ids.PLATFORM:
        raise errors.NotFound(detail="setup")
    return await _join(visit, "setup")


async def invite(visit: edge.Visit) -> responses.Response:
    """`/account/{tenant}/invite`."""
    return await _join(visit, "invite")


_WORDS: Final = {
    "setup": {
        "title": "Set up this platform",
        "about": "Make the first operator’s account. The code was printed once when SMCP started; "
        "“smcp user setup-link” makes another one.",
        "secret_label": "Set-up code",
    },
    "invite": {
        "title": "Join",
        "about": "Make your account, or begin anew with it, with the code that an administrator gave you.",
        "secret_label": "Invitation code",
    },
}


async def _join(visit: edge.Visit, form: str) -> responses.Response:
    if not visit.posted:
        return _page(visit, form)
    try:
        signed = await visit.services.accounts.accept(
            visit.tenant,
            forms.line(visit.form, "secret"),
            forms.line(visit.form, "name"),
            visit.form.get("password", ""),
            visit.address,
            email=forms.line(visit.form, "email"),
            request_id=visit.request_id,
        )
    except (errors.NotFound, errors.InvalidParams, errors.Conflict) as error:
        # A code that is wrong counts as somebody unknown, what is wrong with a name or a password does not.
        if isinstance(error, errors.NotFound):
            visit.services.limiter.unauthenticated(visit.address)
        return _page(visit, form, told=error.public, status=400)
    await visit.enter(signed)
    return visit.go(tickets.Place.ACCOUNT, "done=joined")


def _page(visit: edge.Visit, form: str, *, told: str = "", status: int = 200) -> responses.Response:
    return visit.page(
        "join.html",
        status=status,
        form=form,
        told=told,
        asks_email=form == "setup",
        shortest=passwords.MIN,
        secret=forms.line(visit.form, "secret"),
        email=forms.line(visit.form, "email"),
        name=forms.line(visit.form, "name"),
        words=_WORDS[form],
    )
