"""What the pool decides, without a clock and without a process: breakers, demand, scaling, the ledger."""

import random

import pytest
from hypothesis import given, stateful
from hypothesis import strategies as st

from smcp.kernel import errors, ids
from smcp.runtime import breaker, demand, ledger, scaling

_ACME = ids.TenantId("acme")


def _fuse() -> breaker.Breaker:
    return breaker.Breaker(random.Random(1))


def _break(fuse: breaker.Breaker, now: float, times: int = breaker.THRESHOLD) -> None:
    for _ in range(times):
        fuse.bad(now, "exit code 1")


# --- breakers ---


@pytest.mark.requirement("runtime:pool:breaker")
def test_a_breaker_opens_after_three_bad_ends_in_a_row_and_not_after_three_with_a_good_one_between() -> None:
    fuse = _fuse()
    for end in ("bad", "bad", "good", "bad", "bad"):
        fuse.bad(0.0, "") if end == "bad" else fuse.good()
    assert fuse.state(0.0) is breaker.State.CLOSED
    fuse.bad(0.0, "")
    assert fuse.state(0.0) is breaker.State.OPEN


@pytest.mark.requirement("runtime:pool:breaker")
def test_pauses_double_with_jitter_up_to_a_minute() -> None:
    fuse, now = _fuse(), 0.0
    _break(fuse, now, breaker.THRESHOLD - 1)
    for expected in (1, 2, 4, 8, 16, 32, 60, 60, 60):
        fuse.bad(now, "")
        assert 0.75 * expected <= fuse.wait(now) <= 1.25 * expected
        now += fuse.wait(now) + 0.001
    assert len({breaker.Breaker(random.Random(seed))._dice.random() for seed in range(4)}) == 4  # pyright: ignore[reportPrivateUsage]


@pytest.mark.requirement("runtime:pool:breaker")
def test_a_breaker_that_nobody_needs_is_kept_for_ten_minutes_and_not_for_ever() -> None:
    fuse = _fuse()
    assert fuse.idle(0.0)
    _break(fuse, 0.0)
    assert not fuse.idle(breaker.FORGET_S - 1)
    assert fuse.idle(breaker.FORGET_S)
    assert fuse.admit(breaker.FORGET_S)
    assert not fuse.idle(2 * breaker.FORGET_S)


@pytest.mark.requirement("runtime:pool:breaker")
def test_many_starts_that_fail_together_make_no_longer_pause_than_three() -> None:
    fuse = _fuse()
    _break(fuse, 0.0, 50)
    later = fuse.wait(0.0)
    assert later <= 1.25 * breaker.PAUSE_S
    assert fuse.admit(later)
    fuse.bad(later, "")
    assert 0.75 * 2 * breaker.PAUSE_S <= fuse.wait(later) <= 1.25 * 2 * breaker.PAUSE_S


@pytest.mark.requirement("runtime:pool:breaker")
def test_behind_the_pause_one_start_is_let_through_and_decides() -> None:
    fuse = _fuse()
    _break(fuse, 0.0)
    with pytest.raises(errors.ServerCrashing):
        fuse.admit(0.1)
    later = fuse.wait(0.0)
    assert fuse.state(later) is breaker.State.HALF_OPEN
    assert fuse.admit(later)
    with pytest.raises(errors.ServerCrashing):
        fuse.admit(later)
    fuse.void(probe=True)
    assert fuse.admit(later)
    fuse.bad(later, "")
    with pytest.raises(errors.ServerCrashing):
        fuse.admit(later + 0.5)
    latest = later + fuse.wait(later)
    assert fuse.admit(latest)
    fuse.good()
    assert fuse.state(latest) is breaker.State.CLOSED
    assert not fuse.admit(latest)


@pytest.mark.requirement("runtime:pool:breaker")
def test_who_is_refused_hears_when_to_come_again_and_what_the_server_said() -> None:
    fuse = _fuse()
    fuse.said = "ImportError: no module named yaml\x1b[31m"
    _break(fuse, 0.0)
    refusal = fuse.refusal(0.0)
    assert (refusal.code, refusal.http_status) == ("server_crashing", 503)
    assert int(dict(refusal.headers)["Retry-After"]) >= 1
    assert "ImportError: no module named yaml" in refusal.public
    assert "\x1b" not in refusal.public


class Fuses(stateful.RuleBasedStateMachine):
    """A breaker beside what it promises: never two deciding starts at once, never let through too early."""

    def __init__(self) -> None:
        super().__init__()
        self.fuse = _fuse()
        self.now = 0.0
        self.row = 0
        self.deciding = False
        self.until = 0.0

    @stateful.rule(seconds=st.floats(0, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @stateful.rule(ends=st.sampled_from(("good", "bad", "void")))
    def start(self, ends: str) -> None:
        try:
            probe = self.fuse.admit(self.now)
        except errors.ServerCrashing:
            assert self.row >= breaker.THRESHOLD
            assert self.now < self.until
            return
        assert self.row < breaker.THRESHOLD or self.now >= self.until
        assert probe is (self.row >= breaker.THRESHOLD)
        if ends == "good":
            self.fuse.good()
            self.row = 0
        elif ends == "bad":
            self.fuse.bad(self.now, "")
            self.row += 1
            self.until = self.now + self.fuse.wait(self.now)
            assert self.fuse.wait(self.now) <= breaker.MOST_S * 1.25
        else:
            self.fuse.void(probe=probe)

    @stateful.invariant()
    def tells_the_truth(self) -> None:
        state = self.fuse.state(self.now)
        assert (state is breaker.State.CLOSED) is (self.row < breaker.THRESHOLD)


TestFuses = pytest.mark.requirement("runtime:pool:breaker")(Fuses.TestCase)


# --- demand ---


@pytest.mark.requirement("runtime:pool:spares")
def test_one_start_is_chance_two_are_a_habit_and_silence_forgets() -> None:
    seen = demand.Demand(900.0)
    seen.take(0.0)
    assert seen.wanted(0.0, 8) == 0
    seen.take(60.0)
    assert seen.wanted(60.0, 8) == 1
    assert seen.wanted(60.0 + 899.0, 8) in (0, 1)
    assert seen.wanted(60.0 + 900.0, 8) == 0


@pytest.mark.requirement("runtime:pool:spares")
def test_a_burst_asks_for_as_many_spares_as_came_together_and_fades() -> None:
    seen = demand.Demand(900.0)
    for number in range(12):
        seen.take(100.0 + number / 100)
    assert seen.wanted(101.0, 40) == 12
    assert seen.wanted(101.0, 4) == 4
    assert seen.wanted(101.0 + 800.0, 40) < 12
    assert seen.wanted(101.0 + 900.0, 40) == 0


@pytest.mark.requirement("runtime:pool:spares")
def test_who_comes_every_twenty_minutes_has_a_spare_waiting_only_if_it_is_remembered_so_long() -> None:
    often, seldom = demand.Demand(900.0), demand.Demand(900.0)
    for turn in range(20):
        often.take(turn * 600.0)
        seldom.take(turn * 3600.0)
    assert often.wanted(19 * 600.0 + 599.0, 8) == 1
    assert seldom.wanted(19 * 3600.0, 8) == 0


@given(st.lists(st.floats(0, 2000), max_size=100), st.integers(0, 10))
@pytest.mark.requirement("runtime:pool:spares")
def test_no_demand_asks_for_more_spares_than_the_plan_allows(gaps: list[float], most: int) -> None:
    seen, now = demand.Demand(300.0), 0.0
    for gap in gaps:
        now += gap
        seen.take(now)
        assert 0 <= seen.wanted(now, most) <= most


# --- scaling ---


def _look(copies: int, outstanding: int, answered: int, starting: int = 0) -> scaling.Look:
    return scaling.Look(copies=copies, starting=starting, outstanding=outstanding, answered=answered, seconds=1.0)


_MANY = scaling.Bounds(0, 16)


@pytest.mark.requirement("runtime:pool:scale")
def test_a_queue_that_is_slow_for_two_looks_brings_copies_and_a_fast_one_does_not() -> None:
    slow, fast = scaling.Scaler(), scaling.Scaler()
    assert [slow.wanted(float(now), _look(1, 20, 10), _MANY) for now in range(2)] == [1, 2]
    assert [fast.wanted(float(now), _look(1, 64, 13000), _MANY) for now in range(5)] == [1] * 5


@pytest.mark.requirement("runtime:pool:scale")
def test_nothing_is_added_behind_a_copy_that_brought_nothing() -> None:
    one = scaling.Scaler()
    # A server that waits a second for each call, whoever carries it: more copies answer no faster.
    found = [one.wanted(float(now), _look(1, 64, 64), _MANY) for now in range(2)]
    assert found == [1, 2]
    assert {one.wanted(2.0 + now, _look(2, 64, 64), _MANY) for now in range(50)} == {2}
    assert max(one.wanted(70.0 + now, _look(2, 64, 64), _MANY) for now in range(3)) == 3


@pytest.mark.requirement("runtime:pool:scale")
def test_copies_go_one_by_one_when_fewer_would_do_for_a_while_and_never_below_the_least() -> None:
    one = scaling.Scaler()
    bounds = scaling.Bounds(2, 16)
    wanted = [one.wanted(float(now), _look(4, 1, 1000), bounds) for now in range(40)]
    assert wanted[:30] == [4] * 30
    assert 3 in wanted[30:]
    assert {scaling.Scaler().wanted(float(now), _look(2, 0, 0), bounds) for now in range(90)} == {2}
    assert scaling.Scaler().wanted(0.0, _look(0, 0, 0), bounds) == 2


@given(
    looks=st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 99), st.integers(0, 99), st.integers(0, 2)), max_size=80
    ),
    most=st.integers(1, 9),
)
@pytest.mark.requirement("runtime:pool:scale")
def test_no_load_grows_a_server_beyond_its_most(looks: list[tuple[int, int, int, int]], most: int) -> None:
    one = scaling.Scaler()
    for now, (copies, outstanding, answered, starting) in enumerate(looks):
        wanted = one.wanted(float(now), _look(copies, outstanding, answered, starting), scaling.Bounds(0, most))
        assert wanted <= max(most, copies + starting)


# --- the ledger ---


@pytest.mark.requirement("review:pool:cap")
def test_copies_memory_and_spares_are_counted_each_against_its_own_cap() -> None:
    books = ledger.Ledger(lambda tenant: ledger.Caps(instances=3, spares=1, memory_bytes=250))
    first = books.enter(_ACME, 100, spare=True)
    assert first is not None
    assert books.enter(_ACME, 100, spare=True) is None
    second = books.enter(_ACME, 100)
    assert second is not None
    assert books.enter(_ACME, 100) is None  # memory
    assert books.used(_ACME) == (2, 200)
    first.used()
    second.strike()
    second.strike()
    assert books.used(_ACME) == (1, 100)
    assert books.enter(_ACME, 100, spare=True) is not None
    first.strike()
    assert books.used(ids.TenantId("globex")) == (0, 0)


@pytest.mark.requirement("workers:counted:process")
def test_copies_in_one_process_count_its_memory_once_and_until_the_last_of_them_is_gone() -> None:
    books = ledger.Ledger(lambda tenant: ledger.Caps(instances=4, spares=0, memory_bytes=250))
    one, two = ledger.Process("shared", 100), ledger.Process("other", 150)
    first, second = books.enter(_ACME, one), books.enter(_ACME, one)
    assert first is not None
    assert second is not None
    assert books.used(_ACME) == (2, 100)
    assert books.enter(_ACME, 151) is None
    assert books.enter(ids.TenantId("globex"), one) is not None
    assert books.used(ids.TenantId("globex")) == (1, 100)
    assert books.enter(_ACME, two) is not None
    assert books.enter(_ACME, ledger.Process("third", 1)) is None
    first.strike()
    first.strike()
    assert books.used(_ACME) == (2, 250)
    second.strike()
    assert books.used(_ACME) == (1, 150)
    third = books.enter(_ACME, one)
    assert third is not None
    assert books.used(_ACME) == (2, 250)
