"""The order of every request: who is answered what, before any handler runs."""

import asyncio
import json
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import msgspec
import pytest

from smcp.control import answers, app, services
from smcp.kernel import errors, ids, settings
from unit.control import paths
from unit.control import world as worlds

PARTS = {
    "tenant": worlds.OWN,
    "server": "time",
    "key": "key-000000000000",
    "operation": "op-none",
    "secret": worlds.SECRET,
}


@pytest.mark.requirement("control:access:credential")
@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        "Bearer smcp_acme_x",
        "Bearer smcp_nobody_" + "0" * 51,
        "Bearer é",
        "Bearer a, Bearer b",
        "Bearer " + "a" * 9000,
    ],
)
async def test_without_a_valid_credential_every_guarded_endpoint_answers_the_same_401(
    header: str | None, world: worlds.World
) -> None:
    headers = [] if header is None else [(b"Authorization", header.encode("latin-1"))]
    bodies: set[bytes] = set()
    for one in paths.GUARDED:
        options: dict[str, Any] = {**paths.options(one), "headers": headers}
        answer = await world.client.request(one.method, paths.filled(one, PARTS), **options)
        assert answer.status_code == 401, paths.name(one)
        # RFC 6750, 3 and RFC 9728, 5.1. An error is told only to who has shown something.
        shown = ', error="invalid_token"' if header is not None else ""
        assert answer.headers["www-authenticate"] == (
            f'Bearer realm="smcp"{shown}'
            f', resource_metadata="{worlds.BASE}/.well-known/oauth-protected-resource/api/v1"'
            ', scope="api:read api:write api:admin"'
        )
        bodies.add(answer.content.replace(answer.headers["smcp-request-id"].encode(), b"-"))
    assert len(bodies) == 1


@pytest.mark.requirement("control:access:credential")
async def test_two_authorization_headers_are_refused_even_when_both_are_valid(world: worlds.World) -> None:
    valid = ("Authorization", f"Bearer {world.keys['acme/admin']}")
    assert (await world.client.get("/api/v1/whoami", headers=[valid])).status_code == 200
    assert (await world.client.get("/api/v1/whoami", headers=[valid, valid])).status_code == 401


@pytest.mark.requirement("control:access:unauthenticated-limit")
async def test_failed_credentials_are_limited_by_address_and_valid_keys_are_not(tmp_path: pathlib.Path) -> None:
    async with worlds.opened(tmp_path, unauthenticated_per_minute=3) as world:
        statuses = [(await world.client.get("/api/v1/whoami")).status_code for _ in range(5)]
        assert statuses == [401, 401, 401, 429, 429]
        assert (await world.send("GET", "/api/v1/whoami", "acme/admin")).status_code == 200


@pytest.mark.requirement("control:access:unauthenticated-limit")
async def test_a_suspended_tenants_keys_share_the_limit_of_unknown_callers(tmp_path: pathlib.Path) -> None:
    async with worlds.opened(tmp_path, unauthenticated_per_minute=3) as world:
        await world.ok("POST", "/api/v1/tenants/acme/suspend", "operator")
        statuses = [(await world.send("GET", "/api/v1/whoami", "acme/admin")).status_code for _ in range(5)]
        assert statuses == [403, 403, 403, 429, 429]
        assert (await world.send("GET", "/api/v1/whoami", "operator")).status_code == 200


@pytest.mark.requirement("control:access:rate")
async def test_a_principal_over_its_rate_gets_429_and_others_do_not(tmp_path: pathlib.Path) -> None:
    async with worlds.opened(tmp_path, principal_per_minute=3) as world:
        answers_ = [await world.send("GET", "/api/v1/whoami", "acme/read_only") for _ in range(4)]
        assert [answer.status_code for answer in answers_] == [200, 200, 200, 429]
        assert int(answers_[-1].headers["retry-after"]) >= 1
        assert (await world.send("GET", "/api/v1/whoami", "acme/mcp_user")).status_code == 200


@pytest.mark.requirement("control:hosts:checked")
@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1:9999"},
        {"Host": "127.0.0.1:8080.evil.example"},
        {"Host": "127.0.0.1:8080", "Origin": "http://evil.example"},
        {"Host": "127.0.0.1:8080", "Origin": "null"},
        {"Host": "127.0.0.1:8080", "Origin": "https://127.0.0.1:8080"},
    ],
    ids=str,
)
async def test_a_foreign_host_or_origin_is_refused_everywhere(headers: dict[str, str], world: worlds.World) -> None:
    for path in ("/api/v1/whoami", "/healthz", "/api/docs", "/api/v1/openapi.json", "/nothing"):
        answer = await world.send("GET", path, "operator", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "host_refused")


@pytest.mark.requirement("control:hosts:checked")
async def test_the_platforms_own_origin_passes(world: worlds.World) -> None:
    for origin in ("http://127.0.0.1:8080", "http://localhost:8080", "HTTP://LOCALHOST:8080"):
        assert (await world.send("GET", "/healthz", headers={"Origin": origin})).status_code == 200


@pytest.mark.requirement("control:answers:headers")
async def test_every_answer_has_its_own_request_id_and_the_security_headers(world: worlds.World) -> None:
    sent = [("GET", "/healthz"), ("GET", "/nothing"), ("GET", "/api/v1/whoami"), ("PUT", "/healthz")]
    sent.append(("GET", f"/api/v1/tenants/{worlds.OTHER}"))
    seen: set[str] = set()
    for method, path in sent:
        answer = await world.send(method, path, "acme/admin", headers={"SMCP-Request-Id": "req-chosen"})
        assert set(answers.SECURITY.items()) <= {(name, answer.headers.get(name)) for name in answers.SECURITY}
        seen.add(answer.headers["smcp-request-id"])
    assert len(seen) == len(sent)
    assert "req-chosen" not in seen


@pytest.mark.requirement("control:answers:silent")
async def test_an_unexpected_error_tells_the_caller_nothing_but_a_request_id(world: worlds.World) -> None:
    world.runtime.failure = RuntimeError("the inside of the platform")
    answer = await world.send("GET", f"/api/v1/tenants/{worlds.OWN}/servers/time/tools", "acme/admin")
    assert answer.status_code == 500
    assert answer.json()["error"] == {
        "code": "internal",
        "message": errors.SmcpError.text,
        "request_id": answer.headers["smcp-request-id"],
    }
    logged = [json.loads(line) for line in world.log.getvalue().splitlines()]
    told = next(line for line in logged if line.get("request_id") == answer.headers["smcp-request-id"])
    assert "the inside of the platform" in told["exception"]


@pytest.mark.requirement("control:answers:silent")
async def test_an_errors_private_detail_stays_in_the_log(world: worlds.World) -> None:
    world.runtime.failure = errors.ServerFailed(detail="exit code seventy")
    answer = await world.send("GET", f"/api/v1/tenants/{worlds.OWN}/servers/time/tools", "acme/admin")
    assert answer.status_code == 502
    assert "seventy" not in answer.text
    assert "exit code seventy" in world.log.getvalue()


@pytest.mark.requirement("control:answers:methods")
async def test_unknown_paths_methods_and_head(world: worlds.World) -> None:
    for path in ("/", "/api", "/api/v1", "/api/v1/tenants/", "/api/v1/whoami/", "/api/v2/whoami", "//healthz"):
        assert (await world.send("GET", path, "operator")).status_code == 404
    answer = await world.send("PATCH", "/api/v1/tenants", "operator")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
    assert (await world.send("HEAD", "/healthz")).status_code == 200
    assert (await world.send("HEAD", "/api/v1/whoami")).status_code == 401


@pytest.mark.requirement("control:bodies:slow")
async def test_a_body_that_does_not_arrive_in_time_is_answered_408(world: worlds.World) -> None:
    gateway = settings.Gateway(body_timeout_s=0.05)
    configured = msgspec.structs.replace(world.parts.settings, gateway=gateway)
    tight = app.build(msgspec.structs.replace(world.parts, settings=configured))
    sent: list[Any] = []
    first = iter([{"type": "http.request", "body": b"{", "more_body": True}])

    async def receive() -> dict[str, Any]:
        message = next(first, None)
        if message is None:
            await asyncio.Event().wait()
        assert message is not None
        return message

    await tight(_scope(world), receive, _collect(sent))
    assert sent[0]["status"] == 408


@pytest.mark.requirement("control:bodies:slow")
async def test_a_body_that_ends_early_is_no_request(world: worlds.World) -> None:
    sent: list[Any] = []
    messages = iter([{"type": "http.request", "body": b'{"id":', "more_body": True}, {"type": "http.disconnect"}])

    async def receive() -> dict[str, Any]:
        return next(messages)

    await app.build(world.parts)(_scope(world), receive, _collect(sent))
    assert sent[0]["status"] == 400


@pytest.mark.requirement("control:bodies:refused")
async def test_a_chunked_body_over_the_cap_is_refused_before_it_is_read_whole(world: worlds.World) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(10_000):
            read += 65_536
            yield b" " * 65_536

    answer = await world.send(
        "POST", "/api/v1/tenants", "operator", content=endless(), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413
    assert read < 2 * world.parts.settings.gateway.max_body_bytes


@pytest.mark.requirement("control:readiness:conditions")
async def test_readiness_names_the_condition_that_does_not_hold_and_not_its_cause(world: worlds.World) -> None:
    assert (await world.client.get("/readyz")).json() == {"ready": True, "checks": ["store"]}

    def full() -> None:
        raise errors.Unavailable(detail="/dev/sda is full")

    broken = msgspec.structs.replace(world.parts, ready=(*world.parts.ready, services.Ready("disk", full)))
    transport = httpx2.ASGITransport(app.build(broken))
    async with httpx2.AsyncClient(transport=transport, base_url=worlds.BASE) as client:
        answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["error"]["data"] == {"failed": ["disk"]}
    assert "/dev/sda" not in answer.text
    assert "/dev/sda is full" in world.log.getvalue()


@pytest.mark.requirement("control:audit:crossing")
async def test_an_operators_look_into_a_tenant_is_in_the_tenants_trail_with_its_reason(world: worlds.World) -> None:
    path = f"/api/v1/tenants/{worlds.OWN}/servers"
    await world.ok("GET", path, "operator")
    await world.ok("GET", path, "operator", headers={"SMCP-Reason": "ticket 4711"})
    crossings = [event for event in await world.trail(worlds.OWN) if event["event"] == "operator_access"]
    assert [(event["action"], event["reason"]) for event in crossings] == [
        ("server:list", "server:list"),
        ("server:list", "ticket 4711"),
    ]
    answer = await world.send("GET", path, "operator", headers={"SMCP-Reason": " "})
    assert answer.status_code == 400


@pytest.mark.requirement("control:audit:refusals")
async def test_refusals_are_in_the_trail_of_the_platform_and_of_the_caller(world: worlds.World) -> None:
    before = len(await world.trail(worlds.OTHER))
    await world.client.get("/api/v1/whoami")
    await world.send("GET", f"/api/v1/tenants/{worlds.OTHER}/keys", "acme/admin")
    failed = [event for event in await world.trail(ids.PLATFORM) if event["event"] == "authentication_failed"]
    assert [(event["why"], event["actor"], event["outcome"]) for event in failed] == [
        ("absent", "anonymous", "refused")
    ]
    refused = [event for event in await world.trail(worlds.OWN) if event["event"] == "authorization_denied"]
    assert [(event["action"], event["outcome"]) for event in refused] == [("key:list", "refused")]
    assert len(await world.trail(worlds.OTHER)) == before


def _scope(world: worlds.World) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "POST",
        "path": "/api/v1/tenants",
        "query_string": b"",
        "headers": [
            (b"host", b"127.0.0.1:8080"),
            (b"content-type", b"application/json"),
            (b"authorization", f"Bearer {world.keys['operator']}".encode()),
        ],
        "client": ("127.0.0.1", 1),
    }


def _collect(into: list[Any]) -> Any:
    async def send(message: Any) -> None:
        into.append(message)

    return send


@pytest.mark.requirement("oauth:people:slow-body")
async def test_a_key_that_is_revoked_while_its_body_comes_does_nothing(world: worlds.World) -> None:
    """Attack: who is about to lose a credential trickles a request, and finishes it afterwards."""
    here = f"/api/v1/tenants/{worlds.OWN}"
    made = await world.ok("POST", f"{here}/keys", f"{worlds.OWN}/admin", json={"roles": ["admin"]})
    world.keys["leaving"] = made["secret"]

    async def trickled() -> AsyncIterator[bytes]:
        yield b'{"email": "eve@example.org", '
        await world.ok("DELETE", f"{here}/keys/{made['key']['id']}", f"{worlds.OWN}/admin")
        yield b'"roles": ["admin"]}'

    answer = await world.send(
        "POST",
        f"{here}/invitations",
        "leaving",
        content=trickled(),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 401
    assert await world.parts.people.invitations.list(worlds.OWN) == []
