"""Metadata: under every address at which clients look, and saying only what is so."""

import pathlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from smcp.access import scopes
from smcp.identity.oauth import discovery
from smcp.kernel import ids
from support import authorizing
from unit.control import world as worlds

BASE = worlds.BASE
ISSUER = f"{BASE}/t/acme"
_SERVERS = (
    "/.well-known/oauth-authorization-server/t/acme",
    "/.well-known/openid-configuration/t/acme",
    "/t/acme/.well-known/oauth-authorization-server",
    "/t/acme/.well-known/openid-configuration",
    "/.well-known/oauth-authorization-server/t/acme/time/mcp",
    "/.well-known/openid-configuration/t/acme/time/mcp",
)
_RESOURCE = "/.well-known/oauth-protected-resource"


@pytest.fixture
async def world(tmp_path: pathlib.Path) -> AsyncIterator[worlds.World]:
    """The whole ASGI application behind the platform's edge."""
    async with worlds.opened(tmp_path) as opened:
        yield opened


async def read(world: worlds.World, path: str, **headers: str) -> Any:
    answer = await world.send("GET", path, headers=headers)
    assert answer.status_code == 200, (path, answer.text)
    assert answer.headers["content-type"].partition(";")[0] == "application/json"
    return answer.json()


@pytest.mark.requirement("oauth:metadata:forms", "quirk:06:served")
@pytest.mark.parametrize("path", _SERVERS)
@pytest.mark.parametrize("slash", ["", "/"])
async def test_the_issuer_is_the_same_in_every_form(world: worlds.World, path: str, slash: str) -> None:
    said = await read(world, path + slash)
    assert said["issuer"] == ISSUER
    for name, place in said.items():
        if name.endswith("_endpoint") or name == "jwks_uri":
            assert place.startswith(f"{BASE}/oauth/acme/"), name


@pytest.mark.requirement("oauth:metadata:server")
async def test_the_document_says_what_there_is(world: worlds.World) -> None:
    said = await read(world, _SERVERS[0])
    assert said["response_types_supported"] == ["code"]
    # A client refuses a server that does not say S256 (MCP 2025-11-25), and validates iss only where it is promised.
    assert said["code_challenge_methods_supported"] == ["S256"]
    assert said["authorization_response_iss_parameter_supported"] is True
    assert said["client_id_metadata_document_supported"] is True
    assert said["scopes_supported"] == list(scopes.WORDS)
    assert "none" in said["token_endpoint_auth_methods_supported"]
    assert "none" not in said["introspection_endpoint_auth_methods_supported"]
    algorithms = said["token_endpoint_auth_signing_alg_values_supported"]
    assert not [one for one in algorithms if one == "none" or one.startswith("HS")]
    # Registration is there: an address that is named answers.
    there = said["registration_endpoint"].removeprefix(BASE)
    assert (await world.send("POST", there, json={})).status_code == 400


@pytest.mark.requirement("oauth:metadata:openid")
async def test_the_openid_form_has_what_its_readers_require(world: worlds.World) -> None:
    plain, openid = [await read(world, path) for path in _SERVERS[:2]]
    assert openid.items() >= plain.items()
    required = {"issuer", "authorization_endpoint", "token_endpoint", "jwks_uri", "response_types_supported",
                "subject_types_supported", "id_token_signing_alg_values_supported"}  # fmt: skip
    assert required <= openid.keys()
    assert "openid" not in openid["scopes_supported"]


@pytest.mark.requirement("oauth:metadata:resource", "quirk:07:resource")
@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:8080", "LocalHost:8080", "[::1]:8080"])
async def test_the_resource_is_the_address_that_was_asked_for(world: worlds.World, slash: str, host: str) -> None:
    for path in ("/t/acme/time/mcp", "/api/v1"):
        said = await read(world, f"{_RESOURCE}{path}{slash}", host=host)
        assert said["resource"] == f"http://{host.lower()}{path}{slash}"
    said = await read(world, f"{_RESOURCE}/t/acme/time/mcp{slash}", host=host)
    # Always the canonical issuer: a document on one name can't lead to an issuer on another one.
    assert said["authorization_servers"] == [ISSUER]
    assert said["scopes_supported"] == list(scopes.MCP)
    assert "offline_access" not in said["scopes_supported"]
    assert said["bearer_methods_supported"] == ["header"]
    # And what was told is taken when it comes back.
    assert world.clients.resources.named(worlds.OWN, said["resource"]) == "time"


@pytest.mark.requirement("oauth:metadata:no-secret-of-existence")
async def test_a_document_does_not_say_whether_a_tenant_or_server_is_there(world: worlds.World) -> None:
    for path in (*_SERVERS, f"{_RESOURCE}/t/acme/time/mcp"):
        real = await read(world, path)
        none = await read(world, path.replace("/acme", "/nobody").replace("/time", "/nothing"))
        assert str(none).replace("nobody", "acme").replace("nothing", "time") == str(real)


@pytest.mark.requirement("oauth:metadata:elsewhere", "quirk:06:served")
@pytest.mark.parametrize(
    "path",
    [
        "/.well-known/oauth-authorization-server", "/.well-known/openid-configuration", _RESOURCE, f"{_RESOURCE}/",
        "/.well-known/oauth-authorization-server/t/acme/time", "/.well-known/openid-configuration/t/acme/time/mcp/x",
        "/.well-known/oauth-authorization-server/t/acme/TIME/mcp",
        "/.well-known/oauth-authorization-server/t/platform/time/mcp",
        "/.well-known/oauth-authorization-server/t/ACME", "/.well-known/oauth-authorization-server/t/smcp",
        f"{_RESOURCE}/t/acme", f"{_RESOURCE}/t/acme/time", f"{_RESOURCE}/t/acme/TIME/mcp",
        f"{_RESOURCE}/t/platform/time/mcp", f"{_RESOURCE}/t/acme/time/mcp//", f"{_RESOURCE}//t/acme/time/mcp",
        "/.well-known/jwks.json", "/.well-known/anything",
    ],
)  # fmt: skip
async def test_everywhere_else_is_a_short_404_in_json(world: worlds.World, path: str) -> None:
    answer = await world.send("GET", path)
    assert answer.status_code == 404
    assert "error" in answer.json()
    assert "www-authenticate" not in answer.headers


@pytest.mark.requirement("oauth:metadata:root")
@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("host", [authorizing.UMBRAS, authorizing.UMBRAS.upper()])
async def test_the_root_of_a_name_that_is_one_tenants_is_that_tenants(
    world: worlds.World, slash: str, host: str
) -> None:
    for name in ("oauth-authorization-server", "openid-configuration"):
        root = await read(world, f"/.well-known/{name}{slash}", host=host)
        assert root == await read(world, f"/.well-known/{name}/t/umbra")
    said = await read(world, f"{_RESOURCE}{slash}", host=host)
    assert said["resource"] == f"http://{authorizing.UMBRAS}{slash}"
    assert said["authorization_servers"] == [f"{BASE}/t/umbra"]
    # What names its tenant is that tenant's under every name.
    assert (await read(world, _SERVERS[0], host=host))["issuer"] == ISSUER


@pytest.mark.requirement("oauth:metadata:platform")
async def test_operators_have_an_issuer_too(world: worlds.World) -> None:
    said = await read(world, "/.well-known/oauth-authorization-server/t/platform")
    assert said["issuer"] == f"{BASE}/t/{ids.PLATFORM}"


@pytest.mark.requirement("oauth:metadata:cors")
async def test_the_pages_of_allowed_origins_may_read_and_no_others(world: worlds.World) -> None:
    for path in (_SERVERS[0], "/oauth/acme/register", "/.well-known/openid-configuration"):
        for verb in ("OPTIONS", "GET"):
            answer = await world.send(verb, path, headers={"Origin": BASE})
            assert answer.headers["access-control-allow-origin"] == BASE
            assert "Origin" in answer.headers["vary"]
            assert "access-control-allow-credentials" not in answer.headers
            foreign = await world.send(verb, path, headers={"Origin": "https://evil.example"})
            assert foreign.status_code == 403
            assert "access-control-allow-origin" not in foreign.headers
            assert "access-control-allow-origin" not in (await world.send(verb, path)).headers
    preflight = await world.send("OPTIONS", _SERVERS[0], headers={"Origin": BASE})
    assert preflight.status_code == 204
    assert "MCP-Protocol-Version" in preflight.headers["access-control-allow-headers"]
    rebound = await world.send("GET", f"{_RESOURCE}/t/acme/time/mcp", headers={"Host": "evil.example"})
    assert rebound.status_code == 403


@pytest.mark.requirement("oauth:metadata:server")
async def test_a_document_is_read_and_nothing_else(world: worlds.World) -> None:
    for verb in ("POST", "PUT", "DELETE", "PATCH"):
        answer = await world.send(verb, _SERVERS[0])
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    answer = await world.send("HEAD", _SERVERS[0])
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.requirement("oauth:metadata:server")
def test_the_documents_name_no_grant_that_oauth_2_1_left_out(world: worlds.World) -> None:
    said = discovery.authorization_server(world.clients.resources, worlds.OWN)
    assert not {"implicit", "password"} & set(said["grant_types_supported"])
