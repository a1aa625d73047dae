"""A process that writes, replaces and deletes keys of a KV namespace until it is killed, and says what was done.

usage: kvwriter.py <data directory> <number of this life>
"""

import asyncio
import os
import random
import sys
from pathlib import Path

from contract.backends import ACME, opened
from smcp.kernel import clock as clocks
from smcp.stores import namespaces


async def main(directory: Path, life: str) -> None:
    every = namespaces.Namespaces(await opened(directory, clocks.SystemClock()))
    chance = random.Random(life)

    async def writes(worker: int) -> None:
        n = 0
        while True:
            key, text = f"k{worker}{chance.randrange(3)}", f"{life}-{worker}-{n}"
            size = chance.choice([10, namespaces.INLINE + 1, namespaces.BESIDE + 1, 700_000])
            value = (text.encode() + b" ") * (size // 8)
            if chance.random() < 0.2:
                await every.delete(ACME, "notes", key)
                os.write(1, f"{key} -\n".encode())
            else:
                await every.put(ACME, "notes", key, value, metadata=f'"{text}"')
                os.write(1, f"{key} {text}\n".encode())
            n += 1

    await asyncio.gather(*[writes(n) for n in range(6)])


asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
