"""Servers that run elsewhere, deployed by command line, API and client configuration, and called by real clients."""

import json
import pathlib
import re
import time
from typing import Any

import httpx2
import pytest

from support import clients, elsewhere, shy_remote, wire
from support.clients import Endpoint, Mode
from support.elsewhere import Elsewhere
from support.everything import Build
from support.platform import Platform

_TOOL = "test_simple_text"
pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]


@pytest.fixture(scope="session")
def admin(opened: Platform) -> str:
    """The key of an administrator of the tenant `acme`, who may also call."""
    opened.create_tenant("acme")
    return opened.create_key("acme", "admin", "mcp_user")


def _set(opened: Platform, admin: str, server: str, value: str, name: str = elsewhere.SECRET) -> None:
    where = f"/tenants/acme/servers/{server}/secrets/{name}"
    opened.api("PUT", where, {"value": value, "kind": "env"}, key=admin)


def _failed(opened: Platform, admin: str, *words: str, code: int = 1) -> str:
    """What `smcp deploy` says that does not deploy."""
    return str(opened.smcp("deploy", *words, key=admin, code=code)["error"]["message"])


@pytest.mark.requirement("remote:deploy:api")
@pytest.mark.requirement("remote:token:passthrough")
@pytest.mark.parametrize(
    ("build", "mode", "version"),
    [
        ("dual", "legacy", "2025-11-25"),
        ("dual", "2026-07-28", "2026-07-28"),
        ("legacy", "legacy", "2025-11-25"),
        ("modern", "2026-07-28", "2026-07-28"),
    ],
)
async def test_a_client_of_the_servers_era_calls_it_and_its_key_goes_no_further(
    remotes: Elsewhere, build: Build, mode: Mode, version: str
) -> None:
    endpoint = remotes[build]
    seen = await clients.python(endpoint, mode, _TOOL, {})
    assert (seen.version, seen.is_error) == (version, False)
    behind = remotes.running[build]
    came = bytes(behind.received)
    assert f"Bearer {behind.token}".encode() in came
    assert _TOOL.encode() in came
    # What the client showed to the platform: not a part of it.
    for key in (endpoint.key, remotes.admin):
        assert key.encode() not in came
        assert key.rpartition("_")[2].encode() not in came


@pytest.mark.requirement("remote:deploy:record")
def test_what_was_found_out_is_recorded_and_shown(opened: Platform, remotes: Elsewhere) -> None:
    assert remotes["dual"]
    shown = opened.api("GET", "/tenants/elsewhere/servers/dual", key=remotes.admin)
    made = shown["deployment"]
    assert (made["runtime"], made["argv"], made["lock"]) == ("remote", [], [])
    assert made["remote"]["headers"] == {"Authorization": elsewhere.SECRET}
    assert made["remote"]["url"] == made["source"]
    assert made["remote"]["wire"] == "streamable"
    assert made["digest"].startswith("sha256:")
    assert (made["modern_versions"], "2025-11-25" in made["legacy_versions"]) == (["2026-07-28"], True)
    assert _TOOL in [tool["name"] for tool in made["tools"]]
    assert remotes.running["dual"].token not in json.dumps(shown)
    expected: dict[Build, tuple[bool, bool]] = {"legacy": (False, True), "modern": (True, False)}
    for build, eras in expected.items():
        assert remotes[build]
        found = opened.api("GET", f"/tenants/elsewhere/servers/{build}", key=remotes.admin)["deployment"]
        assert (bool(found["modern_versions"]), bool(found["legacy_versions"])) == eras
    events = opened.api("GET", "/tenants/elsewhere/audit?limit=1000", key=remotes.admin)["items"]
    submitted = [one["event"] for one in events if one["event"]["event"] == "deploy_submitted"]
    assert made["source"] in [one["source"] for one in submitted]


@pytest.mark.requirement("remote:deploy:cli")
async def test_the_command_line_deploys_shows_rolls_back_stops_and_deletes(
    opened: Platform, remotes: Elsewhere, admin: str, tmp_path: pathlib.Path
) -> None:
    one = remotes.start("legacy")
    url = one.url
    order = ("deploy", url, "--name", "there", "--tenant", "acme")
    dry = opened.smcp(*order, "--header-secret", "API_TOKEN", "--wire", "streamable", "--dry-run", key=admin)
    [would] = dry["would_deploy"]
    assert (would["source"], would["name"], would["needs"]) == (url, "there", ["API_TOKEN"])
    asked = _failed(opened, admin, *order[1:], "--header-secret", "API_TOKEN", code=2)
    assert "API_TOKEN needs a value" in asked

    _set(opened, admin, "there", one.token)
    done = opened.smcp(*order, "--header-secret", "API_TOKEN", key=admin)
    steps = [step["stage"] for step in done["operation"]["steps"]]
    assert list(dict.fromkeys(steps)) == ["address", "probe", "live"]
    there = Endpoint(done["server"]["endpoint"], admin)
    assert not (await clients.python(there, "legacy", _TOOL, {})).is_error

    manifest = tmp_path / "smcp.toml"
    manifest.write_text(
        f'name = "there"\n[remote]\nurl = "{url}"\nwire = "streamable"\n[remote.headers]\nauthorization = "API_TOKEN"\n'
    )
    again = opened.smcp("deploy", "--manifest", str(manifest), "--tenant", "acme", key=admin)
    folder = opened.smcp("deploy", str(tmp_path), "--tenant", "acme", key=admin)
    first, second, third = (one["server"]["deployment"] for one in (done, again, folder))
    assert [first["number"], second["number"], third["number"]] == [1, 2, 3]
    assert second["digest"] == third["digest"] != first["digest"]
    assert "elsewhere (remote)" in opened.smcp("server", "show", "acme/there", key=admin, text=True)

    assert opened.smcp("server", "rollback", "acme/there", key=admin)["live"] == second["id"]
    assert not (await clients.python(there, "legacy", _TOOL, {})).is_error
    assert opened.smcp("server", "stop", "acme/there", key=admin)["desired"] == "stopped"
    opened.smcp("server", "start", "acme/there", key=admin)
    assert opened.smcp("tools", "acme/there", key=admin)["tools"]
    opened.smcp("server", "delete", "acme/there", "--yes", key=admin)
    assert opened.api("GET", "/tenants/acme/servers", key=admin)["items"] == []


@pytest.mark.requirement("remote:deploy:config")
async def test_an_entry_of_a_clients_file_becomes_a_remote_server(
    opened: Platform, remotes: Elsewhere, admin: str, tmp_path: pathlib.Path
) -> None:
    url, token, _ = remotes.start("modern")
    path = tmp_path / "mcp.json"
    entry = {"type": "http", "url": url, "headers": {"Authorization": f"Bearer {token}", "Accept": "text/html"}}
    path.write_text(json.dumps({"servers": {"Far away": entry}}))
    dry = opened.smcp("deploy", "--from-config", str(path), "--all", "--dry-run", "--tenant", "acme", key=admin)
    assert token not in json.dumps(dry)
    assert dry["would_deploy"][0]["secrets"] == ["AUTHORIZATION"]
    done = opened.smcp("deploy", "--from-config", str(path), "Far away", "--tenant", "acme", key=admin)
    assert token not in json.dumps(done)
    there = Endpoint(done["items"][0]["server"]["endpoint"], admin)
    assert not (await clients.python(there, "2026-07-28", _TOOL, {})).is_error


@pytest.mark.requirement("remote:deploy:wrong-secret")
def test_a_wrong_secret_fails_the_deployment_and_is_not_repeated(
    opened: Platform, remotes: Elsewhere, admin: str
) -> None:
    behind = remotes.start("dual")
    order = (behind.url, "--name", "locked", "--tenant", "acme", "--header-secret", elsewhere.SECRET)
    _set(opened, admin, "locked", "CANARY-of-nobody")
    told = _failed(opened, admin, *order)
    assert "401" in told
    _set(opened, admin, "locked", "CANARY-first\nX-Injected: CANARY-second")
    torn = _failed(opened, admin, *order)
    assert "can't be the value of the header Authorization" in torn
    logs = opened.api("GET", "/tenants/acme/servers/locked/logs", key=admin)
    audit = opened.api("GET", "/tenants/acme/audit?limit=1000", key=admin)
    for text in (told, torn, json.dumps(logs), json.dumps(audit), opened.story()):
        assert "CANARY" not in text
    assert b"X-Injected" not in behind.received


@pytest.mark.requirement("remote:deploy:no-secret")
def test_a_secret_that_is_not_set_is_named(opened: Platform, admin: str) -> None:
    order = {"source": "http://127.0.0.1:9/mcp", "name": "bare", "manifest": '[remote.headers]\nX-Key = "NOT_SET"\n'}
    assert "NOT_SET" in _operation(opened, admin, order)["error"]


# CVE-2026-101064 and CVE-2026-76093: what is registered goes through the guard like everything else.
@pytest.mark.requirement("remote:deploy:guarded")
@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://169.254.169.254/latest/meta-data", "cloud metadata"),
        ("https://10.0.0.1/mcp", "not a public address"),
        ("https://inner.example.com/mcp", "not a public address"),
        ("https://mixed.example.com/mcp", "not a public address"),
        ("https://[::ffff:10.0.0.1]/mcp", "not a public address"),
        ("https://[::ffff:169.254.169.254]/mcp", "cloud metadata"),
        ("https://[fd00:ec2::254]/mcp", "cloud metadata"),
        ("https://[64:ff9b::a00:1]/mcp", "not a public address"),
        ("https://0.0.0.0/mcp", "not a host's address"),
        ("http://8.8.8.8/mcp", "no TLS"),
    ],
)
def test_an_address_that_must_not_be_dialled_is_refused_when_it_is_registered(
    opened: Platform, admin: str, url: str, why: str
) -> None:
    error = _operation(opened, admin, {"source": url, "name": "inner"})["error"]
    assert why in error
    assert "10.1.2.3" not in error


@pytest.mark.requirement("remote:deploy:guarded")
def test_a_server_that_sends_the_probe_elsewhere_is_not_followed_past_the_guard(opened: Platform, admin: str) -> None:
    with shy_remote.running("http://169.254.169.254/latest/meta-data") as server:
        error = _operation(opened, admin, {"source": server.url, "name": "sends"})["error"]
    assert "cloud metadata" in error


@pytest.mark.requirement("remote:deploy:era")
@pytest.mark.parametrize("how", shy_remote.HOW)
async def test_a_remote_server_that_takes_the_question_badly_is_found_in_its_era(
    opened: Platform, admin: str, how: str
) -> None:
    with shy_remote.running(how) as server:
        made = _operation(opened, admin, {"source": server.url, "name": f"shy-{how}"})
        assert made["state"] == "succeeded", made
        found = opened.api("GET", f"/tenants/acme/servers/shy-{how}", key=admin)
        deployment = found["deployment"]
        assert (deployment["modern_versions"], deployment["legacy_versions"][-1:]) == ([], ["2024-11-05"])
        # Each question had a session of its own: the second knows nothing of the first.
        assert [one for one in server.asked if one[0] == "initialize"] == [("initialize", "")]
        seen = await clients.python(Endpoint(found["endpoint"], admin), "legacy", "how", {})
        assert json.loads(seen.texts[0]) == how


@pytest.mark.requirement("remote:deploy:wire")
@pytest.mark.parametrize("wire_asked", ["auto", "sse"])
async def test_a_server_of_2024_11_05_is_found_to_speak_the_older_way_and_that_is_recorded(
    opened: Platform, admin: str, wire_asked: str
) -> None:
    with shy_remote.running(shy_remote.OLD) as server:
        name = f"old-{wire_asked}"
        manifest = f'[remote]\nwire = "{wire_asked}"\n'
        made = _operation(opened, admin, {"source": server.url, "name": name, "manifest": manifest})
        assert made["state"] == "succeeded", made
        found = opened.api("GET", f"/tenants/acme/servers/{name}", key=admin)
        assert found["deployment"]["remote"]["wire"] == "sse"
        seen = await clients.python(Endpoint(found["endpoint"], admin), "legacy", "how", {})
        assert json.loads(seen.texts[0]) == shy_remote.OLD


@pytest.mark.requirement("remote:deploy:wire")
def test_a_server_that_does_not_speak_the_way_that_was_asked_for_is_not_deployed(opened: Platform, admin: str) -> None:
    with shy_remote.running(shy_remote.OLD) as server:
        order = {"source": server.url, "name": "not-old", "manifest": '[remote]\nwire = "streamable"\n'}
        made = _operation(opened, admin, order)
    assert made["state"] == "failed"
    assert "does not answer as an MCP server" in made["error"]


@pytest.mark.requirement("remote:deploy:rotation")
async def test_a_new_value_is_what_new_sessions_bring(opened: Platform, remotes: Elsewhere, admin: str) -> None:
    behind = remotes.start("legacy")
    _set(opened, admin, "turned", behind.token)
    order = (behind.url, "--name", "turned", "--tenant", "acme", "--header-secret", elsewhere.SECRET)
    done = opened.smcp("deploy", *order, key=admin)
    there = Endpoint(done["server"]["endpoint"], admin)
    assert not (await clients.python(there, "legacy", _TOOL, {})).is_error
    before = len(behind.received)
    _set(opened, admin, "turned", "CANARY-newer-value")
    async with httpx2.AsyncClient(timeout=60.0) as http:
        answer = await wire.Caller(http, there).legacy(None, "initialize", wire.hello())
    # The server does not know that value, and says so; who asks is told, and not by which value.
    assert "401" in answer.text
    assert "CANARY" not in answer.text
    # The end of the session before may still come, with the value that it began with, and a stream of it.
    later = re.split(rb"(?=(?:POST|GET|DELETE) /)", bytes(behind.received[before:]))
    posted = [one for one in later if one.startswith(b"POST /")]
    assert posted
    for one in posted:
        assert b"Bearer CANARY-newer-value" in one
        assert behind.token.encode() not in one


def _operation(opened: Platform, admin: str, order: dict[str, Any]) -> Any:
    """The order's operation, ended."""
    made = opened.api("POST", "/tenants/acme/deployments", order, key=admin)
    while made["state"] == "running":
        time.sleep(0.1)  # the API has no event for it: a client asks again
        made = opened.api("GET", f"/tenants/acme/operations/{made['id']}", key=admin)
    return made
