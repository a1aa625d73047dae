"""Programs that SMCP brings along, each pinned by what it contains (docs/decisions/0042).

workerd runs Workers, esbuild bundles them. Neither is part of SMCP's own package, which is the same for every machine:
they come from npm, once, with the machine's npm client as it is configured, and are kept in a cache directory. Which
file that is stands in the code (`pins`); a file that is not, byte for byte, that one is never run. `fetching` gets what
is missing, `kept` finds what is there; `python -m smcp.sandbox.tools` does both, for a checkout.
"""

from smcp.sandbox.tools.fetching import Fetcher
from smcp.sandbox.tools.kept import Tool, Tools, build, current, find, missing, state, there
from smcp.sandbox.tools.pins import ESBUILD, PROGRAMS, WORKERD, Program

__all__ = [
    "ESBUILD",
    "PROGRAMS",
    "WORKERD",
    "Fetcher",
    "Program",
    "Tool",
    "Tools",
    "build",
    "current",
    "find",
    "missing",
    "state",
    "there",
]
