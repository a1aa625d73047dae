"""`python -m bench.large`: an object of 5 GiB through a Worker, both ways: time, and the most memory of each process.

It needs 12 GB of room in the directory for temporary files and takes some minutes. tests/real/workers/test_large.py
does the same with less.
"""

import argparse
import asyncio
import pathlib
import sys
import tempfile

# The platform under test is started as the tests start it.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))

from support import large
from support.platform import Platform


async def _measure(directory: pathlib.Path, size: int, part: int) -> None:
    with Platform(directory, large.settings(size)) as platform, large.deployed(platform, directory) as worker:
        print(f"{'':>26} {'MiB':>6} {'s':>7} {'MiB/s':>6} {'platform':>9} {'workerd':>8}   most MiB of memory so far")
        for at, most in ((min(size, 8 * large.MIB), 5 * large.MIB), (size, part)):
            async for step in worker.steps(at, most):
                mib = step.size / large.MIB
                memory = [one / large.MIB for one in step.peaks]
                print(
                    f"{step.what:>26} {mib:6.0f} {step.seconds:7.1f} {mib / step.seconds:6.0f}"
                    f" {memory[0]:9.1f} {memory[1]:8.1f}",
                    flush=True,
                )


def main() -> int:
    """Run and print; 1 when other bytes came out than went in."""
    parser = argparse.ArgumentParser(prog="python -m bench.large", description="A large object through a Worker.")
    parser.add_argument(
        "--mib", type=int, default=5120, help="size of the object (default: 5120, what one put may have)"
    )
    parser.add_argument("--part", type=int, default=512, help="MiB in a part of an upload in parts (default: 512)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="smcp-large-") as directory:
        try:
            asyncio.run(_measure(pathlib.Path(directory), options.mib * large.MIB, options.part * large.MIB))
        except AssertionError as error:
            print(f"large: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
