"""Attacks on sessions of MCP: what somebody opened by a token outlives neither them nor the client."""

import asyncio
from collections.abc import Callable

import httpx2
import pytest

from support import byoauth, idp, wire
from support.clients import Endpoint
from support.idp import House

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

Make = Callable[[Endpoint], wire.Caller]


async def _ended(house: House, actor: str) -> list[str]:
    """Why the one session of `actor` has ended, from the trail, which is written in batches."""
    for _ in range(600):
        told = [entry["event"] for entry in house.platform.audit("acme", key=house.gate.admin)]
        why = [one["why"] for one in told if one["event"] == "session_ended" and one["actor"] == actor]
        if why:
            return why
        await asyncio.sleep(0.1)
    return []


@pytest.mark.requirement("oauth:sessions:revoked")
@pytest.mark.parametrize("ends", ["user", "client"])
async def test_a_session_ends_with_the_person_and_with_the_client_before_anybody_asks(
    house: House, http: httpx2.AsyncClient, caller: Make, ends: str
) -> None:
    issuer, platform = house.issuer(http), house.platform
    client = str((await issuer.register(client_name=f"Ends with its {ends}"))["client_id"])
    attempt = issuer.begin(client, house.gate.acme.url)
    async with await idp.invite(platform, "acme", f"ends-{ends}@acme.example", "mcp_user") as visitor:
        came = await visitor.agree(attempt.address)
    pair = byoauth.pair(await issuer.redeem(attempt, came["code"]))
    mine = caller(idp.at(house.gate.acme, pair))
    session = await mine.open()
    assert (await mine.legacy(session, "tools/list")).status_code == 200
    person = str(byoauth.parts(pair.access)[1]["sub"])
    if ends == "user":
        platform.api("POST", f"/tenants/acme/users/{person}/disable", key=house.gate.admin)
    else:
        platform.api("DELETE", f"/tenants/acme/clients/{client}", key=house.gate.admin)
    assert await _ended(house, person) == ["revoked"]
    assert (await mine.legacy(session, "tools/list")).status_code == 401
