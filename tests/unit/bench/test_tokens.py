"""The bench's part about credentials: it measures what it says."""

import pytest
from bench import figures, tokens


@pytest.mark.requirement("oauth:bench:beside-a-key")
def test_a_token_is_measured_beside_a_key_in_every_way() -> None:
    found = figures.Figures()
    tokens.measure(tokens.Plan(1, 100), found)
    shown = {(one.subject, one.how) for one in found.found()}
    ways = ("warm", "warm, after a change", "known")
    assert shown == {(way, how) for way in ways for how in (figures.BARE, "access token")}
    assert all(one.median > 0 for one in found.found())
    assert all(one.ratio is not None for one in found.found())
