"""`python -m bench.soak --minutes 60`: 0 when every error is explained and nothing grew; 1, and what is wrong."""

import argparse
import pathlib
import sys
import tempfile
import time

# The platform under test is started as the tests start it.
sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "tests"))

from bench.soak import run, windows


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description="Mixed load, with a kill each second.")
    parser.add_argument("--minutes", type=float, default=60.0, help="time under load (default: 60)")
    parser.add_argument("--people", type=int, default=16, help="clients at once (default: 16)")
    parser.add_argument("--seed", type=int, default=1, help="of what is left to chance (default: 1)")
    options = parser.parse_args()
    number = max(4, round(options.minutes / 5))
    began = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    plan = run.Plan(number, window_s=options.minutes * 60 / number, people=options.people)
    with tempfile.TemporaryDirectory(prefix="smcp-soak-") as directory:
        try:
            found = run.Soak(pathlib.Path(directory), plan, tell, options.seed).run()
        except AssertionError as error:
            print(f"soak: {error}", file=sys.stderr)
            return 1
    print(run.summary(found.told))
    print(run.slowest(found.told))
    for number, sample in enumerate(found.samples):
        print(f"window {number + 1}: {sample.requests:,} requests so far; {windows.line(sample)}")
    for fault in found.faults:
        print(f"NOT WELL: {fault}")
    print(f"{'failed' if found.faults else 'passed'} after {time.monotonic() - began:.0f} s")
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
