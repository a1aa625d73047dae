"""Requests of hosted code to other hosts: passed on as they are, by the same guarded door, and nothing added.

No redirect is followed here (who asked does, and each hop comes back as a request of its own, to be checked anew), no
cookie kept, nothing decompressed, nothing repeated. Bodies stream both ways, a piece at a time.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Final

import httpcore2

from smcp.kernel import ids
from smcp.sandbox import egress
from smcp.upstream import client, dial, places

Fields = Sequence[tuple[bytes, bytes]]

_CONNECTIONS: Final = 256
"""More than whoever asks may have under way: nobody waits here."""
_KEPT: Final = 16
_KEPT_S: Final = 4.0
"""As in `client`: so that no request meets a connection that is just being closed."""


class Passage:
    """One hosted server's way out. Connections are kept for a while, and shared with nobody."""

    def __init__(
        self,
        reach: egress.Egress,
        secure: ssl.SSLContext,
        tenant: ids.TenantId,
        told: Callable[[str], None],
        counted: Callable[[int, int], None],
    ) -> None:
        """`secure` says which certificates are trusted; the rest as `dial.Door`."""
        self.door = dial.Door(reach, tenant, told, counted)
        self._idle_s = reach.idle_s
        kinds = {
            ("https", True): self.door,
            ("https", False): self.door,
            ("http", True): self.door.plain(),
            ("http", False): self.door.plain(anywhere=True),
        }
        pools = {
            door: httpcore2.AsyncConnectionPool(
                ssl_context=secure,
                max_connections=_CONNECTIONS,
                max_keepalive_connections=_KEPT,
                keepalive_expiry=_KEPT_S,
                network_backend=door,
            )
            for door in dict.fromkeys(kinds.values())
        }
        self._pools = {kind: pools[door] for kind, door in kinds.items()}

    async def send(
        self, method: str, place: places.Place, fields: Fields, body: AsyncIterator[bytes] | bytes, *, secret: bool
    ) -> client.Answer:
        """The answer to a request, to be closed by the caller. `fields` are all that are sent, `Host` included.

        `secret`: the fields hold a credential, so that without TLS only what the operator has opened is dialled.
        Raises `errors.ServerFailed`, `errors.ServerTimeout`, `errors.Unavailable`, `errors.QuotaExceeded`, and what
        `body` raises.
        """
        patience = {"connect": self._idle_s, "read": self._idle_s, "write": self._idle_s, "pool": self._idle_s}
        with client.failures():
            async with asyncio.timeout(None) as limit:
                request = httpcore2.Request(
                    method,
                    httpcore2.URL(scheme=place.scheme, host=place.host, port=place.port, target=place.target),
                    headers=list(fields),
                    content=body if isinstance(body, bytes) else self._until_sent(body, limit),
                    extensions={"timeout": patience},
                )
                if isinstance(body, bytes):
                    self._expect(limit)
                response = await self._pools[place.scheme, secret].handle_async_request(request)
                return client.Answer(response, place)

    async def close(self) -> None:
        """Close every connection."""
        for pool in set(self._pools.values()):
            await pool.aclose()

    async def _until_sent(self, body: AsyncIterator[bytes], limit: asyncio.Timeout) -> AsyncGenerator[bytes]:
        async for part in body:
            yield part
        self._expect(limit)

    def _expect(self, limit: asyncio.Timeout) -> None:
        # A head that comes a byte at a time is as late as one that does not come.
        limit.reschedule(asyncio.get_running_loop().time() + self._idle_s)
