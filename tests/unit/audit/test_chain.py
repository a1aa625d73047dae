"""The chain by itself, also against somebody who holds the tenant's keys but does not rewrite all of it."""

import msgspec
import pytest

from smcp.audit import chain, events
from smcp.kernel import errors, ids
from support.trails import call

ACME = ids.tenant("acme")
MAC = chain.Mac(ACME, b"k" * 32)
NOW = 1_800_000_000.0


def line(number: int) -> tuple[int, bytes]:
    return (int(NOW * 1e6) + number, events.encode(call(number)))


def batches(count: int = 4, each: int = 3) -> tuple[list[chain.Batch], chain.State]:
    """A chain of so many records; each third one ends in a checkpoint."""
    state = chain.begin(ACME, "node-1", "chain-1")
    made: list[chain.Batch] = []
    for number in range(count):
        lines = [line(number * each + place) for place in range(each)]
        batch, state = chain.extend(
            state, lines, until=NOW + 1000, checkpoint=MAC if number % 3 == 2 else None, time_us=int(NOW * 1e6)
        )
        state = msgspec.structs.replace(state, position=number + 1)
        made.append(batch)
    return made, state


def check(made: list[chain.Batch], state: chain.State, *, last: int | None = None) -> chain.Report:
    verifier = chain.Verifier(ACME, MAC, [MAC.sealed(state)], now=NOW)
    try:
        verifier.trust_heads()
        for position, batch in enumerate(made, 1):
            verifier.next(position, chain.decode(chain.encode(batch)))
        return verifier.finish(len(made) if last is None else last)
    except chain.Broken as broken:
        return chain.Report(False, verifier.entries, verifier.checkpoints, broken.problem, broken.position)


def with_lines(batch: chain.Batch, *lines: chain.Line) -> chain.Batch:
    return msgspec.structs.replace(batch, lines=lines)


@pytest.mark.requirement("audit:verify:clean")
def test_an_untouched_chain_holds() -> None:
    made, state = batches()
    assert check(made, state) == chain.Report(True, entries=13, checkpoints=1)


@pytest.mark.requirement("audit:verify:entry")
@pytest.mark.parametrize("place", [1, 2, 3])
def test_a_changed_entry_is_named_exactly(place: int) -> None:
    made, state = batches()
    lines = list(made[1].lines)
    old = lines[place - 1]
    for new in (
        msgspec.structs.replace(old, event=events.encode(call(999))),
        msgspec.structs.replace(old, time_us=old.time_us + 1),
    ):
        changed = [*lines[: place - 1], new, *lines[place:]]
        report = check([made[0], with_lines(made[1], *changed), *made[2:]], state)
        assert report.position == 2 * chain.STEP + place
        assert report.problem == "an entry was changed"


@pytest.mark.requirement("audit:verify:entry")
def test_removed_exchanged_and_repeated_entries_are_named() -> None:
    made, state = batches()
    one, two, three = made[1].lines
    for lines, place in (
        ((one, three), 2),
        ((two, three), 1),
        ((one, two), 2),
        ((two, one, three), 1),
        ((one, two, two, three), 3),
        ((one, two, three, three), 4),
    ):
        report = check([made[0], with_lines(made[1], *lines), *made[2:]], state)
        assert not report.ok
        assert report.position == 2 * chain.STEP + place


@pytest.mark.requirement("audit:verify:entry")
@pytest.mark.parametrize(
    "change",
    [
        {"first": 5},
        {"first": 3},
        {"before": b"x" * 32},
        {"before_until": 1.0},
        {"until": NOW + 5},
        {"head": b"x" * 32},
        {"refs": (chain.Ref("chain-0", 3, b"y" * 32, NOW - 1),)},
    ],
)
def test_a_changed_frame_of_a_record_is_noticed(change: dict[str, object]) -> None:
    made, state = batches()
    report = check([made[0], msgspec.structs.replace(made[1], **change), *made[2:]], state)
    assert not report.ok
    assert report.position is not None
    assert report.position // chain.STEP == 2


@pytest.mark.requirement("audit:verify:forged")
def test_a_chain_that_was_written_anew_is_refused_by_its_head_record() -> None:
    """Somebody with the data key can compute hashes, and so a whole chain; the head record was elsewhere."""
    _, state = batches()
    forged_state = chain.begin(ACME, "node-1", "chain-1")
    forged: list[chain.Batch] = []
    for number in range(4):
        batch, forged_state = chain.extend(forged_state, [line(100 + number)] * 4, until=NOW + 1000)
        forged.append(batch)
    report = check(forged, state)
    assert not report.ok
    assert "vouches" in str(report.problem)


@pytest.mark.requirement("audit:verify:forged")
def test_a_checkpoint_under_another_key_is_refused() -> None:
    other = chain.Mac(ACME, b"o" * 32)
    state = chain.begin(ACME, "node-1", "chain-1")
    batch, state = chain.extend(state, [line(1)], until=NOW + 1000, checkpoint=other)
    report = check([batch], state)
    assert report.position == chain.STEP + 2
    assert "checkpoint" in str(report.problem)


@pytest.mark.requirement("audit:verify:forged")
def test_a_head_record_under_another_key_is_refused() -> None:
    made, state = batches()
    head = msgspec.structs.replace(MAC.sealed(state), count=state.count - 1)
    verifier = chain.Verifier(ACME, MAC, [head], now=NOW)
    with pytest.raises(chain.Broken, match="head record"):
        verifier.trust_heads()
    assert made


@pytest.mark.requirement("audit:verify:tenant-bound")
def test_a_chain_of_another_tenant_does_not_stand_in() -> None:
    state = chain.begin(ids.tenant("umbra"), "node-1", "chain-1")
    batch, state = chain.extend(state, [line(1)], until=NOW + 1000)
    report = check([batch], state)
    assert not report.ok
    own = chain.begin(ACME, "node-1", "chain-1")
    foreign = (int(NOW * 1e6), events.encode(call(1, "umbra")))
    batch, own = chain.extend(own, [foreign], until=NOW + 1000)
    report = check([batch], own)
    assert report.problem == "an entry belongs to another tenant"


@pytest.mark.requirement("audit:verify:truncated")
def test_the_end_is_missed_by_the_logs_counter_and_by_the_head_record() -> None:
    made, state = batches()
    assert check(made[:3], state, last=3).position == 4 * chain.STEP + 1
    assert check(made, state, last=5).position == 5 * chain.STEP + 1


@pytest.mark.requirement("audit:verify:changed")
@pytest.mark.parametrize("data", [b"", b"\x90", b"{}", b"\xff" * 40, msgspec.msgpack.encode([2, "w", "c", 1])])
def test_what_is_no_record_is_damage(data: bytes) -> None:
    with pytest.raises(errors.TamperedData):
        chain.decode(data)


@pytest.mark.requirement("audit:verify:changed")
def test_a_record_of_a_later_or_an_empty_form_is_refused() -> None:
    made, _ = batches()
    for odd in (msgspec.structs.replace(made[0], format=2), with_lines(made[0])):
        with pytest.raises(errors.TamperedData):
            chain.decode(chain.encode(odd))
