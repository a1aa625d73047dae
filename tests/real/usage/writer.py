"""A process that counts calls and is killed at a chosen step of writing or folding them.

usage: writer.py <data directory> <calls> <step> <which>: SIGKILL at the which-th time that the step comes (0: never).
Says `counted` when all is committed and folded.
"""

import asyncio
import os
import pathlib
import signal
import sys

from smcp.kernel import errors
from support import metering


async def main(directory: pathlib.Path, calls: int, step: str, which: int) -> None:
    """Count in two batches, then read, which folds them."""
    faults = metering.Faults()
    seen = 0

    def die(now: str) -> None:
        nonlocal seen
        seen += now == step
        if seen == which and now == step:
            os.kill(os.getpid(), signal.SIGKILL)

    async with metering.opened(directory, faults) as store:
        await store.provision(metering.ACME)
        faults.ask = die
        counting = metering.made(store)
        for number in range(calls):
            counting.call(metering.ACME, "time", f"key-{number % 3}", failed=False, received=1, sent=1)
            if number == calls // 2:
                await counting.commit()
                os.write(1, b"%d committed\n" % (number + 1))
        await counting.commit()
        os.write(1, b"%d committed\n" % calls)
        try:
            await metering.calls(counting)
        except errors.SmcpError as error:
            os.write(2, repr(error).encode())
            raise
        os.write(1, b"counted\n")


if __name__ == "__main__":
    asyncio.run(main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
