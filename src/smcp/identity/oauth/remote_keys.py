"""Key sets that clients name the address of (`jwks_uri`: RFC 7591, 2; OpenID Connect Core, 10.1.1).

For `private_key_jwt`. They are read when an assertion comes in the client's name, which anybody can send, so:

| | |
|---|---|
| kept | as `Cache-Control` says, from a minute to an hour; in memory, each tenant's for itself |
| an unknown `kid` | has the set read again, at most once a minute; the keys that it has no more end at once |
| the host is away | what was read counts until its time is over, and then nothing does |
| the set is wrong | no key counts |

Who pays: for a client that nobody has consented to, the address that asks, as for metadata documents; for a known one
itself; for an early reading the address that asks, since whoever names a key that is not there has proved nothing.
What strangers' clients have had read is kept apart, so that they push out nothing of known ones.
"""

import collections
import functools
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from smcp.identity.oauth import client_model, fetched, keysets, refusals
from smcp.kernel import clock as clocks
from smcp.kernel import errors, ids, observe

KEPT_S: Final = (60.0, 3600.0)
"""For how long a set is kept (seconds), at least and at most, whatever its server says. A key that was taken out is a
key that leaked, so it counts no longer than an access token that was got with it."""
AGAIN_S: Final = 60.0
"""A set is not read again so soon after it was read (seconds), whatever keys are asked for."""
_REMEMBERED: Final = 1024
"""Sets of known clients, and as many of strangers'."""

Payer = client_model.Client | str
"""Who is charged: a known client, or the network address that asks (may be empty)."""
Fetch = Callable[[ids.TenantId, Payer, str], Awaitable[fetched.Document]]
"""Gets the tenant, who is charged, and the URL. Raises `errors.RateLimited`, and any other `errors.SmcpError`, whose
public text says why there is nothing."""
_Table = collections.OrderedDict[tuple[ids.TenantId, str], "_Set"]


class _Set(msgspec.Struct, frozen=True):
    until: float
    tried: float
    """When it was asked for last (monotonic seconds)."""
    text: str = ""
    """Of `keysets`; empty: there are no keys."""


class RemoteKeys:
    """Reads key sets, and keeps them for a while."""

    def __init__(self, fetch: Fetch, fetches: fetched.Fetches, clock: clocks.Clock, log: observe.Logger) -> None:
        self._fetch = fetch
        self._fetches = fetches
        self._clock = clock
        self._log = log
        self._known: _Table = collections.OrderedDict()
        self._strange: _Table = collections.OrderedDict()

    async def read(self, client: client_model.Client, address: str) -> str:
        """The keys at the client's `jwks_uri`, as `keysets.read` takes them; empty where none are to be had.

        `address` is who asks. Raises `errors.RateLimited`.
        """
        found = self._table(client).get((client.tenant, client.jwks_uri))
        if found is None or self._clock.monotonic() >= found.until:
            found = await self._once(client, address if client.strange else client)
        return found.text

    async def again(self, client: client_model.Client, address: str) -> str:
        """The same, after `read`, for a signature that names a key which is not among those: read anew, if that was not
        done just now. Raises `errors.RateLimited`."""
        found = self._table(client).get((client.tenant, client.jwks_uri))
        if found is not None and self._clock.monotonic() - found.tried >= AGAIN_S:
            found = await self._once(client, address)
        return "" if found is None else found.text  # None: others pushed it out just now

    def _table(self, client: client_model.Client) -> _Table:
        return self._strange if client.strange else self._known

    async def _once(self, client: client_model.Client, payer: Payer) -> _Set:
        what = "strangers' keys" if client.strange else "keys"
        read = functools.partial(self._read, client, payer)
        return await self._fetches.once(client.tenant, what, client.jwks_uri, read, known=not client.strange)

    async def _read(self, client: client_model.Client, payer: Payer) -> _Set:
        table, key, now = self._table(client), (client.tenant, client.jwks_uri), self._clock.monotonic()
        try:
            document = await self._fetch(client.tenant, payer, client.jwks_uri)
        except errors.RateLimited:
            raise  # says nothing of the set
        except errors.SmcpError as error:
            found = self._without(table.get(key), now)
            self._tell(client, error.public)
        else:
            try:
                found = _Set(now + document.within(KEPT_S), now, keysets.published(document.body))
            except refusals.Refused as error:
                # Its host says it: what was there before counts no more.
                found = _Set(now + fetched.REFUSED_S, now)
                self._tell(client, error.description)
        table[key] = found
        table.move_to_end(key)
        if len(table) > _REMEMBERED:
            table.popitem(last=False)
        return found

    def _without(self, before: _Set | None, now: float) -> _Set:
        """What counts when nothing could be read at `now`. An early reading ends nothing: else a stranger, by naming a
        key that is not there, could keep a client out whose host is away for a moment."""
        if before is not None and self._clock.monotonic() < before.until:
            return msgspec.structs.replace(before, tried=now)
        return _Set(now + fetched.REFUSED_S, now)

    def _tell(self, client: client_model.Client, why: str) -> None:
        # Nobody is told but the operator: the client hears `invalid_client`, whatever it is.
        self._log.info("a client's keys were not read", tenant=client.tenant, client=client.id, why=why)
