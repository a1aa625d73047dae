"""Two minutes of `make soak`: no error that a kill does not explain, nothing that grows, nothing left."""

import pathlib

import pytest
from bench.soak import run


@pytest.mark.real
@pytest.mark.timeout(1500)
@pytest.mark.requirement("soak:errors:explained", "soak:holdings:flat", "soak:stop:clean")
def test_kills_under_mixed_load_explain_every_error_and_nothing_grows(tmp_path: pathlib.Path) -> None:
    told: list[str] = []
    plan = run.Plan(windows=4, window_s=25.0, people=10, deploy_s=15.0)
    found = run.Soak(tmp_path, plan, told.append).run()
    assert found.faults == [], "\n".join([*found.faults, *told])
    # It was a soak: copies were killed, clients of both eras had answers, and windows could be compared.
    assert found.told.kills > 20
    for era in ("legacy", "modern"):
        for what in ("call", "list", "stream", "cancel"):
            assert found.told.done[f"{era} {what}"] > 0, run.summary(found.told)
    assert len(found.samples) == 4
