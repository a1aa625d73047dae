"""Every command against a running platform: what a script gets, and that people get something too."""

import asyncio
import io
import json
import pathlib
import time
from typing import Any

import pytest
from joserfc import jwk

from smcp.cli import failures, main, profiles
from support import visitors
from support.clients import Endpoint
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(1200), pytest.mark.requirement("cli:api:every-command")]


class Terminal:
    """Runs commands as one key of one platform."""

    def __init__(self, platform: Platform, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._platform = platform
        self._patch = monkeypatch
        self._capfd = capfd
        self.key = platform.operator_key

    def text(self, *argv: str, code: int = 0) -> str:
        """What people read on stdout."""
        self._patch.setenv("SMCP_URL", self._platform.base_url)
        self._patch.setenv("SMCP_API_KEY", self.key)
        ended = main.run(argv)
        shown = self._capfd.readouterr()
        assert ended == code, shown.err
        self.err = shown.err
        return shown.out

    def json(self, *argv: str, code: int = 0) -> Any:
        """The JSON document on stdout, and nothing else on either stream."""
        out = self.text(*argv, "--json", code=code)
        assert code != 0 or self.err == ""
        return json.loads(out)


@pytest.fixture
def terminal(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> Terminal:
    """A terminal of the operator, with profiles of its own."""
    monkeypatch.setenv("SMCP_CONFIG", str(tmp_path / "config"))
    return Terminal(platform, monkeypatch, capfd)


def test_a_tenant_lives_and_is_suspended_and_resumed(terminal: Terminal) -> None:
    made = terminal.json("tenant", "create", "cli-life", "--display-name", "Life")
    assert (made["id"], made["display_name"], made["state"]) == ("cli-life", "Life", "active")
    assert terminal.json("tenant", "show", "cli-life") == made
    assert made in terminal.json("tenant", "list")["items"]
    assert terminal.json("tenant", "suspend", "cli-life")["state"] == "suspended"
    assert "suspended" in terminal.text("tenant", "show", "cli-life")
    assert terminal.json("tenant", "resume", "cli-life")["state"] == "active"
    assert "cli-life" in terminal.text("tenant", "list")
    terminal.text("tenant", "create", "cli-life", code=failures.Exit.FAILED)
    assert "Error:" in terminal.err


@pytest.mark.requirement("cli:keys:shown-once", "cli:destructive:asks")
def test_a_key_is_shown_once_works_and_is_revoked(terminal: Terminal) -> None:
    terminal.json("tenant", "create", "cli-keys")
    made = terminal.json(
        "key", "create", "--tenant", "cli-keys", "--role", "admin", "--label", "x", "--expires-in-days", "2"
    )
    secret, key = made["secret"], made["key"]["id"]
    assert secret.startswith("smcp_cli-keys_")
    assert secret not in terminal.text("key", "list", "--tenant", "cli-keys")
    assert "secret" not in terminal.json("key", "list", "--tenant", "cli-keys")["items"][0]
    shown = terminal.text("key", "create", "--tenant", "cli-keys", "--role", "read_only").split()
    assert shown[-1].startswith("smcp_cli-keys_")

    terminal.key = secret
    assert terminal.json("tenant", "show", "cli-keys")["id"] == "cli-keys"
    assert terminal.json("key", "revoke", key, "--dry-run")["would_revoke"]["id"] == key
    terminal.text("key", "revoke", key, code=failures.Exit.USAGE)
    assert terminal.json("tenant", "show", "cli-keys")["id"] == "cli-keys"
    assert terminal.json("key", "revoke", key, "--yes")["revoked"] is not None
    terminal.text("tenant", "show", "cli-keys", code=failures.Exit.REFUSED)
    assert "SMCP_URL and SMCP_API_KEY was refused" in terminal.err
    assert secret not in terminal.err


@pytest.mark.requirement("oauth:cli:client", "cli:destructive:asks")
def test_a_client_is_made_shown_listed_and_revoked(terminal: Terminal, tmp_path: pathlib.Path) -> None:
    terminal.json("tenant", "create", "cli-clients")
    here = ("--tenant", "cli-clients")
    made = terminal.json("client", "create", "nightly report", "--role", "mcp_user", *here)
    secret, client = made["secret"], made["client"]["id"]
    assert secret.startswith("smcs_cli-clients_")
    assert secret not in terminal.text("client", "list", *here) + terminal.text("client", "show", client, *here)
    assert terminal.text("client", "create", "x", "--role", "read_only", *here).split()[-1].startswith("smcs_")
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [jwk.ECKey.generate_key("P-256").as_dict(private=False)]}))
    assert terminal.json("client", "create", "s", "--role", "mcp_user", "--jwks", str(keys), *here)["secret"] is None
    address = "https://app.example/keys.json"
    there = terminal.json("client", "create", "s", "--role", "mcp_user", "--jwks-uri", address, *here)
    assert (there["secret"], there["client"]["auth_method"]) == (None, "private_key_jwt")
    assert address in terminal.text("client", "show", there["client"]["id"], *here)
    keys.write_text("no keys")
    terminal.text("client", "create", "s", "--jwks", str(keys), *here, code=failures.Exit.USAGE)
    terminal.text("client", "create", "s", "--role", "operator", *here, code=failures.Exit.REFUSED)

    assert terminal.json("client", "revoke", client, *here, "--dry-run")["would_revoke"]["id"] == client
    terminal.text("client", "revoke", client, *here, code=failures.Exit.USAGE)
    assert terminal.json("client", "revoke", client, *here, "--yes")["revoked"] is not None
    assert terminal.json("client", "show", client, *here)["revoked"] is not None
    terminal.text("client", "show", "https://app.example/gone.json", *here, code=failures.Exit.NOT_FOUND)


@pytest.mark.requirement("cli:keys:shown-once", "cli:profiles:choice")
def test_a_key_saved_as_a_profile_is_not_shown_and_is_used_for_its_tenant(
    terminal: Terminal, platform: Platform, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    terminal.json("tenant", "create", "cli-saved")
    create = ("key", "create", "--tenant", "cli-saved", "--role", "admin", "--save-profile", "mine")
    assert "smcp_" not in terminal.text(*create)
    saved = profiles.Profiles(tmp_path / "config").load()["mine"]
    assert (saved.url, saved.tenant) == (platform.base_url, "cli-saved")
    terminal.text(*create, code=failures.Exit.USAGE)
    assert "its key would be lost" in terminal.err
    assert len(terminal.json("key", "list", "--tenant", "cli-saved")["items"]) == 1
    monkeypatch.delenv("SMCP_URL")
    monkeypatch.delenv("SMCP_API_KEY")
    assert main.run(["server", "list", "--tenant", "cli-saved", "--json"]) == 0


@pytest.mark.requirement("cli:errors:no-secret")
def test_a_key_given_where_an_id_belongs_is_refused_and_not_repeated(terminal: Terminal) -> None:
    terminal.text("key", "revoke", terminal.key, "--tenant", "platform", "--yes", code=failures.Exit.USAGE)
    assert terminal.key not in terminal.err


def test_tools_are_listed_and_called(terminal: Terminal, platform: Platform, hosted: dict[str, Endpoint]) -> None:
    terminal.key = hosted["time"].key
    assert "get_current_time" in terminal.text("tools", "hosting/time")
    assert {tool["name"] for tool in terminal.json("tools", "hosting/time")["tools"]} >= {"get_current_time"}
    zone = '{"timezone":"Europe/Berlin"}'
    assert "Europe/Berlin" in terminal.text("call", "hosting/time", "get_current_time", zone)
    assert "content" in terminal.json("call", "hosting/time", "get_current_time", zone)


def test_arguments_may_come_from_stdin_and_a_failing_tool_gives_an_exit_code(
    terminal: Terminal, hosted: dict[str, Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal.key = hosted["time"].key
    monkeypatch.setattr("sys.stdin", io.StringIO('{"timezone":"Asia/Tokyo"}'))
    assert "Asia/Tokyo" in terminal.text("call", "hosting/time", "get_current_time", "-")
    failed = terminal.json("call", "hosting/time", "get_current_time", '{"timezone":"No/Where"}', code=1)
    assert failed["isError"] is True
    terminal.text("call", "hosting/time", "get_current_time", "{", code=failures.Exit.USAGE)
    terminal.text("call", "hosting/time", "get_current_time", "[]", code=failures.Exit.USAGE)


@pytest.mark.requirement("cli:destructive:asks")
def test_a_server_is_deployed_stopped_started_rolled_back_and_deleted(terminal: Terminal, platform: Platform) -> None:
    platform.create_tenant("cli-serve")
    terminal.key = platform.create_key("cli-serve", "admin")
    first = terminal.json("deploy", "pypi:mcp-server-time", "--name", "clock")
    assert first["operation"]["state"] == "succeeded"
    assert first["server"]["endpoint"].endswith("/t/cli-serve/clock/mcp")
    shown = terminal.text("deploy", "pypi:mcp-server-time", "--name", "clock")
    assert "cli-serve/clock" in shown
    assert "Deploying pypi:mcp-server-time" in terminal.err

    assert [one["name"] for one in terminal.json("server", "list")["items"]] == ["clock"]
    assert "cli-serve/clock" in terminal.text("server", "list")
    versions = terminal.json("server", "deployments", "cli-serve/clock")["items"]
    assert sorted(one["number"] for one in versions) == [1, 2]
    assert "live" in terminal.text("server", "deployments", "cli-serve/clock")
    assert terminal.json("server", "rollback", "cli-serve/clock")["live"] == first["operation"]["deployment"]
    assert terminal.json("server", "stop", "cli-serve/clock")["desired"] == "stopped"
    terminal.text("call", "cli-serve/clock", "get_current_time", '{"timezone":"UTC"}', code=failures.Exit.FAILED)
    assert terminal.json("server", "start", "cli-serve/clock")["desired"] == "running"
    assert "UTC" in terminal.text("call", "cli-serve/clock", "get_current_time", '{"timezone":"UTC"}')
    assert "endpoint" in terminal.text("server", "show", "cli-serve/clock")

    assert terminal.json("server", "delete", "cli-serve/clock", "--dry-run")["would_delete"]["name"] == "clock"
    terminal.text("server", "delete", "cli-serve/clock", code=failures.Exit.USAGE)
    assert terminal.json("server", "delete", "cli-serve/clock", "--yes") == {"deleted": "cli-serve/clock"}
    terminal.text("server", "show", "cli-serve/clock", code=failures.Exit.NOT_FOUND)


def test_a_deployment_that_fails_says_why(terminal: Terminal, platform: Platform) -> None:
    platform.create_tenant("cli-fails")
    terminal.key = platform.create_key("cli-fails", "admin")
    terminal.text("deploy", "pypi:smcp-no-such-package-at-all", code=failures.Exit.FAILED)
    assert "Error:" in terminal.err
    terminal.text("deploy", "pypi:mcp-server-time", "--manifest", "/no/such/file", code=failures.Exit.USAGE)
    assert "/no/such/file" in terminal.err


def test_logs_are_printed_from_a_position_on(
    terminal: Terminal, platform: Platform, hosted: dict[str, Endpoint]
) -> None:
    terminal.key = platform.create_key("hosting", "admin")
    terminal.json("tools", "hosting/time")
    deadline = time.monotonic() + 60
    while not (lines := terminal.text("server", "logs", "hosting/time", "--json").splitlines()):
        assert time.monotonic() < deadline, "a server that was started has nothing in its log"
    last = json.loads(lines[-1])
    assert set(last) == {"position", "time", "text"}
    after = terminal.text("server", "logs", "hosting/time", "--json", "--after", str(last["position"]))
    assert lines[-1] not in after.splitlines()
    assert len(terminal.text("server", "logs", "hosting/time", "--limit", "1").splitlines()) == 1


def test_the_audit_trail_is_shown_and_verified(terminal: Terminal, platform: Platform) -> None:
    platform.create_tenant("cli-audit")
    terminal.key = platform.create_key("cli-audit", "admin")
    items = terminal.json("audit", "show")["items"]
    assert items
    assert len(terminal.json("audit", "show", "--limit", "1")["items"]) == 1
    assert "key" in terminal.text("audit", "show")
    report = terminal.json("audit", "verify")
    assert (report["ok"], report["problem"]) == (True, None)
    assert "is whole" in terminal.text("audit", "verify")


@pytest.mark.requirement("cli:completion:scripts")
def test_names_complete_from_the_platform(
    terminal: Terminal,
    hosted: dict[str, Endpoint],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def complete(words: str, number: int) -> list[str]:
        monkeypatch.setenv("_SMCP_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(number))
        with pytest.raises(SystemExit):  # click ends the process behind the last name
            terminal.text()
        monkeypatch.delenv("_SMCP_COMPLETE")
        shown = capfd.readouterr().out
        return [line.partition(",")[2] for line in shown.splitlines() if line]

    def found(words: str, number: int) -> list[str]:
        # An answer that takes more than a second is none: a person on a busy machine presses Tab again.
        deadline = time.monotonic() + 120
        while not (offered := complete(words, number)) and time.monotonic() < deadline:
            pass
        return offered

    assert "hosting/" in found("smcp tools hos", 2)
    assert found("smcp tools hosting/ti", 2) == ["hosting/time"]
    assert "hosting" in found("smcp key list --tenant hos", 4)
    assert complete("smcp serv", 1) == ["server"]
    monkeypatch.setattr(terminal, "key", "smcp_hosting_wrong")
    assert complete("smcp tools hosting/ti", 2) == []


@pytest.mark.requirement("oauth:people:command", "oauth:people:command-by-address")
def test_a_person_is_invited_and_the_invitation_is_withdrawn(terminal: Terminal) -> None:
    terminal.json("tenant", "create", "cli-people")
    at = ("--tenant", "cli-people")
    made = terminal.json("user", "invite", "ada@example.org", *at, "--role", "mcp_user", "--name", "Ada")
    assert made["code"].startswith("smci_cli-people_")
    assert made["url"].endswith("/account/cli-people/invite")
    listed = terminal.text("user", "invitations", *at)
    assert "ada@example.org" in listed
    assert made["code"] not in listed
    shown = terminal.text("user", "invite", "bob@example.org", *at, "--role", "admin").split()
    assert shown[-1].startswith("smci_cli-people_")
    assert "shown this once" in terminal.err
    assert terminal.json("user", "withdraw", made["invitation"]["id"], *at) == {"withdrawn": made["invitation"]["id"]}
    assert [one["email"] for one in terminal.json("user", "invitations", *at)["items"]] == ["bob@example.org"]
    assert terminal.json("user", "list", *at)["items"] == []
    assert "Nobody yet" in terminal.text("user", "list", *at)
    terminal.text("user", "invite", "x@example.org", *at, "--role", "operator", code=failures.Exit.REFUSED)
    terminal.text("user", "show", "user-" + "0" * 26, *at, code=failures.Exit.NOT_FOUND)
    for command in ("show", "enable", "sessions", "reset"):
        # Invited is not yet an account.
        terminal.text("user", command, "bob@example.org", *at, code=failures.Exit.NOT_FOUND)
        assert "Nobody in tenant cli-people has an account with the address bob@example.org" in terminal.err


@pytest.mark.requirement("oauth:people:command-by-address")
def test_a_person_is_named_by_their_address(terminal: Terminal, platform: Platform) -> None:
    terminal.json("tenant", "create", "cli-address")
    at = ("--tenant", "cli-address")
    made = terminal.json("user", "invite", "ada@example.org", *at, "--role", "mcp_user")

    async def join() -> None:
        async with visitors.Visitor(platform.base_url, "cli-address", "ada@example.org") as ada:
            await ada.join(made["code"])

    asyncio.run(join())
    (ada,) = terminal.json("user", "list", *at)["items"]
    for named in ("ada@example.org", " Ada@Example.ORG", ada["id"]):
        assert terminal.json("user", "show", named, *at)["id"] == ada["id"]
    named = ("ada@example.org", *at)
    assert [one["methods"] for one in terminal.json("user", "sessions", *named)["items"]] == [["setup", "password"]]
    assert terminal.json("user", "roles", *named, "--role", "read_only")["roles"] == ["read_only"]
    assert terminal.json("user", "disable", *named, "--yes")["disabled"]
    assert not terminal.json("user", "enable", *named)["disabled"]
    assert terminal.json("user", "sign-out", *named, "--yes")["id"] == ada["id"]
    assert terminal.json("user", "reset", *named)["invitation"]["user"] == ada["id"]


@pytest.mark.requirement("oauth:people:command", "oauth:people:setup")
def test_a_set_up_code_is_made_until_the_first_account_is(terminal: Terminal) -> None:
    first, second = (terminal.json("user", "setup-link") for _ in range(2))
    assert first["url"].endswith("/account/platform/setup")
    assert first["code"] != second["code"]
    waiting = terminal.json("user", "invitations", "--tenant", "platform")["items"]
    assert [one["id"] for one in waiting] == [second["invitation"]["id"]]
    assert "set-up" in terminal.text("user", "invitations", "--tenant", "platform")
