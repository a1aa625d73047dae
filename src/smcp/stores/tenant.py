"""The store as the rest of the platform sees it: handles that are bound to one tenant each.

Nothing above `stores/` holds a raw back end. A handle can name nothing outside its tenant, seals what it writes,
charges it to the tenant's quota and counts it. The order of the wrappers is written once, in `Handle`.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable
from typing import Final

from smcp.kernel import clock as clocks
from smcp.kernel import crypto, errors, ids
from smcp.stores import decided
from smcp.stores.kv import base as kv_base
from smcp.stores.log import base as log_base
from smcp.stores.objects import base as objects_base
from smcp.stores.wrappers import metered, quota, sealed, sealed_objects

HEARTBEAT_S: Final = 0.5
STALE_S: Final = 2.0
"""Without a heartbeat for this long, nobody may trust what is in memory: `check` raises."""

PATIENCE_S: Final = 5.0
"""How long `proven` waits for the next one."""

_ANSWER_S: Final = 30.0
"""After this long, an answer of the storage is not waited for any more. It says that the storage lived when it was
asked, so one that took longer than `STALE_S` proves nothing; those that were asked meanwhile may."""

_MOST_PINGS: Final = 8

_TRIM_S: Final = 300.0
_ERASE_PAGE: Final = 500

Usage = quota.Usage
Quota = quota.Quota
KeyListener = Callable[[ids.TenantId, kv_base.Key, int], None]
"""Gets the tenant, the key below it, and the revision of a change."""


class Handle:
    """One tenant's storage. Keys, streams and names are the tenant's own; values are sealed under its keys."""

    def __init__(
        self,
        tenant: ids.TenantId,
        raw: tuple[kv_base.KV, log_base.Log, objects_base.Objects],
        ring: crypto.KeyRing,
        ledger: quota.Ledger,
        counts: metered.Counts,
    ) -> None:
        """Use `Store.tenant`. Raises `errors.NotFound` when the tenant has no data key."""
        raw_kv, raw_log, raw_objects = raw
        self.tenant: Final = tenant
        self._ledger = ledger
        self._names = ring.data_key(tenant, "stores.names")
        self.kv: Final[kv_base.KV] = metered.MeteredKV(
            sealed.SealedKV(quota.QuotaKV(raw_kv, ledger), tenant, ring.data_key(tenant, "stores.kv")), counts
        )
        self.log: Final[log_base.Log] = metered.MeteredLog(
            sealed.SealedLog(raw_log, tenant, ring.data_key(tenant, "stores.log")), counts
        )
        self.objects: Final[objects_base.Objects] = metered.MeteredObjects(
            sealed_objects.SealedObjects(
                quota.QuotaObjects(raw_objects, ledger), tenant, ring.data_key(tenant, "stores.objects")
            ),
            counts,
        )

    def __repr__(self) -> str:
        return f"Handle({self.tenant!r})"

    async def usage(self) -> Usage:
        """What the tenant stores: bytes and keys, over key-value pairs and objects, without strangers' `shares`."""
        return await self._ledger.usage()

    async def reserve(self, size: int) -> bool:
        """Let `size` bytes that are kept in a log count as the tenant's, if there is room; until `give_back`.

        Only for what its tenant can make grow and nobody must be able to read later: see `quota` for why logs are
        not counted by themselves. Forgotten when the process ends.
        """
        await self._ledger.ready()
        return self._ledger.hold(0, size)

    def give_back(self, size: int) -> None:
        """So many bytes of what was reserved are not kept any more."""
        self._ledger.let_go(0, size)

    def private(self, label: str, text: str) -> str:
        """A key segment that stands for `text` (an e-mail address, a session id) and does not show it.

        The same tenant, `label` and `text` always give the same 52 characters; other tenants get others.
        """
        return ids.base32(int.from_bytes(crypto.keyed_digest(self._names, label, text), "big"), 52)


class Store:
    """All tenants' storage, and whether it can be trusted right now."""

    def __init__(
        self,
        kv: kv_base.KV,
        log: log_base.Log,
        objects: objects_base.Objects,
        ring: crypto.KeyRing,
        clock: clocks.Clock,
        *,
        quota_bytes: int,
        quota_keys: int,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Takes the raw back ends over and closes them in the end. The quota is for each tenant but the platform."""
        self.ring: Final = ring
        """For keys of other purposes than storage: `ring.data_key(tenant, "<room>.<use>")`."""
        self.counts: Final = metered.Counts()
        self._kv = kv
        self._log = log
        self._objects = objects
        self._clock = clock
        self._quota: Callable[[ids.TenantId], quota.Quota] = lambda tenant: quota.Quota(quota_bytes, quota_keys)
        self._handles: dict[ids.TenantId, tuple[Handle, quota.Ledger]] = {}
        self._changing = asyncio.Lock()
        self._listeners: list[tuple[kv_base.Key, KeyListener]] = []
        self.changes = 0
        """Grows with every change of any key, before the write that made it returns. While it stays the same, what was
        found in memory is still so."""
        self._end_watch = kv.watch((), self._changed)
        self._patience_s = patience_s
        self._beat: float | None = None
        self._news = asyncio.Event()
        """Set, and replaced, with each answer of the storage: a beat, or that it failed."""
        self._problem = ""
        self._pings: dict[asyncio.Task[None], float] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    # --- handles --------------------------------------------------------------------------------------------

    def now(self) -> float:
        """The store's time, epoch seconds: the one that times to live are measured with."""
        return self._clock.now()

    def knows(self, tenant: ids.TenantId) -> bool:
        """Whether the tenant has storage: from memory."""
        return self.ring.has(tenant)

    def tenant(self, tenant: ids.TenantId) -> Handle:
        """The tenant's storage. Raises `errors.NotFound` for a tenant that was not provisioned."""
        known = self._handles.get(tenant)
        if known is not None:
            return known[0]
        limit = None if tenant == ids.PLATFORM else lambda: self._quota(tenant)
        ledger = quota.Ledger(self._kv, self._objects, tenant, limit)
        raw = (self._kv, self._log, self._objects)
        handle = Handle(tenant, raw, self.ring, ledger, self.counts)
        self._handles[tenant] = (handle, ledger)
        return handle

    def limit(self, most: Callable[[ids.TenantId], Quota]) -> None:
        """From now on a tenant may store what `most` says: asked at every write, so from memory."""
        self._quota = most

    def platform(self) -> Handle:
        """The reserved tenant's storage: what belongs to no tenant."""
        if not self.ring.has(ids.PLATFORM):
            self.ring.create(ids.PLATFORM)
        return self.tenant(ids.PLATFORM)

    async def provision(self, tenant: ids.TenantId) -> None:
        """Give `tenant` storage of its own; does nothing when it has. What an erased namesake left is removed first."""
        async with self._changing:
            if not self.ring.has(tenant):
                await self._wipe(tenant)
                await decided.decided(asyncio.to_thread(self.ring.create, tenant))

    async def erase(self, tenant: ids.TenantId) -> None:
        """Destroy the tenant's data key, then remove everything it stored. Handles of it write no more."""
        if tenant == ids.PLATFORM:
            raise errors.Forbidden("The platform's own storage can't be erased.")
        async with self._changing:
            known = self._handles.get(tenant)
            if known is not None:
                await known[1].close()
            await decided.decided(asyncio.to_thread(self.ring.destroy, tenant))
            self._handles.pop(tenant, None)
            await self._wipe(tenant)

    async def _wipe(self, tenant: ids.TenantId) -> None:
        while entries := await self._kv.scan((tenant,), limit=_ERASE_PAGE):
            await self._kv.apply([kv_base.Delete(entry.key) for entry in entries])
        await self._log.drop((tenant,))
        while found := await self._objects.list((tenant,), limit=_ERASE_PAGE):
            for info in found:
                await self._objects.delete(info.name)

    # --- changes --------------------------------------------------------------------------------------------

    def watch(self, prefix: kv_base.Key, listener: KeyListener) -> Callable[[], None]:
        """Tell `listener` of each change below `prefix` of any tenant, without values; returns what ends it.

        As with `KV.watch`, the listener has run before the write returns.
        """
        entry = (prefix, listener)
        self._listeners.append(entry)

        def end() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(entry)

        return end

    def _changed(self, change: kv_base.Change) -> None:
        tenant, key = ids.TenantId(change.key[0]), change.key[1:]
        try:
            for prefix, listener in tuple(self._listeners):
                if key[: len(prefix)] == prefix:
                    listener(tenant, key, change.revision)
        finally:
            # Last: what a listener looked up may come from memory that another one was about to drop.
            self.changes += 1

    # --- life -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Make the platform's storage, take the first heartbeat and keep taking it. Raises `errors.Unavailable`."""
        self.platform()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._beat_for_ever()), loop.create_task(self._trim_for_ever())]
        try:
            await self._proven(_ANSWER_S)
        except BaseException:
            await self._stop_tasks()
            raise

    def check(self) -> None:
        """Raises `errors.Unavailable` when the storage has not answered for `STALE_S`. Costs next to nothing."""
        if not self.fresh():
            raise errors.Unavailable(detail=self._problem or "no heartbeat from the store")

    def fresh(self) -> bool:
        """Whether the storage has answered within `STALE_S`. Costs next to nothing."""
        return self._beat is not None and self._clock.monotonic() - self._beat <= STALE_S

    def silence(self) -> float:
        """Seconds since the storage last answered; infinite when it never has."""
        return math.inf if self._beat is None else self._clock.monotonic() - self._beat

    async def proven(self) -> None:
        """Return when the storage has answered within `STALE_S`: at once where it has, else with its next answer.

        A loaded machine can make an answer late: that alone refuses nobody. Raises `errors.Unavailable` when the
        storage says that it can't, and when nothing comes within `PATIENCE_S`.
        """
        await self._proven(self._patience_s)

    async def _proven(self, patience_s: float) -> None:
        try:
            async with asyncio.timeout(patience_s):
                while not self.fresh():
                    if not self._tasks:  # nobody asks: not started, or closed
                        self.check()
                    news = self._news
                    self._ask()
                    await news.wait()
                    if self._problem:
                        self.check()
        except TimeoutError:
            self.check()

    def _ask(self) -> None:
        """Ask the storage whether it lives, unless it was asked just now and has not answered."""
        now = self._clock.monotonic()
        if any(now - asked < HEARTBEAT_S for asked in self._pings.values()) or len(self._pings) >= _MOST_PINGS:
            return
        ping = asyncio.get_running_loop().create_task(self._ping())
        self._pings[ping] = now
        ping.add_done_callback(self._pings.pop)

    async def _ping(self) -> None:
        asked = self._clock.monotonic()
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._kv.ping()
            # Waiting for the log as well would make everybody wait while a tenant's records are erased.
            self._log.check()
        except errors.Unavailable as error:
            self._problem = str(error)
        except TimeoutError:
            return  # silence is no news
        else:
            self._problem = ""
            self._beat = asked if self._beat is None else max(self._beat, asked)
        self._news.set()
        self._news = asyncio.Event()

    async def _beat_for_ever(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            self._ask()  # beside those that were not answered yet: `check` refuses by itself until one is

    async def _trim_for_ever(self) -> None:
        while True:
            with contextlib.suppress(errors.Unavailable):  # tried again in the next round
                await self._log.trim(now=self._clock.now())
            await asyncio.sleep(_TRIM_S)

    async def close(self) -> None:
        """Stop the heartbeat (so that `check` refuses), finish what was accepted, let go. Idempotent."""
        if self._closed:
            return
        self._closed = True
        await self._stop_tasks()
        self._end_watch()
        await self._kv.close()
        await self._log.close()
        await self._objects.close()

    async def _stop_tasks(self) -> None:
        tasks = [*self._tasks, *self._pings]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks = []
        self._beat = None
        self._news.set()
