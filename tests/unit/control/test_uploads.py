"""Uploads: streamed, bounded, sealed in the tenant's own storage, named by their digest, and nobody else's."""

import asyncio
import hashlib
import pathlib
from collections.abc import AsyncGenerator
from typing import Any, Final

import pytest

from smcp.kernel import ids, settings
from unit.control import world as worlds

_PATH: Final = f"/api/v1/tenants/{worlds.OWN}/uploads"
_BYTES: Final = {"Content-Type": "application/octet-stream"}
_ADMIN: Final = f"{worlds.OWN}/admin"


async def _send(world: worlds.World, content: Any, who: str = _ADMIN, path: str = _PATH, **headers: str) -> Any:
    return await world.send("POST", path, who, content=content, headers={**_BYTES, **headers})


async def _objects(world: worlds.World, tenant: ids.TenantId = worlds.OWN) -> int:
    # The deployer's own store: what is there for the tenant, past the API.
    return len(await world.made.store.tenant(tenant).objects.list(("upload",)))


def _files_with(directory: pathlib.Path, text: bytes) -> list[pathlib.Path]:
    return [path for path in directory.rglob("*") if path.is_file() and text in path.read_bytes()]


@pytest.mark.requirement("deploy:upload:stored")
async def test_an_upload_is_named_by_its_digest_sealed_and_told_to_the_trail(world: worlds.World) -> None:
    content = b"CANARY-upload" * 10_000
    answer = await _send(world, content)
    assert answer.status_code == 201
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert answer.json() == {"source": f"upload:{digest}", "bytes": len(content)}
    [event] = [one for one in await world.trail(worlds.OWN) if one["event"] == "upload_stored"]
    assert (event["digest"], event["bytes"]) == (digest, len(content))
    assert _files_with(pathlib.Path(world.parts.settings.platform.data_dir), b"CANARY-upload") == []


@pytest.mark.requirement("deploy:upload:stored")
async def test_the_same_upload_again_is_the_same_and_kept_once(world: worlds.World) -> None:
    before = await _objects(world)
    first, second = [(await _send(world, b"again and again")).json() for _ in range(2)]
    assert first == second
    await world.made.uploads.sweep(worlds.OWN)
    assert await _objects(world) == before + 1


@pytest.mark.requirement("deploy:upload:foreign")
async def test_another_tenants_digest_is_not_found(world: worlds.World) -> None:
    source = (await _send(world, b"what acme sent")).json()["source"]
    order = {"source": source, "name": "stolen"}
    for who, tenant, status in (
        (f"{worlds.OTHER}/admin", worlds.OTHER, 404),
        (f"{worlds.OTHER}/admin", worlds.OWN, 404),
        (_ADMIN, worlds.OWN, 202),
    ):
        answer = await world.send("POST", f"/api/v1/tenants/{tenant}/deployments", who, json=order)
        assert answer.status_code == status, answer.text
    never = order | {"source": f"upload:sha256:{'0' * 64}"}
    answer = await world.send("POST", f"/api/v1/tenants/{worlds.OWN}/deployments", _ADMIN, json=never)
    assert answer.status_code == 404
    assert "Send it again" in answer.json()["error"]["message"]


@pytest.mark.requirement("deploy:upload:allowed")
async def test_who_may_not_deploy_may_not_upload_and_their_bytes_are_not_read(world: worlds.World) -> None:
    read: list[bytes] = []

    async def body() -> AsyncGenerator[bytes]:
        read.append(b"x")
        yield b"x"

    assert (await _send(world, body(), f"{worlds.OWN}/mcp_user")).status_code == 403
    assert (await _send(world, body(), f"{worlds.OTHER}/admin")).status_code == 404
    assert read == []
    answer = await world.client.post(_PATH, content=b"x", headers=_BYTES)
    assert answer.status_code == 401


@pytest.mark.requirement("deploy:upload:bounded")
async def test_more_than_the_limit_is_refused_as_it_arrives_and_nothing_is_kept(tmp_path: pathlib.Path) -> None:
    async with worlds.opened(tmp_path, {"deploy": settings.Deploy(max_upload_bytes=100_000)}) as world:
        assert (await _send(world, b"x" * 100_000)).status_code == 201
        before = await _objects(world)
        declared = await _send(world, b"x" * 100_001)
        assert (declared.status_code, declared.json()["error"]["code"]) == (413, "too_large")
        sent = 0

        async def endless() -> AsyncGenerator[bytes]:
            nonlocal sent
            while True:
                sent += 10_000
                yield b"x" * 10_000

        answer = await _send(world, endless())
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
        assert await _objects(world) == before


@pytest.mark.requirement("deploy:upload:bounded")
@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"", {}, 400, "invalid_params"),
        (b"{}", {"Content-Type": "application/json"}, 415, "unsupported_media_type"),
        (b"x", {"Content-Type": ""}, 415, "unsupported_media_type"),
        (b"x", {"Content-Length": "-1"}, 413, "too_large"),
    ],
)
async def test_what_is_no_upload_is_refused(
    content: bytes, headers: dict[str, str], status: int, code: str, world: worlds.World
) -> None:
    before = await _objects(world)
    answer = await _send(world, content, **headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert await _objects(world) == before


@pytest.mark.requirement("deploy:upload:bounded")
async def test_a_body_that_stops_coming_times_out_and_nothing_is_kept(tmp_path: pathlib.Path) -> None:
    async with worlds.opened(tmp_path, {"gateway": settings.Gateway(body_timeout_s=0.05)}) as world:
        before = await _objects(world)

        async def stuck() -> AsyncGenerator[bytes]:
            yield b"x"
            await asyncio.Event().wait()

        answer = await _send(world, stuck())
        assert (answer.status_code, answer.json()["error"]["code"]) == (408, "request_timeout")
        assert await _objects(world) == before


@pytest.mark.requirement("deploy:upload:expires")
async def test_what_no_record_names_is_swept_and_what_arrives_is_not(world: worlds.World) -> None:
    uploads, objects = world.made.uploads, world.made.store.tenant(worlds.OWN).objects
    await uploads.sweep(worlds.OWN)
    before = await _objects(world)

    async def left() -> AsyncGenerator[bytes]:
        yield b"left by a crash, or expired"

    await objects.put(("upload", "up-left"), left())
    half, go = asyncio.Event(), asyncio.Event()

    async def arriving() -> AsyncGenerator[bytes]:
        yield b"first half"
        half.set()
        await go.wait()
        yield b"second half"

    task = asyncio.create_task(uploads.store(worlds.OWN, arriving()))
    await half.wait()
    await uploads.sweep(worlds.OWN)
    go.set()
    stored = await task
    await uploads.sweep(worlds.OWN)
    assert await objects.head(("upload", "up-left")) is None
    assert await _objects(world) == before + 1
    await uploads.check(worlds.OWN, stored.source)
