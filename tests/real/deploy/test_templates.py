"""What `smcp init` makes is deployed as it is, and answers."""

import json
import os
import pathlib
from typing import Any

import pytest

from smcp.cli import main, pack
from smcp.kernel import ids
from support import clients, workshop
from support.clients import Endpoint
from support.platform import Platform

pytestmark = pytest.mark.real


def _made(root: pathlib.Path, template: str) -> pathlib.Path:
    assert main.run(["init", str(root), "--template", template, "--json"]) == 0
    return root


@pytest.mark.requirement("cli:init:deployable")
@pytest.mark.parametrize("template", ["python", "node"])
async def test_a_program_is_hosted_as_it_is(platform: Platform, tmp_path: pathlib.Path, template: str) -> None:
    tenant = f"templates-{template}"
    platform.create_tenant(tenant)
    admin = platform.create_key(tenant, "admin", "mcp_user")
    root = _made(tmp_path / "my-server", template)
    done = platform.smcp("deploy", str(root), key=admin)
    assert done["server"]["name"] == "my-server"
    seen = await clients.python(Endpoint(done["server"]["endpoint"], admin), "auto", "greet", {"name": "Ada"})
    assert seen.texts == ("Hello, Ada!",)
    assert seen.tools == ("greet",)


def _result(text: str) -> Any:
    """Of a JSON answer, or of the first event of a stream."""
    data = next((line[5:] for line in text.split("\n") if line.startswith("data:") and line[5:].strip()), text)
    return json.loads(data)["result"]


@pytest.mark.requirement("cli:init:deployable", "workers:build:packages")
@pytest.mark.parametrize(
    ("template", "tools"),
    [("worker-ts", ["greet", "write_note", "read_note", "list_notes"]), ("worker-js", ["greet"])],
)
async def test_a_worker_is_built_as_it_is(tmp_path: pathlib.Path, template: str, tools: list[str]) -> None:
    root = _made(tmp_path / "my-server", template)
    async with workshop.opened(tmp_path / "data", environ=os.environ) as shop:
        done = await shop.deploy(await shop.upload(workshop.packed(root)), "my-server", pack.manifest(root))
        assert done.deployment is not None, done.error
        made = await shop.versions.deployment(workshop.ACME, ids.server("my-server"), done.deployment)
        locked = {one.name for one in made.lock}
        assert locked == (
            {"@modelcontextprotocol/server", "@modelcontextprotocol/core", "zod"} if len(tools) > 1 else set()
        )
        async with shop.isolate(made) as client:
            listed = _result(await client.post("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}))
            assert [one["name"] for one in listed["tools"]] == tools
            params = {"name": "greet", "arguments": {"name": "Ada"}}
            call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}
            assert _result(await client.post("/mcp", call))["content"][0]["text"] == "Hello, Ada!"
