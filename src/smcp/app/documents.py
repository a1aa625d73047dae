"""Clients' metadata documents, fetched by the guarded way out: see `identity.oauth.metadata_document`.

Anybody can make the platform fetch one, by asking for authorization with a URL as the client's id. So: only https, only
addresses that tenants may reach (`sandbox.egress.guard`), the address that was checked is the one dialled, no redirect,
no credential, no cookie; small, quick, and few a minute. It is charged to no tenant, because no tenant asked for it.
Networks that the operator has opened are open to what tenants have deployed, and not to whoever finds the login page:
here only hosts that the operator has named (`egress.hosts`) may be there.

What is told about a host that can't be reached is one sentence, whatever the reason: which names lead into the
operator's network, and what listens there, is nobody's business.
"""

import asyncio
import re
import ssl
from collections.abc import Mapping
from typing import Final

from smcp.identity.oauth import metadata_document
from smcp.kernel import clock as clocks
from smcp.kernel import errors, ids, observe
from smcp.sandbox import egress
from smcp.tenancy import attempts
from smcp.upstream import passage, places

TIME_S: Final = 5.0
"""For all of a document, with its look-up and its connection (seconds)."""
_KEPT_S: Final = 3600.0
"""For a document whose server says nothing of it."""
_AGE: Final = re.compile(r"(?:^|,)\s*max-age=([0-9]{1,9})\s*(?:,|$)", re.IGNORECASE)
_NEVER: Final = re.compile(r"(?:^|,)\s*no-(?:store|cache)\s*(?:,|$)", re.IGNORECASE)
_MEDIA: Final = re.compile(r"application/(?:[a-z0-9.-]+\+)?json")
_FIELDS: Final = ((b"User-Agent", b"smcp"), (b"Accept", b"application/json"), (b"Accept-Encoding", b"identity"))


class Fetcher:
    """Implements `metadata_document.Fetch`."""

    def __init__(
        self,
        reach: egress.Egress,
        clock: clocks.Clock,
        log: observe.Logger,
        secure: ssl.SSLContext | None = None,
        named: Mapping[str, egress.Egress] | None = None,
    ) -> None:
        """`secure` says which certificates are trusted; without it those of the system.

        `named`: hosts that are reached in another way than by `reach`.
        """
        self._reach = reach
        self._named = named or {}
        self._log = log
        self._secure = secure or ssl.create_default_context()
        self._rate = attempts.Attempts(
            clock, "documents of applications are to be read", address_per_minute=10, tenant_per_minute=60
        )

    async def __call__(self, tenant: ids.TenantId, address: str, url: str) -> metadata_document.Document:
        """The document at `url`. Raises `errors.RateLimited`, `errors.ServerFailed`."""
        try:
            place = places.parse(url, metadata_document.LONGEST)
        except errors.InvalidParams as error:
            raise errors.ServerFailed(error.public) from None
        if str(place) != url or place.scheme != "https":
            raise errors.ServerFailed("The URL has another spelling than the one that everybody reads alike.")
        self._rate.take(tenant, address)
        try:
            async with asyncio.timeout(TIME_S):
                return await self._get(tenant, place)
        except _SaidError as error:
            raise errors.ServerFailed(str(error), detail="document") from None
        except (errors.SmcpError, TimeoutError) as error:
            self._log.info("a client's document was not read", tenant=tenant, host=place.host, why=str(error))
            raise errors.ServerFailed("Its host can't be reached from here.", detail="document") from error

    async def _get(self, tenant: ids.TenantId, place: places.Place) -> metadata_document.Document:
        def told(line: str) -> None:
            self._log.info("a client's document", tenant=tenant, verdict=line)

        out = passage.Passage(self._named.get(place.host, self._reach), self._secure, tenant, told, _uncounted)
        try:
            fields = [(b"Host", place.authority.encode()), *_FIELDS]
            answer = await out.send("GET", place, fields, b"", secret=False)
            try:
                if answer.status != 200:
                    raise _SaidError(f"Its host answers with status {answer.status}; redirects are not followed.")
                coded = answer.field("content-encoding").lower() not in ("", "identity")
                if coded or not _MEDIA.fullmatch(answer.media):
                    raise _SaidError("Its host does not send plain JSON (application/json).")
                body = bytearray()
                async for chunk in answer.chunks():
                    body += chunk
                    if len(body) > metadata_document.MAX_BYTES:
                        raise _SaidError(f"It has more than {metadata_document.MAX_BYTES} bytes.")
                return metadata_document.Document(bytes(body), _kept_s(answer.field("cache-control")))
            finally:
                await answer.close()
        finally:
            await out.close()


class _SaidError(Exception):
    """What can be told: a host of the internet said it to whoever asks."""


def _kept_s(said: str) -> float:
    """RFC 9111, 5.2.2. What it comes to is bounded by who keeps it."""
    age = _AGE.search(said)
    if _NEVER.search(said):
        return 0.0
    return float(age[1]) if age else _KEPT_S


def _uncounted(sent: int, received: int) -> None:
    """No tenant's bytes."""
