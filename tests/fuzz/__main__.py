"""`make fuzz CASES=1000000`: so many cases over all targets, with what is found as its exit code.

Half of a reader's cases come from the grammars, half are guided by coverage (where atheris is there; else all come from
the grammars). The HTTP edge gets every fiftieth case, since each of its cases is a connection with up to 30 requests.
"""

import argparse
import asyncio
import pathlib
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable

from rich import console, progress

from fuzz import edge, engine, targets

_DONE = re.compile(r"Done ([0-9]+) runs in")
_AT = re.compile(r"#([0-9]+)\t")


def main() -> int:
    """The exit code: 1 when something was found."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument("--target", choices=[*(one.name for one in targets.ALL), edge.NAME], action="append")
    parser.add_argument("--replay", type=pathlib.Path, metavar="FILE", help="a file below .fuzz/findings, alone")
    given = parser.parse_args()
    if given.replay is not None:
        return _replay(given.replay.parent.name, given.replay.read_bytes())
    wanted: list[str] = given.target or [*(one.name for one in targets.ALL), edge.NAME]
    print(f"seed {given.seed}; coverage-guided: {'yes' if engine.guided() else 'no, atheris is not there'}", flush=True)
    shares = _shares(wanted, given.cases)
    found, done = 0, 0
    for name, cases in shares.items():
        count, complaint = _one(name, cases, given.seed)
        done += count
        found += bool(complaint)
        print(f"{name:14} {count:>9,} cases  {complaint or 'nothing found'}", flush=True)
    print(f"{'together':14} {done:>9,} cases  {found} finding(s)")
    return 1 if found else 0


def _shares(wanted: list[str], cases: int) -> dict[str, int]:
    fast = [name for name in wanted if name != edge.NAME]
    slow = 0 if edge.NAME not in wanted else -(-cases // 50) if fast else cases
    shares = {name: -(-(cases - slow) // len(fast)) for name in fast}
    return {**shares, edge.NAME: slow} if slow else shares


def _one(name: str, cases: int, seed: int) -> tuple[int, str]:
    """How many cases it were, and what was found."""
    count = 0
    with progress.Progress(*progress.Progress.get_default_columns(), console=console.Console(stderr=True)) as bar:
        task = bar.add_task(name, total=cases)

        def tell(done: int) -> None:
            nonlocal count
            count = max(count, done)
            if done % 100 == 0:
                bar.update(task, completed=done)

        try:
            if name == edge.NAME:
                return asyncio.run(_edge(cases, seed, tell)), ""
            half = cases // 2 if engine.guided() else 0
            target = next(one for one in targets.ALL if one.name == name)
            count = engine.run(target, seed=seed, cases=cases - half, tell=tell)
            if half:
                base = cases - half
                count += _guided(name, half, seed, lambda done: bar.update(task, completed=base + done))
            return count, ""
        except AssertionError as error:
            return count, str(error)
        except KeyboardInterrupt:
            return count, "stopped before the end"


def _guided(name: str, cases: int, seed: int, tell: Callable[[int], None]) -> int:
    argv = [sys.executable, "-m", "fuzz.guided", name, f"-runs={cases}", f"-seed={seed % (1 << 31) or 1}"]
    said: list[str] = []
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="latin-1") as child:
        assert child.stderr is not None
        for line in child.stderr:
            said = [*said[-40:], line]
            if at := _AT.match(line):
                tell(min(int(at[1]), cases))
    done = _DONE.search("".join(said))
    if child.returncode or done is None:
        raise engine.Finding(f"coverage-guided run ended with {child.returncode}:\n{''.join(said)}")
    return int(done[1])


async def _edge(cases: int, seed: int, tell: Callable[[int], None]) -> int:
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        (directory / "platform").mkdir()
        with edge.hosting(directory, directory / "platform") as platform:
            at = await asyncio.to_thread(edge.endpoint, platform)
            return await edge.run(platform, at, seed=seed, cases=cases, tell=tell)


def _replay(name: str, data: bytes) -> int:
    try:
        if name == edge.NAME:
            asyncio.run(_again(data))
        else:
            engine.one(next(one for one in targets.ALL if one.name == name), data)
    except AssertionError as error:
        print(error)
        return 1
    print("nothing found")
    return 0


async def _again(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        (directory / "platform").mkdir()
        with edge.hosting(directory, directory / "platform") as platform:
            await edge.replay(await asyncio.to_thread(edge.endpoint, platform), data)
            await asyncio.to_thread(edge.well, platform)


if __name__ == "__main__":
    sys.exit(main())
