"""How long this machine itself holds a process up, measured beside what is tested: the yardstick for "in time".

Tests share two processors with other tests. A bound in seconds then says more about them than about the platform; a
bound beside a process that does next to nothing, on the same machine at the same moment, does not.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

_STEP_S: Final = 0.02
_CODE: Final = f"""
import select, sys, time
worst, before = 0.0, time.monotonic()
while not select.select([sys.stdin], [], [], {_STEP_S})[0]:
    began = time.thread_time()
    while time.thread_time() - began < 0.001: pass
    now = time.monotonic()
    worst, before = max(worst, now - before), now
print(worst)
"""


class Yardstick:
    """The longest step so far known; in seconds."""

    worst: float = 0.0


@asynccontextmanager
async def beside() -> AsyncGenerator[Yardstick]:
    """A process that wakes fifty times a second and computes for a millisecond; `worst` is known at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CODE, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    found = Yardstick()
    try:
        yield found
    finally:
        out, _ = await process.communicate(b"x")
        found.worst = float(out)
