"""Clients that are the address of a document (draft-ietf-oauth-client-id-metadata-document; MCP 2025-11-25).

The client id is an https URL; what stands there says what the client is. Fetching is the guarded client's (handed in:
see `app.documents`): no redirects, no private network, small, quick. Here is what may be a client id at all, what a
document must say, and for how long it is kept.

The document's `client_id` must be the URL, character for character, so that nobody can speak in another's name. It can
hold no secret: anybody reads it. Its redirect URIs may lead elsewhere (some clients have two sites): the consent page
shows where the answer goes beside the host that the document comes from. Its keys may not: who holds them *is* the
client, and the host that people are shown is the document's.
"""

import collections
import functools
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import msgspec

from smcp.identity.oauth import clients, fetched, refusals, registration
from smcp.kernel import clock as clocks
from smcp.kernel import errors, ids, jsonrpc

KEPT_S: Final = (60.0, 86_400.0)
"""For how long a document is kept, at least and at most, whatever its server says."""
_REMEMBERED: Final = 1024
_DEPTH: Final = 8

Fetch = Callable[[ids.TenantId, str, str], Awaitable[fetched.Document]]
"""Gets the tenant, the network address of who asks (for the rates; may be empty) and the URL. Raises
`errors.SmcpError`, whose public text says why there is no document."""


class _Kept(msgspec.Struct, frozen=True):
    until: float
    client: clients.Client | None
    why: str = ""
    passing: bool = False
    """Could not be read, rather than being wrong."""


class Documents:
    """Reads documents, and keeps what they said for a while; each tenant's for itself."""

    def __init__(self, fetch: Fetch, fetches: fetched.Fetches, clock: clocks.Clock) -> None:
        self._fetch = fetch
        self._fetches = fetches
        self._clock = clock
        self._kept: collections.OrderedDict[tuple[ids.TenantId, str], _Kept] = collections.OrderedDict()

    async def read(self, tenant: ids.TenantId, client_id: str, address: str, *, known: bool) -> clients.Client:
        """The client whose document stands at `client_id`. `known`: somebody has consented to it.

        Raises `clients.UnknownClient` (for what is no such id, or a wrong document), `clients.Unreadable`,
        `errors.RateLimited`.
        """
        check(client_id)
        key = (tenant, client_id)
        found = self._kept.get(key)
        if found is None or self._clock.monotonic() >= found.until:
            read = functools.partial(self._read, key, address)
            found = await self._fetches.once(tenant, "document", client_id, read, known=known)
        if found.client is None:
            kind = clients.Unreadable if found.passing else clients.UnknownClient
            raise kind(found.why, detail="document")
        return found.client

    async def _read(self, key: tuple[ids.TenantId, str], address: str) -> _Kept:
        tenant, client_id = key
        now = self._clock.monotonic()
        try:
            document = await self._fetch(tenant, address, client_id)
        except errors.RateLimited:
            raise  # says nothing of the document
        except errors.SmcpError as error:
            why = f"The application's document can't be read: {error.public}"
            found = _Kept(now + fetched.REFUSED_S, None, why, passing=True)
        else:
            try:
                client = parse(tenant, client_id, document.body, self._clock.now())
                found = _Kept(now + document.within(KEPT_S), client)
            except refusals.Refused as error:
                why = f"The application's document is wrong: {error.description}"
                found = _Kept(now + fetched.REFUSED_S, None, why)
        self._kept[key] = found
        self._kept.move_to_end(key)
        if len(self._kept) > _REMEMBERED:
            self._kept.popitem(last=False)
        return found


def check(client_id: str) -> None:
    """Raises `clients.UnknownClient` for a URL that is nobody's client id (the draft, 3)."""
    if not fetched.plain(client_id):
        raise clients.UnknownClient(
            "A client id that is a URL is https, in lower case, has a path, and has no user, query or fragment.",
            detail="document",
        )


def parse(tenant: ids.TenantId, client_id: str, body: bytes, now: float) -> clients.Client:
    """The client that a document describes, read at `now`. Raises `refusals.Refused`."""
    if len(body) > fetched.MAX_BYTES:
        raise _wrong(f"it has more than {fetched.MAX_BYTES} bytes")
    try:
        said: object = jsonrpc.strict_json(body, max_depth=_DEPTH)
    except errors.SmcpError as error:
        raise _wrong("it is not JSON that everybody reads alike") from error
    if not isinstance(said, dict):
        raise _wrong("it is not a JSON object")
    members = cast("dict[str, Any]", said)
    if members.get("client_id") != client_id:
        raise _wrong("its client_id is not its own address")
    if "client_secret" in members or "client_secret_expires_at" in members:
        raise _wrong("it holds a secret, which anybody can read")
    metadata = registration.read(members, secrets=False)
    if metadata.jwks_uri and fetched.origin(metadata.jwks_uri) != fetched.origin(client_id):
        raise _wrong("its jwks_uri is of another host than its own")
    host = urllib.parse.urlsplit(client_id).netloc
    base = clients.Client(
        id=client_id,
        tenant=tenant,
        kind=clients.Kind.METADATA,
        name="",
        host=host,
        verified=True,
        created=now,
        read=now,
    )
    return metadata.of(base)


def _wrong(why: str) -> refusals.Refused:
    return refusals.Refused(refusals.INVALID_CLIENT_METADATA, f"{why}.", detail="document")
