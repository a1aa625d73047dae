"""What the API tells of usage."""

import csv
import io

import pytest

from smcp.control import usage as endpoints
from smcp.kernel import errors, tables
from smcp.tenancy import report, usage
from unit.control import world as worlds

ADMIN = f"{worlds.OWN}/admin"
HERE = f"/api/v1/tenants/{worlds.OWN}/usage"


def use(world: worlds.World) -> None:
    counting = world.parts.meter
    for server, principal, calls in (("time", "key-1", 3), ("time", "key-2", 4), ("git", "key-1", 5)):
        for _ in range(calls):
            counting.call(worlds.OWN, server, principal, failed=False, received=10, sent=100)
    counting.call(worlds.OTHER, "time", "key-9", failed=True, received=1, sent=1)
    counting.used(worlds.OWN, "time", "", usage.Sums(cpu_us=1_500_000, memory_byte_s=7, copy_ms=2000))
    counting.used(worlds.OWN, "git", "", usage.Sums(copy_ms=1000, cpu_unknown_ms=1000, memory_unknown_ms=1000))


@pytest.mark.requirement("usage:api:groups")
async def test_usage_is_told_by_what_was_asked_for(world: worlds.World) -> None:
    use(world)
    whole = await world.ok("GET", HERE, ADMIN)
    assert whole["next"] is None
    (total,) = whole["items"]
    assert (total["tenant"], total["server"], total["principal"], total["time"]) == (worlds.OWN, None, None, None)
    assert (total["calls"], total["errors"], total["received_bytes"], total["sent_bytes"]) == (12, 0, 120, 1200)
    by_server = (await world.ok("GET", f"{HERE}?by=server", ADMIN))["items"]
    assert [(one["server"], one["calls"]) for one in by_server] == [("git", 5), ("time", 7)]
    both = (await world.ok("GET", f"{HERE}?by=principal,server,hour", ADMIN))["items"]
    assert {(one["server"], one["principal"]): one["calls"] for one in both} == {
        ("git", ""): 0,
        ("git", "key-1"): 5,
        ("time", ""): 0,
        ("time", "key-1"): 3,
        ("time", "key-2"): 4,
    }
    assert {one["time"] % 3600 for one in both} == {0.0}
    days = (await world.ok("GET", f"{HERE}?by=day", ADMIN))["items"]
    assert {one["time"] % 86400 for one in days} == {0.0}


@pytest.mark.requirement("usage:copies:unknown")
async def test_what_nothing_could_measure_is_null_and_not_zero(world: worlds.World) -> None:
    use(world)
    git, time = (await world.ok("GET", f"{HERE}?by=server", ADMIN))["items"]
    assert (git["cpu_s"], git["memory_byte_s"], git["cpu_unknown_s"], git["copy_s"]) == (None, None, 1.0, 1.0)
    assert (time["cpu_s"], time["memory_byte_s"], time["cpu_unknown_s"], time["copy_s"]) == (1.5, 7, 0.0, 2.0)
    answer = await world.send("GET", f"{HERE}?by=server&format=csv", ADMIN)
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(row["server"], row["cpu_s"]) for row in rows] == [("git", "unknown"), ("time", "1.5")]


@pytest.mark.requirement("usage:api:paged")
@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
async def test_pages_of_any_size_are_the_whole(world: worlds.World, limit: int) -> None:
    use(world)
    whole = (await world.ok("GET", f"{HERE}?by=hour,server,principal", ADMIN))["items"]
    found, after = list[object](), ""
    while after is not None:
        page = await world.ok("GET", f"{HERE}?by=hour,server,principal&limit={limit}&after={after}", ADMIN)
        assert len(page["items"]) <= limit
        found += page["items"]
        after = page["next"]
    assert found == whole


@pytest.mark.requirement("usage:api:csv")
async def test_csv_comes_whole_by_accept_or_by_name(world: worlds.World) -> None:
    use(world)
    by_name = await world.send("GET", f"{HERE}?by=server,principal&format=csv&limit=1", ADMIN)
    by_header = await world.send("GET", f"{HERE}?by=server,principal", ADMIN, headers={"Accept": "text/csv"})
    assert by_name.headers["content-type"] == endpoints.CSV == by_header.headers["content-type"]
    assert by_name.text == by_header.text
    rows = list(csv.DictReader(io.StringIO(by_name.text)))
    assert [row["server"] + "/" + row["principal"] for row in rows] == [
        "git/", "git/key-1", "time/", "time/key-1", "time/key-2",
    ]  # fmt: skip
    assert sum(int(row["calls"]) for row in rows) == 12
    asked = await world.send("GET", f"{HERE}?format=json", ADMIN, headers={"Accept": "text/csv"})
    assert asked.json()["items"][0]["calls"] == 12


@pytest.mark.requirement("usage:api:csv-injection")
@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1"])
def test_a_text_that_a_spreadsheet_would_compute_is_neutralised(text: str) -> None:
    (row,) = list(csv.reader(io.StringIO(tables.comma_separated(("a", "b"), [(text, -5)]), newline="")))[1:]
    assert row == [f"'{text}", "-5"]


@pytest.mark.requirement("usage:api:platform")
async def test_operators_see_sums_of_every_tenant_page_by_page(world: worlds.World) -> None:
    use(world)
    found, after = list[dict[str, object]](), ""
    while after is not None:
        page = await world.ok("GET", f"/api/v1/usage?limit=1&after={after}", "operator")
        found += page["items"]
        after = page["next"]
    assert {one["tenant"]: (one["calls"], one["errors"]) for one in found} == {"acme": (12, 0), "globex": (1, 1)}
    assert {one["server"] for one in found} == {None} == {one["principal"] for one in found}
    answer = await world.send("GET", "/api/v1/usage?by=day&format=csv", "operator")
    assert len(list(csv.DictReader(io.StringIO(answer.text)))) == 2


@pytest.mark.requirement("usage:meter:isolated")
async def test_a_tenants_usage_is_for_its_admins_and_the_platforms_for_operators(world: worlds.World) -> None:
    use(world)
    for role in worlds.ROLES:
        own = await world.send("GET", HERE, f"{worlds.OWN}/{role}")
        assert own.status_code == (200 if role == "admin" else 403), role
        assert (await world.send("GET", HERE, f"{worlds.OTHER}/{role}")).status_code == 404
        assert (await world.send("GET", "/api/v1/usage", f"{worlds.OWN}/{role}")).status_code == 404
    (theirs,) = (await world.ok("GET", f"/api/v1/tenants/{worlds.OTHER}/usage", f"{worlds.OTHER}/admin"))["items"]
    assert theirs["calls"] == 1


@pytest.mark.requirement("usage:api:bounded")
async def test_a_question_reads_a_bounded_number_of_records(
    world: worlds.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(world)
    monkeypatch.setattr(report, "RECORDS", 2)
    answer = await world.send("GET", HERE, ADMIN)
    assert (answer.status_code, answer.json()["error"]["code"]) == (
        errors.InvalidParams.http_status,
        errors.InvalidParams.code,
    )
    assert "shorter" in answer.json()["error"]["message"]


@pytest.mark.requirement("usage:api:groups")
@pytest.mark.parametrize(
    "query", ["by=colour", "by=server,", "from=2&to=1", "from=-1", "from=nan", "to=1e400", "format=xml", "after=%2F"]
)
async def test_a_question_that_makes_no_sense_is_refused(world: worlds.World, query: str) -> None:
    answer = await world.send("GET", f"{HERE}?{query}", ADMIN)
    assert answer.status_code == 400, answer.text


@pytest.mark.requirement("usage:api:groups")
async def test_a_range_counts_the_hours_that_it_touches(world: worlds.World) -> None:
    use(world)
    now = world.parts.meter.now()
    assert (await world.ok("GET", f"{HERE}?from={now - 3600}&to={now + 1}", ADMIN))["items"][0]["calls"] == 12
    assert (await world.ok("GET", f"{HERE}?from={now - 9e6}&to={now - 7200}", ADMIN))["items"] == []
    assert (await world.ok("GET", f"{HERE}?from={now + 3600}&to={now + 7200}", ADMIN))["items"] == []
