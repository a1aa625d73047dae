"""The store is away: every credential that was good a moment ago gets 503, and nobody gets a stale yes.

The platform's disk really takes nothing any more: its process may write no byte to a file (RLIMIT_FSIZE, setrlimit(2)),
so SQLite meets an I/O error, after which nobody knows what reached the disk. Reading goes on to work, and everything
that was asked before is in memory: the ways on which a yes would come that nobody can vouch for.
"""

import os
import pathlib
import subprocess
import time
from collections.abc import Awaitable, Callable

import httpx2
import pytest

from support import byoauth, idp, visitors, wire
from support.clients import Endpoint
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_NODE = " -m smcp.app.node "
_AWAY_S = 120.0
_EMAIL = "ada@acme.example"

Ask = Callable[[], Awaitable[httpx2.Response]]


class _Holder:
    """Everything that somebody holds, and what it is good for."""

    def __init__(self, http: httpx2.AsyncClient, at: Endpoint, issuer: byoauth.Issuer, ada: visitors.Visitor) -> None:
        self._http = http
        self._at = at
        self._issuer = issuer
        self._ada = ada
        self.client = ""
        self.machine: dict[str, str | None] = {}
        self.tool = byoauth.Pair("", "", {})
        self.api = byoauth.Pair("", "", {})

    async def login(self, machine: dict[str, str | None]) -> None:
        """A token for the server, and one for the admin API. `machine`: what a client shows that acts as itself."""
        self.machine = machine
        self.client = str((await self._issuer.register())["client_id"])
        self.tool = await self._agreed(self._at.url, byoauth.SCOPES)
        self.api = await self._agreed(f"{self._issuer.base_url}/api/v1", "api:read")

    async def _agreed(self, resource: str, scope: str) -> byoauth.Pair:
        attempt = self._issuer.begin(self.client, resource, scope=scope)
        came = await self._ada.agree(attempt.address)
        return byoauth.pair(await self._issuer.redeem(attempt, came["code"]))

    async def call(self, credential: str) -> httpx2.Response:
        """Ask the hosted server for its tools."""
        fields, body = wire.modern("tools/list")
        return await self._http.post(
            self._at.url, headers={**fields, "Authorization": f"Bearer {credential}"}, content=body
        )

    async def whoami(self, credential: str) -> httpx2.Response:
        """Ask the admin API."""
        url = f"{self._issuer.base_url}/api/v1/whoami"
        return await self._http.get(url, headers={"Authorization": f"Bearer {credential}"})

    async def page(self, path: str = "") -> httpx2.Response:
        """A page for who is signed in."""
        return await self._ada.open(f"/account/acme{path}")

    async def introspect(self) -> httpx2.Response:
        """Ask whether the access token is good (RFC 7662)."""
        return await self._issuer.send("introspect", {**self.machine, "token": self.tool.access})

    def good(self) -> dict[str, Ask]:
        """What answers 200 while the store is there, and changes nothing."""
        return {
            "a token at the server": lambda: self.call(self.tool.access),
            "a key at the server": lambda: self.call(self._at.key),
            "a token at the admin API": lambda: self.whoami(self.api.access),
            "a key at the admin API": lambda: self.whoami(self._at.key),
            "introspection": self.introspect,
            "the account page": self.page,
            "the sessions page": lambda: self.page("/sessions"),
        }

    def changing(self) -> dict[str, Ask]:
        """What would change something: it must not seem to have."""
        again = self._issuer.begin(self.client, self._at.url)
        return {
            "a refresh": lambda: self._issuer.refresh(self.client, self.tool.refresh),
            "a machine": lambda: self._issuer.send(
                "token", {**self.machine, "grant_type": "client_credentials", "resource": self._at.url}
            ),
            "a code": lambda: self._issuer.redeem(again, "smcp_code_acme_none"),
            # RFC 7009, 2.2.1: the client must assume that the token still exists.
            "a revocation": lambda: self._issuer.revoke(self.client, self.tool.refresh),
            "an authorization": lambda: self._ada.open(again.address),
            "a device": lambda: self._issuer.send(
                "device_authorization", {"client_id": self.client, "resource": self._at.url}
            ),
            "a registration": lambda: self._http.post(self._issuer.at("register"), json={
                "redirect_uris": [byoauth.LOOPBACK], "token_endpoint_auth_method": "none"
            }),
        }  # fmt: skip


def _machine(platform: Platform) -> dict[str, str | None]:
    order = {"name": "nightly report", "roles": ["mcp_user"], "auth_method": "client_secret_post"}
    made = platform.api("POST", "/tenants/acme/clients", order)
    return {"client_id": made["client"]["id"], "client_secret": made["secret"]}


def _take_the_disk(platform: Platform) -> None:
    """From now on each write of the platform's process fails; what is stored can still be read."""
    (node,) = [one.pid for one in platform.family() if _NODE in one.command]
    owner = pathlib.Path(f"/proc/{node}").stat()
    argv = ["prlimit", f"--pid={node}", "--fsize=0:"]
    if os.geteuid() == 0:  # root in a container may lack the capability to do this to others (prlimit(2))
        subprocess.run(argv, check=True, user=owner.st_uid, group=owner.st_gid, extra_groups=())
    else:
        subprocess.run(argv, check=True)
    order = {"roles": ["mcp_user"], "label": "the write that fails"}
    url, bearer = f"{platform.base_url}/api/v1", {"Authorization": f"Bearer {platform.operator_key}"}
    assert httpx2.post(f"{url}/tenants/acme/keys", json=order, headers=bearer, timeout=60.0).status_code == 503
    deadline = time.monotonic() + _AWAY_S
    # Whichever file met the error first, that of the keys or that of the trail. (The trail alone is away before.)
    while "store" not in _failing(platform):
        assert time.monotonic() < deadline, platform.story()
        time.sleep(0.05)  # it is told by nothing else


def _failing(platform: Platform) -> list[str]:
    answer = httpx2.get(f"{platform.base_url}/readyz", timeout=60.0)
    return [] if answer.status_code == 200 else list(answer.json()["error"]["data"]["failed"])


async def _statuses(asked: dict[str, Ask]) -> dict[str, int]:
    return {name: (await ask()).status_code for name, ask in asked.items()}


@pytest.mark.requirement("oauth:proof:store-away")
async def test_while_the_store_is_away_no_token_key_or_session_is_good_for_anything(tmp_path: pathlib.Path) -> None:
    wire.wheel(tmp_path / "wheels")
    with Platform(tmp_path, {**idp.SETTINGS, "SMCP_DEPLOY_WHEEL_DIRS": str(tmp_path / "wheels")}) as platform:
        at = platform.host("acme", (f"pypi:{wire.SCRIPTED}", "tool"))["tool"]
        async with (
            httpx2.AsyncClient(timeout=60.0, trust_env=False) as http,
            await idp.invite(platform, "acme", _EMAIL, "admin") as ada,
        ):
            holder = _Holder(http, at, byoauth.Issuer(http, platform.base_url, "acme"), ada)
            before = platform.base_url
            await holder.login(_machine(platform))
            answers = await _statuses(holder.good())
            assert answers == dict.fromkeys(answers, 200)
            _take_the_disk(platform)
            for _ in range(2):
                answers = await _statuses({**holder.good(), **holder.changing()})
                assert answers == dict.fromkeys(answers, 503)
            refused = await holder.page()
            assert refused.headers["content-type"].startswith("text/html")
            told = (await holder.changing()["a refresh"]()).json()
            assert told["error"] == "temporarily_unavailable"
            # With a disk again, after a restart, nothing was lost. (Its port is another one, and so are its issuers.)
            platform.kill()
            platform.start()
            url = at.url.replace(before, platform.base_url)
            again = _Holder(http, Endpoint(url, at.key), byoauth.Issuer(http, platform.base_url, "acme"), ada)
            assert (await again.call(at.key)).status_code == 200
            page = await ada.open(f"{platform.base_url}/account/acme/sessions")
            assert (page.status_code, "this one" in page.text) == (200, True), page.text
