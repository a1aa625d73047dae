"""Authorization codes (RFC 6749, 4.1): made once somebody has consented, good for one exchange by one client.

A code is bound to the client, its redirect address and its challenge (RFC 7636; S256 alone, so there is nothing to
downgrade to). Using it is one compare-and-set. What is left of a used code stays for a while: a second use that is
right in every other way (OAuth 2.1, 4.1.3) ends what the first one got, since somebody has a copy of all of it.
"""

import hashlib
import re
from typing import Final

import msgspec

from smcp.identity.oauth import lifetimes, opaque, refusals
from smcp.kernel import clock, crypto, errors, ids
from smcp.stores import records
from smcp.stores import tenant as stores

CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
"""An S256 challenge: the base64url of a SHA-256 (RFC 7636, 4.2)."""
_VERIFIER: Final = re.compile(r"[A-Za-z0-9._~-]{43,128}", re.ASCII)


class Approved(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for and allowed: all that an exchange needs to know."""

    client: str
    client_epoch: int
    redirect_uri: str
    """As the authorization request had it; empty where it had none."""
    challenge: str
    """`code_challenge`, always S256."""
    user: str
    user_epoch: int
    server: str
    """The audience (`policy.Principal.audience`)."""
    scopes: tuple[str, ...]
    jkt: str = ""
    """`dpop_jkt`: the key that the tokens are to be bound to (RFC 9449, 10); empty for none."""


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a code."""

    approved: Approved
    digest: bytes
    expires: float
    grant: str = ""
    """The grant that it became; empty while it is unused."""

    def __repr__(self) -> str:
        return f"Code(client={self.approved.client!r}, user={self.approved.user!r})"


class Codes:
    """Codes of any tenant."""

    def __init__(self, store: stores.Store, time: clock.Clock, lives: lifetimes.Lifetimes) -> None:
        self._store = store
        self._clock = time
        self._lives = lives
        self._codes = records.Records(store, Code, ("oauth-code",))

    async def issue(self, tenant: ids.TenantId, approved: Approved) -> str:
        """A code for the client's redirect address. The approval must be on record (`grants.Grants.approve`).

        Raises `ValueError` for a challenge that is none: `authorize` has refused it before.
        """
        if CHALLENGE.fullmatch(approved.challenge) is None:
            raise ValueError("no S256 challenge")
        id, secret = opaque.new_id(), opaque.new_secret()
        code = Code(
            approved=approved,
            digest=opaque.digest(self._store, opaque.CODE, tenant, id, secret),
            expires=self._clock.now() + self._lives.code_s,
        )
        await self._codes.put(tenant, (id,), code, expect=0, ttl=self._lives.code_s + self._lives.used_s)
        return opaque.compose(opaque.CODE, tenant, id, secret)

    async def find(self, tenant: ids.TenantId, text: str, verifier: str, redirect_uri: str, client: str) -> Code:
        """The code, used or not, if everything that is shown with it is right.

        Raises `refusals.Refused`: `invalid_grant` for a code that is unknown, another client's, for another address or
        without its verifier (RFC 6749, 4.1.3; RFC 7636, 4.6). Which of them it was stands in the audit trail alone.
        """
        parsed = opaque.parse(opaque.CODE, text)
        if parsed is None or parsed.tenant != tenant:
            raise refused("malformed")
        found = await self._codes.get(tenant, parsed.id)
        given = opaque.digest(self._store, opaque.CODE, tenant, parsed.id, parsed.secret)
        if not crypto.equal(found.value.digest if found else bytes(32), given) or found is None:
            raise refused("unknown")
        code = found.value
        if code.approved.client != client:
            raise refused("client")
        if code.approved.redirect_uri != redirect_uri:
            raise refused("redirect_uri")
        if not proves(verifier, code.approved.challenge):
            raise refused("verifier")
        if not code.grant and code.expires <= self._clock.now():
            raise refused("expired")
        return code

    async def use(self, tenant: ids.TenantId, text: str, grant: str) -> bool:
        """Turn an unused code into `grant`; False where somebody else did so first."""
        parsed = opaque.parse(opaque.CODE, text)
        found = None if parsed is None else await self._codes.get(tenant, parsed.id)
        if parsed is None or found is None or found.value.grant:
            return False
        used = msgspec.structs.replace(found.value, grant=grant)
        try:
            await self._codes.put(tenant, (parsed.id,), used, expect=found.revision, ttl=self._lives.used_s)
        except errors.Conflict:
            return False
        return True


def proves(verifier: str, challenge: str) -> bool:
    """Is `challenge` the S256 of `verifier` (RFC 7636, 4.6)?"""
    if _VERIFIER.fullmatch(verifier) is None:
        return False
    return crypto.equal(opaque.b64(hashlib.sha256(verifier.encode("ascii")).digest()), challenge)


def refused(detail: str) -> refusals.Refused:
    """The one refusal of a code, or of a refresh token: always the same words."""
    words = "The code or token is not valid, has ended, or is another client's. Log in again."
    return refusals.Refused(refusals.INVALID_GRANT, words, detail=detail)
