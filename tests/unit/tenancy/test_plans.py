"""Plans: where their numbers come from, and that memory is never older than an acknowledged change."""

import pathlib
from collections.abc import AsyncIterator

import msgspec
import pytest

from smcp.access import policy
from smcp.kernel import clock, errors, ids, settings
from smcp.kernel.observe import names
from smcp.stores import tenant as stores
from smcp.tenancy import limits, plans, tenants
from support import storage

ACME = ids.tenant("acme")
TIME = clock.SystemClock()


@pytest.fixture
async def store(tmp_path: pathlib.Path) -> AsyncIterator[stores.Store]:
    async with storage.opened(tmp_path) as opened:
        yield opened


def opened(store: stores.Store, *standard: str, **limit: int) -> tuple[tenants.Tenants, plans.Plans]:
    owners = tenants.Tenants(store, TIME)
    config = settings.Settings(limits=settings.Limits(standard=standard, **limit))
    return owners, plans.Plans(store, owners, config)


@pytest.mark.requirement("tenancy:plans:standard")
def test_the_defaults_are_those_of_the_design() -> None:
    config = settings.Settings()
    standard = plans.standard(config)
    assert config.limits.platform_per_second == 10_000
    assert config.limits.unauthenticated_per_minute == 60
    assert config.gateway.max_body_bytes == 1_048_576
    assert (standard.tenant_per_minute, standard.session_per_minute, standard.principal_sessions) == (1000, 100, 10)


@pytest.mark.requirement("tenancy:plans:standard")
def test_the_settings_describe_the_standard_plan_and_every_limit_has_a_name_there() -> None:
    numbers = {limit.name: 1000 + place for place, limit in enumerate(plans.LIMITS)}
    config = settings.Settings(limits=settings.Limits(standard=tuple(f"{name}={n}" for name, n in numbers.items())))
    standard = plans.standard(config)
    assert standard.name == "standard"
    assert {name: getattr(standard, name) for name in numbers} == numbers
    assert {field.name for field in msgspec.structs.fields(plans.Plan)} == {*numbers, "name"}
    assert tuple(numbers) == names.PLAN_LIMITS


@pytest.mark.requirement("tenancy:plans:standard")
@pytest.mark.parametrize("wrong", ["spares", "spares=", "spares=two", "spares=-1", "colour=3", "instances=0", "name=3"])
def test_a_setting_that_is_no_limit_stops_the_start(wrong: str) -> None:
    with pytest.raises(errors.BadSettings, match=r"limits\.standard"):
        plans.standard(settings.Settings(limits=settings.Limits(standard=(wrong,))))


@pytest.mark.requirement("tenancy:plans:standard")
def test_the_free_plan_is_never_more_than_the_standard_one() -> None:
    standard = plans.standard(settings.Settings(limits=settings.Limits(tenant_per_minute=7)))
    free = plans.free(standard)
    assert free.tenant_per_minute == 7
    assert all(getattr(free, one.name) <= getattr(standard, one.name) for one in plans.LIMITS)


@pytest.mark.requirement("tenancy:plans:follow")
async def test_a_change_of_plan_reaches_rates_places_sessions_and_storage_at_once(store: stores.Store) -> None:
    owners, every = opened(store)
    await owners.create(ACME)
    store.limit(lambda tenant: every.of(tenant).storage)
    limiter = limits.Limiter(settings.Limits(), every, TIME)
    who = policy.Principal(ACME, "key-1", "api_key", (policy.Role.ADMIN,))
    for _ in range(5):
        limiter.rate(who, "a session")
    flying = limiter.admit(who)
    await every.assign(
        ACME, "custom", "free", {"principal_per_minute": 6, "session_per_minute": 4, "principal_concurrency": 1}
    )
    with pytest.raises(errors.RateLimited, match="session"):
        limiter.rate(who, "a session")
    limiter.rate(who)
    with pytest.raises(errors.RateLimited, match="principal"):
        limiter.rate(who)
    with pytest.raises(errors.RateLimited, match="in flight"):
        limiter.admit(who)
    assert limiter.plan(ACME).principal_sessions == 3
    await store.tenant(ACME).kv.put(("a",), bytes(10_000))
    await every.assign(ACME, "custom", limits={"storage_bytes": 5000})
    with pytest.raises(errors.QuotaExceeded):
        await store.tenant(ACME).kv.put(("b",), b"1")
    await every.assign(ACME, "standard")
    limiter.rate(who, "a session")
    limiter.admit(who).release()
    flying.release()
    await store.tenant(ACME).kv.put(("b",), b"1")


@pytest.mark.requirement("tenancy:plans:follow")
async def test_a_plan_outlives_a_restart_and_is_known_before_anybody_asks(store: stores.Store) -> None:
    owners, every = opened(store)
    await owners.create(ACME)
    await owners.create("globex")
    await every.assign(ACME, "custom", "free", {"tenant_per_minute": 3})
    _, again = opened(store)
    assert again.of(ACME).tenant_per_minute == 1000, "nobody has read it"
    await again.start()
    assert (again.of(ACME).name, again.of(ACME).tenant_per_minute, again.of(ACME).instances) == ("custom", 3, 4)
    assert again.of(ids.tenant("globex")) is again.standard


@pytest.mark.requirement("tenancy:plans:follow")
async def test_numbers_that_are_none_any_more_are_left_out(store: stores.Store) -> None:
    owners, every = opened(store)
    await owners.create(ACME)
    await owners.assign(ACME, "custom", "standard", {"gone": 5, "instances": -3, "tenant_per_minute": 9})
    assert every.of(ACME).tenant_per_minute == 9
    assert every.of(ACME).instances == every.standard.instances


@pytest.mark.requirement("tenancy:plans:follow")
async def test_operators_have_a_wider_rate_and_no_tenants_plan(store: stores.Store) -> None:
    _, every = opened(store, tenant_per_minute=50)
    assert every.of(ids.PLATFORM).tenant_per_minute == 500
    with pytest.raises(errors.NotFound):
        await every.assign(ids.PLATFORM, "free")
