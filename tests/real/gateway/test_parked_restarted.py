"""Calls that wait for their client, and a platform that is killed."""

import pathlib
from collections.abc import Callable

import pytest

from support import gates, upward, wire
from support.clients import Endpoint
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


@pytest.mark.requirement("attack:mrtr:request-state")
async def test_a_state_from_before_a_restart_names_nothing_and_the_next_request_makes_a_new_session(
    tmp_path: pathlib.Path, caller: Callable[[Endpoint], wire.Caller]
) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wire.wheel(wheels)
    home = tmp_path / "home"
    home.mkdir()
    question: wire.Json = {"method": "roots/list"}
    with Platform(home, {**gates.SETTINGS, "SMCP_DEPLOY_WHEEL_DIRS": str(wheels)}) as platform:
        platform.create_tenant("acme")
        admin, key = platform.create_key("acme", "admin"), platform.create_key("acme")
        url = platform.deploy("acme", f"pypi:{wire.SCRIPTED}", "older", admin, 'era = "legacy"\n')
        asked = await upward.Modern(caller(Endpoint(url, key))).call("quiz", questions=[question])
        platform.kill()
        platform.start()
        again = upward.Modern(caller(Endpoint(f"{platform.base_url}/t/acme/older/mcp", key)))
        none: wire.Json = {"roots": []}
        carried = upward.retry(asked, **{"roots-1": none})
        late = await again.call("quiz", carried, questions=[question])
        assert late["error"]["code"] == -32602
        assert "Send the request again" in late["error"]["message"]
        anew = await again.call("quiz", questions=[question])
        done = await again.call("quiz", upward.retry(anew, **{"roots-1": none}), questions=[question])
        assert wire.said(done) == [none]
