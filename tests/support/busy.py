"""A cell that works and holds memory, and what the launcher tells of it."""

import asyncio
import os
from typing import Final

from smcp.sandbox import launch
from smcp.sandbox.launcher import messages
from support import cell

_BUSY: Final = """
import os, sys, time
held = bytearray(os.urandom(1) * 50_000_000)
if not os.fork():
    while time.process_time() < 0.3:
        pass
    os._exit(0)
os.wait()
while time.process_time() < 0.3:
    pass
print("worked", flush=True)
sys.stdin.readline()
"""
"""Takes 0.3 s itself and 0.3 s in a child that is gone, holds 50 MB, and waits to be told to end."""
ENOUGH: Final = 0.5
"""Less than the 0.6 s: /proc counts whole ticks of a hundredth."""


async def taken(launcher: launch.Launcher, house: messages.House) -> tuple[messages.Reading, messages.Exited]:
    """What is told of a busy cell while it still runs, and at its end."""
    app = f"{house.artefacts}/{cell.TENANT}/0b"
    os.makedirs(app)
    answer, theirs = os.pipe2(os.O_CLOEXEC)
    mine, order = os.pipe2(os.O_CLOEXEC)
    try:
        child = await launcher.spawn(cell.python(app, _BUSY), stdin=mine, stdout=theirs, stderr=2)
        os.close(theirs)
        assert (await asyncio.to_thread(os.read, answer, 100)).startswith(b"w")
        reading = messages.Reading(0, None, None)
        while not reading.memory_byte_s or not reading.cpu_s or reading.cpu_s < ENOUGH:
            reading = (await launcher.measure([child.number]))[child.number]
            await asyncio.sleep(0.05)  # the launcher looks twice a second, and tells nobody when it has
    finally:
        for descriptor in (answer, mine, order):
            os.close(descriptor)
    await child.wait()
    assert await launcher.measure([child.number]) == {}
    return reading, child.exited.result()
