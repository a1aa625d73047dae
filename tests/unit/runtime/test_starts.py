"""Starts: when one is over."""

import pytest

from smcp.runtime import starts
from support.inside import Inside, opened, spec


@pytest.mark.requirement("workers:figures:heard")
async def test_a_start_is_over_with_the_answer_and_not_with_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "_LOOK_S", 3600.0)
    monkeypatch.setattr(starts, "TURN_S", 3600.0)
    copies = opened(Inside())
    await copies.start()
    try:
        assert (await copies.shared(spec())).alive
    finally:
        await copies.close()
