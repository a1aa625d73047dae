"""The first minutes on a new platform, as a person spends them: `smcp up`, the page that it names in Chromium, and a
terminal that is logged in by a code on that page.

What is typed here was read off what a program printed, and the pages are used without a mouse. The platform is a real
one with a data directory of its own; nothing is in it.
"""

import asyncio
import json
import pathlib
import re
import sys
import urllib.parse
import zlib
from typing import Any

import httpx2
import pytest
from playwright import async_api

from real.up.test_up import Home
from smcp.kernel import ids
from support import chromium, storage, visitors

pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]

_SMCP = str(pathlib.Path(sys.executable).with_name("smcp"))
_WAIT_S = 300.0
_EMAIL = "olga@example.org"
_PASSWORD = "four unlikely words together"
_SECRET, _CHECKSUM = 32, 7
"""The last digits of a code (`identity.accounts.invitations`): what nobody can know, and what follows from the rest."""


class Terminal:
    """Another shell on the same machine, with profiles of its own."""

    def __init__(self, home: Home, folder: pathlib.Path) -> None:
        self._environ = {**home.environ, "SMCP_CONFIG": str(folder)}
        self.profiles = folder / "profiles.toml"

    async def start(self, *argv: str) -> asyncio.subprocess.Process:
        """A command that is not waited for."""
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            _SMCP, *argv, env=self._environ, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
        )

    async def run(self, *argv: str, code: int = 0) -> str:
        """What a command printed: on stdout, or on stderr where it is to fail with `code`."""
        process = await self.start(*argv)
        out, err = await asyncio.wait_for(process.communicate(), _WAIT_S)
        assert process.returncode == code, (out + err).decode()
        return (err if code else out).decode()


def _read(home: Home, *argv: str) -> Any:
    """The document that a command of the operator's key prints."""
    done = home.run(_SMCP, *argv, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _people(home: Home) -> list[dict[str, Any]]:
    """Everybody who has an account of the platform."""
    return list(_read(home, "user", "list", "--tenant", "platform")["items"])


def _printed(out: str) -> tuple[str, str]:
    """The page and the code for the first account, from the text for people. Each stands on a line of its own."""
    found = re.search(r"first operator's account, within a day: open\n(\S+)\nand type this code, [^\n]*\n(\S+)\n", out)
    assert found is not None, out
    return found[1], found[2]


def _guesses(code: str) -> list[str]:
    """What somebody might send who has no code: nothing, another one that is well formed, one for another tenant."""
    body = code[:-_CHECKSUM]
    other = body[:-1] + ("0" if body[-1] != "0" else "1")
    elsewhere = body.replace("_platform_", "_acme_")
    return ["", *(one + ids.base32(zlib.crc32(one.encode()), _CHECKSUM) for one in (other, elsewhere))]


async def _nobody_gets_in(base_url: str, code: str) -> None:
    """Whatever the code does is refused to who does not have it, on the page and over the API."""
    async with httpx2.AsyncClient(base_url=f"{base_url}/api/v1", timeout=_WAIT_S, trust_env=False) as http:
        for path, body in (
            ("/setup", {}),
            ("/tenants/platform/invitations", {"email": _EMAIL, "roles": ["operator"]}),
            ("/tenants/platform/keys", {"roles": ["operator"]}),
            ("/tenants", {"id": "acme"}),
        ):
            for header in ({}, {"Authorization": f"Bearer {code}"}):  # it is no credential either
                answer = await http.post(path, json=body, headers=header)
                assert answer.status_code == 401, (path, answer.text)
    async with visitors.Visitor(base_url, "platform") as nobody:
        for where in ("setup", "invite"):
            page = await nobody.open(f"/account/platform/{where}")
            for guess in _guesses(code):
                given = {"secret": guess, "email": _EMAIL, "name": "Eve", "password": _PASSWORD}
                answer = await nobody.send(visitors.form(page, f"/{where}"), given)
                assert answer.status_code == 400, answer.text
                assert "This code is not valid" in answer.text
        visitors.form(await nobody.open("/account/platform"), "/login")  # still nobody


async def _focused(page: async_api.Page, label: str) -> None:
    """The cursor is in the field with this label."""
    await page.get_by_label(label).and_(page.locator(":focus")).wait_for()


async def _fills_in(page: async_api.Page, where: str, code: str, email: str) -> None:
    """The form of the first account, by keyboard alone: the cursor is in its first field by itself."""
    await page.goto(where)
    fields = (("Set-up code", code), ("E-mail address", email), ("Your name", "Olga"), ("Choose a password", _PASSWORD))
    for label, text in fields:
        await _focused(page, label)
        await page.keyboard.type(text)
        await page.keyboard.press("Tab")
    await page.get_by_role("button", name="Make the account").and_(page.locator(":focus")).wait_for()
    await page.keyboard.press("Enter")


async def _shown(process: asyncio.subprocess.Process) -> tuple[str, str]:
    """The address and the code that `smcp login --device` shows."""
    assert process.stderr is not None
    said = ""
    while not (found := re.search(r"open (\S+) and enter the code:\n\n  (\S+)\n", said)):
        line = await asyncio.wait_for(process.stderr.readline(), _WAIT_S)
        assert line, said
        said += line.decode()
    return found[1], found[2]


async def _allows(page: async_api.Page, where: str, code: str) -> None:
    """Enter a device's code and allow what it asks for, by keyboard alone."""
    await page.goto(where)
    await _focused(page, "Code that it shows")
    await page.keyboard.type(code)
    await page.keyboard.press("Enter")
    await page.get_by_role("heading", name=re.compile("use the admin API")).wait_for()
    shown = await page.inner_text("main")
    assert code in shown
    assert _EMAIL in shown
    allow = page.get_by_role("button", name="Allow", exact=True)
    await allow.and_(page.locator(":enabled")).wait_for()
    reached = ""
    for _ in range(10):
        await page.keyboard.press("Tab")
        reached = await page.evaluate("document.activeElement.innerText.trim()")
        if reached == "Allow":
            break
    assert reached == "Allow"
    await page.keyboard.press("Enter")
    await page.get_by_role("heading", name="Connected", exact=True).wait_for()


async def _works_until_logged_out(terminal: Terminal, base_url: str) -> None:
    """A login is the person: it may what an operator may, and its end is the end."""
    me = json.loads(await terminal.run("whoami", "--json"))
    assert (me["kind"], me["tenant"], me["client"], me["roles"]) == ("user", "platform", "smcp-cli", ["operator"])
    await terminal.run("tenant", "create", "acme")
    listed = json.loads(await terminal.run("tenant", "list", "--json"))
    assert [one["id"] for one in listed["items"]] == ["acme"]
    kept = terminal.profiles.read_text("utf-8")
    assert "Logged out" in await terminal.run("logout")
    assert "There is no profile yet" in await terminal.run("whoami", code=2)
    terminal.profiles.write_text(kept, "utf-8")  # whoever copied the login before has nothing
    refused = await terminal.run("whoami", code=4)
    assert "has ended or was revoked" in refused
    assert f"smcp login {base_url} --tenant platform" in refused


async def _kept(home: Home) -> str:
    """All that a platform which has ended has kept of its own people, trail and log, unsealed with its root key."""
    found: list[bytes] = []
    async with storage.opened(home.data) as store:
        platform = store.tenant(ids.PLATFORM)
        async for entry in platform.kv.snapshot():
            found += ["\0".join(map(str, entry.key)).encode(), entry.value]
        for stream in await platform.log.streams(()):
            after = 0
            while page := await platform.log.read(stream, after=after):
                found += [one.data for one in page]
                after = page[-1].position
    return b"\n".join(found).decode("utf-8", "replace")


async def _told_nowhere(home: Home, code: str, *others: str) -> None:
    """Of a platform that has ended: the part of the code that nobody else must know is in no file, sealed or not.

    `others` is what is there: whoever looks would find it.
    """
    secret = code[:-_CHECKSUM][-_SECRET:]
    files = [path for folder in (home.data, home.profiles.parent) for path in folder.rglob("*") if path.is_file()]
    assert home.profiles in files
    assert not [path for path in files if secret.encode() in path.read_bytes()]
    kept = await _kept(home)
    for other in others:
        assert other in kept
    assert secret not in kept


async def _becomes_operator(page: async_api.Page, late: async_api.Page, home: Home, where: str, code: str) -> None:
    """The first account is made on `page`, once: on `late`, in a browser of its own, the code is worth nothing."""
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    await _fills_in(page, where, code, _EMAIL)
    await page.get_by_role("heading", name="Your account").wait_for()
    assert "Your account is made" in await page.get_by_role("status").inner_text()
    assert not [one for one in urls if code in urllib.parse.unquote(one)]
    people = _people(home)
    assert [(one["email"], one["roles"]) for one in people] == [(_EMAIL, ["operator"])]
    await _fills_in(late, where, code, "eve@example.org")
    assert "This code is not valid" in await late.get_by_role("alert").inner_text()
    assert "has an account already" in home.run(_SMCP, "user", "setup-link").stderr
    assert _people(home) == people


async def _logs_in(page: async_api.Page, terminal: Terminal, base_url: str) -> None:
    """`smcp login --device`, answered in a browser that is signed in."""
    login = await terminal.start("login", base_url, "--tenant", "platform", "--device")
    where, code = await _shown(login)
    await _allows(page, where, code)
    out, err = await asyncio.wait_for(login.communicate(), _WAIT_S)
    assert login.returncode == 0, err.decode()
    assert "Logged in" in out.decode()


@pytest.mark.requirement("up:first:operator", "oauth:people:setup", "oauth:attacks:no-default", "oauth:proof:cli")
async def test_the_printed_code_makes_the_first_operator_once_and_she_logs_a_terminal_in(
    tmp_path: pathlib.Path,
) -> None:
    home = Home(tmp_path)
    terminal = Terminal(home, tmp_path / "terminal")
    base_url = f"http://127.0.0.1:{home.port}"
    with home.up("--no-demo") as up:
        where, code = _printed(up.out)
        assert where == f"{base_url}/account/platform/setup"
        await _nobody_gets_in(base_url, code)
        assert _people(home) == []
    await _told_nowhere(home, code, "user_invited")
    # What was written down is good after a restart, which shows no other code.
    with home.up("--no-demo") as again:
        async with chromium.opened() as browser:
            page = await chromium.tab(browser)
            canary = chromium.Canary(page, base_url)
            await _becomes_operator(page, await chromium.tab(browser), home, where, code)
            await _logs_in(page, terminal, base_url)
            await _works_until_logged_out(terminal, base_url)
            assert canary.seen == []
        trail = _read(home, "audit", "show", "--tenant", "platform", "--limit", "1000")
    await _told_nowhere(home, code, _EMAIL, "user_created")
    kinds = [one["event"]["event"] for one in trail["items"]]
    assert [kinds.count(one) for one in ("user_invited", "user_created", "signed_in")] == [1, 1, 1]
    assert "sign_in_failed" in kinds
    said = up.out + up.err + again.out + again.err
    assert (said.count(code), said.count("smci_")) == (1, 1)
    assert code[:-_CHECKSUM][-_SECRET:] not in json.dumps(trail)
