"""Limits as a tenant sees them, and plans as operators give them."""

import pathlib
from typing import Any

import pytest

from smcp.tenancy import plans
from unit.control import world as worlds

ACME = f"/api/v1/tenants/{worlds.OWN}"
ADMIN, OPERATOR = f"{worlds.OWN}/admin", "operator"


def by_name(answer: Any) -> dict[str, Any]:
    return {one["name"]: one for one in answer["limits"]}


@pytest.mark.requirement("control:limits:shown")
async def test_every_role_of_a_tenant_sees_each_limit_with_what_is_left(tmp_path: pathlib.Path) -> None:
    async with worlds.opened(tmp_path, tenant_per_minute=1000, principal_per_minute=10) as world:
        for role in worlds.ROLES:
            answer = await world.ok("GET", f"{ACME}/limits", f"{worlds.OWN}/{role}")
            assert [one["name"] for one in answer["limits"]] == [one.name for one in plans.LIMITS]
        answer = await world.ok("GET", f"{ACME}/limits", ADMIN)
        limits = by_name(answer)
        for one in limits.values():
            assert one["remaining"] == (None if one["used"] is None else one["limit"] - one["used"]), one
            assert one["text"].endswith(".")
        assert answer["plan"] == "standard"
        assert limits["tenant_per_minute"]["limit"] == 1000
        assert limits["tenant_per_minute"]["used"] > limits["principal_per_minute"]["used"] >= 1
        assert limits["tenant_per_minute"]["resets"] > 1_700_000_000
        assert limits["storage_bytes"]["used"] > 0
        assert (await world.send("GET", f"{ACME}/limits", f"{worlds.OTHER}/admin")).status_code == 404


@pytest.mark.requirement("control:limits:shown")
async def test_from_eighty_percent_on_a_limit_warns_and_at_the_limit_says_so(tmp_path: pathlib.Path) -> None:
    async with worlds.opened(tmp_path, principal_per_minute=10) as world:
        states = [
            by_name(await world.ok("GET", f"{ACME}/limits", f"{worlds.OWN}/read_only"))["principal_per_minute"]["state"]
            for _ in range(10)
        ]
    assert states == ["ok"] * 7 + ["warning"] * 2 + ["reached"]


@pytest.mark.requirement("control:limits:headers")
async def test_answers_and_refusals_tell_what_is_left_of_the_callers_rates(tmp_path: pathlib.Path) -> None:
    async with worlds.opened(tmp_path, tenant_per_minute=50, principal_per_minute=3) as world:
        who = f"{worlds.OWN}/read_only"
        first = await world.send("GET", "/api/v1/whoami", who)
        assert first.headers["ratelimit-policy"] == '"tenant";q=50;w=60, "principal";q=3;w=60'
        assert '"principal";r=2;t=6' in first.headers["ratelimit"]
        hidden = await world.send("GET", f"/api/v1/tenants/{worlds.OTHER}", who)
        assert hidden.status_code == 404
        assert '"principal";r=1;t=' in hidden.headers["ratelimit"]
        await world.send("GET", "/api/v1/whoami", who)
        refused = await world.send("GET", "/api/v1/whoami", who)
        assert refused.status_code == 429
        assert '"principal";r=0;t=' in refused.headers["ratelimit"]
        assert 1 <= int(refused.headers["retry-after"]) <= 61
        assert len(refused.headers.get_list("ratelimit")) == 1
        nobody = await world.send("GET", "/api/v1/whoami")
        assert "ratelimit" not in nobody.headers, "who is unknown learns nothing"


@pytest.mark.requirement("control:plan:changes")
async def test_an_operator_changes_a_plan_and_it_counts_from_the_next_request_on(tmp_path: pathlib.Path) -> None:
    async with worlds.opened(tmp_path) as world:
        body = {"plan": "custom", "base": "free", "limits": {"principal_per_minute": 2, "storage_keys": 77}}
        changed = await world.ok("PUT", f"{ACME}/plan", OPERATOR, json=body)
        limits = by_name(changed["limits"])
        assert changed["applied"] is True
        assert (changed["limits"]["plan"], changed["limits"]["base"]) == ("custom", "free")
        assert limits["principal_per_minute"]["limit"] == 2
        assert limits["storage_keys"]["limit"] == 77
        assert limits["instances"]["limit"] == 4, "the base's"
        answers = [await world.send("GET", f"{ACME}/limits", f"{worlds.OWN}/read_only") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        await world.ok("PUT", f"{ACME}/plan", OPERATOR, json={"plan": "standard"})
        assert (await world.ok("GET", f"{ACME}/limits", ADMIN))["plan"] == "standard"
        told = [event for event in await world.trail(worlds.OWN) if event["event"] == "plan_changed"]
        assert [(one["plan"], one["base"]) for one in told] == [("custom", "free"), ("standard", "")]
        assert list(told[0]["limits"]) == ["principal_per_minute:2", "storage_keys:77"]


@pytest.mark.requirement("control:plan:dry-run")
async def test_a_dry_run_says_what_would_be_above_and_changes_nothing(tmp_path: pathlib.Path) -> None:
    async with worlds.opened(tmp_path) as world:
        body = {"plan": "custom", "limits": {"storage_bytes": 1, "instances": 1000}}
        would = await world.ok("PUT", f"{ACME}/plan", OPERATOR, json=body, params={"dry_run": "true"})
        assert would["applied"] is False
        assert [one["name"] for one in would["above"]] == ["storage_bytes"]
        assert would["above"][0]["remaining"] == 0
        now = await world.ok("GET", f"{ACME}/limits", ADMIN)
        assert (now["plan"], by_name(now)["storage_bytes"]["limit"]) == ("standard", 2_147_483_648)
        assert [event for event in await world.trail(worlds.OWN) if event["event"] == "plan_changed"] == []


@pytest.mark.requirement("control:plan:changes")
@pytest.mark.parametrize(
    "body",
    [
        {"plan": "gold"},
        {"plan": "free", "limits": {"instances": 3}},
        {"plan": "standard", "base": "free"},
        {"plan": "custom", "base": "custom"},
        {"plan": "custom", "limits": {"colour": 3}},
        {"plan": "custom", "limits": {"instances": 0}},
        {"plan": "custom", "limits": {"instances": -1}},
        {"plan": "custom", "limits": {"instances": 2**60}},
        {"plan": "custom", "limits": {"instances": "many"}},
        {"plan": "custom", "limits": {"name": 3}},
    ],
    ids=str,
)
async def test_a_plan_that_makes_no_sense_is_refused(body: Any, world: worlds.World) -> None:
    answer = await world.send("PUT", f"{ACME}/plan", OPERATOR, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_params")


@pytest.mark.requirement("control:limits:closed")
async def test_without_the_store_limits_are_not_guessed(tmp_path: pathlib.Path) -> None:
    async with worlds.opened(tmp_path) as world:
        await world.ok("GET", f"{ACME}/limits", ADMIN)
        await world.store.close()
        for method, path, options in (
            ("GET", f"{ACME}/limits", {}),
            ("PUT", f"{ACME}/plan", {"json": {"plan": "free"}}),
            ("POST", f"{ACME}/keys", {"json": {"roles": ["read_only"]}}),
        ):
            answer = await world.send(method, path, OPERATOR if options else ADMIN, **options)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
