"""Introspection (RFC 7662) and revocation (RFC 7009): what a client may ask about a token, and give it back.

| | who | about which token |
|---|---|---|
| introspect | a client that proves who it is | its own; one that an administrator made: any of its tenant |
| revoke | any client, proving what it can | its own |

A token is looked at without what it may come with: a client that introspects holds no DPoP key. What is no token, not
this client's to see, or has ended is `active: false` and nothing more (RFC 7662, 2.2), so that nobody scans for tokens.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from smcp.audit import identity as events
from smcp.identity.authn import access_token
from smcp.identity.oauth import clients, exchange, families, grants, opaque, refusals
from smcp.kernel import ids

_UNKNOWN = {"active": False}


class _Seen(NamedTuple):
    grant: grants.Grant
    told: Mapping[str, Any]


class Looking:
    """Answers both endpoints."""

    def __init__(self, parts: exchange.Parts, tokens: access_token.AccessTokens) -> None:
        self._parts = parts
        self._tokens = tokens

    async def introspect(self, request: exchange.Request) -> Mapping[str, Any]:
        """What a token is. Raises `refusals.Refused`, `errors.Unavailable`."""
        client = await self._parts.clients.authenticate(
            request.tenant, request.authorization, request.form, request.address
        )
        if not client.confidential:
            raise refusals.client("public")
        seen = await self._see(request.tenant, _token(request))
        mine = seen is not None and (client.kind is clients.Kind.ADMINISTRATOR or seen.grant.client == client.id)
        return seen.told if seen is not None and mine else _UNKNOWN

    async def revoke(self, request: exchange.Request) -> None:
        """End the grant of a token: of an access token, too (RFC 7009, 2.1), since a client that gives one back is
        done.

        What is no token, or has ended, needs nothing (2.2). Raises `refusals.Refused`, `errors.Unavailable`.
        """
        client = await self._parts.clients.authenticate(
            request.tenant, request.authorization, request.form, request.address
        )
        seen = await self._see(request.tenant, _token(request))
        if seen is None:
            return
        if seen.grant.client != client.id:
            raise refusals.Refused(refusals.INVALID_GRANT, "This token is another client's.", detail="client")
        await self._parts.grants.revoke(seen.grant, actor=seen.grant.subject, why="client")
        self._parts.trail.note(
            events.TokenRevoked(
                tenant=request.tenant,
                actor=seen.grant.subject,
                request_id=request.request_id,
                grant=seen.grant.id,
                client=client.id,
            )
        )

    async def _see(self, tenant: ids.TenantId, token: str) -> _Seen | None:
        """`token_type_hint` is no help (RFC 7662, 2.1): a token says itself what it is."""
        if self._tokens.recognises(token):
            return await self._access(tenant, token)
        if token.startswith(f"{opaque.REFRESH}_"):
            return await self._refresh(tenant, token)
        return None

    async def _access(self, tenant: ids.TenantId, token: str) -> _Seen | None:
        found = await self._tokens.examine(token)
        if found is None or found.grant.tenant != tenant:
            return None
        claims = found.claims
        told: dict[str, Any] = {
            "active": True,
            "scope": claims.scope,
            "client_id": claims.client_id,
            "token_type": "DPoP" if claims.cnf else "Bearer",
            "exp": claims.exp,
            "iat": claims.iat,
            "sub": claims.sub,
            "aud": claims.aud,
            "iss": claims.iss,
            "jti": claims.jti,
        }
        if claims.cnf is not None:
            told["cnf"] = {"jkt": claims.cnf.jkt}
        return _Seen(found.grant, told)

    async def _refresh(self, tenant: ids.TenantId, token: str) -> _Seen | None:
        try:
            found = await self._parts.families.find(tenant, token)
        except refusals.Refused:
            return None
        kept = await self._parts.grants.get(tenant, found.family.subject, found.family.grant)
        if kept is None:
            return None
        grant = kept.value
        if found.use is families.Use.REUSED:
            # Worth nothing; given back it ends the login all the same: it is a copy, or its client lost the next one.
            return _Seen(grant, _UNKNOWN)
        told = {
            "active": True,
            "scope": " ".join(grant.scopes),
            "client_id": grant.client,
            "sub": grant.subject,
            "iss": self._parts.resources.issuer(tenant),
            "exp": int(grant.ends),
        }
        return _Seen(grant, told)


def _token(request: exchange.Request) -> str:
    found = request.form.get("token")
    if found is None:
        raise refusals.Refused(refusals.INVALID_REQUEST, "token is missing.", detail="token")
    return found
