"""Fetches what of the pinned programs is not here: `python -m smcp.sandbox.tools`. Exit code 1 where that failed."""

import os
import sys

from smcp.kernel import errors
from smcp.sandbox import tools


def main() -> int:
    """Say what is fetched, and why something could not be."""
    failed = 0
    fetcher = tools.Fetcher(os.environ)
    for program in tools.PROGRAMS:
        try:
            if not tools.there(program, os.environ):
                sys.stderr.write(f"==> Fetching {program.label} with npm\n")
            fetcher.ensure(program)
        except errors.SandboxMissing as error:
            sys.stderr.write(f"{error.public}\n")
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
