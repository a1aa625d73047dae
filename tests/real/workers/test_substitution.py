"""Secrets that a Worker never holds: written into its requests on the way out, for its own hosts only."""

import asyncio
import base64
import json
import pathlib
from typing import Final

import pytest

from support.reaching import ALLOWED, OTHER, Came, Reacher, Site, World, answer

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

SECRET: Final = "a-very-secret-value/+%1"
SECOND: Final = "another-secret-value"


async def _echo(came: Came, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The fields that came, as fields of the answer."""
    if length := came.field("content-length"):
        came.body = await reader.readexactly(int(length))
    told = [f"x-echo-{name}: {value}" for name, value in came.fields if name not in ("host", "content-length")]
    writer.write(answer(b"echo", *told, f"set-cookie: t={came.field('authorization')}"))


def _everything(worker: Reacher, *found: object) -> str:
    return json.dumps([worker.lines, worker.env, *found])


@pytest.mark.requirement("workers:substitution:sent")
async def test_the_value_stands_in_the_fields_that_the_host_gets_and_the_code_sees_its_stand_in(
    tmp_path: pathlib.Path,
) -> None:
    world = World(tmp_path)
    secrets = {"TOKEN": SECRET, "KEY": SECOND}
    async with (
        Site(_echo).open(world.secure()) as site,
        world.worker(f"{ALLOWED}:{site.port}", secrets=secrets) as worker,
    ):
        token = (await worker.ask("env", name="TOKEN"))["value"]
        key = (await worker.ask("env", name="KEY"))["value"]
        assert token.startswith("smcp-secret-")
        assert token != key
        basic = base64.b64encode(f"user:{token}".encode()).decode()
        fields = {"Authorization": f"Bearer {token}", "X-Key": f"{key};{token}", "X-Else": "smcp-secret-0"}
        url = f"https://{ALLOWED}:{site.port}/?key={token}"
        found = await worker.fetch(url, method="POST", headers=fields, body=token)
        other = await worker.fetch(url, headers={"Authorization": f"Basic {basic}"})
        # A secret may be the whole of what is encoded, too.
        await worker.fetch(url, headers={"Authorization": f"Basic {token}"})
    first, second, third = site.came
    assert third.field("authorization") == f"Basic {SECRET}"
    assert first.field("authorization") == f"Bearer {SECRET}"
    assert first.field("x-key") == f"{SECOND};{SECRET}"
    assert first.field("x-else") == "smcp-secret-0"
    assert second.field("authorization") == "Basic " + base64.b64encode(f"user:{SECRET}".encode()).decode()
    # URLs and bodies are kept and passed on by whoever gets them.
    assert first.target == f"/?key={token}"
    assert first.body == token.encode()
    # What the host repeats in its fields becomes the stand-in again.
    assert found["headers"]["x-echo-authorization"] == f"Bearer {token}"
    assert found["headers"]["x-echo-x-key"] == f"{key};{token}"
    assert found["headers"]["set-cookie"] == f"t=Bearer {token}"
    assert other["headers"]["x-echo-authorization"] == f"Basic {basic}"
    for one in (SECRET, SECOND, base64.b64encode(f"user:{SECRET}".encode()).decode()):
        assert one not in _everything(worker, found, other)


@pytest.mark.requirement("attack:workers:secret-elsewhere")
async def test_a_stand_in_means_nothing_at_a_host_that_is_not_allowed_nor_for_another_deployment(
    tmp_path: pathlib.Path,
) -> None:
    world = World(tmp_path)
    async with Site(_echo).open(world.secure()) as site:
        allowed = f"{ALLOWED}:{site.port}"
        async with world.worker(allowed, secrets={"TOKEN": SECRET}) as worker:
            token = worker.env["TOKEN"]
            fields = {"Authorization": f"Bearer {token}"}
            found = await worker.fetch(f"https://{OTHER}:{site.port}/", headers=fields)
            assert found["status"] == 403
            assert site.came == []
            assert SECRET not in _everything(worker, found)
            # Another tenant's server, and a later process of the same one: each has its own.
            for tenant, own in (("evil", {}), ("acme", {"TOKEN": SECRET})):
                async with world.worker(allowed, secrets=own, tenant=tenant) as second:
                    assert second.env.get("TOKEN") != token
                    assert (await second.fetch(f"https://{allowed}/", headers=fields))["status"] == 200
                    assert site.came[-1].field("authorization") == f"Bearer {token}"


@pytest.mark.requirement("attack:workers:secret-elsewhere")
async def test_a_secret_does_not_follow_a_redirect_to_a_host_that_is_not_allowed(tmp_path: pathlib.Path) -> None:
    # CVE-2026-64684
    world = World(tmp_path)

    async def lead(came: Came, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"", f"Location: https://{OTHER}:{there.port}/{came.field('x-key')}", status=307))

    secure = world.secure()
    async with (
        Site(_echo).open(secure) as there,
        Site(lead).open(secure) as site,
        world.worker(f"{ALLOWED}:{site.port}", secrets={"TOKEN": SECRET}) as worker,
    ):
        fields = {"X-Key": worker.env["TOKEN"]}
        found = await worker.fetch(f"https://{ALLOWED}:{site.port}/", headers=fields)
        assert (found["status"], found["headers"]["x-smcp-refused"]) == (403, "egress")
        assert there.connections == 0
        assert SECRET not in _everything(worker, found)


@pytest.mark.requirement("workers:substitution:named-hosts")
async def test_a_secret_for_named_hosts_goes_to_them_alone(tmp_path: pathlib.Path) -> None:
    # CVE-2026-64684: an allowed host that redirects to another allowed one would choose who is shown the secret.
    world = World(tmp_path)

    async def lead(came: Came, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"", f"Location: https://{OTHER}:{there.port}/", status=307))

    secure = world.secure()
    async with Site(_echo).open(secure) as there, Site(lead).open(secure) as site:
        allowed = (f"{ALLOWED}:{site.port}", f"{OTHER}:{there.port}")
        kind = f"substituted:third.example, {allowed[0]}"
        async with world.worker(*allowed, secrets={"TOKEN": SECRET}, kind=kind) as worker:
            token = worker.env["TOKEN"]
            found = await worker.fetch(f"https://{ALLOWED}:{site.port}/", headers={"X-Key": token})
            assert found["status"] == 200
            assert site.came[0].field("x-key") == SECRET
            assert there.came[0].field("x-key") == token


@pytest.mark.requirement("attack:workers:secret-in-the-clear")
async def test_without_tls_a_secret_goes_only_to_a_network_that_the_operator_has_opened(
    tmp_path: pathlib.Path,
) -> None:
    world = World(tmp_path)
    async with (
        Site(_echo).open(None) as site,
        world.worker(f"{ALLOWED}:{site.port}", secrets={"TOKEN": SECRET}) as worker,
    ):
        fields = {"X-Key": worker.env["TOKEN"]}
        assert (await worker.fetch(f"http://{ALLOWED}:{site.port}/", headers=fields))["status"] == 200
        assert site.came[-1].field("x-key") == SECRET
    (tmp_path / "public").mkdir()
    world = World(tmp_path / "public", hosts=(f"{ALLOWED}=93.184.216.34",), networks=())
    async with world.worker(f"{ALLOWED}:80", secrets={"TOKEN": SECRET}) as worker:
        found = await worker.fetch(f"http://{ALLOWED}/", headers={"X-Key": worker.env["TOKEN"]})
        assert (found["status"], found["headers"]["x-smcp-refused"]) == (403, "egress")
        assert "only for networks that the operator has opened" in found["text"]
