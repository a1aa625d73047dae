"""Every reader of bytes from outside, with a share of the minute that fuzzing has in `make test`."""

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from fuzz import engine, grammar, targets

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]  # for its length: `make check` has its own examples of each

_TARGETS = [pytest.param(target, id=target.name) for target in targets.ALL]


@pytest.mark.requirement("protocol:fuzz:readers")
@pytest.mark.parametrize("target", _TARGETS)
def test_a_second_of_near_misses_break_no_promise(target: engine.Target) -> None:
    print(f"seed {engine.SEED}")
    assert engine.run(target, seed=engine.SEED, cases=1_000_000, seconds=1.0) > 0


@pytest.mark.requirement("protocol:fuzz:readers")
@pytest.mark.parametrize("target", _TARGETS)
@given(data=st.binary(max_size=300) | st.lists(st.sampled_from(grammar.PIECES) | st.binary(max_size=4)).map(b"".join))
@seed(engine.SEED)
@settings(
    deadline=None,
    max_examples=100,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_bytes_that_hypothesis_thinks_of_break_no_promise(target: engine.Target, data: bytes) -> None:
    engine.one(target, data)


@pytest.mark.requirement("protocol:fuzz:findings")
def test_a_broken_promise_is_found_kept_and_told() -> None:
    def check(data: bytes) -> None:
        assert b"\xef\xbb\xbf" not in data

    broken = engine.Target("broken-on-purpose", grammar.json_like, check)
    with pytest.raises(
        engine.Finding, match=r"AssertionError.*\.fuzz/findings/broken-on-purpose/\w+.*seed 1, case"
    ) as told:
        engine.run(broken, seed=1, cases=100_000)
    [kept] = [one for one in (engine.KEPT / "findings/broken-on-purpose").iterdir() if one.name in str(told.value)]
    with pytest.raises(engine.Finding):
        engine.one(broken, kept.read_bytes())
    kept.unlink()


@pytest.mark.requirement("protocol:fuzz:findings")
def test_an_input_that_never_ends_is_found() -> None:
    def check(data: bytes) -> None:
        while data:
            pass

    with pytest.raises(engine.Finding, match="processor time"):
        engine.one(engine.Target("stuck-on-purpose", grammar.json_like, check), b"x")
