"""`smcp login` with a person in Chromium: through this machine's browser, and by a code on another one."""

import asyncio
import json
import os
import pathlib
import sys
import tomllib
from typing import Any

import pytest

from support import agents
from support.idp import House

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_SMCP = pathlib.Path(sys.executable).with_name("smcp")
_WAIT_S = 120.0


class _Terminal:
    """A shell of somebody's, with profiles of its own and no browser."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SMCP_")}
        self._environ = {**clean, "SMCP_CONFIG": str(folder)}

    async def start(self, *argv: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            _SMCP, *argv, "--json", env=self._environ, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
        )

    async def run(self, *argv: str, code: int = 0) -> Any:
        process = await self.start(*argv)
        out, err = await asyncio.wait_for(process.communicate(), _WAIT_S)
        assert process.returncode == code, err.decode()
        return json.loads(out if code == 0 else err)

    def profile(self, name: str) -> dict[str, Any]:
        return dict(tomllib.loads((self.folder / "profiles.toml").read_text("utf-8"))[name])


async def _asked(process: asyncio.subprocess.Process) -> dict[str, str]:
    assert process.stderr is not None
    line = await asyncio.wait_for(process.stderr.readline(), _WAIT_S)
    return dict(json.loads(line))


async def _ended(process: asyncio.subprocess.Process) -> Any:
    out, err = await asyncio.wait_for(process.communicate(), _WAIT_S)
    assert process.returncode == 0, err.decode()
    return json.loads(out)


@pytest.mark.requirement("oauth:proof:cli")
async def test_somebody_logs_in_with_a_browser_uses_the_api_and_logs_out(house: House, tmp_path: pathlib.Path) -> None:
    terminal = _Terminal(tmp_path / "config")
    async with agents.person(house.people["ada"][1]) as agent:
        login = await terminal.start("login", house.base_url, "--tenant", "acme", "--no-browser")
        await agent.answer((await _asked(login))["open"])
        await agent.page.get_by_text("Close this window").first.wait_for()
        assert (await _ended(login))["profile"] == "acme"
    me = await terminal.run("whoami")
    assert (me["kind"], me["tenant"], me["client"]) == ("user", "acme", "smcp-cli")


@pytest.mark.requirement("oauth:proof:cli")
async def test_a_login_by_code_is_renewed_when_its_token_has_ended_and_logout_ends_it(
    house: House, tmp_path: pathlib.Path
) -> None:
    terminal = _Terminal(tmp_path / "config")
    async with agents.person(house.people["ada"][1]) as agent:
        login = await terminal.start("login", house.base_url, "--tenant", "acme", "--device")
        shown = await _asked(login)
        await agent.enter_code(shown["verification_uri"], shown["user_code"])
        await _ended(login)
    first = terminal.profile("acme")
    assert {"access", "refresh", "expires"} < first.keys()
    file = tmp_path / "config" / "profiles.toml"
    file.write_text(file.read_text("utf-8").replace(f"expires = {first['expires']}", "expires = 0"))
    done = await asyncio.gather(*(terminal.run("whoami", "--profile", "acme") for _ in range(4)))
    assert {(one["kind"], one["client"], tuple(one["roles"])) for one in done} == {("user", "smcp-cli", ("admin",))}
    renewed = terminal.profile("acme")
    assert renewed["refresh"] != first["refresh"]
    assert renewed["expires"] > 0
    called = await terminal.run("call", "acme/tool", "do", '{"act": "echo", "text": "hello"}')
    assert "hello" in json.dumps(called)
    before = file.read_text("utf-8")
    assert (await terminal.run("logout", "--profile", "acme")) == {"profile": "acme", "revoked": True}
    file.write_text(before)
    refused = await terminal.run("whoami", "--profile", "acme", code=4)
    assert "login" in refused["error"]["message"].lower()


@pytest.mark.requirement("oauth:proof:cli")
async def test_who_says_no_leaves_no_login(house: House, tmp_path: pathlib.Path) -> None:
    terminal = _Terminal(tmp_path / "config")
    async with agents.person(house.people["bob"][1]) as agent:
        login = await terminal.start("login", house.base_url, "--tenant", "acme", "--no-browser")
        await agent.answer((await _asked(login))["open"], "deny")
        out, err = await asyncio.wait_for(login.communicate(), _WAIT_S)
    assert login.returncode == 4, out
    assert "declined" in err.decode()
    assert not (tmp_path / "config" / "profiles.toml").exists()
