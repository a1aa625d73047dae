"""A client's configuration file, deployed with `smcp deploy --from-config`, and its servers called by a real client."""

import json
import pathlib

import pytest

from support import clients, projects
from support.clients import Endpoint
from support.platform import Platform

pytestmark = pytest.mark.real


@pytest.mark.requirement("cli:deploy:config")
async def test_two_servers_of_a_clients_file_are_hosted_as_they_were(
    platform: Platform, tmp_path: pathlib.Path
) -> None:
    platform.create_tenant("configs")
    admin = platform.create_key("configs", "admin", "mcp_user")
    projects.javascript(tmp_path / "project")
    env = {"WORD": "Moin", "API_KEY": "CANARY-key"}
    entries = {
        "Time": {"command": "uvx", "args": ["mcp-server-time", "--local-timezone=Europe/Berlin"]},
        "greeter": {"command": "node", "args": ["project/index.js", "--x"], "env": env},
        "shell": {"command": "bash", "args": ["-c", "true"]},
    }
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps({"mcpServers": entries}))

    shown = platform.smcp("deploy", "--from-config", str(path), "--all", "--dry-run", key=admin)
    assert [one["name"] for one in shown["would_deploy"]] == ["time", "greeter"]
    assert shown["would_deploy"][1]["secrets"] == ["API_KEY"]
    assert "CANARY" not in json.dumps(shown)
    assert platform.api("GET", "/tenants/configs/servers", key=admin)["items"] == []
    refused = platform.smcp("deploy", "--from-config", str(path), "shell", key=admin, code=2)
    assert "never runs one" in refused["error"]["message"]

    done = platform.smcp("deploy", "--from-config", str(path), "Time", "greeter", key=admin)
    time, greeter = (Endpoint(one["server"]["endpoint"], admin) for one in done["items"])
    seen = await clients.python(time, "auto", "get_current_time", {"timezone": "Europe/Berlin"})
    assert not seen.is_error
    seen = await clients.python(greeter, "legacy", "greet", {"name": "Ada"})
    assert json.loads(seen.texts[0]) == {"said": "Moin, Ada!", "args": ["--x"], "key": "CANARY-key"}
    assert "CANARY" not in json.dumps(done)
