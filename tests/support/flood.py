"""`python -m support.flood CONNECTIONS`: a process that asks as fast as it can whenever it is told to.

The first line of its input is the platform's address and, in base64, the request. Each further line begins a flood or
ends one; then it prints how the requests of that flood were answered.
"""

import asyncio
import base64
import collections
import json
import os
import sys

from support import load


async def _main(connections: int) -> None:
    loop = asyncio.get_running_loop()
    base_url, encoded = sys.stdin.readline().split()
    request = base64.b64decode(encoded)
    open_ = [await load.connected(base_url) for _ in range(connections)]
    # Who says nothing for ten seconds is hung up on; later it may be silent for longer.
    await asyncio.gather(*(one.ask(request) for one in open_))
    print("ready", flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        over = loop.run_in_executor(None, sys.stdin.readline)
        answers: collections.Counter[int] = collections.Counter()

        async def client(
            connection: load.Connection, over: "asyncio.Future[str]", answers: "collections.Counter[int]"
        ) -> None:
            while not over.done():
                answers[(await connection.ask(request)).status] += 1

        await asyncio.gather(*(client(one, over, answers) for one in open_))
        print(json.dumps(answers), flush=True)
    for one in open_:
        one.transport.close()


if __name__ == "__main__":
    # What it takes of this machine's processors is not what is measured.
    os.nice(10)
    asyncio.run(_main(int(sys.argv[1])))
