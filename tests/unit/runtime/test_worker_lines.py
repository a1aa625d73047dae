"""What workerd writes, line by line: whose it is, whatever the code makes of it."""

import json
import time
from collections.abc import Callable

import pytest

from smcp.runtime.drivers.workerd import logs

_MARKS = {"0" * 16: 1, "1" * 16: 2}
_ONE, _TWO = (f"smcp-{mark}" for mark in _MARKS)
_SIZE = 60_000
_WORD = "xxxxxx "


def _lines(text: str) -> list[tuple[int | None, str]]:
    told: list[tuple[int | None, str]] = []
    read = logs.Lines(_MARKS, lambda number, line: told.append((number, line)))
    read.feed(text.encode())
    return told


def _console(text: str, number: int = 1) -> str:
    mark = next(mark for mark, of in _MARKS.items() if of == number)
    return json.dumps({"level": "log", "message": f"\x01{mark}\x02 {text}"}) + "\n"


def _own(text: str, level: str = "error") -> str:
    return json.dumps({"level": level, "source": "workerd", "message": text}) + "\n"


def _stack(text: str) -> str:
    return _own(f"x; stack = {text}")


def _cost(line: str) -> float:
    """Seconds of the processor for one line, the best of three."""
    found: list[float] = []
    for _ in range(3):
        before = time.process_time()
        _lines(line)
        found.append(time.process_time() - before)
    return min(found)


@pytest.mark.requirement("workers:logs:linear")
@pytest.mark.parametrize("make", [_console, _own, _stack])
@pytest.mark.parametrize(
    "word",
    [
        f"{_ONE}/", "smcp-", f"{_ONE}/a", f"{_ONE}/a:1", f"{_ONE}/a:1:1", "file:///bundle/", "workerd/",
        "workerd/x: failed: ", ": failed: ", "service worker-1", "workerd/a: faile", "jsg.", "\x01",
    ],
)  # fmt: skip
def test_a_line_costs_what_its_length_is_whatever_the_code_writes(make: Callable[[str], str], word: str) -> None:
    """Attack: text on which a pattern goes back and forth stops the thread that serves every tenant."""
    plain = _cost(make(_WORD * (_SIZE // len(_WORD))))
    assert _cost(make(word * (_SIZE // len(word)))) < 50 * plain + 0.05


@pytest.mark.requirement("workers:logs:linear")
def test_numbers_that_nobody_gave_neither_raise_nor_hide_what_comes_behind_them() -> None:
    """Attack: a number of 5,000 digits, which Python refuses to read."""
    digits = "9" * 5000
    told = _lines(_own(f"x; stack = at {_TWO}/a:{digits}:1") + _own(f"service worker-{digits}: x") + _console("behind"))
    assert told[-1] == (1, "behind")
    assert {number for number, _ in told[:-1]} <= {None}


@pytest.mark.requirement("workers:logs:blame")
def test_only_workerd_says_that_a_worker_does_not_start() -> None:
    """Attack: an exception whose text says that a neighbour has failed."""
    told: list[tuple[int | None, str]] = []
    read = logs.Lines(_MARKS, lambda number, line: told.append((number, line)))
    read.feed(_own("Uncaught exception: service worker-2: no").encode())
    read.feed(_own("x service worker-2: no").encode())
    read.feed(_console("service worker-2: no").encode())
    read.feed(_own(f"exception; stack = service worker-2: no\n at f ({_ONE}/a.js:1:1)").encode())
    assert read.failed == {}
    assert all(number != 2 for number, _ in told)
    read.feed(_own(f"service worker-2: Uncaught Error: it is so\n  at {_TWO}/a.js:3:4").encode())
    assert read.failed == {2: "Uncaught Error: it is so\n  at a.js:3:4"}


@pytest.mark.requirement("workers:logs:blame")
def test_a_stack_of_nobody_is_shown_to_nobody_else() -> None:
    """Attack: a stack that the code wrote, with its secret in it, in the log of a neighbour."""
    told = _lines(_own("exception; stack = Error: hush-hush\n at nowhere", "info"))
    assert told
    assert not any("hush" in line for _, line in told)


@pytest.mark.requirement("workers:logs:exceptions")
@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (f"at f (file:///bundle/{_ONE}/lib/a.js:3:9)", "at f (lib/a.js:3:9)"),
        (f"at f ({_ONE}/main.js:8:1) and {_ONE}/other", f"at f (main.js:8:1) and {_ONE}/other"),
    ],
)
def test_places_are_shown_as_the_tenant_knows_them(written: str, shown: str) -> None:
    assert _lines(_console(written)) == [(1, shown)]


@pytest.mark.requirement("workers:logs:exceptions")
def test_places_in_workerds_own_source_are_left_out() -> None:
    told = _lines(_own("x = workerd/io/worker.c++:12: failed: jsg.Error: no; mine: failed: y"))
    assert told == [(None, "x = Error: no; mine: failed: y")]


@pytest.mark.requirement("workers:logs:blame")
def test_the_text_of_an_exception_chooses_nobodys_log() -> None:
    """Attack: an exception whose text looks like a place in a neighbour's code."""
    stack = f"Error: hush smcp-2/a.js:1:1 smcp-{'2' * 16}/a.js:1:1\n at f ({_ONE}/a.js:3:4)"
    told = _lines(_own(f"exception; stack = {stack}", "info"))
    assert {number for number, _ in told} == {1}
    assert told[-1][1].endswith("at f (a.js:3:4)")


@pytest.mark.requirement("workers:logs:blame")
@pytest.mark.parametrize("half", ["\\ud800", "\\udc00 \\ud800"])
def test_a_text_with_half_a_pair_of_surrogates_is_told_to_its_own_server(half: str) -> None:
    """JavaScript makes one of an emoji that it cuts; readers of JSON refuse it."""
    told = _lines(_console("cut HALF end").replace("HALF", half) + _console("behind"))
    assert [number for number, _ in told] == [1, 1]
    assert told[0][1].startswith("cut ?")


@pytest.mark.requirement("workers:logs:blame")
@pytest.mark.parametrize("raw", [b'{"level": "log", "mess', b'{"level":"log","message":"hush\xff"}', b'{"message": 7}'])
def test_a_line_that_is_not_understood_is_shown_to_nobody_who_may_not_have_written_it(raw: bytes) -> None:
    told: list[tuple[int | None, str]] = []
    logs.Lines(_MARKS, lambda number, line: told.append((number, line))).feed(raw + b"\n" + _console("behind").encode())
    assert told[-1] == (1, "behind")
    assert not any("hush" in line or "level" in line for _, line in told)
    alone: list[str] = []
    logs.Lines({"0" * 16: 1}, lambda _, line: alone.append(line)).feed(raw + b"\n")
    assert alone


@pytest.mark.requirement("workers:logs:paced")
def test_so_many_lines_are_told_and_how_many_were_not() -> None:
    """Attack: short lines, each of which costs more than its bytes."""
    told: list[str] = []
    read = logs.Lines(_MARKS, lambda _, line: told.append(line))
    read.feed(_console("\n".join(["a"] * 190)).encode() * 200)
    assert 2000 <= len(told) < 10_000
    deadline = time.monotonic() + 30
    while told[-1] != "on" and time.monotonic() < deadline:
        time.sleep(0.01)
        read.feed(_console("on").encode())
    assert told[-1] == "on"
    dropped = sum(int(line.split()[0][1:]) for line in told if "dropped" in line)
    assert dropped + sum("dropped" not in line and line != "on" for line in told) >= 190 * 200
