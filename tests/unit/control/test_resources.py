"""What the endpoints do, resource by resource."""

import pytest

from smcp.control import endpoint
from smcp.kernel import errors, ids
from unit.control import paths
from unit.control import world as worlds

ADMIN = f"{worlds.OWN}/admin"
HERE = f"/api/v1/tenants/{worlds.OWN}"


@pytest.mark.requirement("control:audit:changes")
@pytest.mark.parametrize(
    "one", [one for one in paths.WRITING if not one.path.endswith(("/call", "/policy/test"))], ids=paths.name
)
async def test_every_change_is_in_the_trail_when_its_answer_comes(one: endpoint.Endpoint, world: worlds.World) -> None:
    who = "operator" if one.path.endswith(("/tenants", "/suspend", "/resume", "/plan", "/setup")) else ADMIN
    parts = {
        "tenant": worlds.OWN,
        "server": "time",
        "client": await world.fresh_client(worlds.OWN),
        "key": await world.fresh_key(worlds.OWN),
        "secret": worlds.SECRET,
        **await world.fresh_people(worlds.OWN),
    }
    body = paths.options(one)
    tenant = ids.TenantId(body["json"]["id"]) if one.path == "/api/v1/tenants" else worlds.OWN
    tenant = ids.PLATFORM if one.path.endswith("/setup") else tenant
    answer = await world.send(one.method, paths.filled(one, parts), who, **body)
    assert answer.is_success, answer.text
    told = [event for event in await world.trail(tenant) if event["request_id"] == answer.headers["smcp-request-id"]]
    assert [event["event"] for event in told if event["event"] != "operator_access"] != []


@pytest.mark.requirement("control:audit:changes")
async def test_a_change_whose_second_half_fails_is_told_all_the_same(world: worlds.World) -> None:
    world.runtime.failure = errors.ServerFailed()
    answer = await world.send("POST", f"{HERE}/servers/time/stop", ADMIN)
    assert answer.status_code == 502
    assert (await world.ok("GET", f"{HERE}/servers/time", ADMIN))["desired"] == "stopped"
    assert [event["event"] for event in await world.trail(worlds.OWN)].count("server_stopped") == 1


@pytest.mark.requirement("control:audit:first")
async def test_what_the_trail_cannot_take_is_not_done(world: worlds.World) -> None:
    await world.parts.trail.close()
    for path, body in ((f"{HERE}/keys", {"roles": ["admin"]}), ("/api/v1/tenants", {"id": "initech"})):
        who = "operator" if path.endswith("/tenants") else ADMIN
        answer = await world.send("POST", path, who, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert len(await world.parts.keys.list(worlds.OWN)) == len(worlds.ROLES)
    assert [tenant.id for tenant in await world.parts.tenants.list()] == [worlds.OWN, worlds.OTHER]


@pytest.mark.requirement("control:keys:life")
async def test_a_key_works_at_once_is_listed_without_its_secret_and_ends_with_its_revocation(
    world: worlds.World,
) -> None:
    order = {"roles": ["read_only", "read_only"], "label": "laptop", "expires_in_days": 1}
    made = await world.ok("POST", f"{HERE}/keys", ADMIN, json=order)
    world.keys["new"] = made["secret"]
    assert made["key"]["roles"] == ["read_only"]
    assert made["key"]["expires"] == pytest.approx(made["key"]["created"] + 86400)
    assert (await world.ok("GET", "/api/v1/whoami", "new"))["id"] == made["key"]["id"]
    listed = await world.send("GET", f"{HERE}/keys", ADMIN)
    assert made["key"]["id"] in listed.text
    assert made["secret"] not in listed.text
    assert made["secret"].rpartition("_")[2][12:44] not in listed.text
    assert "digest" not in listed.text
    revoked = await world.ok("DELETE", f"{HERE}/keys/{made['key']['id']}", ADMIN)
    assert revoked["revoked"] is not None
    assert (await world.send("GET", "/api/v1/whoami", "new")).status_code == 401
    assert made["secret"] not in world.log.getvalue()


@pytest.mark.requirement("control:tenants:suspended")
async def test_a_suspended_tenants_keys_stop_and_start_with_the_next_request(world: worlds.World) -> None:
    await world.ok("POST", f"{HERE}/suspend", "operator")
    answer = await world.send("GET", "/api/v1/whoami", ADMIN)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "tenant_suspended")
    assert (await world.ok("GET", HERE, "operator"))["state"] == "suspended"
    assert (await world.send("GET", "/api/v1/whoami", f"{worlds.OTHER}/admin")).status_code == 200
    await world.ok("POST", f"{HERE}/resume", "operator")
    assert (await world.send("GET", "/api/v1/whoami", ADMIN)).status_code == 200


@pytest.mark.requirement("control:servers:life")
async def test_a_server_is_stopped_started_rolled_back_and_deleted(world: worlds.World) -> None:
    place = f"{HERE}/servers/time"
    one, two = [item["id"] for item in (await world.ok("GET", f"{place}/deployments", ADMIN))["items"]]
    shown = await world.ok("GET", place, ADMIN)
    assert (shown["live"], shown["instances"], shown["deployment"]["id"]) == (two, 1, two)
    assert shown["endpoint"] == f"{worlds.BASE}/t/acme/time/mcp"
    [copy] = shown["running"]["copies"]
    assert (copy["kind"], copy["state"], copy["outstanding"]) == ("shared", "serving", 3)
    assert (shown["running"]["breaker"], shown["running"]["waiting"]) == ("closed", 0)

    assert (await world.ok("POST", f"{place}/stop", ADMIN))["desired"] == "stopped"
    assert world.runtime.stopped == [(worlds.OWN, "time")]
    assert (await world.ok("POST", f"{place}/start", ADMIN))["desired"] == "running"

    assert (await world.ok("POST", f"{place}/rollback", ADMIN))["live"] == one
    assert (await world.send("POST", f"{place}/rollback", ADMIN)).status_code == 409
    assert (await world.ok("POST", f"{place}/rollback", ADMIN, json={"to": two}))["live"] == two
    assert len(world.runtime.stopped) == 3
    assert (await world.send("POST", f"{place}/rollback", ADMIN, json={"to": "dep-none"})).status_code == 404

    assert await world.ok("DELETE", place, ADMIN) is None
    assert len(world.runtime.stopped) == 5
    assert (await world.send("GET", place, ADMIN)).status_code == 404
    assert (await world.ok("GET", f"/api/v1/tenants/{worlds.OTHER}/servers", f"{worlds.OTHER}/admin"))["items"] != []


@pytest.mark.requirement("runtime:logs:follow")
async def test_a_log_is_waited_for_as_long_as_is_asked_and_no_longer_than_half_a_minute(world: worlds.World) -> None:
    place = f"{HERE}/servers/time/logs"
    await world.ok("GET", place, ADMIN)
    assert world.runtime.waited == 0
    await world.ok("GET", place, ADMIN, params={"wait": "2.5"})
    assert world.runtime.waited == 2.5
    for wrong in ("-1", "31", "nan", "inf", "x"):
        answer = await world.send("GET", place, ADMIN, params={"wait": wrong})
        assert answer.status_code == 400, wrong


@pytest.mark.requirement("control:servers:paging")
async def test_following_next_shows_every_item_once(world: worlds.World) -> None:
    for number in range(5):
        await world.publish(worlds.OWN, f"extra-{number}")
        await world.ok("POST", "/api/v1/tenants", "operator", json={"id": f"extra-{number}"})
    for path, who, name in (
        ("/api/v1/tenants", "operator", "id"),
        (f"{HERE}/servers", ADMIN, "name"),
        (f"{HERE}/keys", ADMIN, "id"),
        (f"{HERE}/servers/time/deployments", ADMIN, "id"),
        (f"{HERE}/servers/time/logs", ADMIN, "position"),
    ):
        whole = [item[name] for item in (await world.ok("GET", path, who))["items"]]
        paged: list[object] = []
        query: dict[str, object] = {"limit": 2}
        while True:
            page = await world.ok("GET", path, who, params=query)
            assert len(page["items"]) <= 2
            paged += [item[name] for item in page["items"]]
            if page["next"] is None:
                break
            query["after"] = page["next"]
        assert paged == whole
        assert len(whole) > 1


@pytest.mark.requirement("control:servers:paging")
async def test_the_audit_trail_is_read_in_pages_and_verified(world: worlds.World) -> None:
    first = await world.ok("GET", f"{HERE}/audit", ADMIN, params={"limit": 1})
    rest = await world.ok("GET", f"{HERE}/audit", ADMIN, params={"after": first["next"]})
    positions = [item["position"] for item in first["items"] + rest["items"]]
    assert positions == sorted(set(positions))
    assert [item["event"]["event"] for item in rest["items"]].count("audit_read") == 1
    report = await world.ok("POST", f"{HERE}/audit/verify", ADMIN)
    assert report["ok"] is True
    assert report["entries"] >= len(positions)


@pytest.mark.requirement("control:mcp:tools")
async def test_the_tools_are_shown_as_the_server_tells_them(world: worlds.World) -> None:
    place = f"{HERE}/servers/time/tools"
    world.runtime.pages = [{"tools": [{"name": "a", "x": [1]}, {"name": "b"}]}]
    assert (await world.ok("GET", place, ADMIN))["tools"] == [{"name": "a", "x": [1]}, {"name": "b"}]


@pytest.mark.requirement("control:mcp:tools")
async def test_a_call_reaches_the_server_as_the_caller_and_its_arguments_as_they_are(world: worlds.World) -> None:
    arguments = {"a/../b": "?x#\r\n", "deep": [{"n": 1.5}]}
    body = {"tool": "now", "arguments": arguments}
    answer = await world.ok("POST", f"{HERE}/servers/time/call", f"{worlds.OWN}/mcp_user", json=body)
    assert answer["content"] == [{"type": "text", "text": "noon"}]
    caller = (await world.ok("GET", "/api/v1/whoami", f"{worlds.OWN}/mcp_user"))["id"]
    assert world.runtime.calls == [(caller, worlds.OWN, "time", "tools/call", {"name": "now", "arguments": arguments})]


@pytest.mark.requirement("control:sandbox:layers")
async def test_which_walls_stand_is_told_to_all_and_why_one_is_missing_to_operators(world: worlds.World) -> None:
    told = await world.ok("GET", "/api/v1/sandbox", ADMIN)
    assert told["missing"] == ["uid"]
    assert {"name": "seccomp", "present": True, "why": "", "fix": ""} in told["layers"]
    assert all(layer["why"] == layer["fix"] == "" for layer in told["layers"])
    full = await world.ok("GET", "/api/v1/sandbox", "operator")
    assert {"name": "uid", "present": False, "why": "all run as one user", "fix": "start as root"} in full["layers"]
    assert (await world.client.get("/api/v1/sandbox")).status_code == 401


@pytest.mark.requirement("control:operations:wait")
async def test_the_end_of_a_deployment_can_be_waited_for_in_one_question(world: worlds.World) -> None:
    ordered = await world.ok("POST", f"{HERE}/deployments", ADMIN, json={"source": "pypi:another-package"})
    assert ordered["state"] == "running"
    where = f"{HERE}/operations/{ordered['id']}"
    ended = await world.ok("GET", where, ADMIN, params={"wait": "30"})
    assert ended["state"] == "failed"
    # Who asks later, or for longer than anybody may wait, waits for nothing.
    assert await world.ok("GET", where, ADMIN, params={"wait": "30"}) == ended
    assert (await world.send("GET", where, ADMIN, params={"wait": "31"})).status_code == 400
    elsewhere = f"/api/v1/tenants/{worlds.OTHER}/operations/{ordered['id']}"
    assert (await world.send("GET", elsewhere, f"{worlds.OTHER}/admin", params={"wait": "30"})).status_code == 404
