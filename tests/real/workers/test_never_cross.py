"""Two tenants whose code is the same, with the same names everywhere: what one keeps, the other never sees."""

import asyncio
import contextlib
import json
import os
import pathlib
import random
import urllib.parse
from collections.abc import Generator
from typing import Any, Final

import httpx2
import mcp
import pytest

from support import clients, handmade, storing, workers
from support.clients import Endpoint
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

_SOURCE: Final = pathlib.Path(__file__).parents[2] / "fixtures" / "workers" / "storing.js"
_BOUND: Final = {
    "kv_namespaces": [{"binding": "NOTES", "id": "notes"}],
    "r2_buckets": [{"binding": "FILES", "bucket_name": "files"}],
}
_TENANTS: Final = ("castor", "pollux")
_LANES: Final = 4
_ROUNDS: Final = 25
_BATCH: Final = 50


class _Tenant:
    """One of the two: its Worker, and the callers of it."""

    def __init__(self, site: workers.Site, endpoint: Endpoint, seed: int) -> None:
        self.site = site
        self.endpoint = endpoint
        self.canary = f"{site.tenant}-{random.Random(f'{seed}{site.tenant}').randbytes(8).hex()}"
        self.lanes = [storing.Lane(f"lane{n}", self.canary, f"{seed}{site.tenant}{n}") for n in range(_LANES)]


@pytest.fixture(scope="module")
def seed() -> int:
    """SMCP_TEST_SEED of the environment, which an earlier run has printed, or another one."""
    given = int(os.environ.get("SMCP_TEST_SEED") or random.randrange(2**32))
    print(f"SMCP_TEST_SEED={given}")
    return given


@pytest.fixture
def twins(platform: Platform, tmp_path: pathlib.Path, seed: int) -> Generator[list[_Tenant]]:
    """Both, with the same folder deployed under the same name."""
    folder = handmade.project(tmp_path / "storing", _SOURCE.read_text("utf-8"), _BOUND)
    with contextlib.ExitStack() as stack:
        sites = [stack.enter_context(workers.Site(platform, tenant)) for tenant in _TENANTS]
        yield [_Tenant(site, site.deploy(folder), seed) for site in sites]


async def _carried_out(client: mcp.Client, batch: list[storing.Operation], foreign: str) -> int:
    """Let the Worker do the batch, and look at each answer; how many there were."""
    called = await client.call_tool("run", {"calls": [one.call for one in batch]})
    (text,) = clients.texts(called)
    assert foreign not in text
    for one, answer in zip(batch, json.loads(text), strict=True):
        one.check(answer)
    return len(batch)


@pytest.mark.requirement("workers:stores:never-cross")
async def test_ten_thousand_operations_of_two_tenants_on_kv_and_objects_never_cross(twins: list[_Tenant]) -> None:
    """The whole platform takes part: endpoint, sandbox, workerd, door, bindings, stores.

    Four callers of each tenant send batches at the same time, and each answer is compared with a model. A seed makes
    the same operations again; in which order the two tenants' batches meet is the machine's matter.

    Not here: Durable Objects and the Cache API (test_hosted.py, test_probes.py), conditions of R2
    (test_objects.py), the time at which a key ends (the unit tests of namespaces), a tenant that is erased meanwhile
    (test_kv.py), capabilities and sockets that are tried by hand (test_kv.py, test_native.py).
    """
    first, second = twins
    async with contextlib.AsyncExitStack() as stack:
        callers = [
            (await stack.enter_async_context(clients.connected(one.endpoint, "auto")), lane, other.canary)
            for one, other in ((first, second), (second, first))
            for lane in one.lanes
        ]
        done = 0
        for _ in range(_ROUNDS):
            for mine, theirs in zip(first.lanes, second.lanes, strict=True):
                mine.meet(theirs)
                theirs.meet(mine)
            done += sum(
                await asyncio.gather(
                    *(_carried_out(client, lane.batch(_BATCH), foreign) for client, lane, foreign in callers)
                )
            )
        assert done == 10_000
        for client, lane, foreign in callers:
            await _carried_out(client, lane.last(), foreign)
    for one, other in ((first, second), (second, first)):
        _compare_from_outside(one, other.canary)


def _compare_from_outside(one: _Tenant, foreign: str) -> None:
    """What the API shows of the tenant's stores is what the models of its lanes hold, and nothing else."""
    notes: dict[str, storing.Note] = {}
    files: dict[str, storing.File] = {}
    for lane in one.lanes:
        notes |= lane.notes
        files |= lane.files
    headers = {"Authorization": f"Bearer {one.site.admin}"}
    root = f"{one.site.platform.base_url}/api/v1/tenants/{one.site.tenant}"
    with httpx2.Client(headers=headers, timeout=120.0) as client:

        def read(path: str) -> bytes:
            answer = client.get(f"{root}/{path}")
            assert answer.status_code == 200, (path, answer.text)
            assert foreign.encode() not in answer.content
            return answer.content

        def document(path: str) -> Any:
            return json.loads(read(path))

        assert document("kv")["items"] == [{"name": "notes"}]
        kept = document("kv/notes?limit=1000")
        assert [item["name"] for item in kept["items"]] == sorted(notes, key=str.encode)
        for key, note in notes.items():
            found = document(f"kv/notes/keys/{_quoted(key)}")
            assert (found["value"], found["metadata"], found["expires"]) == note
        assert document("buckets")["items"] == [{"name": "files", "objects": len(files)}]
        held = document("buckets/files?limit=1000")
        assert [(item["key"], item["etag"], item["metadata"]) for item in held["items"]] == [
            (key, files[key].etag, files[key].custom) for key in sorted(files, key=str.encode)
        ]
        for key, file in files.items():
            assert read(f"buckets/files/objects/{_quoted(key)}") == file.text.encode()


def _quoted(key: str) -> str:
    return urllib.parse.quote(key, safe="")
