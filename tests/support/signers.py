"""OAuth clients that sign (`private_key_jwt`) with keys that stand at an address (`jwks_uri`)."""

from typing import Any, Final

from joserfc import jwk, jwt

from smcp.identity.oauth import client_auth, clients, refusals
from smcp.kernel import errors, ids
from support import authorizing

ACME: Final = authorizing.ACME
PATH: Final = "/keys.json"
OLD: Final = jwk.ECKey.generate_key("P-256")
NEW: Final = jwk.ECKey.generate_key("P-256")
ADDRESS: Final = "192.0.2.1"
Three = tuple[authorizing.Room, authorizing.Host, clients.Client]
"""A room, a host that shows the old key, and a known client whose keys are there."""


def key_set(*keys: tuple[jwk.ECKey, str]) -> dict[str, Any]:
    """The public keys, each with its name."""
    return {"keys": [{**key.as_dict(private=False), "kid": kid} for key, kid in keys]}


def form(
    room: authorizing.Room, client: clients.Client, key: jwk.ECKey, kid: str | None, tenant: ids.TenantId = ACME
) -> dict[str, str]:
    """The parameters with an assertion of the client's."""
    now = room.time.now()
    issuer = room.resources.issuer(tenant)
    claims = {"iss": client.id, "sub": client.id, "aud": issuer, "exp": now + 60, "jti": ids.new("jti")}
    said = jwt.encode({"alg": "ES256"} | ({} if kid is None else {"kid": kid}), claims, key)
    return {"client_assertion_type": client_auth.ASSERTION_TYPE, "client_assertion": said}


async def proves(
    room: authorizing.Room, client: clients.Client, key: jwk.ECKey, kid: str | None, address: str = ADDRESS
) -> str:
    """How a signature is taken: `yes`, or the word for the trail that says why not."""
    tenant = client.tenant
    try:
        found = await room.auth.authenticate(tenant, None, form(room, client, key, kid, tenant), address)
    except refusals.Refused as error:
        if (str(error), error.status) != ("invalid_client: The client is unknown, or did not prove who it is.", 401):
            raise AssertionError(str(error)) from error
        return error.detail
    assert found.id == client.id
    return "yes"


async def stranger(room: authorizing.Room, uri: str, tenant: ids.TenantId = ACME) -> clients.Client:
    """A client that registered itself with the address of its keys."""
    said = {"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": uri}
    return (await room.register(tenant, **said)).client


async def known(room: authorizing.Room, uri: str, tenant: ids.TenantId = ACME) -> clients.Client:
    """The same, and somebody has consented to it."""
    # Somebody else each time: one person makes so many lasting in a day.
    return await room.clients.adopt(await stranger(room, uri, tenant), actor=ids.new("user"), request_id="req-1")


async def limited(room: authorizing.Room, client: clients.Client, kid: str = "old", address: str = ADDRESS) -> bool:
    """Is a signature not looked at, because too much was read?"""
    try:
        await proves(room, client, OLD, kid, address)
    except errors.RateLimited:
        return True
    return False


def asked(host: authorizing.Host) -> int:
    """How often the keys were asked for."""
    return [path for path, _ in host.asked].count(PATH)
