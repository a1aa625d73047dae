"""The bench's part about bindings: with a real workerd, and each answer looked at."""

import pytest
from bench import bindings, cores, figures


@pytest.mark.real
@pytest.mark.requirement("bench:bindings:reads")
def test_a_workers_read_is_measured_beside_a_request_without_one() -> None:
    found = figures.Figures()
    bindings.measure(bindings.Plan(rounds=2, requests=20), found, cores.choose())
    shown = {one.how: one for one in found.found()}
    assert list(shown) == [figures.BARE, "a value of 100 bytes", "a value of 64 KiB", "none there"]
    assert all(one.samples == 40 and one.median > 0 and one.unit == "ms" for one in shown.values())
