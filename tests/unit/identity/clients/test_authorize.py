"""Authorization requests: read once, and nobody is sent anywhere before it is known whose request it is."""

import urllib.parse
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smcp.access import policy
from smcp.identity.oauth import authorize, clients, forms, refusals
from smcp.kernel import ids
from support import authorizing

SERVER = f"{authorizing.PUBLIC}/t/acme/tool/mcp"


def query(client_id: str, **more: str | None) -> bytes:
    """A right request, but for what is said (None: left out)."""
    fields = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": authorizing.CALLBACK,
        "state": "xyz",
        "code_challenge": authorizing.CHALLENGE,
        "code_challenge_method": "S256",
        "resource": SERVER,
        "scope": "mcp:read",
    } | more
    return urllib.parse.urlencode({name: value for name, value in fields.items() if value is not None}).encode()


def led(location: str) -> tuple[str, dict[str, list[str]]]:
    """Where a location leads, and with what."""
    parts = urllib.parse.urlsplit(location)
    return f"{parts.scheme}://{parts.netloc}{parts.path}", urllib.parse.parse_qs(parts.query)


@pytest.mark.requirement("oauth:authorize:read")
async def test_a_right_request_says_who_asks_for_what_and_where_the_answer_goes(room: authorizing.Room) -> None:
    client = (await room.register(client_name="App")).client
    request = await room.requests.read(authorizing.ACME, query(client.id))
    assert (request.client, request.server, request.resource) == (client, "tool", SERVER)
    assert (request.scopes, request.challenge) == (("mcp:read",), authorizing.CHALLENGE)
    where, told = led(request.approved("a-code"))
    assert where == authorizing.CALLBACK
    assert told == {"code": ["a-code"], "state": ["xyz"], "iss": [authorizing.ISSUER]}
    where, told = led(request.refused())
    assert (where, told["error"], told["iss"]) == (authorizing.CALLBACK, ["access_denied"], [authorizing.ISSUER])
    assert told["state"] == ["xyz"]


@pytest.mark.requirement("oauth:authorize:page-errors", "attack:oauth:open-redirect")
async def test_nobody_is_sent_to_a_place_that_is_not_the_clients(room: authorizing.Room) -> None:
    client = (await room.register()).client
    foreign = (await room.register(authorizing.UMBRA)).client
    evil = "https://evil.example/"
    for data in (
        query(client.id, redirect_uri=evil),
        query(client.id, redirect_uri=None),
        query(client.id, redirect_uri=f"{authorizing.CALLBACK}/"),
        query("", redirect_uri=evil),
        query("client-00000000000000000000000000", redirect_uri=evil),
        query(foreign.id),
        query(client.id) + b"&redirect_uri=" + urllib.parse.quote(evil).encode(),
        query(client.id) + b"&client_id=" + client.id.encode(),
        query(client.id) + b"&state=other",
        query(client.id) + b"&%ff=1",
        b"x" * (forms.MAX_BYTES + 1),
        b"&".join([b"a=1"] * 100),
        b"",
    ):
        with pytest.raises(authorize.PageError) as error:
            await room.requests.read(authorizing.ACME, data)
        assert "evil.example" not in str(error.value)
        assert not hasattr(error.value, "location")


@pytest.mark.requirement("oauth:authorize:page-errors")
async def test_a_tenant_that_is_not_served_has_no_client(room: authorizing.Room) -> None:
    client = (await room.register()).client
    for tenant in (ids.TenantId("nobody"), authorizing.UMBRA):
        with pytest.raises(authorize.PageError):
            await room.requests.read(tenant, query(client.id))
    await room.tenants.suspend(authorizing.ACME)
    with pytest.raises(authorize.PageError):
        await room.requests.read(authorizing.ACME, query(client.id))


@pytest.mark.requirement("oauth:authorize:redirect-errors")
@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": "code id_token"}, "unsupported_response_type"),
        ({"response_type": None}, "invalid_request"),
        ({"response_type": ""}, "invalid_request"),
        ({"response_mode": "fragment"}, "invalid_request"),
        ({"response_mode": "form_post"}, "invalid_request"),
        ({"request": "eyJ"}, "request_not_supported"),
        ({"request_uri": "http://169.254.169.254/"}, "request_uri_not_supported"),
        ({"scope": "admin"}, "invalid_scope"),
        ({"scope": "mcp:read everything"}, "invalid_scope"),
        ({"scope": "api:read"}, "invalid_scope"),
        ({"resource": "https://other.example/t/acme/tool/mcp"}, "invalid_target"),
        ({"resource": f"{authorizing.PUBLIC}/t/umbra/tool/mcp"}, "invalid_target"),
        ({"prompt": "none"}, "login_required"),
        ({"state": "a\nb"}, "invalid_request"),
        ({"state": "x" * 5000}, "invalid_request"),
    ],
)
async def test_the_client_is_told_what_is_wrong_with_state_and_issuer(
    room: authorizing.Room, more: dict[str, Any], code: str
) -> None:
    client = (await room.register()).client
    with pytest.raises(authorize.RedirectError) as error:
        await room.requests.read(authorizing.ACME, query(client.id, **more))
    where, told = led(error.value.location)
    assert where == authorizing.CALLBACK
    assert told["error"] == [code]
    assert told["iss"] == [authorizing.ISSUER]
    # A state that can't be one is not sent on: it could be read differently there.
    assert told.get("state") == (None if "state" in more else ["xyz"])


@pytest.mark.requirement("oauth:authorize:pkce", "attack:oauth:pkce-downgrade")
@pytest.mark.parametrize(
    "more",
    [
        {"code_challenge": None},
        {"code_challenge": ""},
        {"code_challenge_method": None},
        {"code_challenge_method": "plain"},
        {"code_challenge_method": "s256"},
        {"code_challenge": None, "code_challenge_method": None},
        {"code_challenge": "x" * 42},
        {"code_challenge": "x" * 44},
        {"code_challenge": authorizing.CHALLENGE + "="},
        {"code_challenge": "!" * 43},
    ],
)
async def test_there_is_no_way_without_pkce_and_s256(room: authorizing.Room, more: dict[str, Any]) -> None:
    kinds: tuple[dict[str, Any], ...] = ({}, {"token_endpoint_auth_method": "client_secret_basic"})
    for said in kinds:
        client = (await room.register(**said)).client
        with pytest.raises(authorize.RedirectError) as error:
            await room.requests.read(authorizing.ACME, query(client.id, **more))
        assert error.value.code == "invalid_request"
        assert error.value.detail == "pkce"


@pytest.mark.requirement("oauth:authorize:state")
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=50, deadline=None
)
@given(state=st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=200))
async def test_the_state_comes_back_as_it_was(room: authorizing.Room, state: str) -> None:
    here = "http://127.0.0.1:7/callback"
    request = await room.requests.read(authorizing.ACME, query(clients.CLI, state=state, redirect_uri=here))
    assert led(request.approved("c"))[1]["state"] == [state]


@pytest.mark.requirement("oauth:authorize:state")
async def test_without_a_state_none_is_sent(room: authorizing.Room) -> None:
    client = (await room.register()).client
    request = await room.requests.read(authorizing.ACME, query(client.id, state=None))
    assert "state" not in led(request.approved("c"))[1]


@pytest.mark.requirement("oauth:authorize:scopes", "quirk:11:scopes")
async def test_scopes_that_mean_nothing_here_are_left_out_and_none_is_a_default(room: authorizing.Room) -> None:
    client = (await room.register()).client
    api = f"{authorizing.PUBLIC}/api/v1"
    for scope, resource, wanted in (
        (None, SERVER, ("mcp:read", "mcp:call")),
        ("offline_access", SERVER, ("mcp:read", "mcp:call")),
        ("mcp:call mcp:read offline_access", SERVER, ("mcp:read", "mcp:call")),
        ("mcp:read mcp:call api:read api:write api:admin", SERVER, ("mcp:read", "mcp:call")),
        ("mcp:call", SERVER, ("mcp:call",)),
        (None, api, ("api:read",)),
        ("api:admin mcp:call", api, ("mcp:call", "api:admin")),
    ):
        request = await room.requests.read(authorizing.ACME, query(client.id, scope=scope, resource=resource))
        assert request.scopes == wanted, scope


@pytest.mark.requirement("oauth:authorize:grant-types")
async def test_a_client_that_did_not_register_for_codes_gets_none(room: authorizing.Room) -> None:
    client = (await room.register(grant_types=["urn:ietf:params:oauth:grant-type:device_code"])).client
    with pytest.raises(authorize.RedirectError) as error:
        await room.requests.read(authorizing.ACME, query(client.id))
    assert error.value.code == "unauthorized_client"


@pytest.mark.requirement("oauth:resource:named", "quirk:07:resource")
async def test_a_resource_is_a_server_in_every_spelling_of_its_address(room: authorizing.Room) -> None:
    hosts = ("https://mcp.example", "https://MCP.example", "https://mcp.example:443", "http://127.0.0.1:8080",
             "http://localhost:8080", "http://[::1]:8080")  # fmt: skip
    for host in hosts:
        for slash in ("", "/"):
            assert room.resources.named(authorizing.ACME, f"{host}/t/acme/tool/mcp{slash}") == "tool"
            assert room.resources.named(authorizing.ACME, f"{host}/api/v1{slash}") == policy.API
    assert room.resources.url(authorizing.ACME, "tool") == SERVER


@pytest.mark.requirement("oauth:resource:named", "attack:oauth:audience-confusion")
@pytest.mark.parametrize(
    "resource",
    [
        "", "tool",
        "/t/acme/tool/mcp", f"{authorizing.PUBLIC}/t/umbra/tool/mcp", "https://evil.example/t/acme/tool/mcp",
        f"{authorizing.PUBLIC}/t/acme/tool", f"{authorizing.PUBLIC}/t/acme/tool/mcp//", f"{SERVER}?x=1", f"{SERVER}#x",
        f"{SERVER}/../../other/mcp", f"{authorizing.PUBLIC}/t/acme/to%6fl/mcp", f"{authorizing.PUBLIC}/T/acme/tool/mcp",
        f"{authorizing.PUBLIC}/t/acme/TOOL/mcp", "https://user@mcp.example/t/acme/tool/mcp",
        "https://mcp.example@evil.example/t/acme/tool/mcp", "https://mcp.example:8443/t/acme/tool/mcp",
        "https://mcp.example.evil.example/t/acme/tool/mcp", "ftp://mcp.example/t/acme/tool/mcp", f"{SERVER}\\",
        f" {SERVER}", f"{SERVER}\n", "https://[::1/t/acme/tool/mcp", f"{authorizing.PUBLIC}/api/v2", "x" * 600,
    ],
)  # fmt: skip
async def test_what_is_no_address_of_this_tenants_server_names_nothing(room: authorizing.Room, resource: str) -> None:
    assert room.resources.named(authorizing.ACME, resource) is None


@pytest.mark.requirement("oauth:resource:derived", "quirk:07:resource")
async def test_a_resource_that_says_no_server_is_the_only_one_or_refused(room: authorizing.Room) -> None:
    client = (await room.register()).client
    found: list[str] = []

    async def servers(tenant: ids.TenantId) -> list[str]:
        return found if tenant == authorizing.ACME else []

    room.resources.servers = servers
    says_none = (None, authorizing.PUBLIC, f"{authorizing.PUBLIC}/", authorizing.ISSUER, f"{authorizing.ISSUER}/")
    for names in ([], ["one", "two"]):
        found[:] = names
        for resource in says_none:
            with pytest.raises(authorize.RedirectError) as error:
                await room.requests.read(authorizing.ACME, query(client.id, resource=resource))
            assert error.value.code == "invalid_target"
    found[:] = ["one"]
    for resource in says_none:
        request = await room.requests.read(authorizing.ACME, query(client.id, resource=resource))
        assert request.resource == f"{authorizing.PUBLIC}/t/acme/one/mcp"
    # An address that is wrong is not taken for one that says nothing.
    with pytest.raises(authorize.RedirectError):
        await room.requests.read(authorizing.ACME, query(client.id, resource=f"{authorizing.PUBLIC}/t/umbra"))


@pytest.mark.requirement("oauth:resource:owner")
async def test_an_origin_that_is_another_tenants_means_no_server_of_this_one(room: authorizing.Room) -> None:
    async def servers(_: ids.TenantId) -> list[str]:
        return ["one"]

    room.resources.servers = servers
    origin = f"http://{authorizing.UMBRAS}"
    umbra = ids.tenant("umbra")
    for resource in (origin, f"{origin}/", f"{origin}:80/", f"{origin}/t/umbra"):
        assert await room.resources.target(umbra, resource) == "one"
        with pytest.raises(refusals.Refused):
            await room.resources.target(authorizing.ACME, resource)
    # An address that names its server is read as under any other name.
    assert await room.resources.target(authorizing.ACME, f"{origin}/t/acme/two/mcp") == "two"


@pytest.mark.requirement("oauth:resource:one")
async def test_a_request_for_two_resources_is_refused(room: authorizing.Room) -> None:
    client = (await room.register()).client
    with pytest.raises(authorize.RedirectError) as error:
        await room.requests.read(authorizing.ACME, query(client.id) + b"&resource=" + SERVER.encode())
    assert error.value.code == "invalid_target"


@pytest.mark.requirement("oauth:resource:derived")
async def test_the_platform_tenant_has_no_server_but_the_admin_api(room: authorizing.Room) -> None:
    assert await room.resources.target(ids.PLATFORM, None) == policy.API
    with pytest.raises(refusals.Refused):
        await room.resources.target(ids.PLATFORM, f"{authorizing.PUBLIC}/t/platform/tool/mcp")


@pytest.mark.requirement("oauth:authorize:shown")
async def test_a_page_can_tell_where_the_answer_goes(room: authorizing.Room) -> None:
    uris = [authorizing.CALLBACK, "http://127.0.0.1/cb", "https://elsewhere.example/cb"]
    client = (await room.register(redirect_uris=uris)).client
    seen = [
        (request.loopback, request.destination, request.elsewhere)
        for uri in (uris[0], "http://127.0.0.1:4567/cb", uris[2])
        for request in [await room.requests.read(authorizing.ACME, query(client.id, redirect_uri=uri))]
    ]
    assert seen == [
        (False, "app.example", False),
        (True, "127.0.0.1", False),
        (False, "elsewhere.example", True),
    ]
    assert (await room.requests.read(authorizing.ACME, query(client.id, prompt="login x consent"))).prompt == (
        "consent login"
    )


@pytest.mark.requirement("oauth:authorize:page-errors")
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=200, deadline=None
)
@given(data=st.binary(max_size=300))
async def test_whatever_comes_is_a_page_and_never_a_failure(room: authorizing.Room, data: bytes) -> None:
    with pytest.raises(authorize.PageError):
        await room.requests.read(authorizing.ACME, data)
