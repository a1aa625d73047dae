"""A process that works on a bucket as fast as it can and says what was acknowledged, until it is killed.

usage: bucketeer.py <data directory> <number of this life>
"""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from contract.backends import ACME, opened
from smcp.kernel import clock as clocks
from smcp.stores import bucket_model, buckets


async def main(directory: Path, life: str) -> None:
    store = await opened(directory, clocks.SystemClock())
    bucket = buckets.Buckets(store, segment=200_000).bucket(ACME, "photos")

    def acknowledged(key: str, text: str) -> None:
        os.write(1, f"{key} {text}\n".encode())

    async def content(text: str, times: int) -> AsyncGenerator[bytes, None]:
        for _ in range(times):
            yield text.encode() * 5000

    async def replace(worker: int) -> None:
        n = 0
        while True:
            text = f"{life}-{worker}-{n:06d}"
            await bucket.put(f"replaced-{worker}", content(text, 10))
            acknowledged(f"replaced-{worker}", text)
            n += 1

    async def come_and_go() -> None:
        n = 0
        while True:
            await bucket.put("gone", content(f"{life}-gone-{n:06d}", 5))
            await bucket.delete("gone")
            acknowledged("gone", "-")
            n += 1

    async def multipart() -> None:
        n = 0
        while True:
            text = f"{life}-parts-{n:06d}"
            upload = await bucket.uploads.create("parts")
            await bucket.uploads.part("parts", upload, 1, content("other", 10))
            etag = await bucket.uploads.part("parts", upload, 1, content(text, 10))
            await bucket.uploads.part("parts", upload, 2, content(text, 1))
            if n % 3:
                await bucket.uploads.complete("parts", upload, [bucket_model.Published(1, etag)])
                acknowledged("parts", text)
            else:
                await bucket.uploads.abort("parts", upload)
            n += 1

    await asyncio.gather(*[replace(worker) for worker in range(3)], come_and_go(), multipart())


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
