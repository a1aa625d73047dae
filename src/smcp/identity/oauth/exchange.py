"""The token endpoint (RFC 6749, 3.2): what a client shows becomes tokens, or one refusal.

| grant type | what is shown | RFC |
|---|---|---|
| `authorization_code` | a code, with its verifier, from its client, for its address | 6749, 4.1.3; 7636 |
| `refresh_token` | a refresh token | 6749, 6; 9700, 4.14 |
| `client_credentials` | the client's own proof | 6749, 4.4 |
| `urn:ietf:params:oauth:grant-type:device_code` | a device code | 8628, 3.4 |

Whatever is shown, the person and the client must stand as they did when it was allowed, and what was allowed must not
have been taken back: all of it is looked up anew.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple

import msgspec

from smcp.access import scopes
from smcp.audit import identity as events
from smcp.audit import trail
from smcp.identity.oauth import (
    authorize,
    client_auth,
    clients,
    codes,
    device,
    dpop,
    families,
    grants,
    issue,
    lifetimes,
    refusals,
    resources,
    standing,
)
from smcp.kernel import clock, ids

_ATTEMPTS: Final = 200


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request to an endpoint that clients ask without a browser."""

    tenant: ids.TenantId
    form: Mapping[str, str]
    authorization: str | None = None
    proof: dpop.Shown | None = None
    """The DPoP header."""
    address: str = ""
    """The network address that it comes from."""
    request_id: str = ""

    def __repr__(self) -> str:
        return f"Request(tenant={self.tenant!r})"


class Parts(NamedTuple):
    """What the endpoints are made of."""

    clients: client_auth.ClientAuth
    people: standing.Source
    applications: standing.Source
    codes: codes.Codes
    devices: device.Devices
    grants: grants.Grants
    families: families.Families
    issuer: issue.Issuer
    proofs: dpop.Proofs
    resources: resources.Resources
    trail: trail.Trail
    clock: clock.Clock
    lives: lifetimes.Lifetimes
    rate: Callable[[ids.TenantId, str, str], None]
    """Counts a token of a tenant's client for somebody. Raises `errors.RateLimited`."""


class _Wish(NamedTuple):
    """What a person has allowed, however they did."""

    approved: codes.Approved
    how: str
    use: Callable[[str], Awaitable[bool]]
    """Turns what was shown into a grant, once."""


class Exchange:
    """Answers token requests."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._kinds: Final[dict[str, Callable[[Request, clients.Client], Awaitable[issue.Tokens]]]] = {
            clients.AUTHORIZATION_CODE: self._code,
            clients.REFRESH_TOKEN: self._refresh,
            clients.CLIENT_CREDENTIALS: self._itself,
            clients.DEVICE_CODE: self._device,
        }

    async def token(self, request: Request) -> issue.Tokens:
        """Tokens. Raises `refusals.Refused`, `errors.Unavailable`, `errors.TenantSuspended`, `errors.RateLimited`."""
        wanted = request.form.get("grant_type")
        if wanted is None:
            raise refusals.Refused(refusals.INVALID_REQUEST, "grant_type is missing.", detail="grant_type")
        kind = self._kinds.get(wanted)
        if kind is None:
            words = f"grant_type is one of: {' '.join(self._kinds)}."
            raise refusals.Refused(refusals.UNSUPPORTED_GRANT_TYPE, words, detail="grant_type")
        client = await self._parts.clients.authenticate(
            request.tenant, request.authorization, request.form, request.address
        )
        if wanted not in client.grant_types:
            words = "This client did not register for this grant type."
            raise refusals.Refused(refusals.UNAUTHORIZED_CLIENT, words, detail="grant_type")
        return await kind(request, client)

    async def begin_device(self, request: Request) -> device.Begun:
        """The device authorization endpoint (RFC 8628, 3.1). Raises as `token` does."""
        parts = self._parts
        client = await parts.clients.authenticate(request.tenant, request.authorization, request.form, request.address)
        if clients.DEVICE_CODE not in client.grant_types:
            words = "This client did not register for the device flow."
            raise refusals.Refused(refusals.UNAUTHORIZED_CLIENT, words, detail="grant_type")
        server = await parts.resources.target(request.tenant, request.form.get("resource"))
        # As a browser's request has them: who asks for nothing must not get everything.
        asked = authorize.wanted_scopes(server, request.form.get("scope", ""))
        return await parts.devices.begin(client, server, asked)

    # --- grant types ---

    async def _code(self, request: Request, client: clients.Client) -> issue.Tokens:
        parts, form, tenant = self._parts, request.form, request.tenant
        text = _needed(form, "code")
        code = await parts.codes.find(
            tenant, text, form.get("code_verifier", ""), form.get("redirect_uri", ""), client.id
        )
        if code.grant:
            await self._copied(tenant, code.approved.user, code.grant)
            raise codes.refused("replay")

        async def use(grant: str) -> bool:
            if await parts.codes.use(tenant, text, grant):
                return True
            raced = await parts.codes.find(
                tenant, text, form.get("code_verifier", ""), form.get("redirect_uri", ""), client.id
            )
            await self._copied(tenant, code.approved.user, raced.grant)
            return False

        return await self._granted(request, client, _Wish(code.approved, clients.AUTHORIZATION_CODE, use))

    async def _device(self, request: Request, client: clients.Client) -> issue.Tokens:
        parts, tenant = self._parts, request.tenant
        found = await parts.devices.poll(tenant, _needed(request.form, "device_code"), client.id)
        asked = found.asked
        if asked.grant:
            await self._copied(tenant, asked.user, asked.grant)
            raise codes.refused("replay")
        approved = codes.Approved(
            client=asked.client,
            client_epoch=asked.client_epoch,
            redirect_uri="",
            challenge="",
            user=asked.user,
            user_epoch=asked.user_epoch,
            server=asked.server,
            scopes=asked.scopes,
        )

        async def use(grant: str) -> bool:
            return await parts.devices.use(tenant, found.id, grant)

        return await self._granted(request, client, _Wish(approved, clients.DEVICE_CODE, use))

    async def _granted(self, request: Request, client: clients.Client, wish: _Wish) -> issue.Tokens:
        """What a person has allowed becomes a grant, and its first tokens."""
        parts, tenant, approved = self._parts, request.tenant, wish.approved
        await self._same_target(request, approved.server)
        held = scopes.whole(await parts.grants.allowed(tenant, approved.user, client.id, approved.server))
        if client.epoch != approved.client_epoch or not {*approved.scopes} <= held:
            raise codes.refused("ended")
        jkt = self._proved(request, approved.user)
        if approved.jkt and jkt != approved.jkt:
            raise _proof("key")
        refreshable = clients.REFRESH_TOKEN in client.grant_types
        made = parts.grants.new(
            tenant,
            kind=grants.USER,
            subject=approved.user,
            client=client.id,
            server=approved.server,
            how=wish.how,
        )
        grant = msgspec.structs.replace(
            made,
            scopes=approved.scopes,
            user_epoch=approved.user_epoch,
            client_epoch=client.epoch,
            # A confidential client proves itself at each refresh; a public one has nothing but this key.
            jkt="" if client.confidential else jkt,
            ends=made.ends if refreshable else parts.clock.now() + parts.lives.access_s,
            refreshable=refreshable,
        )
        await self._stands(grant)
        parts.rate(tenant, client.id, grant.subject)
        # On record before what was shown is used up: whoever comes second must find what to end.
        await parts.grants.add(grant)
        if not await wish.use(grant.id):
            await self._end(grant, "reuse")
            raise codes.refused("replay")
        if not await parts.grants.allowed(tenant, approved.user, client.id, approved.server):
            # Taken back meanwhile, by somebody who could not see this grant.
            await self._end(grant, "asked")
            raise codes.refused("ended")
        refresh = await parts.families.begin(grant) if refreshable else ""
        return await self._issued(request, grant, frozenset(grant.scopes), jkt, refresh)

    async def _refresh(self, request: Request, client: clients.Client) -> issue.Tokens:
        parts, tenant = self._parts, request.tenant
        text = _needed(request.form, "refresh_token")
        jkt: str | None = None
        counted = False
        for _ in range(_ATTEMPTS):
            found = await parts.families.find(tenant, text)
            if found.family.client != client.id:
                raise codes.refused("client")
            kept = await parts.grants.get(tenant, found.family.subject, found.family.grant)
            if kept is None:
                raise codes.refused("ended")
            grant = kept.value
            if found.use is families.Use.REUSED:
                await self._end(grant, "reuse")
                raise codes.refused("reuse")
            await self._same_target(request, grant.server)
            wanted = _asked(request.form, frozenset(grant.scopes))
            jkt = self._proved(request, grant.subject) if jkt is None else jkt
            if grant.jkt and jkt != grant.jkt:
                raise _proof("key")
            await self._stands(grant)
            if not counted:
                parts.rate(tenant, client.id, grant.subject)
                counted = True
            following = await parts.families.next(grant, found)
            if following is not None:
                return await self._issued(request, grant, wanted, jkt, following)
        raise refusals.Refused(
            refusals.TEMPORARILY_UNAVAILABLE, "Too many at once. Ask again.", detail="race", status=503
        )

    async def _itself(self, request: Request, client: clients.Client) -> issue.Tokens:
        parts, tenant = self._parts, request.tenant
        if client.kind is not clients.Kind.ADMINISTRATOR or not client.confidential:
            words = "Only a client that an administrator made may act for itself."
            raise refusals.Refused(refusals.UNAUTHORIZED_CLIENT, words, detail="client")
        server = await parts.resources.target(tenant, request.form.get("resource"))
        wanted = frozenset(authorize.wanted_scopes(server, request.form.get("scope") or client.scope))
        if client.scope and not wanted <= scopes.whole(client.scope.split()):
            raise refusals.Refused(
                refusals.INVALID_SCOPE, "This client did not register for these scopes.", detail="scope"
            )
        jkt = self._proved(request, client.id)
        parts.rate(tenant, client.id, client.id)
        made = parts.grants.new(
            tenant,
            kind=grants.CLIENT,
            subject=client.id,
            client=client.id,
            server=server,
            how=clients.CLIENT_CREDENTIALS,
        )
        grant = msgspec.structs.replace(
            made,
            scopes=tuple(sorted(wanted)),
            client_epoch=client.epoch,
            ends=parts.clock.now() + parts.lives.access_s,
        )
        await parts.grants.add(grant)
        return await self._issued(request, grant, wanted, jkt, "")

    # --- what they share ---

    async def _issued(
        self, request: Request, grant: grants.Grant, wanted: frozenset[str], jkt: str, refresh: str
    ) -> issue.Tokens:
        tokens = await self._parts.issuer.issue(grant, wanted, jkt, refresh)
        self._parts.trail.note(
            events.TokenIssued(
                tenant=grant.tenant,
                actor=grant.subject,
                request_id=request.request_id,
                grant=grant.id,
                client=grant.client,
                how=request.form["grant_type"],
                server=grant.server,
                scopes=tuple(sorted(wanted)),
            )
        )
        return tokens

    async def _stands(self, grant: grants.Grant) -> None:
        """Raises `refusals.Refused` unless person and client stand as they did when it was allowed."""
        person = await self._parts.people.get(grant.tenant, grant.subject)
        application = await self._parts.applications.get(grant.tenant, grant.client)
        if person is None or person.epoch != grant.user_epoch:
            raise codes.refused("user")
        if application is None or application.epoch != grant.client_epoch:
            raise codes.refused("client")

    async def _same_target(self, request: Request, server: str) -> None:
        """RFC 8707, 2.2: a token request may say again what the authorization was for, and nothing else."""
        said = request.form.get("resource")
        if said is not None and await self._parts.resources.target(request.tenant, said) != server:
            words = "The resource is not the one that was allowed. Log in for it."
            raise refusals.Refused(refusals.INVALID_TARGET, words, detail="resource")

    def _proved(self, request: Request, whose: str) -> str:
        """The key of the request's DPoP proof; empty without one. `whose`: who the token is of."""
        if request.proof is None:
            return ""
        try:
            return self._parts.proofs.check(request.tenant, whose, request.proof, None)
        except dpop.BadProof as error:
            raise _proof(error.word) from error

    async def _copied(self, tenant: ids.TenantId, user: str, grant: str) -> None:
        """What was shown was used before: whoever has got tokens for it loses them (OAuth 2.1, 4.1.3)."""
        kept = await self._parts.grants.get(tenant, user, grant)
        if kept is not None:
            await self._end(kept.value, "reuse")

    async def _end(self, grant: grants.Grant, why: str) -> None:
        await self._parts.grants.revoke(grant, actor=grant.subject, why=why)


def _needed(form: Mapping[str, str], name: str) -> str:
    found = form.get(name)
    if found is None:
        raise refusals.Refused(refusals.INVALID_REQUEST, f"{name} is missing.", detail=name)
    return found


def _asked(form: Mapping[str, str], most: frozenset[str]) -> frozenset[str]:
    """What of `most` a request wants: all of it, unless it says (RFC 6749, 3.3 and 6)."""
    said = scopes.parse(form.get("scope", ""))
    if said is None or not said <= scopes.whole(most):
        words = "The scope is unknown, or more than was allowed."
        raise refusals.Refused(refusals.INVALID_SCOPE, words, detail="scope")
    return said or most


def _proof(word: str) -> refusals.Refused:
    words = "The DPoP proof does not belong to this request, or to the key that was used before."
    return refusals.Refused(dpop.INVALID, words, detail=f"dpop_{word}")
