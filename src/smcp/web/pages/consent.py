"""The authorization endpoint: a client's request, a person's answer (OAuth 2.1, 4.1; RFC 9700, 4.12 and 4.16).

The request is read anew at each step, from the same query, by the one parser (`identity.oauth.authorize`): between
steps it is only in a sealed ticket in the page. Nothing leads to the client before the parser has said that client and
redirect URI belong together.

Consent is asked for unless this person has allowed this client, for this server, all of these scopes before, that
still stands, and they were shown the same name, host and address of the answer. Even then it is asked again when the
answer goes to a program on the person's machine or to an application's own scheme: any program there can use another
one's client id (RFC 8252, 8.6).
"""

import hashlib

from starlette import responses

from smcp.access import scopes
from smcp.audit import identity as events
from smcp.identity.oauth import authorize, clients, codes, redirects, refusals
from smcp.kernel import crypto, errors
from smcp.web import edge, shell, tickets
from smcp.web.pages import signing


async def show(visit: edge.Visit) -> responses.Response:
    """`/oauth/{tenant}/authorize`."""
    if visit.posted:
        return await _answered(visit)
    query = visit.query
    request = await _read(visit, query)
    if isinstance(request, responses.Response):
        return request
    if visit.found is None or ("login" in request.prompt.split() and not visit.services.sessions.recent(visit.session)):
        kept = tickets.Kept(tickets.Place.AUTHORIZE, query, _targets(request), request.client.name)
        return await signing.ask(visit, kept)
    if await _may_skip(visit, request):
        return await _approve(visit, request)
    return await _ask(visit, request, query)


async def _read(visit: edge.Visit, query: str) -> authorize.Request | responses.Response:
    try:
        return await visit.services.authorizing.read(visit.tenant, query.encode("latin-1"), visit.address)
    except authorize.PageError as error:
        _count(visit, error.code, error.detail)
        raise errors.BadRequest(
            f"{error.description} Go back to the application and start again.", detail=error.detail
        ) from error
    except authorize.RedirectError as error:
        _count(visit, error.code, error.detail)
        if not await _trusts(visit, error):
            # RFC 9700, 4.11.2: else a link to us would lead anybody to wherever a stranger has registered, or says in a
            # document.
            return visit.page(
                "refused.html",
                status=400,
                popup=True,
                text=error.description,
                destination=redirects.host(error.location),
                where=error.location,
            )
        return _leave(visit, error.location)


async def _trusts(visit: edge.Visit, error: authorize.RedirectError) -> bool:
    """May an error lead there at once? An administrator made the client, or this person has said yes to this page."""
    if error.client.kind in (clients.Kind.ADMINISTRATOR, clients.Kind.BUILT_IN):
        return True
    if visit.found is None:
        return False
    approved = await visit.services.grants.approvals(visit.tenant, visit.user.id)
    page = _page(error.client, error.redirect_uri)
    return any(one.client == error.client.id and page in sum(one.pages.values(), ()) for one in approved)


def _count(visit: edge.Visit, code: str, detail: str) -> None:
    """Tell the trail, as far as the rate of strangers from this address goes."""
    if visit.services.limiter.unauthenticated(visit.address):
        visit.services.trail.note(
            events.TokenRefused(
                tenant=visit.tenant,
                actor="anonymous" if visit.found is None else visit.user.id,
                request_id=visit.request_id,
                outcome="refused",
                why=code,
                detail=detail,
                address=visit.services.trail.digest(visit.tenant, visit.address),
            )
        )


def _targets(request: authorize.Request) -> tuple[str, ...]:
    target = shell.target_of(request.redirect_uri)
    return () if target is None else (target,)


async def _may_skip(visit: edge.Visit, request: authorize.Request) -> bool:
    if request.prompt or not request.redirect_uri.startswith("https://"):
        return False
    same = await visit.services.grants.shown(
        visit.tenant, visit.user.id, request.client.id, request.server, _page(request.client, request.redirect_uri)
    )
    return same and await _had(visit, request) >= scopes.whole(request.scopes)


def _page(client: clients.Client, redirect_uri: str) -> str:
    """What a person is shown of the client, as one word: its name, its host, the address of the answer."""
    told = crypto.length_prefixed(client.name, client.host, redirect_uri)
    return hashlib.sha256(told).hexdigest()


def _shown(request: authorize.Request) -> str:
    """All of what the consent page says, as one word: an answer is to this and nothing else."""
    return hashlib.sha256(
        crypto.length_prefixed(_page(request.client, request.redirect_uri), request.resource, *request.scopes)
    ).hexdigest()


async def _had(visit: edge.Visit, request: authorize.Request) -> frozenset[str]:
    """What this person lets this client do there already."""
    granted = await visit.services.grants.allowed(visit.tenant, visit.user.id, request.client.id, request.server)
    return scopes.whole(granted)


async def _ask(visit: edge.Visit, request: authorize.Request, query: str) -> responses.Response:
    client, server = request.client, request.server
    kept = tickets.Kept(tickets.Place.AUTHORIZE, query, _targets(request), step=_shown(request))
    return visit.page(
        "consent.html",
        targets=kept.targets,
        popup=True,
        client=client,
        host=host(client),
        server=server,
        resource=request.resource,
        destination=request.destination,
        loopback=request.loopback,
        elsewhere=request.elsewhere,
        rights=rights(request.scopes, await _had(visit, request)),
        ticket=visit.seal(tickets.Step.CONSENT, kept),
    )


def host(client: clients.Client) -> str:
    """What people are told of who a client is: only what is known.

    A metadata document stands at its host, whatever else it names. Of a client that registered itself nothing is known:
    it may name a famous site's address first and be asked for at its own. A program on a machine has no host.
    """
    if client.kind is clients.Kind.METADATA:
        return client.host
    unknown = client.kind is clients.Kind.DYNAMIC
    return "" if unknown or any(redirects.is_loopback(uri) for uri in client.redirect_uris) else client.host


def rights(asked: tuple[str, ...], had: frozenset[str] = frozenset()) -> list[dict[str, object]]:
    """Scopes in words, narrow ones first, with all that they imply."""
    whole = scopes.whole(asked)
    return [{"words": words, "had": scope in had} for scope, words in scopes.WORDS.items() if scope in whole]


async def _answered(visit: edge.Visit) -> responses.Response:
    if visit.found is None:
        raise errors.BadRequest("You are signed out. Go back to the application and start again.", detail="session")
    kept = visit.open(tickets.Step.CONSENT)
    request = await _read(visit, kept.query)
    if isinstance(request, responses.Response):
        return request
    if kept.step != _shown(request):
        # It is another request by now: the client has another name, the tenant other servers. Look at it again.
        return await _ask(visit, request, kept.query)
    if visit.form.get("answer") == "allow":
        # First, so that nobody has approved what can't be kept: a tenant has only so much room for clients.
        await adopt(visit, request.client)
        await record(
            visit, request.client.id, request.server, request.scopes, _page(request.client, request.redirect_uri)
        )
        return await _approve(visit, request)
    denied(visit, request.client.id, request.server)
    return _leave(visit, request.refused())


def denied(visit: edge.Visit, client: str, server: str) -> None:
    """Tell the trail that a person said no."""
    visit.services.trail.note(
        events.ConsentDenied(
            tenant=visit.tenant, actor=visit.user.id, request_id=visit.request_id, client=client, server=server
        )
    )


async def record(visit: edge.Visit, client: str, server: str, asked: tuple[str, ...], page: str = "") -> None:
    """Put on record that a person said yes. What can't be recorded is not begun."""
    visit.services.trail.check(visit.tenant)
    await visit.services.grants.approve(visit.tenant, visit.user.id, client, server, asked, page=page)
    await visit.services.trail.write(
        events.ConsentGiven(
            tenant=visit.tenant,
            actor=visit.user.id,
            request_id=visit.request_id,
            client=client,
            server=server,
            scopes=asked,
        )
    )


async def adopt(visit: edge.Visit, client: clients.Client) -> clients.Client:
    """Keep a client that somebody lets act for them. Raises `errors.BadRequest` when it was revoked meanwhile."""
    try:
        return await visit.services.clients.adopt(client, actor=visit.user.id, request_id=visit.request_id)
    except refusals.Refused as error:
        raise errors.BadRequest(error.description, detail=error.detail) from error


async def _approve(visit: edge.Visit, request: authorize.Request) -> responses.Response:
    client = await adopt(visit, request.client)
    code = await visit.services.codes.issue(
        visit.tenant,
        codes.Approved(
            client=client.id,
            client_epoch=client.epoch,
            redirect_uri=request.redirect_uri,
            challenge=request.challenge,
            jkt=request.jkt,
            user=visit.user.id,
            user_epoch=visit.user.epoch,
            server=request.server,
            scopes=request.scopes,
        ),
    )
    return _leave(visit, request.approved(code))


def _leave(visit: edge.Visit, location: str) -> responses.Response:
    """To the client. Where a policy has no word for the place (an IPv6 address), a form must not redirect there: the
    page in between goes on by itself, and is a link where that is switched off."""
    if visit.posted and shell.target_of(location) is None:
        return visit.page("continue.html", popup=True, where=location)
    return shell.redirect(location)
