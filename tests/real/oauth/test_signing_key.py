"""A tenant's signing key has leaked: an administrator ends it, and nobody has to log in again."""

import httpx2
import pytest

from support import byoauth, idp, wire
from support.idp import House

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_ROTATE = ("tenant", "rotate-signing-key", "acme")


@pytest.mark.requirement("oauth:signing:command", "oauth:signing:leak")
async def test_after_a_leak_one_command_ends_every_access_token_and_no_login(
    house: House, http: httpx2.AsyncClient
) -> None:
    issuer, platform = house.issuer(http), house.platform
    client, pair = await idp.login(house, issuer, "ada", house.gate.acme.url)

    async def status(token: str) -> int:
        fields, body = wire.modern("tools/list")
        bearer = {"Authorization": f"Bearer {token}"}
        return (await http.post(house.gate.acme.url, headers={**fields, **bearer}, content=body)).status_code

    leaked = byoauth.parts(pair.access)[0]["kid"]
    assert await status(pair.access) == 200
    kept = platform.smcp(*_ROTATE, key=house.gate.admin)
    assert (kept["applied"], leaked in kept["kept"]) == (True, True)
    assert await status(pair.access) == 200
    would = platform.smcp(*_ROTATE, "--now", "--dry-run", key=house.gate.admin)
    assert (would["applied"], {leaked, kept["key"]} <= set(would["ended"])) == (False, True)
    platform.smcp(*_ROTATE, "--now", key=house.gate.admin, code=2)  # nobody was there to say yes
    assert await status(pair.access) == 200
    done = platform.smcp(*_ROTATE, "--now", "--yes", key=house.gate.admin)
    assert set(done["ended"]) == set(would["ended"])
    assert await status(pair.access) == 401
    shown = (await http.get(issuer.at("jwks"))).json()["keys"]
    assert [one["kid"] for one in shown] == [done["key"]]
    renewed = byoauth.pair(await issuer.refresh(client, pair.refresh))
    assert await status(renewed.access) == 200
    told = [entry["event"] for entry in platform.audit("acme", key=house.gate.admin)]
    assert any(one["event"] == "signing_key_rotated" and leaked in one["ended"] for one in told)
