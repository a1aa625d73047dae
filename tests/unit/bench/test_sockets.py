"""The bench of calls over a unix socket compares what it says it does."""

import pytest
from bench import cores, figures, sockets


@pytest.mark.requirement("bench:sockets:ratio")
def test_the_client_and_a_conversation_stand_beside_the_bare_socket() -> None:
    found = figures.Figures()
    sockets.measure(sockets.Plan(rounds=2, calls=32), found, cores.choose())
    assert [(one.subject, one.how, one.samples) for one in found.found()] == [
        (f"{at_once} at once", how, 2)
        for at_once in (1, 16)
        for how in (figures.BARE, "the lean client", "a conversation, 2026-07-28")
    ]
    assert all(one.ratio is not None and one.ratio > 0 for one in found.found())
