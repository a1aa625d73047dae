"""What is not a well-formed request gets a clear 4xx, and changes nothing."""

from typing import Any, Final

import pytest

from smcp.control import endpoint
from smcp.kernel import ids
from unit.control import paths
from unit.control import world as worlds

_JSON: Final = {"Content-Type": "application/json"}
_BAD: Final[dict[str, tuple[bytes, dict[str, str], int, str]]] = {
    "not json": (b"{", _JSON, 400, "parse_error"),
    "not utf-8": (b'{"x":"\xff"}', _JSON, 400, "parse_error"),
    "a byte order mark": (b"\xef\xbb\xbf{}", _JSON, 400, "parse_error"),
    "half a character": (b'{"x":"\\ud800"}', _JSON, 400, "parse_error"),
    "nan": (b'{"x":NaN}', _JSON, 400, "parse_error"),
    "an array": (b"[]", _JSON, 400, "invalid_params"),
    "null": (b"null", _JSON, 400, "invalid_params"),
    "an unknown key": (b'{"no_such_key":1}', _JSON, 400, "invalid_params"),
    "a key twice": (b'{"x":1,"x":2}', _JSON, 400, "parse_error"),
    "100 deep": (b'{"x":' + b"[" * 100 + b"]" * 100 + b"}", _JSON, 400, "too_deep"),
    "10 MB": (b'{"x":"' + b"a" * 10_000_000 + b'"}', _JSON, 413, "too_large"),
    "a form": (b"x=1", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
    "no type": (b"{}", {}, 415, "unsupported_media_type"),
}


async def _state(world: worlds.World) -> dict[str, Any]:
    """Everything that the API can change, as the operator and the tenant's admin see it; not the trail of refusals."""
    admin = f"{worlds.OWN}/admin"
    listed = {
        path: await world.ok("GET", f"/api/v1/tenants/{worlds.OWN}/{path}", admin)
        for path in (
            "keys",
            "roles",
            "servers",
            "servers/time/deployments",
            "servers/time/secrets",
            "servers/time/volume",
            f"kv/{paths.SPACE}",
            f"buckets/{paths.BUCKET}",
        )
    }
    for key in listed["keys"]["items"]:
        key["last_used"] = None
    return {
        **listed,
        "tenants": await world.ok("GET", "/api/v1/tenants", "operator"),
        "calls": list(world.runtime.calls),
        "stopped": list(world.runtime.stopped),
    }


async def _parts(world: worlds.World) -> dict[str, str]:
    return {"tenant": worlds.OWN, "server": "time", "operation": world.operation, "key": "key-000000000000"} | {
        "secret": worlds.SECRET,
    }


def _who(one: endpoint.Endpoint) -> str:
    return (
        "operator"
        if one.resource(
            {
                "tenant": ids.PLATFORM,
                "server": "",
                "client": "",
                "key": "",
                "operation": "",
                "secret": "",
                "namespace": "",
                "item": "",
                "bucket": "",
                "object": "",
                "user": "",
                "invitation": "",
                "role": "",
            }
        ).kind
        == "tenant"
        else f"{worlds.OWN}/admin"
    )


@pytest.mark.requirement("control:bodies:refused")
@pytest.mark.requirement("control:bodies:unchanged")
@pytest.mark.parametrize("kind", _BAD)
async def test_a_malformed_body_is_refused_by_every_endpoint_and_changes_nothing(
    kind: str, world: worlds.World
) -> None:
    content, headers, status, code = _BAD[kind]
    parts = await _parts(world)
    before = await _state(world)
    for one in paths.WRITING:
        answer = await world.send(one.method, paths.filled(one, parts), _who(one), content=content, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), paths.name(one)
    assert await _state(world) == before


_WRONG_SECRETS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"value": ""},
    {"value": 1},
    {"value": "x", "value_base64": "eA=="},
    {"value_base64": "eA"},
    {"value_base64": "not base64"},
    {"value_base64": "é"},
    {"value_base64": "/w==", "kind": "env"},
    {"value": "a\u0000b", "kind": "env"},
    {"value": "x", "kind": "flag"},
    {"value": "x" * 65_537},
    {"value": "é" * 40_000},
)
_WRONG: Final[dict[str, tuple[dict[str, Any], ...]]] = {
    "/api/v1/tenants": (
        {},
        {"id": 1},
        {"id": "UPPER"},
        {"id": "a--b"},
        {"id": "platform"},
        {"id": "x" * 31},
        {"id": "ok", "display_name": "x" * 81},
        {"id": "ok", "display_name": "a\nb"},
    ),
    "/api/v1/tenants/{tenant}/keys": (
        {},
        {"roles": []},
        {"roles": "admin"},
        {"roles": ["root"]},
        {"roles": ["admin"], "expires_in_days": 0},
        {"roles": ["admin"], "expires_in_days": -1},
        {"roles": ["admin"], "expires_in_days": True},
        {"roles": ["admin"], "expires_in_days": 1e9},
        {"roles": ["admin"], "label": "a\u0000b"},
        {"roles": ["admin"], "scopes": []},
        {"roles": ["admin"], "scopes": ["mcp:everything"]},
        {"roles": ["admin"], "servers": []},
        {"roles": ["admin"], "servers": ["Not A Name"]},
        {"roles": ["admin"], "networks": ["somewhere"]},
        {"roles": ["admin"], "networks": ["203.0.113.7/24"]},
    ),
    "/api/v1/tenants/{tenant}/keys/{key}/rotate": (
        {"overlap_hours": -1},
        {"overlap_hours": 721},
        {"overlap_hours": "1"},
        {"overlap_hours": None},
    ),
    "/api/v1/tenants/{tenant}/signing-key/rotate": (
        {"end_now": "true"},
        {"end_now": 1},
        {"end_now": None},
        {"now": True},
    ),
    "/api/v1/tenants/{tenant}/roles/{role}": (
        {},
        {"actions": []},
        {"actions": "mcp:call"},
        {"actions": ["mcp:fly"]},
        {"actions": ["platform:read"]},
        {"actions": ["*"]},
        {"actions": ["mcp:call"], "servers": ["Not A Name"]},
        {"actions": ["mcp:call"], "tools": [""]},
        {"actions": ["mcp:call"], "tools": ["*********"]},
        {"actions": ["mcp:call"], "tools": ["a b"]},
        {"actions": ["mcp:call"], "read_only": 1},
        {"actions": ["mcp:call"], "description": "a\nb"},
    ),
    "/api/v1/tenants/{tenant}/policy/test": (
        {},
        {"action": "mcp:call"},
        {"action": "mcp:fly", "roles": ["admin"]},
        {"action": "mcp:call", "roles": ["admin"], "key": "key-000000000000"},
        {"action": "mcp:call", "roles": ["admin"], "scopes": ["mcp:everything"]},
        {"action": "mcp:call", "roles": ["admin"], "server": "Not A Name"},
    ),
    "/api/v1/tenants/{tenant}/clients": (
        {},
        {"name": "x"},
        {"name": "", "roles": ["mcp_user"]},
        {"name": "x" * 81, "roles": ["mcp_user"]},
        {"name": "x", "roles": "mcp_user"},
        {"name": "x", "roles": ["mcp_user"], "auth_method": "none"},
        {"name": "x", "roles": ["mcp_user"], "auth_method": "client_secret_jwt"},
        {"name": "x", "roles": ["mcp_user"], "auth_method": "private_key_jwt"},
        {"name": "x", "redirect_uris": ["javascript:alert(1)"]},
        {"name": "x", "redirect_uris": ["http://app.example/"]},
    ),
    "/api/v1/tenants/{tenant}/deployments": (
        {},
        {"source": ""},
        {"source": "../../etc/passwd"},
        {"source": 5},
        {"source": "pypi:x", "name": "Not A Name"},
        {"source": "pypi:x", "manifest": 1},
        {"source": "pypi:smcp_acme_0123456789ab"},
    ),
    "/api/v1/tenants/{tenant}/servers/{server}/secrets/{secret}": _WRONG_SECRETS,
    "/api/v1/tenants/{tenant}/servers/{server}/secrets/{secret}/rotate": _WRONG_SECRETS,
    "/api/v1/tenants/{tenant}/invitations": (
        {},
        {"email": "ada@example.org"},
        {"email": "ada@example.org", "roles": []},
        {"email": "ada@example.org", "roles": ["x" * 41]},
        {"email": "ada@example.org", "roles": ["admin"], "name": "x" * 81},
        {"email": "ada@example.org", "roles": ["admin"], "name": "a\nb"},
        {"email": "ada", "roles": ["admin"]},
        {"email": "a" * 300, "roles": ["admin"]},
        {"email": "ada@example.org", "roles": ["admin"], "tenant": "globex"},
    ),
    "/api/v1/tenants/{tenant}/users/{user}/roles": (
        {},
        {"roles": []},
        {"roles": "admin"},
        {"roles": ["admin"], "id": 1},
    ),
    "/api/v1/tenants/{tenant}/plan": (
        {},
        {"plan": 1},
        {"plan": "gold"},
        {"plan": "standard", "limits": {"instances": 1}},
        {"plan": "custom", "limits": {"instances": 1.5}},
        {"plan": "custom", "limits": ["instances"]},
        {"plan": "custom", "price": 3},
    ),
    "/api/v1/tenants/{tenant}/servers/{server}/rollback": ({"to": 1}, {"to": "x" * 65}),
    "/api/v1/tenants/{tenant}/servers/{server}/volume/restore": ({"snapshot": 1}, {"snapshot": "x" * 65}),
    "/api/v1/tenants/{tenant}/servers/{server}/call": (
        {},
        {"tool": ""},
        {"tool": 1},
        {"tool": "x", "arguments": []},
        {"tool": "x", "arguments": None},
    ),
}


@pytest.mark.requirement("control:bodies:refused")
async def test_a_wrong_value_is_refused_and_changes_nothing(world: worlds.World) -> None:
    parts = await _parts(world)
    before = await _state(world)
    for one in paths.WRITING:
        assert bool(one.body_example) == (one.path in _WRONG and one.method != "DELETE")
        for body in _WRONG.get(one.path, ()) if one.body_example else ():
            answer = await world.send(one.method, paths.filled(one, parts), _who(one), json=body)
            assert answer.status_code == 400, (paths.name(one), body, answer.text)
            assert answer.json()["error"]["message"]
    assert await _state(world) == before


@pytest.mark.requirement("control:queries:strict")
async def test_an_unknown_doubled_or_wrong_query_is_refused_by_every_endpoint(world: worlds.World) -> None:
    parts = await _parts(world)
    for one in paths.GUARDED:
        for query in (
            "no=1",
            "limit=1&limit=2",
            "limit=0",
            "limit=x",
            "limit=1001",
            "after=%ff",
            "&&",
            "after=../x",
            "after",
        ):
            path = f"{paths.filled(one, parts)}?{query}"
            answer = await world.send(one.method, path, _who(one), **paths.options(one))
            assert answer.status_code == 400, (paths.name(one), query, answer.text)


@pytest.mark.requirement("control:names:strict")
async def test_a_name_that_breaks_the_grammar_is_refused_by_every_endpoint(world: worlds.World) -> None:
    for one in paths.TENANTS:
        for bad in ("ACME", "a_b", "-a", "a--b", "a%00", "%2e%2e", "a%0d%0aX:1", "x" * 64, "é"):
            path = paths.filled(one, await _parts(world) | {"tenant": bad})
            answer = await world.send(one.method, path, "operator", **paths.options(one))
            assert answer.status_code in (400, 404), (path, answer.text)
