"""What clients name the address of, fetched by the guarded way out: their metadata documents and key sets (see
`identity.oauth.metadata_document` and `identity.oauth.remote_keys`).

Anybody can make the platform fetch one, by asking for authorization with a URL as the client's id, or for tokens with
an assertion in the name of a client with a `jwks_uri`. So: only https, only addresses that tenants may reach
(`sandbox.egress.guard`), the address that was checked is the one dialled, no redirect, no credential, no cookie; small,
quick, and few a minute, of both kinds together. Nobody's bytes are counted, because no tenant asked for it.
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

from smcp.identity.oauth import fetched, remote_keys
from smcp.kernel import clock as clocks
from smcp.kernel import errors, ids, observe
from smcp.sandbox import egress
from smcp.tenancy import attempts
from smcp.upstream import passage, places

TIME_S: Final = 5.0
"""For all of a document, with its look-up and its connection (seconds)."""
OWN_PER_MINUTE: Final = 4
"""Key sets of one known client. One is read once a minute at most (`remote_keys.KEPT_S`); a client that registered
itself can say another address at any time."""
KNOWN_PER_MINUTE: Final = 120
"""Key sets of all known clients of a tenant that became known in the same way: an administrator's have their own."""
_KEPT_S: Final = 3600.0
"""For a document whose server says nothing of it."""
_AGE: Final = re.compile(r"(?:^|,)\s*max-age=([0-9]{1,9})\s*(?:,|$)", re.IGNORECASE)
_NEVER: Final = re.compile(r"(?:^|,)\s*no-(?:store|cache)\s*(?:,|$)", re.IGNORECASE)
_MEDIA: Final = re.compile(r"application/(?:[a-z0-9.-]+\+)?json")
_FIELDS: Final = ((b"User-Agent", b"smcp"), (b"Accept-Encoding", b"identity"))
_DOCUMENT: Final = b"application/json"
_KEY_SET: Final = b"application/jwk-set+json, application/json"
"""RFC 7517, 8.5.2. Most say the second."""


class Fetcher:
    """`document` is a `metadata_document.Fetch`, `key_set` a `remote_keys.Fetch`."""

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
        sets = "key sets of applications are to be read"
        self._own = attempts.Shares(clock, sets, per_minute=OWN_PER_MINUTE)
        self._known = attempts.Shares(clock, sets, per_minute=KNOWN_PER_MINUTE)

    async def document(self, tenant: ids.TenantId, address: str, url: str) -> fetched.Document:
        """What stands at `url`. Raises `errors.RateLimited`, `errors.ServerFailed`."""
        place = _place(url)
        self._rate.take(tenant, address)
        return await self._read(tenant, place, _DOCUMENT)

    async def key_set(self, tenant: ids.TenantId, payer: remote_keys.Payer, url: str) -> fetched.Document:
        """The same for keys, charged to a known client, or to who comes from an address as if for a document."""
        place = _place(url)
        if isinstance(payer, str):
            self._rate.take(tenant, payer)
        else:
            self._own.take(tenant, payer.id)
            self._known.take(tenant, payer.kind.value)
        return await self._read(tenant, place, _KEY_SET)

    async def _read(self, tenant: ids.TenantId, place: places.Place, accept: bytes) -> fetched.Document:
        try:
            async with asyncio.timeout(TIME_S):
                return await self._get(tenant, place, accept)
        except _SaidError as error:
            raise errors.ServerFailed(str(error), detail="document") from None
        except (errors.SmcpError, TimeoutError) as error:
            self._log.info("a client's document was not read", tenant=tenant, host=place.host, why=str(error))
            raise errors.ServerFailed("Its host can't be reached from here.", detail="document") from error

    async def _get(self, tenant: ids.TenantId, place: places.Place, accept: bytes) -> fetched.Document:
        def told(line: str) -> None:
            self._log.info("a client's document", tenant=tenant, verdict=line)

        out = passage.Passage(self._named.get(place.host, self._reach), self._secure, tenant, told, _uncounted)
        try:
            fields = [(b"Host", place.authority.encode()), (b"Accept", accept), *_FIELDS]
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
                    if len(body) > fetched.MAX_BYTES:
                        raise _SaidError(f"It has more than {fetched.MAX_BYTES} bytes.")
                return fetched.Document(bytes(body), _kept_s(answer.field("cache-control")))
            finally:
                await answer.close()
        finally:
            await out.close()


def _place(url: str) -> places.Place:
    """Where `url` is; it was looked at before, where it was taken (`fetched.plain`). Raises `errors.ServerFailed`."""
    if not fetched.plain(url):
        raise errors.ServerFailed("The URL has another spelling than the one that everybody reads alike.")
    return places.parse(url, fetched.LONGEST)


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
