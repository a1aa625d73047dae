"""A power cut amid administration and calls: what was acknowledged is kept, and nothing runs on."""

import contextlib
import pathlib
import random
import threading
import time
from typing import Any

import httpx2
import pytest

from support import processes, wire
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_ROUNDS = 4
_LEAST = 20
"""More tenants, and more keys, than so many are made in all."""


class Work:
    """What clients do until the platform is gone, and what it acknowledged."""

    def __init__(self, platform: Platform, url: str, admin: str, user: str) -> None:
        self.base = platform.base_url
        self.operator = platform.operator_key
        self.url = url
        self.admin = admin
        self.user = user
        self.tenants: list[str] = []
        self.keys: list[str] = []
        self.revoked: list[str] = []
        self.deployed: list[str] = []
        self.called = 0

    def run(self, number: int) -> threading.Thread:
        """The client with this number works in the background until its connection breaks. One deploys."""
        kinds = [self._deploy, self._make_tenants, self._make_keys, self._call, self._make_tenants, self._make_keys]
        thread = threading.Thread(target=self._until_cut, args=(kinds[number], f"{number}-{len(self.tenants)}"))
        thread.start()
        return thread

    def _until_cut(self, work: Any, name: str) -> None:
        with httpx2.Client(timeout=120.0) as http, contextlib.suppress(httpx2.TransportError):
            for turn in range(10_000):
                work(http, f"{name}-{turn}")

    def _admin(self, http: httpx2.Client, method: str, path: str, body: Any = None, key: str = "") -> Any:
        bearer = {"authorization": f"Bearer {key or self.admin}"}
        answer = http.request(method, f"{self.base}/api/v1{path}", headers=bearer, json=body)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def _make_tenants(self, http: httpx2.Client, name: str) -> None:
        self._admin(http, "POST", "/tenants", {"id": f"t-{name}"}, self.operator)
        self.tenants.append(f"t-{name}")

    def _make_keys(self, http: httpx2.Client, name: str) -> None:
        made = self._admin(http, "POST", "/tenants/acme/keys", {"roles": ["mcp_user"], "label": name})
        self.keys.append(made["key"]["id"])
        if len(self.keys) % 2:
            self._admin(http, "DELETE", f"/tenants/acme/keys/{made['key']['id']}")
            self.revoked.append(made["key"]["id"])

    def _deploy(self, http: httpx2.Client, name: str) -> None:
        order = {"source": f"pypi:{wire.SCRIPTED}", "name": "tool"}
        operation = self._admin(http, "POST", "/tenants/acme/deployments", order)
        while operation["state"] == "running":
            time.sleep(0.02)  # the API has no event for it: a client asks again
            operation = self._admin(http, "GET", f"/tenants/acme/operations/{operation['id']}")
        assert operation["state"] == "succeeded", operation
        self.deployed.append(operation["deployment"])

    def _call(self, http: httpx2.Client, name: str) -> None:
        fields, body = wire.modern("tools/call", wire.call("echo", text=name))
        answer = http.post(self.url, headers={**fields, "authorization": f"Bearer {self.user}"}, content=body)
        assert answer.status_code == 200, answer.text
        self.called += 1


def _items(platform: Platform, path: str, key: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        page = platform.api("GET", f"{path}?limit=500{after}", key=key)
        found += page["items"]
        if page["next"] is None:
            return found
        after = f"&after={page['next']}"


@pytest.mark.requirement("gateway:crash:kept")
def test_nothing_that_was_acknowledged_is_lost_when_the_platform_is_killed(tmp_path: pathlib.Path) -> None:
    wire.wheel(tmp_path / "wheels")
    dice = random.Random(9)
    settings = {"SMCP_DEPLOY_WHEEL_DIRS": str(tmp_path / "wheels"), "SMCP_LIMITS_PRINCIPAL_PER_MINUTE": "1000000"}
    with Platform(tmp_path, {**settings, "SMCP_LIMITS_TENANT_PER_MINUTE": "1000000"}) as platform:
        platform.create_tenant("acme")
        admin, user = platform.create_key("acme", "admin"), platform.create_key("acme")
        platform.deploy("acme", f"pypi:{wire.SCRIPTED}", "tool", admin)
        work: Work | None = None
        for turn in range(_ROUNDS):
            url = f"{platform.base_url}/t/acme/tool/mcp"
            earlier, work = work, Work(platform, url, admin, user)
            if earlier is not None:
                work.tenants, work.keys, work.deployed = earlier.tenants, earlier.keys, earlier.deployed
                work.revoked = earlier.revoked
            threads = [work.run(number) for number in range(6)]
            time.sleep(dice.uniform(0.4, 3.0))  # any moment is as good as another
            least = _LEAST * (turn + 1) // _ROUNDS
            while any(thread.is_alive() for thread in threads) and not (
                # However slow the machine is, there is something to lose;
                (work.called and len(work.tenants) > least and len(work.keys) > least)
                # and once, a deployment has just been acknowledged.
                and (turn != _ROUNDS - 2 or work.deployed or not threads[0].is_alive())
            ):
                time.sleep(0.02)
            family = platform.family()
            platform.kill()
            for thread in threads:
                thread.join(150)
            assert work.called > 0
            assert processes.left(family, within_s=60.0) == set()
            platform.start()
            _all_there(platform, work, admin)
        assert work is not None
        assert len(work.tenants) > _LEAST
        assert len(work.keys) > _LEAST
        assert work.deployed


def _all_there(platform: Platform, work: Work, admin: str) -> None:
    tenants = {one["id"] for one in _items(platform, "/tenants", platform.operator_key)}
    assert set(work.tenants) - tenants == set()
    keys = {one["id"]: one for one in _items(platform, "/tenants/acme/keys", admin)}
    assert set(work.keys) - keys.keys() == set()
    assert [one for one in work.revoked if not keys[one]["revoked"]] == []
    deployments = {one["id"] for one in _items(platform, "/tenants/acme/servers/tool/deployments", admin)}
    assert set(work.deployed) - deployments == set()
    report = platform.api("POST", "/tenants/acme/audit/verify", key=admin)
    assert (report["ok"], report["problem"]) == (True, None)
    trail = _items(platform, "/tenants/acme/audit", admin)
    told = {(one["event"]["event"], one["event"].get("key") or one["event"].get("deployment")) for one in trail}
    assert {("key_created", key) for key in work.keys} - told == set()
    assert {("key_revoked", key) for key in work.revoked} - told == set()
    assert {("deploy_succeeded", one) for one in work.deployed} - told == set()
    fields, body = wire.modern("tools/call", wire.call("echo", text="again"))
    url = f"{platform.base_url}/t/acme/tool/mcp"
    answer = httpx2.post(url, headers={**fields, "authorization": f"Bearer {work.user}"}, content=body, timeout=120.0)
    assert answer.status_code == 200, answer.text
