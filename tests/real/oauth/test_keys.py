"""Clients whose keys stand at an address (`jwks_uri`), over the wire: they sign, rotate, and lead nowhere."""

import asyncio
import secrets
import time
from typing import Any

import httpx2
import pytest
from joserfc import jwk, jwt

from support import byoauth
from support.idp import House

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_TURN_S = 240.0
"""In which a new key counts: it is looked for once a minute."""


def _signed(issuer: byoauth.Issuer, client: str, key: jwk.ECKey, kid: str) -> dict[str, str]:
    now = int(time.time())
    claims = {"iss": client, "sub": client, "aud": issuer.name, "exp": now + 60, "jti": secrets.token_urlsafe(16)}
    said = jwt.encode({"alg": "ES256", "kid": kid}, claims, key)
    return {"client_assertion_type": _TYPE, "client_assertion": said}


def _set(key: jwk.ECKey, kid: str) -> dict[str, Any]:
    return {"keys": [{**key.as_dict(private=False), "kid": kid}]}


@pytest.mark.requirement("oauth:keys:document", "oauth:keys:rotated")
async def test_a_client_with_a_document_signs_with_the_keys_that_it_names_and_rotates_them(
    house: House, http: httpx2.AsyncClient
) -> None:
    old, new = jwk.ECKey.generate_key("P-256"), jwk.ECKey.generate_key("P-256")
    house.documents.show("/signer-keys", _set(old, "old"))
    uri = house.documents.url("/signer-keys")
    client = house.documents.client("/signer", token_endpoint_auth_method="private_key_jwt", jwks_uri=uri)
    issuer = house.issuer(http)
    attempt = issuer.begin(client, house.gate.acme.url)
    async with house.visitor("ada") as visitor:
        code = (await visitor.agree(attempt.address))["code"]
    # Without a proof, and with another key in the name of the right one, the code is nothing, and stays good.
    for proof in ({}, _signed(issuer, client, new, "old")):
        assert byoauth.refusal(await issuer.redeem(attempt, code, **proof)) == "invalid_client"
    pair = byoauth.pair(await issuer.redeem(attempt, code, **_signed(issuer, client, old, "old")))
    [fields] = [fields for path, fields in house.documents.asked if path == "/signer-keys"]
    assert not {"cookie", "authorization", "origin", "referer"} & fields.keys()

    house.documents.show("/signer-keys", _set(new, "new"))
    async with asyncio.timeout(_TURN_S):
        # The set was read less than a minute ago: until then the new key is none.
        while True:
            answer = await issuer.refresh(client, pair.refresh, **_signed(issuer, client, new, "new"))
            if answer.status_code == 200:
                break
            assert byoauth.refusal(answer) == "invalid_client"
            await asyncio.sleep(5)
    again = byoauth.pair(answer)
    # And the old one is none from that moment on; the login stands.
    said = await issuer.refresh(client, again.refresh, **_signed(issuer, client, old, "old"))
    assert byoauth.refusal(said) == "invalid_client"
    byoauth.pair(await issuer.refresh(client, again.refresh, **_signed(issuer, client, new, "new")))


@pytest.mark.requirement("oauth:keys:guarded", "oauth:attacks:ssrf")
async def test_keys_that_are_said_to_be_inside_are_not_asked_for(house: House, http: httpx2.AsyncClient) -> None:
    """The operator has opened this very network, for what tenants have deployed: not for whoever registers."""
    dialled: list[str] = []
    heard = asyncio.Event()

    async def came(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dialled.append(str(writer.get_extra_info("peername")))
        heard.set()
        writer.close()

    house.platform.create_tenant("keyless")
    issuer, key = house.issuer(http, "keyless"), jwk.ECKey.generate_key("P-256")
    async with await asyncio.start_server(came, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        hosts = (f"127.0.0.1:{port}", f"localhost:{port}", f"0.0.0.0:{port}", "10.1.2.3", "169.254.169.254",
                 "inner.client.example", "cloud.client.example")  # fmt: skip
        for host in hosts:
            said = {"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": f"https://{host}/keys"}
            client = str((await issuer.register(**said))["client_id"])
            form = {"grant_type": "authorization_code", "code": "x", **_signed(issuer, client, key, "k")}
            answer = await issuer.send("token", dict(form))
            assert (answer.status_code, byoauth.refusal(answer)) == (401, "invalid_client"), host
            # The same words as for a wrong signature: nothing is told of what is inside.
            assert answer.json()["error_description"] == "The client is unknown, or did not prove who it is."
        assert dialled == []
        # It can be reached: not that nobody could have heard.
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        await heard.wait()
        writer.close()
