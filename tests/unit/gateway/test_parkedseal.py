"""A `requestState` opens for whom and for what it was made, and for nothing else."""

import itertools
import pathlib

import pytest

from smcp.access import policy
from smcp.gateway import parked, parkedseal
from smcp.kernel import clock, crypto, errors, ids

ACME, UMBRA = ids.TenantId("acme"), ids.TenantId("umbra")
FILES, TIME = ids.ServerName("files"), ids.ServerName("time")
REQUEST, OTHER = b"r" * 32, b"o" * 32
TICKET = bytes(range(parkedseal.TICKET))
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@pytest.fixture
def now() -> clock.FrozenClock:
    return clock.FrozenClock()


@pytest.fixture
def seals(tmp_path: pathlib.Path, now: clock.FrozenClock) -> parkedseal.Seals:
    return _opened(tmp_path, now)


def _opened(directory: pathlib.Path, now: clock.FrozenClock) -> parkedseal.Seals:
    ring = crypto.KeyRing.open(directory / "keys", directory / "root.key")
    for tenant in (ACME, UMBRA):
        ring.create(tenant)
    return parkedseal.Seals(ring.data_key, now=now.monotonic)


def _refusal(seals: parkedseal.Seals, state: object, *bound: object) -> str:
    with pytest.raises(errors.InvalidParams) as refused:
        seals.open(state, *(bound or (ACME, "ann", FILES, REQUEST)))  # pyright: ignore[reportArgumentType] - a table of them
    assert refused.value.rpc_code == -32602
    return refused.value.public


@pytest.mark.requirement("attack:mrtr:request-state")
def test_it_opens_for_exactly_what_it_was_made_for(seals: parkedseal.Seals) -> None:
    state = seals.seal(ACME, "ann", FILES, REQUEST, TICKET, 10.0)
    assert seals.open(state, ACME, "ann", FILES, REQUEST) == TICKET
    wrong = [
        bound
        for bound in itertools.product((ACME, UMBRA), ("ann", "bob"), (FILES, TIME), (REQUEST, OTHER))
        if bound != (ACME, "ann", FILES, REQUEST)
    ]
    assert len(wrong) == 15
    assert {_refusal(seals, state, *bound) for bound in wrong} == {parkedseal.FOREIGN}


@pytest.mark.requirement("attack:mrtr:request-state")
def test_no_two_principals_and_servers_are_bound_alike(seals: parkedseal.Seals) -> None:
    state = seals.seal(ACME, "ann", ids.ServerName("files"), REQUEST, TICKET, 10.0)
    assert _refusal(seals, state, ACME, "annf", ids.ServerName("iles"), REQUEST) == parkedseal.FOREIGN


@pytest.mark.requirement("attack:mrtr:request-state")
def test_a_change_of_any_character_is_noticed(seals: parkedseal.Seals) -> None:
    state = seals.seal(ACME, "ann", FILES, REQUEST, TICKET, 10.0)
    # The last character has bits that mean nothing: they, too, must be what they were.
    for place, own in enumerate(state):
        for other in ALPHABET:
            if other != own:
                assert _refusal(seals, state[:place] + other + state[place + 1 :]) == parkedseal.FOREIGN


@pytest.mark.requirement("attack:mrtr:request-state")
def test_what_is_cut_or_longer_or_no_state_at_all_is_refused(seals: parkedseal.Seals) -> None:
    state = seals.seal(ACME, "ann", FILES, REQUEST, TICKET, 10.0)
    others: list[object] = [state[:length] for length in range(len(state))]
    others += [state + "A", state + "=", " " + state, state + "\n", state * 20, "é", "A" * 10_000_000, 7, None, [], {}]
    assert {_refusal(seals, other) for other in others} == {parkedseal.FOREIGN}


@pytest.mark.requirement("attack:mrtr:request-state")
def test_its_time_ends(seals: parkedseal.Seals, now: clock.FrozenClock) -> None:
    state = seals.seal(ACME, "ann", FILES, REQUEST, TICKET, 10.0)
    now.advance(9.9)
    assert seals.open(state, ACME, "ann", FILES, REQUEST) == TICKET
    now.advance(0.2)
    assert _refusal(seals, state) == parkedseal.LATE
    assert _refusal(seals, state, ACME, "bob", FILES, REQUEST) == parkedseal.FOREIGN


@pytest.mark.requirement("attack:mrtr:request-state")
def test_nothing_can_be_read_from_it_and_no_two_are_alike(seals: parkedseal.Seals) -> None:
    states = {seals.seal(ACME, "ann", FILES, REQUEST, TICKET, 10.0) for _ in range(100)}
    assert len(states) == 100
    assert len({state[:8] + state[-16:] for state in states}) == 100


@pytest.mark.requirement("attack:mrtr:request-state")
def test_a_tenant_that_is_gone_has_none(tmp_path: pathlib.Path, now: clock.FrozenClock) -> None:
    ring = crypto.KeyRing.open(tmp_path / "keys", tmp_path / "root.key")
    ring.create(ACME)
    seals = parkedseal.Seals(ring.data_key, now=now.monotonic)
    state = seals.seal(ACME, "ann", FILES, REQUEST, TICKET, 10.0)
    ring.destroy(ACME)
    assert _refusal(seals, state) == parkedseal.FOREIGN
    ring.create(ACME)
    assert _refusal(seals, state) == parkedseal.FOREIGN


@pytest.mark.requirement("attack:mrtr:request-state")
def test_one_from_before_a_restart_is_whole_and_names_nothing(tmp_path: pathlib.Path, now: clock.FrozenClock) -> None:
    state = _opened(tmp_path, now).seal(ACME, "ann", FILES, REQUEST, TICKET, 10.0)
    restarted = parked.Parked(_opened(tmp_path, now))
    ann = policy.Principal(ACME, "ann", "api_key", ())
    with pytest.raises(errors.InvalidParams) as refused:
        restarted.find(state, ann, FILES, REQUEST)
    assert refused.value.public == parkedseal.LATE
