"""`cell_driver.py`: a program that drives a launcher, for tests that kill it or run it as another user.

On standard input: JSON {"house": …, "cells": [base64 of MessagePack, …]}. It starts the launcher and the cells, says
`up <launcher's pid>` when each of them has said something, and then waits to be killed.
"""

import asyncio
import base64
import json
import os
import sys

import msgspec

from smcp.sandbox import launch, walls
from smcp.sandbox.launcher import messages


async def main() -> None:
    """Start everything."""
    plan = json.loads(sys.stdin.readline())
    house = msgspec.convert(plan["house"], messages.House)
    decoder = msgspec.msgpack.Decoder(walls.Cell)
    running, peer = launch.process(house)
    print(f"launcher {running.pid}", flush=True)
    launcher = await launch.Launcher(peer, running).opened()
    for text in plan["cells"]:
        read, write = os.pipe()
        nothing = os.open(os.devnull, os.O_RDONLY)
        await launcher.spawn(decoder.decode(base64.b64decode(text)), stdin=nothing, stdout=write, stderr=2)
        os.close(write)
        os.close(nothing)
        await asyncio.to_thread(os.read, read, 1)
    print(f"up {running.pid}", flush=True)
    await launcher.ended.wait()


if __name__ == "__main__":
    asyncio.run(main())
