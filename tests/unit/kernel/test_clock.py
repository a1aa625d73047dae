"""Time as a part."""

import pytest

from smcp.kernel import clock


@pytest.mark.requirement("kernel:clock:frozen")
def test_a_frozen_clock_moves_when_told_and_only_then() -> None:
    frozen = clock.FrozenClock(1000.0)
    assert (frozen.now(), frozen.monotonic()) == (1000.0, 0.0)
    frozen.advance(2.5)
    assert (frozen.now(), frozen.monotonic()) == (1002.5, 2.5)


@pytest.mark.requirement("kernel:clock:frozen")
def test_a_frozen_clock_does_not_run_backwards() -> None:
    with pytest.raises(ValueError, match="backwards"):
        clock.FrozenClock().advance(-0.1)


@pytest.mark.requirement("kernel:clock:frozen")
def test_both_clocks_have_the_same_two_faces() -> None:
    both: list[clock.Clock] = [clock.SystemClock(), clock.FrozenClock()]
    for one in both:
        assert one.now() > 1_700_000_000
        assert one.monotonic() <= one.monotonic()
