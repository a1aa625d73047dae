"""Secrets of real servers on a real platform: where a value is, where it is not, and for how long."""

import base64
import io
import json
import pathlib
import time
from collections.abc import Generator
from typing import Any, Final

import httpx2
import pytest

from smcp.cli import main
from support import files, wheels, wire
from support.clients import Endpoint
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_SOURCE: Final = pathlib.Path(__file__).parents[2] / "fixtures" / "keeper.py"
_PACKAGE: Final = "pypi:smcp-fixture-keeper"
_CANARY: Final = "canary-9Zk3vUq0w"
_FORMS: Final = (_CANARY.encode(), base64.b64encode(_CANARY.encode())[:18], _CANARY.encode("utf-16-le"))
_LITERAL: Final = "${PATH} {{env}} $ENV `id` $(id) %PATH% \\n '\""


class Ground:
    """A platform, and what was seen of it from outside."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.admin = ""
        self.answers: list[str] = []

    def api(self, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        """A request of acme's administrator whose answer is kept."""
        answer = httpx2.request(
            method,
            f"{self.platform.base_url}/api/v1/tenants/acme{path}",
            headers={"Authorization": f"Bearer {self.admin}"},
            json=body,
            timeout=120.0,
            verify=False,  # plain HTTP: see Platform.api
        )
        self.answers.append(answer.text)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    def tell(self, server: str, what: str, about: str = "") -> Any:
        """What a server tells."""
        body = {"tool": "tell", "arguments": {"what": what, "about": about}}
        told = self.platform.api("POST", f"/tenants/acme/servers/{server}/call", body, key=self.admin)
        return json.loads(told["content"][0]["text"])

    def log(self, server: str, last: str) -> str:
        """Everything in a server's log, once `last` is there: what a copy writes is read in the platform's own time."""
        deadline = time.monotonic() + 60
        while True:
            lines = [line["text"] for line in self.api("GET", f"/servers/{server}/logs?limit=1000")["items"]]
            if any(last in line for line in lines) or time.monotonic() > deadline:
                return "\n".join(lines)
            time.sleep(0.1)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Generator[Ground]:
    """A platform with the tenants acme and umbra."""
    shelf = tmp_path_factory.mktemp("wheels")
    code = {"smcp_fixture_keeper.py": _SOURCE.read_text("utf-8")}
    entry = {"smcp-fixture-keeper": "smcp_fixture_keeper:main"}
    wheels.build_wheel(shelf, "smcp-fixture-keeper", "1.0.0", code, entry)
    with Platform(tmp_path_factory.mktemp("ground"), {"SMCP_DEPLOY_WHEEL_DIRS": str(shelf)}) as platform:
        made = Ground(platform)
        platform.create_tenant("acme")
        made.admin = platform.create_key("acme", "admin")
        yield made


def _holding(directory: pathlib.Path, *texts: bytes) -> list[str]:
    found = list(files.below(directory))
    assert found
    return [str(path) for path, data in found if any(text in data for text in texts)]


def _command_lines() -> bytes:
    found: list[bytes] = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "comm"):
            try:
                found.append((process / name).read_bytes())
            except OSError:  # it has ended
                continue
    return b"\n".join(found)


@pytest.mark.requirement("deploy:secrets:sealed", "deploy:secrets:never-shown", "deploy:secrets:given")
@pytest.mark.requirement("deploy:secrets:only-its-server", "deploy:secrets:early")
def test_a_canary_is_where_it_was_called_for_and_nowhere_else(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    platform = ground.platform
    monkeypatch.setenv("SMCP_CONFIG", str(tmp_path))
    monkeypatch.setenv("SMCP_URL", platform.base_url)
    monkeypatch.setenv("SMCP_API_KEY", ground.admin)
    source = tmp_path / "certificate"
    source.write_bytes(b"\xff\0" + _CANARY.encode())
    shown = ""
    # Before the server is there for the first time.
    for argv in (
        ["secret", "set", "acme/keeper", "API_KEY"],
        ["secret", "set", "acme/keeper", "CERT", "--file", "--from-file", str(source), "--json"],
        ["secret", "list", "acme/keeper"],
        ["secret", "list", "acme/keeper", "--json"],
    ):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{_CANARY}\n".encode())))
        assert main.run(argv) == 0
        out, err = capfd.readouterr()
        shown += out + err
    assert "API_KEY" in shown
    source.unlink()

    manifest = '[secrets]\nAPI_KEY = "env"\nCERT = "file"\n'
    platform.deploy("acme", _PACKAGE, "keeper", ground.admin, manifest)
    platform.deploy("acme", _PACKAGE, "other", ground.admin)
    platform.create_tenant("umbra")
    theirs = platform.create_key("umbra", "admin")
    platform.deploy("umbra", _PACKAGE, "keeper", theirs)

    assert ground.tell("keeper", "value", "API_KEY") == _CANARY
    assert ground.tell("keeper", "files") == {"CERT": [f"\xff\0{_CANARY}", "0o400", True, False]}
    inside = "\n".join(ground.tell("keeper", "commands"))
    assert "smcp-fixture-keeper" in inside
    assert _CANARY not in inside
    assert "CERT" not in ground.tell("keeper", "keys")

    assert "API_KEY" not in ground.tell("other", "keys")
    assert ground.tell("other", "files") == {}
    body = {"tool": "tell", "arguments": {"what": "keys"}}
    other = platform.api("POST", "/tenants/umbra/servers/keeper/call", body, key=theirs)
    assert "API_KEY" not in other["content"][0]["text"]

    for path in ("", "/keeper", "/keeper/secrets", "/keeper/deployments", "/keeper/logs", "/other/secrets"):
        ground.api("GET", f"/servers{path}")
    ground.api("GET", "/audit?limit=1000")
    assert "secret_set" in ground.answers[-1]
    shown += "".join(ground.answers) + platform.story()
    assert _CANARY not in shown
    assert _FORMS[1].decode() not in shown
    commands = _command_lines()
    assert b"smcp" in commands
    for form in _FORMS:
        assert form not in commands
    assert _holding(platform.data.parent, *_FORMS) == []


@pytest.mark.requirement("deploy:secrets:literal")
def test_what_looks_like_a_variable_arrives_as_it_is(ground: Ground) -> None:
    ground.api("PUT", "/servers/literal/secrets/ODD", {"value": _LITERAL})
    ground.api("PUT", "/servers/literal/secrets/ODD_FILE", {"value": _LITERAL, "kind": "file"})
    manifest = f"args = [{json.dumps(_LITERAL)}]\n[env]\nPLAIN = {json.dumps(_LITERAL)}\n"
    ground.platform.deploy("acme", _PACKAGE, "literal", ground.admin, manifest)
    assert ground.tell("literal", "value", "ODD") == _LITERAL
    assert ground.tell("literal", "value", "PLAIN") == _LITERAL
    assert ground.tell("literal", "argv") == [_LITERAL]
    assert ground.tell("literal", "files")["ODD_FILE"][0] == _LITERAL


@pytest.mark.requirement("deploy:secrets:given", "deploy:secrets:bounds")
def test_the_largest_values_arrive_whole(ground: Ground) -> None:
    variable, file = "v" * 65_536, bytes(range(256)) * 256
    ground.api("PUT", "/servers/large/secrets/VARIABLE", {"value": variable})
    order = {"value_base64": base64.b64encode(file).decode(), "kind": "file"}
    ground.api("PUT", "/servers/large/secrets/FILE", order)
    ground.platform.deploy("acme", _PACKAGE, "large", ground.admin)
    assert ground.tell("large", "value", "VARIABLE") == variable
    assert ground.tell("large", "files")["FILE"][0].encode("latin-1") == file


@pytest.mark.requirement("deploy:secrets:rotate", "deploy:secrets:destroyed", "deploy:secrets:versions")
@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_the_next_call_has_the_new_value_a_restart_keeps_it_and_deleting_takes_it_away(
    ground: Ground, era: str
) -> None:
    name = f"turning-{era}"
    ground.platform.deploy("acme", _PACKAGE, name, ground.admin, f'era = "{era}"\n')
    assert ground.tell(name, "value", "TOKEN") is None
    ground.api("PUT", f"/servers/{name}/secrets/TOKEN", {"value": "first"})
    assert ground.tell(name, "value", "TOKEN") == "first"
    ground.api("POST", f"/servers/{name}/secrets/TOKEN/rotate", {"value": "second"})
    assert ground.tell(name, "value", "TOKEN") == "second"
    if era == "modern":
        ground.platform.stop()
        ground.platform.start()
    assert ground.tell(name, "value", "TOKEN") == "second"
    ground.api("DELETE", f"/servers/{name}/secrets/TOKEN", status=204)
    assert ground.tell(name, "value", "TOKEN") is None


@pytest.mark.requirement("deploy:secrets:rotate")
async def test_a_session_goes_on_in_a_new_copy_with_the_new_value(ground: Ground) -> None:
    url = ground.platform.deploy("acme", _PACKAGE, "session", ground.admin)
    ground.api("PUT", "/servers/session/secrets/TOKEN", {"value": "first"})
    key = ground.platform.create_key("acme", "mcp_user")
    asked = {"name": "tell", "arguments": {"what": "value", "about": "TOKEN"}}
    async with httpx2.AsyncClient(timeout=120.0) as http:
        one = wire.Caller(http, Endpoint(url, key))
        session = await one.open()
        assert wire.said(wire.messages(await one.legacy(session, "tools/call", asked))[-1]) == "first"
        ground.api("POST", "/servers/session/secrets/TOKEN/rotate", {"value": "second"})
        deadline = time.monotonic() + 120
        while "second" not in (answer := await one.legacy(session, "tools/call", asked)).text:
            # Until its process is gone, the old copy may be asked; what it can't do is answer with the old value.
            assert "first" not in answer.text
            assert time.monotonic() < deadline
        await one.close()


@pytest.mark.requirement("deploy:secrets:required")
def test_a_required_secret_that_is_missing_is_named(ground: Ground) -> None:
    order = {"source": _PACKAGE, "name": "needy", "manifest": '[secrets]\nNEEDED = "env"\n'}
    operation = ground.api("POST", "/deployments", order, status=202)
    while operation["state"] == "running":
        time.sleep(0.1)  # the API has no event for it
        operation = ground.api("GET", f"/operations/{operation['id']}")
    assert operation["state"] == "failed"
    assert "NEEDED" in operation["error"]
    assert "smcp secret set acme/needy NEEDED" in operation["error"]
    ground.api("PUT", "/servers/needy/secrets/NEEDED", {"value": "now it is there"})
    ground.platform.deploy("acme", _PACKAGE, "needy", ground.admin, order["manifest"])
    ground.api("DELETE", "/servers/needy/secrets/NEEDED", status=204)
    call = {"tool": "tell", "arguments": {"what": "keys"}}
    error = ground.api("POST", "/servers/needy/call", call, status=503)["error"]
    assert error["code"] == "secret_missing"
    assert "NEEDED" in error["message"]


@pytest.mark.requirement("deploy:secrets:hidden-in-logs")
def test_a_server_that_prints_its_secret_is_hidden_from_its_log_and_from_kept_errors(ground: Ground) -> None:
    ground.api("PUT", "/servers/loud/secrets/TOKEN", {"value": _CANARY})
    ground.platform.deploy("acme", _PACKAGE, "loud", ground.admin)
    assert ground.tell("loud", "stderr", "TOKEN") == "written"
    # What a tool answers is the tenant's own, and passes; the platform's log does not get it.
    call = {"tool": "tell", "arguments": {"what": "failure", "about": "TOKEN"}}
    assert _CANARY in ground.api("POST", "/servers/loud/call", call, status=502)["error"]["message"]
    ground.answers.pop()
    log = ground.log("loud", "as JSON")
    assert "connecting with [secret TOKEN] now" in log
    assert "[secret TOKEN]" in log.partition("as JSON")[2]
    assert "oops [secret TOKEN]" in log
    assert _CANARY not in log
    assert _CANARY not in ground.platform.log.read_text("utf-8")

    ground.api("PUT", "/servers/failing/secrets/FAIL", {"value": _CANARY})
    operation = ground.api("POST", "/deployments", {"source": _PACKAGE, "name": "failing"}, status=202)
    while operation["state"] == "running":
        time.sleep(0.1)  # the API has no event for it
        operation = ground.api("GET", f"/operations/{operation['id']}")
    assert operation["state"] == "failed"
    assert "refused by the service for [secret FAIL]" in operation["error"]
    assert _CANARY not in "".join(ground.answers)


@pytest.mark.requirement("deploy:secrets:destroyed")
def test_the_next_server_of_a_name_gets_nothing_of_the_one_before(ground: Ground) -> None:
    ground.api("PUT", "/servers/again/secrets/TOKEN", {"value": _CANARY})
    ground.platform.deploy("acme", _PACKAGE, "again", ground.admin)
    assert ground.tell("again", "value", "TOKEN") == _CANARY
    ground.api("DELETE", "/servers/again", status=204)
    ground.platform.deploy("acme", _PACKAGE, "again", ground.admin)
    assert ground.tell("again", "value", "TOKEN") is None
