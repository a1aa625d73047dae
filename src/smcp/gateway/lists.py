"""Lists and reads that hosted servers have answered before, for as long as they said that they stay good.

| the server is | an answer is kept |
|---|---|
| modern | for its `ttlMs`, an hour at most (MCP 2026-07-28, "Caching"); none is not kept |
| legacy | lists of a kind whose changes it tells (`listChanged`), in the session that asked, an hour at most |

| it is for | whoever asks the same and is |
|---|---|
| `public` | of the same tenant: what a hosted server calls public is not so beyond the tenant that deployed it |
| `private`, and where the manifest keeps principals apart | the same principal |
| a legacy server's | the same session |

Whoever asks has been authenticated, and allowed to, by then; what is kept answers nobody who may not ask. An answer to
a request that carries somebody's input (`requestState`, `inputResponses`) is neither kept nor given.
"""

import collections
import hashlib
from typing import Any, Final, NamedTuple

import msgspec

from smcp.kernel import clock, ids, jsonrpc, observe
from smcp.protocol import eras, translate

LONGEST_S: Final = 3600.0
TENANT_BYTES: Final = 4 * 1024 * 1024
TOTAL_BYTES: Final = 64 * 1024 * 1024
_ENTRY_BYTES: Final = 512
"""What an entry takes beside its answer."""
_LARGEST: Final = 262_144

_INERT: Final = frozenset(
    {"baggage", "progressToken", "traceparent", "tracestate", eras.META_VERSION, translate.META_CLIENT}
)
"""Members of `_meta` that ask for nothing else: where progress and traces go, who asks; the version has its own place.

All others count. A server may read members of its own there, and what it then answers is nobody else's list.
"""

_sorted = msgspec.json.Encoder(order="sorted")
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Key(NamedTuple):
    """What has to be the same for two requests to get the same answer."""

    tenant: ids.TenantId
    server: ids.ServerName
    deployment: str
    policy: str
    """`access.policy.VERSION`, and which tools the caller has (`access.tools.Choice.digest`) where that is not all:
    another policy, and other roles, may show another list."""
    edition: object
    """`tools.Book.edition`: another one since the server has told of a change."""
    version: str
    """Of MCP, as spoken with the server."""
    method: str
    asked: bytes
    """`digest` of the params, with what the client can do."""
    whose: str
    """Empty: anybody's in the tenant. Else a principal, or a session."""


class Told(msgspec.Struct, frozen=True, rename="camel"):
    """What an answer says of its keeping."""

    ttl_ms: float = 0
    cache_scope: str = "private"
    result_type: str = "complete"


_told = msgspec.json.Decoder(Told)


def digest(params: jsonrpc.Json, stamp: Any = None) -> bytes:
    """The same for the same request of clients that can do the same.

    `stamp` is what is put over the client's own `_meta` on the way to the server (`translate.stamped`).
    """
    asked = {name: value for name, value in params.items() if name != "_meta"}
    meta = {**(jsonrpc.obj(params.get("_meta")) or {}), **(jsonrpc.obj(stamp) or {})}
    told = {name: value for name, value in meta.items() if name not in _INERT}
    return hashlib.sha256(_sorted.encode((asked, told))).digest()


class _Entry(NamedTuple):
    until: float
    tail: bytes
    """The result without its `ttlMs`; a legacy server's as it came."""
    legacy: bool

    @property
    def size(self) -> int:
        return len(self.tail) + _ENTRY_BYTES


class Ticket:
    """A request whose answer is to be kept."""

    __slots__ = ("_key", "_legacy", "_lists", "_private", "_whose")

    def __init__(self, lists: "Lists", key: Key, whose: str, *, private: bool, legacy: bool) -> None:
        self._lists = lists
        self._key = key
        self._whose = whose
        self._private = private
        self._legacy = legacy

    def keep(self, edition: object, result: bytes | msgspec.Raw) -> None:
        """`result` has come. `edition` of now: what changed while the server answered may not be in it."""
        key = self._key
        if edition is not key.edition or len(result) > _LARGEST:
            return
        if self._legacy:
            self._lists.put(key._replace(whose=self._whose), LONGEST_S, bytes(result), legacy=True)
            return
        try:
            told, members = _told.decode(result), _members.decode(result)
        except (msgspec.DecodeError, RecursionError):
            return
        seconds = min(told.ttl_ms / 1000, LONGEST_S)
        if told.result_type != "complete" or not seconds > 0:
            return
        members.pop("ttlMs", None)
        public = told.cache_scope == "public" and not self._private
        key = key._replace(whose="" if public else self._whose)
        self._lists.put(key, seconds, jsonrpc.encode(members), legacy=False)


class Lists:
    """What is kept, of every tenant: the least recently used goes first."""

    def __init__(self, time: clock.Clock, metrics: observe.Metrics) -> None:
        self._clock = time
        self._tenants: dict[ids.TenantId, collections.OrderedDict[Key, _Entry]] = {}
        self._bytes: collections.Counter[ids.TenantId] = collections.Counter()
        self._hits = metrics.counter(observe.Metric.CACHE_LOOKUPS, result="hit")
        self._misses = metrics.counter(observe.Metric.CACHE_LOOKUPS, result="miss")
        metrics.watch(observe.Metric.CACHE_BYTES, lambda: float(self._bytes.total()))

    def find(self, key: Key, whose: str, *, private: bool = False) -> bytes | None:
        """The result for `key`, as anybody's unless it is `private`, or as that of `whose`."""
        for audience in (whose,) if private else ("", whose):
            found = self._get(key._replace(whose=audience))
            if found is not None:
                self._hits.inc()
                return found
        self._misses.inc()
        return None

    def _get(self, key: Key) -> bytes | None:
        mine = self._tenants.get(key.tenant)
        entry = None if mine is None else mine.get(key)
        if mine is None or entry is None:
            return None
        left = entry.until - self._clock.monotonic()
        if left <= 0:
            self._drop(key.tenant, mine, key)
            return None
        mine.move_to_end(key)
        if entry.legacy:
            return entry.tail
        # How long it is good from now on: else clients would keep it that long once more.
        return b'{"ttlMs":%d%b%b' % (left * 1000, b"," if len(entry.tail) > 2 else b"", entry.tail[1:])

    def put(self, key: Key, seconds: float, tail: bytes, *, legacy: bool) -> None:
        """Keep a result."""
        mine = self._tenants.setdefault(key.tenant, collections.OrderedDict())
        if key in mine:
            self._drop(key.tenant, mine, key)
            mine = self._tenants.setdefault(key.tenant, mine)
        entry = _Entry(self._clock.monotonic() + seconds, tail, legacy)
        mine[key] = entry
        self._bytes[key.tenant] += entry.size
        while self._bytes[key.tenant] > TENANT_BYTES:
            self._drop(key.tenant, mine, next(iter(mine)))
        while self._bytes.total() > TOTAL_BYTES:
            # From whoever has most: one tenant's lists must not drive out another's few.
            [(most, _)] = self._bytes.most_common(1)
            self._drop(most, self._tenants[most], next(iter(self._tenants[most])))

    def _drop(self, tenant: ids.TenantId, mine: "collections.OrderedDict[Key, _Entry]", key: Key) -> None:
        self._bytes[tenant] -= mine.pop(key).size
        if not mine:
            del self._tenants[tenant], self._bytes[tenant]
