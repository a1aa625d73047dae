"""Egress of a server that is really hosted: from its manifest to its log."""

import pathlib

import httpx2
import pytest

from support import netcell, wire
from support.clients import Endpoint
from support.platform import Platform

pytestmark = pytest.mark.real


@pytest.mark.requirement("sandbox:egress:manifest", "sandbox:egress:verdicts")
async def test_a_hosted_server_reaches_what_its_manifest_names_and_its_log_tells_the_rest(
    tmp_path: pathlib.Path, site: int
) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wire.wheel(wheels)
    environ = {
        "SMCP_DEPLOY_WHEEL_DIRS": str(wheels),
        "SMCP_EGRESS_HOSTS": "allowed.example=127.0.0.1",
        "SMCP_EGRESS_ALLOWED_NETWORKS": ",".join(netcell.LOOPBACK),
    }
    with Platform(tmp_path, environ) as platform:
        platform.create_tenant("acme")
        admin, user = platform.create_key("acme", "admin"), platform.create_key("acme")
        source = f"pypi:{wire.SCRIPTED}"
        manifest = f'egress = ["allowed.example:{site}"]'
        with_egress = Endpoint(platform.deploy("acme", source, "reaching", admin, manifest), user)
        without = Endpoint(platform.deploy("acme", source, "closed", admin), user)
        async with httpx2.AsyncClient(timeout=60) as http:
            reaching, closed = wire.Caller(http, with_egress), wire.Caller(http, without)
            allowed = await reaching.act("fetch", url=f"http://allowed.example:{site}/")
            evil = await reaching.act("fetch", url="http://evil.example/")
            own = await reaching.act("fetch", url=f"http://127.0.0.1:{site}/")
            none = await closed.act("fetch", url=f"http://allowed.example:{site}/")
        told = str(platform.api("GET", "/tenants/acme/servers/reaching/logs", key=admin))
    assert allowed == "hello"
    assert evil.startswith("failed: ")
    assert own.startswith("failed: ")
    assert none.startswith("failed: ")
    assert f"[smcp] egress allowed: allowed.example:{site} → 127.0.0.1" in told
    assert "[smcp] egress refused: evil.example (not in the manifest's egress)" in told
    assert f"[smcp] egress refused: 127.0.0.1:{site} (not in the manifest's egress)" in told
