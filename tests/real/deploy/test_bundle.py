"""A real .mcpb, deployed with `smcp deploy` to a real platform, and called by a real client."""

import json
import pathlib

import pytest

from support import clients, projects
from support.clients import Endpoint
from support.platform import Platform

pytestmark = pytest.mark.real


@pytest.mark.requirement("deploy:bundle:node", "deploy:bundle:literal", "deploy:bundle:secrets")
async def test_a_bundle_is_hosted_with_its_options_and_its_secret(platform: Platform, tmp_path: pathlib.Path) -> None:
    platform.create_tenant("bundles")
    admin = platform.create_key("bundles", "admin", "mcp_user")
    path = projects.bundle(tmp_path / "greeter.mcpb", tmp_path / "project")
    (tmp_path / "values.toml").write_text('api_key = "CANARY-key ${user_config.word}"\n')
    missing = platform.smcp("deploy", str(path), key=admin, code=2)
    assert "'word' (Word)" in missing["error"]["message"]
    refused = platform.smcp(
        "deploy", str(path), "--config", "word=Hi", "--config", "api_key=CANARY-ps", key=admin, code=2
    )
    assert "no place for one" in refused["error"]["message"]
    assert "CANARY" not in json.dumps(refused)

    options = (
        "--config",
        "word=${HOME} ${user_config.api_key}",
        "--config",
        "folders=/a b",
        "--config",
        "folders=$(id)",
    )
    done = platform.smcp("deploy", str(path), *options, "--config-from", str(tmp_path / "values.toml"), key=admin)
    endpoint = Endpoint(done["server"]["endpoint"], admin)
    seen = await clients.python(endpoint, "legacy", "greet", {"name": "Ada"})
    assert json.loads(seen.texts[0]) == {
        # Each replaced once, and what was put in is not looked at again.
        "said": "${HOME} ${user_config.api_key}, Ada!",
        "args": ["--at=/app", "/a b", "$(id)", "${HOME}"],
        "key": "key CANARY-key ${user_config.word}",
    }
    assert "CANARY" not in json.dumps(done)
    [locked] = done["server"]["deployment"]["lock"]
    assert (locked["name"], locked["version"]) == ("greeter-bundle", "1.0.0")
