"""What a `requestState` is: the name of one wait of one call, sealed, for whom and for what it was made.

Bound to tenant, principal, server and request (method and params), under a key of the tenant's for this purpose
(MCP 2026-07-28, "Multi Round-Trip Requests: Server requirements", 4 and 5). Nothing is read from one before its seal
was found to be whole. That it is good for one use only, and only on the deployment that asked, is `parked`'s business.
"""

import base64
import binascii
import struct
import time
from collections.abc import Callable
from typing import Final

from smcp.kernel import crypto, errors, ids

TICKET: Final = 16
"""Bytes of a wait's name."""
_PURPOSE: Final = "gateway.request-state"
_BODY: Final = struct.Struct(">d16s")
_LONGEST: Final = 512
"""Characters of a `requestState` that are looked at; ours have 86."""

_AGAIN: Final = "Send the request again, without requestState and inputResponses."
FOREIGN: Final = f"requestState was not given to you for this request. {_AGAIN}"
LATE: Final = (
    f"requestState is not good any more: it was used, its time is over, or the call behind it has ended. {_AGAIN}"
)


class Seals:
    """Makes and opens them. Times are those of `now`."""

    def __init__(
        self, data_key: Callable[[ids.TenantId, str], bytes], *, now: Callable[[], float] = time.monotonic
    ) -> None:
        """`data_key` gives a tenant's key for a purpose (`crypto.KeyRing.data_key`)."""
        self._data_key = data_key
        self._now = now

    def seal(
        self, tenant: ids.TenantId, principal: str, server: ids.ServerName, request: bytes, ticket: bytes, good_s: float
    ) -> str:
        """A state that names `ticket` for so many seconds; `request` is what its retry must have in common with it."""
        body = _BODY.pack(self._now() + good_s, ticket)
        sealed = self._xaes(tenant).seal(body, _bound(tenant, principal, server, request))
        return _text(sealed).decode("ascii")

    def open(self, told: object, tenant: ids.TenantId, principal: str, server: ids.ServerName, request: bytes) -> bytes:
        """The ticket that a state names.

        Raises `errors.InvalidParams`: in one and the same way for whatever was not made for exactly these, and in
        another for what was, and is too old.
        """
        try:
            text = told.encode("ascii") if isinstance(told, str) and len(told) <= _LONGEST else b""
            sealed = base64.b64decode(text + b"=" * (-len(text) % 4), b"-_", validate=True)
            if _text(sealed) != text:
                raise errors.InvalidParams(FOREIGN)  # its last bits mean nothing: one state has one text
            opened = self._xaes(tenant).open(sealed, _bound(tenant, principal, server, request))
            until, ticket = _BODY.unpack(opened)
        except (UnicodeEncodeError, binascii.Error, struct.error, errors.TamperedData, errors.NotFound):
            raise errors.InvalidParams(FOREIGN) from None
        if until <= self._now():
            raise errors.InvalidParams(LATE)
        return ticket

    def _xaes(self, tenant: ids.TenantId) -> crypto.Xaes:
        return crypto.Xaes(self._data_key(tenant, _PURPOSE))


def _text(sealed: bytes) -> bytes:
    return base64.urlsafe_b64encode(sealed).rstrip(b"=")


def _bound(tenant: ids.TenantId, principal: str, server: ids.ServerName, request: bytes) -> bytes:
    return crypto.length_prefixed("request state", tenant, principal, server, request)
