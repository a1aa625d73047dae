"""KV namespaces through the admin API: any key, any value, and an entry in the trail for each change."""

import base64
from typing import Any, Final

import pytest

from smcp.kernel import clock, errors
from smcp.stores import heavy
from unit.control import paths
from unit.control import world as worlds

_PATH: Final = f"/api/v1/tenants/{worlds.OWN}/kv"
_ADMIN: Final = f"{worlds.OWN}/admin"
_BYTES: Final = {"Content-Type": "application/octet-stream"}


async def _put(world: worlds.World, name: str, value: bytes, **query: Any) -> Any:
    return await world.send("PUT", f"{_PATH}/{name}", _ADMIN, content=value, headers=_BYTES, params=query)


@pytest.mark.requirement("workers:kv:outside")
@pytest.mark.parametrize(
    ("quoted", "key"),
    [
        ("a", "a"),
        ("a%2Fb", "a/b"),
        ("a/b", "a/b"),
        ("%2F", "/"),
        ("..%2F..%2Fother", "../../other"),
        ("%3F%23%25", "?#%"),
        ("%C3%A9%20", "é "),
    ],
)
async def test_any_key_is_written_read_listed_and_deleted(world: worlds.World, quoted: str, key: str) -> None:
    where = f"space/keys/{quoted}"
    made = (await _put(world, where, b"v", metadata='{ "a": 1 }')).json()
    assert made == {"name": key, "bytes": 1, "expires": None, "metadata": {"a": 1}}
    got = await world.ok("GET", f"{_PATH}/{where}", _ADMIN)
    assert got == made | {"value": "v", "value_base64": None}
    assert await world.ok("GET", f"{_PATH}/space", _ADMIN) == {"items": [made], "next": None}
    assert (await world.send("DELETE", f"{_PATH}/{where}", _ADMIN)).status_code == 204
    for method in ("GET", "DELETE"):
        assert (await world.send(method, f"{_PATH}/{where}", _ADMIN)).status_code == 404


@pytest.mark.requirement("workers:kv:outside")
async def test_values_that_are_no_text_come_in_base64(world: worlds.World) -> None:
    await _put(world, "space/keys/k", b"\xff\x00")
    got = await world.ok("GET", f"{_PATH}/space/keys/k", _ADMIN)
    assert (got["value"], got["value_base64"], got["bytes"]) == (None, "/wA=", 2)


@pytest.mark.requirement("workers:kv:outside")
async def test_lists_go_on_by_their_next_and_it_fits_no_other_list(world: worlds.World) -> None:
    for name in ("a1", "a2", "a3", "b"):
        await _put(world, f"space/keys/{name}", b"")
    first = await world.ok("GET", f"{_PATH}/space", _ADMIN, params={"prefix": "a", "limit": 2})
    assert [one["name"] for one in first["items"]] == ["a1", "a2"]
    rest = await world.ok("GET", f"{_PATH}/space", _ADMIN, params={"prefix": "a", "after": first["next"]})
    assert ([one["name"] for one in rest["items"]], rest["next"]) == (["a3"], None)
    assert (await world.send("GET", f"{_PATH}/space", _ADMIN, params={"after": first["next"]})).status_code == 400
    foreign = f"/api/v1/tenants/{worlds.OTHER}/kv/space"
    stolen = {"prefix": "a", "after": first["next"]}
    assert (await world.send("GET", foreign, f"{worlds.OTHER}/admin", params=stolen)).status_code == 400


@pytest.mark.requirement("workers:kv:outside")
async def test_a_namespace_is_deleted_after_it_was_told_what_that_would_be(world: worlds.World) -> None:
    for name in ("a", "b"):
        await _put(world, f"space/keys/{name}", b"12345")
    listed = {"items": [{"name": paths.SPACE}, {"name": "space"}], "next": None}
    assert await world.ok("GET", _PATH, _ADMIN) == listed
    page = await world.ok("GET", _PATH, _ADMIN, params={"limit": 1})
    assert page == {"items": [{"name": paths.SPACE}], "next": paths.SPACE}
    assert await world.ok("GET", _PATH, _ADMIN, params={"after": page["next"]}) == listed | {
        "items": [{"name": "space"}]
    }
    told = {"name": "space", "keys": 2, "bytes": 10, "dry_run": True}
    assert await world.ok("DELETE", f"{_PATH}/space", _ADMIN, params={"dry_run": "true"}) == told
    assert await world.ok("GET", _PATH, _ADMIN) == listed
    assert await world.ok("DELETE", f"{_PATH}/space", _ADMIN) == told | {"dry_run": False}
    assert (await world.send("DELETE", f"{_PATH}/space", _ADMIN)).status_code == 404


@pytest.mark.requirement("workers:kv:limits")
async def test_the_limits_are_those_of_the_code(world: worlds.World) -> None:
    now = int(clock.SystemClock().now())
    for name, query, status in (
        ("space/keys/k", {"expires": now + 3600}, 200),
        ("space/keys/k", {"expires": now + 10}, 400),
        ("space/keys/k", {"metadata": "{"}, 400),
        ("space/keys/k", {"metadata": "m" * 1025}, 400),
        ("space/keys/" + "k" * 513, {}, 400),
        ("no namespace/keys/k", {}, 400),
        ("smcp_acme_0123456789ab_0123456789abcdefghjkmnpqrstvwxyz/keys/k", {}, 400),
    ):
        assert (await _put(world, name, b"v", **query)).status_code == status, (name, query)
    assert (await _put(world, "space/keys/k", bytes(26_214_401))).status_code == 413
    assert (await world.ok("GET", f"{_PATH}/space/keys/k", _ADMIN))["expires"] == now + 3600


@pytest.mark.requirement("workers:kv:outside")
async def test_each_change_is_in_the_trail_without_the_key_or_the_value(world: worlds.World) -> None:
    await _put(world, "space/keys/anna@example.org", b"CANARY-value")
    await world.ok("DELETE", f"{_PATH}/space/keys/anna@example.org", _ADMIN)
    await _put(world, "space/keys/k", b"")
    await world.ok("DELETE", f"{_PATH}/space", _ADMIN)
    told = [one for one in await world.trail(worlds.OWN) if one["event"].startswith("kv_")]
    assert [one["event"] for one in told] == ["kv_put", "kv_deleted", "kv_put", "kv_cleared"]
    assert all(one["namespace"] == "space" for one in told)
    assert told[0]["key"] == told[1]["key"] != told[2]["key"]
    assert (told[0]["bytes"], told[3]["keys"]) == (12, 1)
    assert "example.org" not in str(told)
    assert "CANARY" not in str(told)


@pytest.mark.requirement("workers:memory:api-reads")
@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('é€😀"\\\x01\n'.encode() * 20_000, True),
        (b"\x01" * 200_000, True),
        (b"\xff\x00" * 100_001, False),
        (b"a" * 200_000 + b"\xf0\x9f", False),
    ],
)
async def test_large_values_read_like_small_ones(world: worlds.World, value: bytes, text: bool) -> None:
    made = (await _put(world, "space/keys/k", value, metadata='{"a": 1}')).json()
    answer = await world.send("GET", f"{_PATH}/space/keys/k", _ADMIN)
    assert answer.headers["Content-Type"] == "application/json"
    shown = {"value": value.decode() if text else None, "value_base64": None}
    if not text:
        shown["value_base64"] = base64.b64encode(value).decode()
    assert answer.json() == made | shown
    assert (await world.send("HEAD", f"{_PATH}/space/keys/k", _ADMIN)).status_code == 200


@pytest.mark.requirement("workers:memory:api-reads")
async def test_large_values_are_read_a_few_at_a_time(world: worlds.World) -> None:
    await _put(world, "space/keys/large", bytes(100_000))
    await _put(world, "space/keys/small", b"v")
    world.parts.heavy.wait_s = 0.05
    shares = [world.parts.heavy.share(worlds.OWN) for _ in range(2)]
    # What bindings of the tenant's Workers send, and nobody reads.
    places = [await share.take() for share in shares for _ in range(heavy.OF_ONE)]
    refused = await world.send("GET", f"{_PATH}/space/keys/large", _ADMIN)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
    assert (await world.ok("GET", f"{_PATH}/space/keys/small", _ADMIN))["value"] == "v"
    world.parts.heavy.wait_s = 60
    places[0].release()
    for _ in range(5):  # and each gives its place back
        assert (await world.ok("GET", f"{_PATH}/space/keys/large", _ADMIN))["bytes"] == 100_000


@pytest.mark.requirement("workers:memory:trail-first")
async def test_a_deletion_that_fails_half_way_is_in_the_trail(
    world: worlds.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        await _put(world, f"space/keys/{name}", b"12345")
    deleted = world.parts.namespaces._place  # pyright: ignore[reportPrivateUsage]

    async def fails(tenant: Any, place: Any, new: Any, beside: bytes = b"") -> bool:
        if place[2] == "b":
            raise errors.Unavailable
        return await deleted(tenant, place, new, beside)

    monkeypatch.setattr(world.parts.namespaces, "_place", fails)
    assert (await world.send("DELETE", f"{_PATH}/space", _ADMIN)).status_code == 503
    assert [one["name"] for one in (await world.ok("GET", f"{_PATH}/space", _ADMIN))["items"]] == ["b"]
    told = [one for one in await world.trail(worlds.OWN) if one["event"] == "kv_cleared"]
    assert [(one["namespace"], one["keys"]) for one in told] == [("space", 2)]
