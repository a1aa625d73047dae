"""Access tokens (RFC 9068): what they say, and how one is made.

A token names its grant and holds no role: what its holder may do is read at each verification. It ends by itself after
`Lifetimes.access_s`, and before that with its grant, its person, its client or its tenant.
"""

from typing import Any, Final

import msgspec

from smcp.access import scopes
from smcp.identity import signing
from smcp.identity.oauth import grants, lifetimes, resources
from smcp.kernel import clock, ids

TYPE: Final = "at+jwt"
"""`typ` of the header (RFC 9068, 2.1)."""


class Bound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The key that a token works with (RFC 7800; RFC 9449, 6.1)."""

    jkt: str


class Claims(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All that a token says (RFC 9068, 2.2)."""

    iss: str
    sub: str
    aud: str
    client_id: str
    exp: int
    iat: int
    jti: str
    scope: str
    smcp_grant: str
    cnf: Bound | None = None


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """What a client gets (RFC 6749, 5.1)."""

    access: str
    bound: bool
    """Does the access token work with a DPoP proof only?"""
    expires_in: int
    scope: str
    refresh: str = ""

    def __repr__(self) -> str:
        return f"Tokens(scope={self.scope!r})"

    @property
    def body(self) -> dict[str, Any]:
        """The answer's JSON."""
        made: dict[str, Any] = {
            "access_token": self.access,
            "token_type": "DPoP" if self.bound else "Bearer",
            "expires_in": self.expires_in,
            "scope": self.scope,
        }
        if self.refresh:
            made["refresh_token"] = self.refresh
        return made


class Issuer:
    """Makes access tokens."""

    def __init__(
        self,
        signer: signing.Signing,
        addresses: resources.Resources,
        time: clock.Clock,
        lives: lifetimes.Lifetimes,
    ) -> None:
        self._signer = signer
        self._resources = addresses
        self._clock = time
        self._lives = lives

    async def issue(self, grant: grants.Grant, wanted: frozenset[str], jkt: str, refresh: str) -> Tokens:
        """An access token under `grant` for the scopes `wanted` of it, bound to the key `jkt` if there is one."""
        now = self._clock.now()
        ends = min(now + self._lives.access_s, grant.ends)
        claims = Claims(
            iss=self._resources.issuer(grant.tenant),
            sub=grant.subject,
            aud=self._resources.url(grant.tenant, grant.server),
            client_id=grant.client,
            exp=int(ends),
            iat=int(now),
            jti=ids.new("at"),
            scope=scopes.text(wanted),
            smcp_grant=grant.id,
            cnf=Bound(jkt) if jkt else None,
        )
        token = await self._signer.sign(grant.tenant, TYPE, msgspec.json.encode(claims))
        return Tokens(
            access=token, bound=bool(jkt), expires_in=max(1, int(ends - now)), scope=claims.scope, refresh=refresh
        )
