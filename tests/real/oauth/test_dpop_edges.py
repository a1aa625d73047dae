"""DPoP at both edges of a platform that runs: the token endpoint, an MCP server, the admin API."""

import hashlib
import json
import secrets
import time
from typing import Any

import httpx2
import pytest
from joserfc import jwk, jws

from support import byoauth, idp, wire
from support.idp import House

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


class _Key:
    def __init__(self) -> None:
        self._key = jwk.ECKey.generate_key("P-256", auto_kid=False)

    def proof(self, method: str, url: str, token: str | None = None) -> str:
        said: dict[str, Any] = {"jti": secrets.token_urlsafe(16), "htm": method, "htu": url, "iat": int(time.time())}
        if token is not None:
            said["ath"] = byoauth.encoded(hashlib.sha256(token.encode()).digest())
        head = {"typ": "dpop+jwt", "alg": "ES256", "jwk": self._key.as_dict(private=False)}
        return jws.serialize_compact(head, json.dumps(said), self._key, algorithms=["ES256"])


async def _bound(house: House, http: httpx2.AsyncClient, key: _Key, resource: str, scope: str) -> str:
    """A token that works with `key`: the refresh of a login, with a proof."""
    issuer = house.issuer(http)
    client, got = await idp.login(house, issuer, "ada", resource, scope=scope)
    form: dict[str, str | None] = {"grant_type": "refresh_token", "refresh_token": got.refresh, "client_id": client}
    answer = await issuer.send("token", form, DPoP=key.proof("POST", issuer.at("token")))
    assert answer.json()["token_type"] == "DPoP", answer.text
    return answer.json()["access_token"]


@pytest.mark.requirement("oauth:dpop:edges")
async def test_a_server_takes_a_bound_token_with_a_fresh_proof_only(house: House, http: httpx2.AsyncClient) -> None:
    key, url = _Key(), house.gate.acme.url
    token = await _bound(house, http, key, url, "mcp:read mcp:call")

    async def ask(scheme: str, proof: str | None) -> int:
        fields, body = wire.modern("tools/list")
        shown = {} if proof is None else {"dpop": proof}
        headers = {**fields, "authorization": f"{scheme} {token}", **shown}
        return (await http.post(url, headers=headers, content=body)).status_code

    proof = key.proof("POST", url, token)
    assert await ask("DPoP", proof) == 200
    assert await ask("DPoP", proof) == 401  # a replay
    assert await ask("DPoP", key.proof("POST", url, token)) == 200
    assert await ask("Bearer", key.proof("POST", url, token)) == 401
    assert await ask("Bearer", None) == 401
    assert await ask("DPoP", None) == 401
    assert await ask("DPoP", key.proof("GET", url, token)) == 401
    assert await ask("DPoP", key.proof("POST", house.gate.second.url, token)) == 401
    assert await ask("DPoP", _Key().proof("POST", url, token)) == 401


@pytest.mark.requirement("oauth:dpop:edges")
async def test_the_admin_api_takes_a_bound_token_with_a_fresh_proof_only(
    house: House, http: httpx2.AsyncClient
) -> None:
    key, url = _Key(), f"{house.api}/tenants/acme"
    token = await _bound(house, http, key, house.api, "api:read")

    async def ask(scheme: str, proof: str | None) -> int:
        shown = {} if proof is None else {"dpop": proof}
        return (await http.get(url, headers={"authorization": f"{scheme} {token}", **shown})).status_code

    proof = key.proof("GET", url, token)
    assert await ask("DPoP", proof) == 200
    assert await ask("DPoP", proof) == 401
    assert await ask("Bearer", None) == 401
    assert await ask("DPoP", key.proof("POST", url, token)) == 401
    assert await ask("DPoP", key.proof("GET", url, token)) == 200
