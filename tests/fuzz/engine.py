"""Runs many cases of a target and says exactly which input broke a promise.

A case is a pure function of (seed, target, number), so every run can be had again. What breaks a promise is written to
`.fuzz/findings` and named in the error; `python -m fuzz --replay FILE` (in tests/) runs it alone.
"""

import hashlib
import importlib.util
import pathlib
import random
import signal
import time
import types
from collections.abc import Callable
from typing import Final, NamedTuple

import pytest

ROOT: Final = pathlib.Path(__file__).parents[2]
KEPT: Final = ROOT / ".fuzz"
"""Corpora and findings; git ignores it."""
SEED: Final = 20260728
"""The seed of the run that is part of `make test`."""
INPUT_BYTES: Final = 1 << 16
"""Longest input that is tried."""
CPU_S: Final = 5.0
"""Seconds of this process' own work that one input may take. On a machine that does something else, they come later."""
TRIES: Final = 3
"""An input that takes too long does so every time; a machine that stood still for a while was counted once."""
GROWTH_BYTES: Final = 64 << 20
"""How much memory a run may keep, once it is warm."""
_WARM: Final = 200
"""Cases after which caches of patterns, types and the like are filled."""


class Target(NamedTuple):
    """One reader of bytes from outside."""

    name: str
    make: Callable[[random.Random], bytes]
    """A case: mostly well formed, often broken in one place."""
    check: Callable[[bytes], None]
    """Reads the bytes; raises when a promise is broken, and never otherwise."""


class Finding(AssertionError):
    """An input that broke a promise."""


class _Stuck(BaseException):
    """The input took too much of the processor. Not an Exception, so that no reader takes it for one of its own."""


def dice(seed: int, target: str, number: int) -> random.Random:
    """What case `number` is made with."""
    return random.Random(f"{seed}:{target}:{number}")


def run(
    target: Target, *, seed: int, cases: int, seconds: float = float("inf"), tell: Callable[[int], None] | None = None
) -> int:
    """Try `cases` cases, or as many as `seconds` allow; how many it were. Raises `Finding`."""
    ends, warm, done = time.monotonic() + seconds, 0, 0
    for number in range(cases):
        if time.monotonic() > ends:
            break
        data = target.make(dice(seed, target.name, number))[:INPUT_BYTES]
        try:
            one(target, data)
        except Finding as error:
            raise Finding(f"{error} (seed {seed}, case {number})") from error.__cause__
        done += 1
        if done == _WARM:
            warm = resident()
        if tell is not None:
            tell(done)
    if done > _WARM:
        grown = resident() - warm
        assert grown < GROWTH_BYTES, f"{target.name}: {done} cases of seed {seed} left {grown >> 20} MiB in memory"
    return done


def one(target: Target, data: bytes) -> None:
    """Try one input. Raises `Finding`, which names the file that the input was written to."""
    for left in reversed(range(TRIES)):
        before = signal.signal(signal.SIGPROF, _stuck)
        signal.setitimer(signal.ITIMER_PROF, CPU_S)
        try:
            target.check(data)
        except _Stuck as error:
            if not left:
                raise Finding(told(target.name, data, error)) from error
        except (Exception, pytest.fail.Exception) as error:
            raise Finding(told(target.name, data, error)) from error
        else:
            return
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)


def told(target: str, data: bytes, error: BaseException) -> str:
    """Keep `data` and say what it did."""
    file = keep("findings", target, data)
    return f"{target}: {type(error).__name__}: {error}; the input is {file.relative_to(ROOT)}: {data[:200]!r}"


def keep(kind: str, target: str, data: bytes) -> pathlib.Path:
    """The file that `data` is now in."""
    file = KEPT / kind / target / hashlib.sha256(data).hexdigest()[:16]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def resident(pid: int | str = "self") -> int:
    """Bytes of a process that are in memory."""
    pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * 4096


def guided() -> bool:
    """Whether coverage-guided runs are possible here: atheris is not there for every Python and every machine."""
    return importlib.util.find_spec("atheris") is not None


def _stuck(number: int, frame: types.FrameType | None) -> None:
    raise _Stuck(f"more than {CPU_S} s of processor time")
