"""A server's secrets: values that are set, handed to its running copies, and shown to nobody.

A version is written once, under a key that must not exist; the newest one is what a copy gets. Four older ones are
kept, and the write that makes a sixth removes the first. All of it lies in the tenant's own sealed storage below the
server's name, so a secret can be set before the server is deployed for the first time, and goes with the server or
the tenant. Nothing of it is cached: a copy that starts reads what was set last.
"""

import re
from typing import Final, Literal

import msgspec

from smcp.kernel import clock as clocks
from smcp.kernel import errors, ids, redact
from smcp.stores import tenant as stores
from smcp.stores.kv import base as kv

Kind = Literal["env", "file"]
"""How a server gets it: as a variable of its environment, or as a file in `/run/secrets`."""

MAX_VALUE: Final = 65_536
"""Bytes of one value. Linux takes no variable over 128 KiB (execve(2), MAX_ARG_STRLEN)."""
MAX_TOTAL: Final = 131_072
"""Bytes of all values that a copy of one server gets."""
MAX_SECRETS: Final = 32
"""Secrets of one server."""
KEPT: Final = 5
"""Versions of one secret that are kept, the newest included."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
_PREFIX: Final = "secret"
_PAGE: Final = 1000
_ATTEMPTS: Final = 20
_Key = tuple[str, str]


class Secret(msgspec.Struct, frozen=True, kw_only=True):
    """What may be known of a secret: everything but its value."""

    name: str
    version: int
    """1, 2, 3 …; begins again when the secret was deleted meanwhile."""
    kind: Kind
    created: float
    """When this version was set, epoch seconds."""
    by: str
    """Id of the principal who set it."""


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """A secret as a running copy gets it."""

    name: str
    kind: Kind
    value: bytes

    def __repr__(self) -> str:
        # A repr ends up in logs.
        return f"Value({self.name!r}, {self.kind})"


class _Version(msgspec.Struct, frozen=True, kw_only=True):
    """As stored, under the server, a digest of the name (keys are not sealed) and the version's number."""

    name: str
    value: bytes
    kind: Kind
    created: float
    by: str

    def __repr__(self) -> str:
        return f"_Version({self.kind})"


def name(text: str) -> str:
    """The secret's name in `text`. Raises `errors.BadName`, which does not repeat it: it may hold the value."""
    if "=" in text:
        raise errors.BadName(
            "Only the name belongs here. The value never does: logs and process lists show this place."
        )
    if _NAME.fullmatch(text) is None:
        raise errors.BadName(
            "A secret's name is a letter or an underscore, then up to 127 letters, digits and underscores."
        )
    if redact.text(text) != text:
        raise errors.BadName("What stands where the name belongs looks like a credential. Names are shown and kept.")
    return text


class Secrets:
    """Every tenant's secrets."""

    def __init__(self, store: stores.Store, clock: clocks.Clock) -> None:
        self._store = store
        self._clock = clock
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(_Version)

    async def list(self, tenant: ids.TenantId, server: ids.ServerName) -> list[Secret]:
        """The server's secrets, by name; empty also for a server that does not exist."""
        return [_shown(versions) for versions in _by_name(await self._read(tenant, server)).values()]

    async def values(self, tenant: ids.TenantId, server: ids.ServerName) -> tuple[Value, ...]:
        """What a copy that starts now gets: the newest version of each, by name."""
        found = _by_name(await self._read(tenant, server))
        newest = (versions[max(versions)] for versions in found.values())
        return tuple(Value(name=one.name, kind=one.kind, value=one.value) for one in newest)

    async def set(
        self,
        tenant: ids.TenantId,
        server: ids.ServerName,
        called: str,
        value: bytes,
        *,
        by: str,
        kind: Kind | None = None,
        existing: bool = False,
    ) -> Secret:
        """Write the next version; `kind` None: as the version before, or `env`.

        Raises `errors.BadName`, `errors.InvalidParams` for a value that can't be handed over or is too much,
        `errors.NotFound` when `existing` and there is none yet, `errors.QuotaExceeded`.
        """
        name(called)
        for _ in range(_ATTEMPTS):
            every = _by_name(await self._read(tenant, server))
            before = every.pop(called, {})
            if existing and not before:
                raise errors.NotFound(f"There is no secret {called} here yet. Set it first.")
            newest = before[max(before)] if before else None
            made = _Version(
                name=called,
                value=value,
                kind=kind or (newest.kind if newest else "env"),
                created=self._clock.now(),
                by=by,
            )
            _check(made)
            _check_room(value, [versions[max(versions)].value for versions in every.values()])
            number = max(before, default=0) + 1
            place = (_PREFIX, server, self._store.tenant(tenant).private(_PREFIX, called))
            ops: list[kv.Op] = [kv.Put((*place, _segment(number)), self._encoder.encode(made), expect=kv.ABSENT)]
            ops += [kv.Delete((*place, _segment(old))) for old in sorted(before)[: -(KEPT - 1)]]
            try:
                await self._store.tenant(tenant).kv.apply(ops)
            except errors.Conflict:
                continue  # somebody else made that version just now
            return _shown({number: made})
        raise errors.Conflict

    async def delete(self, tenant: ids.TenantId, server: ids.ServerName, called: str) -> Secret:
        """Remove every version; returns what the newest was. Raises `errors.NotFound`."""
        found = {key: one for key, one in (await self._read(tenant, server)).items() if one.name == called}
        if not found:
            raise errors.NotFound
        await self._remove(tenant, server, list(found))
        return _shown({int(number): one for (_, number), one in found.items()})

    async def drop(self, tenant: ids.TenantId, server: ids.ServerName) -> None:
        """Remove everything of a server that is being deleted: a later one of that name begins without secrets."""
        found = await self._read(tenant, server)
        if found:
            await self._remove(tenant, server, list(found))

    async def _remove(self, tenant: ids.TenantId, server: ids.ServerName, keys: "list[_Key]") -> None:
        # In one write: a half-removed secret would be one whose older value is the newest.
        await self._store.tenant(tenant).kv.apply([kv.Delete((_PREFIX, server, *key)) for key in keys])

    async def _read(self, tenant: ids.TenantId, server: ids.ServerName) -> dict[_Key, _Version]:
        if not self._store.knows(tenant):
            return {}
        # At most MAX_SECRETS * KEPT entries, so one page holds them.
        entries = await self._store.tenant(tenant).kv.scan((_PREFIX, server), limit=_PAGE)
        return {(entry.key[2], entry.key[3]): self._decode(entry.value) for entry in entries}

    def _decode(self, data: bytes) -> _Version:
        try:
            return self._decoder.decode(data)
        except msgspec.DecodeError:
            # Without the cause: a message about it must not quote what it could not read.
            raise errors.TamperedData(detail="a stored secret is no record") from None


def _segment(number: int) -> str:
    return f"{number:010d}"


def _by_name(found: dict[_Key, _Version]) -> dict[str, dict[int, _Version]]:
    made: dict[str, dict[int, _Version]] = {}
    for (_, number), one in sorted(found.items(), key=lambda item: item[1].name):
        made.setdefault(one.name, {})[int(number)] = one
    return made


def _shown(versions: dict[int, _Version]) -> Secret:
    number = max(versions)
    one = versions[number]
    return Secret(name=one.name, version=number, kind=one.kind, created=one.created, by=one.by)


def _check(made: _Version) -> None:
    if not made.value:
        raise errors.InvalidParams("The value is empty. To take a secret away, delete it.")
    if len(made.value) > MAX_VALUE:
        raise errors.InvalidParams(f"A secret's value has at most {MAX_VALUE} bytes; this one has {len(made.value)}.")
    if made.kind == "env" and not is_text(made.value):
        raise errors.InvalidParams("A variable holds UTF-8 text without NUL; this value is none. Set it as a file.")


def is_text(value: bytes) -> bool:
    """Whether a variable can hold `value`: UTF-8 (what the server will read it as) without NUL (execve(2))."""
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in value


def _check_room(value: bytes, others: "list[bytes]") -> None:
    if len(others) >= MAX_SECRETS:
        raise errors.InvalidParams(f"A server has at most {MAX_SECRETS} secrets.")
    if len(value) + sum(map(len, others)) > MAX_TOTAL:
        raise errors.InvalidParams(f"All secrets of one server together have at most {MAX_TOTAL} bytes.")
