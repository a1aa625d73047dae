"""From an Authorization header to a principal. Default deny.

The header is read by one grammar (RFC 9110, 11.4 and RFC 6750, 2.1: a case-insensitive scheme, spaces, one b64token)
and by nothing else: no query parameter, no cookie, no second header. The scheme `DPoP` (RFC 9449, 7.1) has the same
grammar, and needs the request's DPoP header beside it. A comma-joined pair of headers does not match
the grammar, so an edge that joins repeated headers as RFC 9110, 5.3 tells it to fails closed.
"""

import re
from typing import Final

from smcp.access import policy
from smcp.identity.authn import base

LONGEST: Final = 8192
"""Longest Authorization header that is read, in characters."""

_FORM: Final = re.compile(r"(bearer|dpop) +([A-Za-z0-9._~+/-]+=*)", re.ASCII | re.IGNORECASE)


class Authenticator:
    """Asks the methods in their literal order; the first that recognises the credential decides alone."""

    def __init__(self, methods: tuple[base.Method, ...]) -> None:
        self._methods = methods

    def recall(self, authorization_header: str | None) -> base.Recall | None:
        """How to ask again, from memory, who this is; None where memory does not know the credential.

        Neither this nor what it returns ever waits or raises.
        """
        if authorization_header is not None and authorization_header.startswith("Bearer "):
            credential = authorization_header[7:]
            for method in self._methods:
                if method.recognises(credential):
                    return method.recall(credential)
        return None

    async def again(self, authorization_header: str | None) -> policy.Principal:
        """The principal of a request that was let in, and is still under way. Raises what `authenticate` raises."""
        return await self.authenticate(authorization_header, base.SHOWN)

    async def authenticate(self, authorization_header: str | None, proof: base.Proof | None = None) -> policy.Principal:
        """The principal behind the header. `proof` is the request's DPoP header; it counts with the scheme `DPoP`
        alone.

        Raises `errors.Unauthenticated` for no header, a malformed one, or a credential that nobody recognises or
        that is refused; `errors.TenantSuspended`; `errors.Unavailable` when it can't be told safely.
        """
        if authorization_header is None:
            raise base.refused(base.Reason.ABSENT)
        if len(authorization_header) > LONGEST:
            raise base.refused(base.Reason.MALFORMED)
        match = _FORM.fullmatch(authorization_header)
        if match is None:
            raise base.refused(base.Reason.MALFORMED)
        credential = match.group(2)
        if match.group(1).lower() == "bearer":
            proof = None
        elif proof is None:
            raise base.refused(base.Reason.PROOF)
        for method in self._methods:
            if method.recognises(credential):
                return await method.authenticate(credential, proof)
        raise base.refused(base.Reason.MALFORMED)
