"""Connecting a device or a terminal (RFC 8628, 3.3): a person types the code that it shows, sees who asks, and answers.

An address may bring the code along (`verification_uri_complete`, 3.3.1), which then stands in the field and is never
taken without the person's pressing a button, twice: the second page asks whether the device in front of them shows this
very code. Who was sent a code by somebody else is told what would happen (5.4, remote phishing).
"""

from typing import Final

from starlette import responses

from smcp.audit import identity as events
from smcp.identity.oauth import clients, device, refusals
from smcp.kernel import errors
from smcp.web import edge, forms, tickets
from smcp.web.pages import consent, signing

_LONGEST: Final = 32


async def code(visit: edge.Visit) -> responses.Response:
    """`/account/{tenant}/device`."""
    if visit.found is None:
        return await signing.ask(visit, tickets.Kept(tickets.Place.DEVICE, visit.query))
    if not visit.posted:
        return _ask(visit, forms.line(forms.query(visit.request), "user_code", _LONGEST))
    typed = forms.line(visit.form, "code", _LONGEST)
    try:
        found, client = await _find(visit, typed)
    except errors.NotFound as error:
        return _ask(visit, typed, told=error.public, status=400)
    return visit.page(
        "device_confirm.html",
        client=client,
        host=consent.host(client),
        server=found.asked.server,
        resource=visit.services.resources.url(visit.tenant, found.asked.server),
        rights=consent.rights(found.asked.scopes),
        code=typed.upper(),
        ticket=visit.seal(tickets.Step.DEVICE, tickets.Kept(tickets.Place.DEVICE, step=f"{found.id} {typed}")),
    )


async def answer(visit: edge.Visit) -> responses.Response:
    """`/account/{tenant}/device/answer`."""
    if visit.found is None or not visit.posted:
        return visit.go(tickets.Place.DEVICE)
    wanted, _, typed = visit.open(tickets.Step.DEVICE).step.partition(" ")
    try:
        found, client = await _find(visit, typed)
    except errors.NotFound as error:
        return _ask(visit, "", told=error.public, status=400)
    if found.id != wanted:
        raise errors.BadRequest("The code is another device's by now. Start again.", detail="device")
    if visit.form.get("answer") != "allow":
        await visit.services.devices.deny(visit.tenant, found.id)
        consent.denied(visit, client.id, found.asked.server)
        return visit.page("told.html", title="Not connected", text="The device was told no. You can close this page.")
    client = await consent.adopt(visit, client)
    await consent.record(visit, client.id, found.asked.server, found.asked.scopes)
    if not await visit.services.devices.allow(visit.tenant, found.id, visit.user.id, visit.user.epoch):
        return _ask(visit, "", told="That was too late. Start again on the device.", status=400)
    return visit.page("told.html", title="Connected", text="The device goes on by itself. You can close this page.")


async def _find(visit: edge.Visit, typed: str) -> tuple[device.Found, clients.Client]:
    try:
        found = await visit.services.devices.find(visit.tenant, typed, visit.user.id)
    except errors.NotFound:
        # Guesses are few (`device.Devices.find`), and each is told.
        visit.services.trail.note(
            events.TokenRefused(
                tenant=visit.tenant,
                actor=visit.user.id,
                request_id=visit.request_id,
                outcome="refused",
                why=refusals.INVALID_GRANT,
                detail="user_code",
                address=visit.services.trail.digest(visit.tenant, visit.address),
            )
        )
        raise
    try:
        return found, await visit.services.clients.known(visit.tenant, found.asked.client)
    except refusals.Refused as error:
        raise errors.NotFound(error.description, detail=error.detail) from error


def _ask(visit: edge.Visit, typed: str, *, told: str = "", status: int = 200) -> responses.Response:
    return visit.page("device.html", status=status, code=typed, told=told)
