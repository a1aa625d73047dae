"""The chain that audit entries stand in, as pure functions: how it grows, and how it is checked.

One record of a tenant's audit log holds a *batch* of entries of one *chain*: what one writer (a node) wrote from one
start on. Each entry's link is the hash of the link before it and of the entry, so that no entry can be changed,
removed or moved without breaking every later link. Each batch also says until when it and its predecessor are kept: a
missing predecessor that was due for removal is retention, any other is a gap.

A chain alone does not show that its end was cut off. That is what *checkpoints* (entries with the count and the head,
under a keyed code), the *head record* in KV and the log's own memory of its last position are for, and the references
to all other chains with which a chain begins. What remains: who controls storage can put back an older state of
everything at once, or cut off what came after the last checkpoint and change the log's counter with it.
"""

import hashlib
from typing import Final

import msgspec

from smcp.audit import events
from smcp.kernel import crypto, errors, ids

BATCH: Final = 500
"""Most entries in one record."""
STEP: Final = 1000
"""An entry's position is its record's position times this, plus its place in the record, from 1."""

_TAG: Final = 8


class Ref(msgspec.Struct, frozen=True, array_like=True):
    """Where another chain stood when this one began."""

    chain: str
    count: int
    head: bytes
    until: float


class Head(msgspec.Struct, frozen=True):
    """The KV record of a chain: a lower bound of what the log must hold."""

    chain: str
    writer: str
    count: int
    head: bytes
    until: float
    position: int
    """Position in the log of the record that the chain had reached; 0 before its first."""
    mac: bytes = b""

    def ref(self) -> Ref:
        return Ref(self.chain, self.count, self.head, self.until)


class Line(msgspec.Struct, frozen=True, array_like=True):
    """One entry: when (µs since the epoch), what (an encoded event), and the first bytes of its link."""

    time_us: int
    event: bytes
    tag: bytes = b""


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """One record of the log."""

    format: int
    writer: str
    chain: str
    first: int
    """Number of the first entry in the chain, from 1."""
    before: bytes
    """The link before the first entry."""
    before_until: float
    """When the chain's previous record may be removed (epoch seconds); 0 if there was none."""
    until: float
    refs: tuple[Ref, ...]
    lines: tuple[Line, ...]
    head: bytes


class State(msgspec.Struct, frozen=True):
    """How far a chain has come."""

    writer: str
    chain: str
    count: int
    head: bytes
    until: float = 0.0
    position: int = 0


class Report(msgspec.Struct, frozen=True):
    """What a verification found. `problem` and `position` name the first damage."""

    ok: bool
    entries: int
    checkpoints: int
    problem: str | None = None
    position: int | None = None
    """The damaged or missing entry's position; None where no single one can be named."""


class Broken(Exception):
    """A chain does not hold. Never leaves this room."""

    def __init__(self, problem: str, position: int | None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.position = position


def begin(tenant: str, writer: str, chain: str) -> State:
    """The start of a chain, which belongs to one tenant and writer."""
    head = hashlib.sha256(crypto.length_prefixed("smcp audit chain 1", tenant, writer, chain)).digest()
    return State(writer, chain, 0, head)


def extend(
    state: State,
    lines: list[tuple[int, bytes]],
    *,
    until: float,
    refs: tuple[Ref, ...] = (),
    checkpoint: "Mac | None" = None,
    time_us: int = 0,
) -> tuple[Batch, State]:
    """`lines` (time in µs, encoded event) as a batch at the end of `state`.

    With a `Mac`, a checkpoint dated `time_us` comes last.
    """
    until = max(until, state.until)
    link = _header(state.head, state.count + 1, state.until, until, refs)
    chained: list[Line] = []
    for time_us, event in lines:
        link = _link(link, time_us, event)
        chained.append(Line(time_us, event, link[:_TAG]))
    count = state.count + len(lines)
    if checkpoint is not None:
        event = checkpoint.event(state.chain, count, link)
        link = _link(link, time_us, event)
        chained.append(Line(time_us, event, link[:_TAG]))
        count += 1
    batch = Batch(
        1, state.writer, state.chain, state.count + 1, state.head, state.until, until, refs, tuple(chained), link
    )
    return batch, State(state.writer, state.chain, count, link, until, state.position)


class Mac:
    """Makes and checks the keyed codes of one tenant's checkpoints and head records."""

    def __init__(self, tenant: str, key: bytes) -> None:
        self._tenant = tenant
        self._key = key

    def __repr__(self) -> str:
        return "Mac(…)"

    def event(self, chain: str, count: int, head: bytes) -> bytes:
        """An encoded checkpoint over `count` entries that end in `head`."""
        mac = self._code("checkpoint", chain, count, head)
        return events.encode(
            events.Checkpoint(tenant=self._tenant, actor="platform", count=count, head=head.hex(), mac=mac.hex())
        )

    def vouches(self, checkpoint: events.Checkpoint, chain: str) -> bool:
        """Is the checkpoint's code right?"""
        code = self._code("checkpoint", chain, checkpoint.count, bytes.fromhex(checkpoint.head))
        return crypto.equal(code.hex(), checkpoint.mac)

    def sealed(self, state: State) -> Head:
        """The head record of `state`."""
        head = Head(state.chain, state.writer, state.count, state.head, state.until, state.position)
        return msgspec.structs.replace(head, mac=self._head_code(head))

    def vouches_head(self, head: Head) -> bool:
        """Is the head record's code right?"""
        return crypto.equal(self._head_code(head), head.mac)

    def _head_code(self, head: Head) -> bytes:
        rest = f"{head.writer} {head.until!r} {head.position}"
        return self._code(f"head {rest}", head.chain, head.count, head.head)

    def _code(self, kind: str, chain: str, count: int, head: bytes) -> bytes:
        return crypto.keyed_digest(self._key, kind, self._tenant, chain, str(count), head)


_batches: Final = msgspec.msgpack.Decoder(Batch)


def encode(batch: Batch) -> bytes:
    """The batch as it is stored."""
    return msgspec.msgpack.encode(batch)


def decode(data: bytes) -> Batch:
    """The batch in `data`. Raises `errors.TamperedData`."""
    try:
        batch = _batches.decode(data)
    except msgspec.DecodeError as error:
        raise errors.TamperedData(detail="not an audit record") from error
    if batch.format != 1 or not batch.lines:
        raise errors.TamperedData(detail="not an audit record of this version")
    return batch


def follow(state: State, batch: Batch, position: int) -> State:
    """`state` after `batch`, the record at `position`. Raises `Broken` where it does not continue or does not hold."""
    if batch.first != state.count + 1:
        problem = "entries are missing before this one" if batch.first > state.count else "an entry stands here again"
        raise Broken(problem, position * STEP + 1)
    if batch.before != state.head or batch.before_until != state.until:
        raise Broken("an entry does not follow the one before it", position * STEP + 1)
    link = _header(state.head, batch.first, batch.before_until, batch.until, batch.refs)
    for place, line in enumerate(batch.lines, 1):
        link = _link(link, line.time_us, line.event)
        if link[:_TAG] != line.tag:
            raise Broken("an entry was changed", position * STEP + place)
    if link != batch.head:
        raise Broken("a record was changed", position * STEP + len(batch.lines))
    count = state.count + len(batch.lines)
    return State(state.writer, state.chain, count, link, batch.until, position)


def _header(head: bytes, first: int, before_until: float, until: float, refs: tuple[Ref, ...]) -> bytes:
    return hashlib.sha256(head + b"B" + msgspec.msgpack.encode((first, before_until, until, refs))).digest()


def _link(link: bytes, time_us: int, event: bytes) -> bytes:
    return hashlib.sha256(b"%bL%b%b" % (link, time_us.to_bytes(8, "big"), event)).digest()


class Verifier:
    """Checks one tenant's log, record by record, in order. Every method raises `Broken` at the first damage."""

    def __init__(self, tenant: ids.TenantId, mac: Mac, heads: list[Head], *, now: float) -> None:
        self._tenant = tenant
        self._mac = mac
        self._heads = {head.chain: head for head in heads}
        self._now = now
        self._chains: dict[str, State] = {}
        self._refs: list[tuple[Ref, int]] = []
        self._last: tuple[int, float] | None = None
        self.entries = 0
        self.checkpoints = 0

    def trust_heads(self) -> None:
        """The head records themselves; before the first record."""
        for head in self._heads.values():
            if not self._mac.vouches_head(head):
                raise Broken(f"the head record of {head.chain} was changed", None)

    def next(self, position: int, batch: Batch) -> None:
        """The record at `position`."""
        if self._last is not None and position != self._last[0] + 1 and self._last[1] > self._now:
            raise Broken("entries were removed", (self._last[0] + 1) * STEP + 1)
        state = self._chains.get(batch.chain)
        if state is None:
            state = self._first(position, batch)
        after = follow(state, batch, position)
        self._look_inside(state, batch, position)
        head = self._heads.get(batch.chain)
        if head is None:
            raise Broken(f"the head record of {batch.chain} is missing", position * STEP + 1)
        if state.count < head.count <= after.count and self._link_at(state, batch, head.count) != head.head:
            raise Broken("an entry is not what the head record vouches for", position * STEP + 1)
        self._chains[batch.chain] = after
        self._refs += [(ref, position) for ref in batch.refs]
        self._last = (position, batch.until)
        self.entries += len(batch.lines)

    def finish(self, last: int) -> Report:
        """After the last record; `last` is the last position that the log gave out before the check began."""
        if self._last is not None and last > self._last[0] and self._last[1] > self._now:
            raise Broken("entries were removed at the end", (self._last[0] + 1) * STEP + 1)
        for head in self._heads.values():
            self._reached(head.ref(), None)
        for ref, position in self._refs:
            self._reached(ref, position * STEP + 1)
        return Report(True, self.entries, self.checkpoints)

    def _first(self, position: int, batch: Batch) -> State:
        if batch.first == 1:
            return begin(self._tenant, batch.writer, batch.chain)
        if batch.before_until > self._now:
            raise Broken("entries before this one were removed", position * STEP + 1)
        return State(batch.writer, batch.chain, batch.first - 1, batch.before, batch.before_until)

    def _look_inside(self, state: State, batch: Batch, position: int) -> None:
        for place, line in enumerate(batch.lines, 1):
            try:
                event = events.decode(line.event)
            except errors.TamperedData:
                raise Broken("an entry is not an event", position * STEP + place) from None
            if event.tenant != self._tenant:
                raise Broken("an entry belongs to another tenant", position * STEP + place)
            if isinstance(event, events.Checkpoint):
                count = state.count + place - 1
                link = self._link_at(state, batch, count)
                if event.count != count or event.head != link.hex() or not self._mac.vouches(event, batch.chain):
                    raise Broken("a checkpoint does not vouch for what is before it", position * STEP + place)
                self.checkpoints += 1

    @staticmethod
    def _link_at(state: State, batch: Batch, count: int) -> bytes:
        link = _header(state.head, batch.first, batch.before_until, batch.until, batch.refs)
        for line in batch.lines[: count - state.count]:
            link = _link(link, line.time_us, line.event)
        return link

    def _reached(self, ref: Ref, position: int | None) -> None:
        state = self._chains.get(ref.chain)
        reached = 0 if state is None else state.count
        if reached < ref.count and ref.until > self._now:
            at = position or (state.position + 1) * STEP + 1 if state is not None else position
            raise Broken(f"entries at the end of {ref.chain} were removed", at)
