"""Secrets over the API: what is told, to whom, and that no value ever comes back."""

import base64
from typing import Any

import pytest

from smcp.kernel import ids
from unit.control import world as worlds

_ADMIN = f"{worlds.OWN}/admin"
_PATH = f"/api/v1/tenants/{worlds.OWN}/servers/not-yet-there/secrets"
_CANARY = "canary-Zk3vUq0-value"
_SERVER = ids.ServerName("not-yet-there")


async def _stored(world: worlds.World) -> dict[str, bytes]:
    return {one.name: one.value for one in await world.parts.secrets.values(worlds.OWN, _SERVER)}


@pytest.mark.requirement("deploy:secrets:never-shown", "deploy:secrets:early")
async def test_a_secret_is_set_listed_rotated_and_deleted_and_its_value_is_in_no_answer(world: worlds.World) -> None:
    answers = [
        await world.send("PUT", f"{_PATH}/API_KEY", _ADMIN, json={"value": _CANARY}),
        await world.send("GET", _PATH, _ADMIN),
        await world.send("POST", f"{_PATH}/API_KEY/rotate", _ADMIN, json={"value": f"{_CANARY}-2"}),
        await world.send(
            "PUT",
            f"{_PATH}/CERT",
            _ADMIN,
            json={"value_base64": base64.b64encode(b"\xff" + _CANARY.encode()).decode(), "kind": "file"},
        ),
        await world.send("GET", _PATH, _ADMIN),
    ]
    assert all(answer.status_code == 200 for answer in answers)
    listed: list[dict[str, Any]] = answers[-1].json()["items"]
    assert [(one["name"], one["version"], one["kind"]) for one in listed] == [
        ("API_KEY", 2, "env"),
        ("CERT", 1, "file"),
    ]
    assert await _stored(world) == {"API_KEY": f"{_CANARY}-2".encode(), "CERT": b"\xff" + _CANARY.encode()}
    answers.append(await world.send("DELETE", f"{_PATH}/API_KEY", _ADMIN))
    assert answers[-1].status_code == 204
    assert list(await _stored(world)) == ["CERT"]
    encoded = base64.b64encode(_CANARY.encode()).decode()[:16]
    for answer in answers:
        assert _CANARY not in answer.text
        assert encoded not in answer.text
    told = [event for event in await world.trail(worlds.OWN) if event["event"].startswith("secret_")]
    assert [(event["event"], event["name"], event["version"]) for event in told] == [
        ("secret_set", "API_KEY", 1),
        ("secret_rotated", "API_KEY", 2),
        ("secret_set", "CERT", 1),
        ("secret_deleted", "API_KEY", 2),
    ]
    assert _CANARY not in str(await world.trail(worlds.OWN))
    assert _CANARY not in world.log.getvalue()


@pytest.mark.requirement("deploy:secrets:rotate")
async def test_each_change_replaces_the_copies_of_that_server(world: worlds.World) -> None:
    await world.ok("PUT", f"{_PATH}/A", _ADMIN, json={"value": "1"})
    await world.ok("POST", f"{_PATH}/A/rotate", _ADMIN, json={"value": "2"})
    await world.ok("DELETE", f"{_PATH}/A", _ADMIN)
    assert (await world.send("POST", f"{_PATH}/A/rotate", _ADMIN, json={"value": "2"})).status_code == 404
    assert (await world.send("DELETE", f"{_PATH}/A", _ADMIN)).status_code == 404
    assert world.runtime.renewed == [(worlds.OWN, "not-yet-there")] * 3


@pytest.mark.requirement("deploy:secrets:never-shown")
async def test_what_is_wrong_with_a_value_is_told_without_the_value(world: worlds.World) -> None:
    for body in (
        {"value": f"{_CANARY}\0"},
        {"value": _CANARY, "value_base64": _CANARY},
        {"value_base64": _CANARY},
        {"value": _CANARY, "kind": _CANARY},
        {"value": [_CANARY]},
        {"value": _CANARY * 5000},
    ):
        answer = await world.send("PUT", f"{_PATH}/API_KEY", _ADMIN, json=body)
        assert answer.status_code == 400, answer.text
        assert _CANARY not in answer.text
    answer = await world.send("PUT", f"{_PATH}/API_KEY", _ADMIN, content=f'{{"value": "{_CANARY}'.encode())
    assert answer.status_code in (400, 415)
    assert _CANARY not in answer.text
    assert _CANARY not in world.log.getvalue()
    assert await _stored(world) == {}


@pytest.mark.requirement("deploy:secrets:destroyed")
async def test_a_deleted_server_leaves_its_successor_no_secret(world: worlds.World) -> None:
    server = f"/api/v1/tenants/{worlds.OWN}/servers/time"
    assert [one["name"] for one in (await world.ok("GET", f"{server}/secrets", _ADMIN))["items"]] == [worlds.SECRET]
    await world.ok("DELETE", server, _ADMIN)
    await world.publish(worlds.OWN, "time")
    assert (await world.ok("GET", f"{server}/secrets", _ADMIN))["items"] == []
    other = f"/api/v1/tenants/{worlds.OTHER}/servers/time/secrets"
    assert len((await world.ok("GET", other, f"{worlds.OTHER}/admin"))["items"]) == 1


@pytest.mark.requirement("deploy:secrets:never-shown")
async def test_who_may_only_call_a_server_does_not_learn_what_secrets_it_has(world: worlds.World) -> None:
    for role in ("mcp_user", "read_only"):
        for method, path in (("GET", _PATH), ("PUT", f"{_PATH}/A"), ("DELETE", f"{_PATH}/A")):
            sent = {"json": {"value": _CANARY}} if method == "PUT" else {}
            assert (await world.send(method, path, f"{worlds.OWN}/{role}", **sent)).status_code == 403


async def test_a_list_goes_on_behind_any_name(world: worlds.World) -> None:
    for name in ("B", "_a", "A", "b2"):
        await world.ok("PUT", f"{_PATH}/{name}", _ADMIN, json={"value": "1"})
    first = await world.ok("GET", f"{_PATH}?limit=2", _ADMIN)
    second = await world.ok("GET", f"{_PATH}?limit=2&after={first['next']}", _ADMIN)
    assert [one["name"] for one in (*first["items"], *second["items"])] == ["A", "B", "_a", "b2"]
    assert second["next"] is None
