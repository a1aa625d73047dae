"""A process that writes as fast as it can and says what was acknowledged, until it is killed.

usage: writer.py <data directory> <number of this life>
"""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from contract.backends import ACME, opened
from smcp.kernel import clock as clocks
from smcp.stores.kv import base as kv_base


async def main(directory: Path, life: str) -> None:
    store = await opened(directory, clocks.SystemClock())
    handle = store.tenant(ACME)

    def acknowledged(kind: str, name: str) -> None:
        os.write(1, f"{kind} {name}\n".encode())

    async def pairs(worker: int) -> None:
        n = 0
        while True:
            name = f"{life}-{worker}-{n}"
            await handle.kv.apply(
                [
                    kv_base.Put(("left", name), name.encode()),
                    kv_base.Put(("right", name), name.encode()),
                    kv_base.Put(("latest", str(worker)), name.encode()),
                ]
            )
            acknowledged("pair", name)
            n += 1

    async def records(worker: int) -> None:
        n = 0
        while True:
            name = f"{life}-{worker}-{n}"
            await handle.log.append(("s",), [name.encode(), name.encode()])
            acknowledged("record", name)
            n += 1

    async def blobs() -> None:
        n = 0
        while True:
            name = f"{life}-{n}"

            async def content(name: str = name) -> AsyncGenerator[bytes, None]:
                for _ in range(20):
                    yield name.encode() * 5000

            await handle.objects.put(("o", name), content())
            acknowledged("blob", name)
            n += 1

    await asyncio.gather(*[pairs(n) for n in range(8)], *[records(n) for n in range(4)], blobs())


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
