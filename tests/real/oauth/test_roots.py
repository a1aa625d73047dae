"""A client of MCP 2025-03-26: it knows no resource metadata, and looks for its server at the root of the origin."""

import urllib.parse

import httpx2
import pytest

from support import byoauth, idp, wire
from support.idp import House

pytestmark = pytest.mark.real


@pytest.mark.requirement("oauth:metadata:root", "oauth:resource:derived")
async def test_a_client_that_knows_only_the_root_of_the_origin_logs_in_and_calls(
    house: House, http: httpx2.AsyncClient
) -> None:
    async def found(name: str) -> httpx2.Response:
        # MCP 2025-03-26, Authorization, 2.3.2: the path of the server's address is discarded.
        fields = {"Host": name, "MCP-Protocol-Version": "2025-03-26"}
        return await http.get(f"{house.base_url}/.well-known/oauth-authorization-server", headers=fields)

    shared = await found(urllib.parse.urlsplit(house.base_url).netloc)
    assert (shared.status_code, "error" in shared.json()) == (404, True)
    told = (await found(idp.UMBRA)).json()
    assert told["issuer"] == f"{house.base_url}/t/umbra"
    order = {"redirect_uris": [byoauth.LOOPBACK], "token_endpoint_auth_method": "none"}
    client = (await http.post(told["registration_endpoint"], json=order)).json()["client_id"]
    issuer = house.issuer(http, "umbra")
    attempt = issuer.begin(client, None)
    assert attempt.address.startswith(f"{told['authorization_endpoint']}?")
    async with house.visitor("eve") as visitor:
        came = await visitor.agree(attempt.address)
    pair = byoauth.pair(await issuer.redeem(attempt, came["code"]))

    async def status(url: str) -> int:
        fields, body = wire.legacy(None, "initialize", wire.hello("2025-03-26"))
        bearer = {"Authorization": f"Bearer {pair.access}"}
        return (await http.post(url, headers={**fields, **bearer}, content=body)).status_code

    assert await status(house.gate.umbra.url) == 200
    assert await status(house.gate.acme.url) == 401
