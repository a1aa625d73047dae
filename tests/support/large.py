"""Large objects that a Worker puts and gets as streams (tests/fixtures/workers/large.js), and the memory that it takes.

The Worker makes the bytes: they come by no message. What they must be is known here.
"""

import asyncio
import hashlib
import json
import pathlib
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import httpx2

from support import clients, handmade, workers
from support.clients import Endpoint
from support.platform import Platform

MIB: Final = 1024 * 1024
_SOURCE: Final = pathlib.Path(__file__).parents[1] / "fixtures" / "workers" / "large.js"
_BOUND: Final = {"r2_buckets": [{"binding": "FILES", "bucket_name": "files"}]}
_BLOCK: Final = 65_536
_BASE: Final = bytes(n * 31 & 255 for n in range(_BLOCK))
_READ_S: Final = 600.0
_TENANT: Final = "bulk"
SERVER: Final = "large"


class Peaks(NamedTuple):
    """The most memory that each has ever had, in bytes."""

    platform: int
    workerd: int


class Step(NamedTuple):
    """Bytes that went through, and what it took."""

    what: str
    size: int
    seconds: float
    peaks: Peaks


def settings(size: int) -> dict[str, str]:
    """What a platform needs for objects of `size` bytes: room for two."""
    return {"SMCP_STORES_QUOTA_BYTES": str(2 * size + 256 * MIB), "SMCP_GATEWAY_CALL_TIMEOUT_S": "3600"}


def sha256(size: int) -> str:
    """Of the bytes that the Worker makes."""
    found = hashlib.sha256()
    for number in range(size // _BLOCK):
        found.update(number.to_bytes(8, "big"))
        found.update(memoryview(_BASE)[8:])
    rest = bytearray(_BASE[: size % _BLOCK])
    if len(rest) >= 8:
        rest[:8] = (size // _BLOCK).to_bytes(8, "big")
    found.update(rest)
    return found.hexdigest()


class Large:
    """The Worker, deployed."""

    def __init__(self, platform: Platform, site: workers.Site, endpoint: Endpoint) -> None:
        self._platform = platform
        self._site = site
        self._endpoint = endpoint

    async def steps(self, size: int, part: int) -> AsyncGenerator[Step]:
        """Put an object of `size` bytes and get it, then one in parts of `part` bytes, and get that from outside too.

        Nothing of them is left. Raises AssertionError where other bytes come out than went in.
        """
        wanted = sha256(size)
        async with clients.connected(self._endpoint, "2026-07-28", read_s=_READ_S) as client:

            async def through(what: str, tool: str, **arguments: Any) -> Step:
                before = time.monotonic()
                called = await client.call_tool(tool, arguments)
                seconds = time.monotonic() - before
                (text,) = clients.texts(called)
                assert not called.is_error, text
                found = json.loads(text)
                assert (found["size"], found["sha256"]) == (size, wanted), (what, text)
                return Step(what, size, seconds, self.peaks())

            yield await through("put by the Worker", "put", key="whole", size=size)
            yield await through("got by the Worker", "get", key="whole")
            await client.call_tool("delete", {"key": "whole"})
            yield await through("put by the Worker in parts", "multipart", key="parts", size=size, part=part)
            yield await through("got by the Worker", "get", key="parts")
            before = time.monotonic()
            assert await asyncio.to_thread(self._outside, "parts") == wanted
            yield Step("got over the API", size, time.monotonic() - before, self.peaks())
            await client.call_tool("delete", {"key": "parts"})

    def _outside(self, key: str) -> str:
        url = f"{self._platform.base_url}/api/v1/tenants/{_TENANT}/buckets/files/objects/{key}"
        found = hashlib.sha256()
        headers = {"Authorization": f"Bearer {self._site.admin}"}
        with httpx2.stream("GET", url, headers=headers, timeout=_READ_S) as answer:
            assert answer.status_code == 200, answer.read()
            for piece in answer.iter_bytes():
                found.update(piece)
        return found.hexdigest()

    def peaks(self) -> Peaks:
        """Now. The platform is the largest of its own processes: the one that serves."""
        most = {True: 0, False: 0}
        for one in self._platform.family():
            workerd = "workerd" in one.command.partition(" ")[0]
            most[workerd] = max(most[workerd], _peak(one.pid))
        return Peaks(most[False], most[True])


@contextmanager
def deployed(platform: Platform, directory: pathlib.Path) -> Generator[Large]:
    """The Worker on a running platform; its folder is made in `directory`."""
    folder = handmade.project(directory / SERVER, _SOURCE.read_text("utf-8"), _BOUND)
    with workers.Site(platform, _TENANT) as site:
        yield Large(platform, site, site.deploy(folder))


def _peak(pid: int) -> int:
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text("utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it ended between the listing and the reading
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 if "VmHWM:" in status else 0
