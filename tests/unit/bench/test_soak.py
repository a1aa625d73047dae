"""The soak's judgement: which kill explains which error, and what counts as growth."""

import pytest
from bench.soak import killer, lean, story, windows

from smcp.kernel import errors

ADA = story.Place("ada", "lean")


def _failure(began: float, ended: float, place: story.Place = ADA, detail: str = "HTTP 502") -> story.Failure:
    return story.Failure(place, "modern call", detail, began, ended)


@pytest.mark.requirement("soak:errors:attributed")
@pytest.mark.parametrize(
    ("failure", "explained"),
    [
        (_failure(99.0, 101.0), True),
        (_failure(101.0, 101.1), True),
        (_failure(106.0, 107.0), False),
        (_failure(98.0, 99.9), False),
        (_failure(99.0, 101.0, story.Place("bob", "lean")), False),
        (_failure(99.0, 101.0, story.Place("ada", "python")), False),
        (_failure(99.0, 101.0, detail=f"HTTP 503 {errors.ServerCrashing.text}"), False),
    ],
)
def test_a_kill_explains_errors_of_its_server_at_its_time(failure: story.Failure, explained: bool) -> None:
    told = story.Story()
    told.killed(ADA, 100.0)
    assert told.failed(failure) is explained
    assert (told.explained.total(), len(told.unexplained)) == ((1, 0) if explained else (0, 1))


@pytest.mark.requirement("soak:errors:attributed")
def test_a_kill_is_noticed_later_where_the_machine_stood_still() -> None:
    told = story.Story()
    told.killed(ADA, 100.0)
    told.stood_still(106.0, 4.0)
    assert told.failed(_failure(106.0, 107.0))
    assert not told.failed(_failure(108.0, 109.0))
    assert not told.failed(_failure(166.5, 167.0))


@pytest.mark.requirement("soak:errors:attributed")
def test_a_row_of_kills_explains_that_starting_pauses() -> None:
    told = story.Story()
    for at in (100.0, 101.0, 102.0):
        told.killed(ADA, at)
    assert told.failed(_failure(120.0, 120.0, detail=f"HTTP 503 {errors.ServerCrashing.text}"))
    assert not told.failed(_failure(400.0, 400.0, detail=f"HTTP 503 {errors.ServerCrashing.text}"))


@pytest.mark.requirement("soak:errors:attributed")
def test_no_kill_explains_a_wrong_answer() -> None:
    told = story.Story()
    told.killed(ADA, 100.0)
    told.wrong(ADA, "modern call", "another's answer")
    assert told.unexplained == ["ada/lean, modern call: another's answer"]


def _sample(requests: int, **more: int) -> windows.Sample:
    return windows.Sample(
        {"platform": 30 + more.get("descriptors", 0)},
        {"platform": 10 + more.get("threads", 0)},
        {"platform": 50_000 + more.get("kib", 0)},
        more.get("hosted", 0),
        more.get("sessions", 0),
        100 + more.get("files", 0),
        more.get("artefacts", 4),
        20.0,
        requests,
    )


@pytest.mark.requirement("soak:holdings:compared")
@pytest.mark.parametrize(
    ("held", "word"),
    [
        ("descriptors", "descriptors of the platform"),
        ("threads", "threads of the platform"),
        ("kib", "memory of the platform"),
        ("files", "files in the data directory"),
    ],
)
def test_what_grows_from_window_to_window_is_told(held: str, word: str) -> None:
    step = 10_000 if held == "kib" else 5
    growing = [_sample(number, **{held: step * number}) for number in range(5)]
    assert word in windows.grown(growing, kept=4)[0]
    # What is taken once, at the first use, is no leak.
    once = [_sample(number, **{held: 0 if number == 0 else step * 9}) for number in range(5)]
    assert windows.grown(once, kept=4) == []


@pytest.mark.requirement("soak:holdings:compared")
@pytest.mark.parametrize("left", ["hosted", "sessions", "artefacts"])
def test_what_is_left_in_one_quiet_moment_is_told(left: str) -> None:
    samples = [_sample(number) for number in range(4)]
    assert windows.grown([*samples, _sample(4, **{left: 5})], kept=4) != []


@pytest.mark.requirement("soak:holdings:compared")
def test_two_windows_compare_nothing() -> None:
    assert windows.grown([_sample(1), _sample(2)], kept=4) != []


@pytest.mark.requirement("soak:errors:attributed")
def test_only_copies_are_killed_and_not_who_fetches_their_package() -> None:
    name = killer.package(ADA)
    assert killer.place_of(f"/app/venv/bin/python /app/venv/bin/{name} ") == ADA
    assert killer.place_of(f"/app/venv/bin/python -m pip install {name}==1.0.0 ") is None


@pytest.mark.requirement("soak:errors:explained")
def test_the_lean_server_lists_its_tools_in_both_eras() -> None:
    assert lean.Server(legacy=False).answer("initialize", {})["error"]["code"] == -32601
    assert lean.Server(legacy=True).answer("initialize", {})["result"]["protocolVersion"] == "2025-11-25"
    listed = lean.Server(legacy=False).answer("tools/list", {})["result"]["tools"]
    assert [one["name"] for one in listed] == list(lean.TOOLS)
