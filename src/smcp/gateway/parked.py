"""Private legacy sessions of modern clients, and the calls in them that wait for their client to come back.

| what | bound |
|---|---|
| a private session | counts as one of its principal's, ends as any other does (`sessions`); not on record |
| calls that wait | `PRINCIPAL` of a principal, the oldest gives way; `TENANT` of a tenant, then the next is refused |
| one wait | `WAIT_S`; a call with all its waits `CALL_S` |
| questions that wait | 16 and 1 MiB of a call, `TENANT_BYTES` of a tenant |

A `requestState` (`parkedseal`) names one wait of one call and is good for one use: the next wait has another name. The
call never leaves its private session, and so its deployment.
"""

import asyncio
import collections
import secrets
import time
from collections.abc import Callable
from typing import Final

from smcp.access import policy
from smcp.gateway import living, parkedruns, parkedseal
from smcp.kernel import errors, ids, jsonrpc
from smcp.protocol import upward

PRINCIPAL: Final = 16
TENANT: Final = 128
WAIT_S: Final = 600.0
CALL_S: Final = 3600.0
TENANT_BYTES: Final = 16 * 1024 * 1024
Key = tuple[ids.TenantId, str, ids.ServerName, str, bytes]
"""Tenant, principal, server, deployment, declared capabilities."""
Opener = Callable[[], "asyncio.Task[parkedruns.Private]"]


class Parked:
    """Every private session of this node."""

    def __init__(self, seals: parkedseal.Seals) -> None:
        self._seals = seals
        self._open: dict[Key, parkedruns.Private] = {}
        self._private: dict[living.Session, parkedruns.Private] = {}
        self._opening: dict[Key, asyncio.Task[parkedruns.Private]] = {}
        self._waiting: dict[bytes, parkedruns.Run] = {}
        """Calls that wait for their client, oldest first, by the ticket of their `requestState`."""
        self._held: collections.Counter[ids.TenantId] = collections.Counter()

    def __len__(self) -> int:
        return len(self._waiting)

    # --- private sessions ---

    def enter(self, private: parkedruns.Private) -> None:
        """A private session begins."""
        self._private[private.session] = private

    def known(self, key: Key) -> parkedruns.Private | None:
        """The private session that is open already."""
        found = self._open.get(key)
        return found if found is not None and found.alive else None

    async def opened(self, key: Key, opener: Opener) -> parkedruns.Private:
        """The private session; opened once, however many requests wait for it. Raises what its opening raises."""
        task = self._opening.get(key)
        if task is None:
            task = self._opening[key] = opener()
            task.add_done_callback(lambda done: self._came(key, done))
        return await asyncio.shield(task)

    def _came(self, key: Key, done: "asyncio.Task[parkedruns.Private]") -> None:
        del self._opening[key]
        if not done.cancelled() and done.exception() is None and not done.result().session.over:
            self._open[key] = done.result()

    def ended(self, session: living.Session, _reason: str) -> None:
        """A session has ended, perhaps a private one: nobody can come back to its calls."""
        private = self._private.pop(session, None)
        if private is None:
            return
        for key in [key for key, one in self._open.items() if one is private]:
            del self._open[key]
        for run in list(private.runs):
            if not run.attached:
                run.end("its session has ended")
        private.close()

    # --- calls that wait ---

    def park(self, run: parkedruns.Run, message: jsonrpc.Message) -> str:
        """From now on the call waits for its client, who gets this `requestState`.

        Raises `errors.RateLimited` when too many of the tenant's wait, `errors.ServerTimeout` for a call without end.
        """
        tenant, principal = run.private.session.key
        if time.monotonic() - run.born > CALL_S:
            raise errors.ServerTimeout("The call has asked its client for longer than a call may take.")
        theirs = [one for one in self._waiting.values() if one.private.session.tenant == tenant]
        mine = [one for one in theirs if one.private.session.key[1] == principal]
        if len(mine) >= PRINCIPAL or (len(theirs) >= TENANT and mine):
            mine[0].end("another call waits in its place")
        elif len(theirs) >= TENANT:
            raise errors.RateLimited("Too many calls of this tenant wait for their clients' answers. Retry later.")
        run.digest = run.digest or upward.digest(message)
        run.ticket = secrets.token_bytes(parkedseal.TICKET)
        self._waiting[run.ticket] = run
        run.timer = asyncio.get_running_loop().call_later(WAIT_S, run.end, "nobody answered its questions")
        run.detach()
        server = run.private.session.server
        return self._seals.seal(tenant, principal, server, run.digest, run.ticket, WAIT_S)

    def find(self, told: object, principal: policy.Principal, server: ids.ServerName, request: bytes) -> parkedruns.Run:
        """The call that a `requestState` names; `request` is the digest of what came with it. It stays parked.

        Raises `errors.InvalidParams`.
        """
        run = self._waiting.get(self._seals.open(told, principal.tenant, principal.id, server, request))
        if run is None or run.over or not run.private.alive:
            raise errors.InvalidParams(parkedseal.LATE)
        return run

    def forget(self, run: parkedruns.Run) -> None:
        """The state that a call was parked with is spent."""
        self._waiting.pop(run.ticket, None)
        run.ticket = b""
        if run.timer is not None:
            run.timer.cancel()
            run.timer = None

    # --- bytes ---

    def room(self, tenant: ids.TenantId, size: int) -> bool:
        """May `size` bytes more of a tenant's questions wait? They count until `give`."""
        if self._held[tenant] + size > TENANT_BYTES:
            return False
        self._held[tenant] += size
        return True

    def give(self, tenant: ids.TenantId, size: int) -> None:
        """So many bytes wait no more."""
        self._held[tenant] -= size
        if not self._held[tenant]:
            del self._held[tenant]
