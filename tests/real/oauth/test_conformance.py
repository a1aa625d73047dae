"""The official conformance suite: its leg for authorization servers, and its server leg with an access token."""

import asyncio
import json
import os
import pathlib
import re

import httpx2
import pytest

from support import agents, byoauth, idp, node, ports, suite
from support.builds import Builds
from support.clients import Endpoint
from support.idp import House
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

_WAIT_S = 120.0
_PACKAGE = node.MODULES / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
_SCENARIOS = {"authorization-server-metadata-endpoint", "authorization-code-grant"}


@pytest.mark.requirement("oauth:proof:conformance")
async def test_the_suites_authorization_leg_passes_with_a_person_in_chromium(
    house: House, http: httpx2.AsyncClient, tmp_path: pathlib.Path
) -> None:
    issuer = house.issuer(http)
    port = ports.free()
    uris = [f"http://127.0.0.1:{port}/callback"]
    client = await idp.client(house, issuer, "Conformance suite", redirect_uris=uris)
    await asyncio.to_thread(node.ensure)
    async with agents.person(house.people["ada"][1]) as agent:
        process = await asyncio.create_subprocess_exec(
            node.program(),
            _PACKAGE,
            *("authorization", "--url", issuer.name, "--client-id", client, "--resource", house.gate.acme.url),
            *("--port", str(port), "-o", str(tmp_path)),
            cwd=node.CLIENTS,
            env=dict(os.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert process.stdout is not None
        said = ""
        try:
            while line := await asyncio.wait_for(process.stdout.readline(), _WAIT_S):
                said += line.decode()
                if found := re.match(rf"({re.escape(issuer.at('authorize'))}\?\S+)", line.decode()):
                    await agent.answer(found[1])
            assert await asyncio.wait_for(process.wait(), _WAIT_S) == 0, said
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    checks = await asyncio.to_thread(_checks, tmp_path)
    assert len(checks) == 3, (checks, said)
    assert {status for status, _ in checks.values()} == {"SUCCESS"}, checks
    assert len(agent.asked) == 1


def _checks(folder: pathlib.Path) -> dict[str, tuple[str, str | None]]:
    return {
        check["id"]: (check["status"], check.get("errorMessage"))
        for file in folder.glob("*/checks.json")
        for check in json.loads(file.read_text("utf-8"))
    }


@pytest.mark.requirement("oauth:proof:conformance")
@pytest.mark.parametrize(
    "run",
    [one for one in suite.RUNS if one.build == "dual" and one.revision >= "2025-11-25"],
    ids=suite.name,
)
def test_the_server_suites_pass_with_an_access_token(platform: Platform, builds: Builds, run: suite.Run) -> None:
    url = builds[run.build].url
    token = asyncio.run(_token(platform, url, f"{run.revision}@builds.example"))
    suite.holds(run, Endpoint(url, token), "stdio")


async def _token(platform: Platform, url: str, email: str) -> str:
    async with (
        httpx2.AsyncClient(timeout=60.0) as http,
        await idp.invite(platform, "builds", email, "mcp_user") as person,
    ):
        issuer = byoauth.Issuer(http, platform.base_url, "builds")
        client = str((await issuer.register(client_name="Conformance suite"))["client_id"])
        attempt = issuer.begin(client, url)
        return byoauth.pair(await issuer.redeem(attempt, (await person.agree(attempt.address))["code"])).access


@pytest.mark.requirement("oauth:proof:conformance")
def test_the_suite_has_the_scenarios_that_are_run() -> None:
    listed = node.run(_PACKAGE, "list", "--authorization").stdout
    assert set(re.findall(r"^\s+- ([a-z-]+)", listed, re.MULTILINE)) == _SCENARIOS
