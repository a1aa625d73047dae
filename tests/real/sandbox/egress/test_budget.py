"""What a tenant may move in a day, seen from inside its cells."""

import io
import pathlib

import pytest

from smcp.kernel import clock, ids, observe, settings
from smcp.tenancy import egress, plans, tenants
from support import netcell, storage

pytestmark = pytest.mark.real

ACME = ids.tenant("acme")


@pytest.mark.requirement("tenancy:egress:counted", "sandbox:egress:verdicts")
async def test_a_tenant_that_has_moved_its_bytes_of_the_day_gets_no_further(site: int, tmp_path: pathlib.Path) -> None:
    async with storage.opened(tmp_path) as store:
        time = clock.FrozenClock()  # at midnight there would be another day's bytes
        config = settings.Settings(limits=settings.Limits(standard=("egress_bytes_per_day=3000",)))
        every = plans.Plans(store, tenants.Tenants(store, time), config)
        days = egress.Days(store, every.of, time, observe.logger(settings.Log(), io.StringIO()))
        world = netcell.pinned("allowed.example", budgets=days.budget)
        async with world.cell(f"allowed.example:{site}", tenant=ACME) as (cell, attachment):
            found = await cell.ask(
                f"""
                import json, urllib.request
                def tried():
                    try:
                        return urllib.request.urlopen("http://allowed.example:{site}/", timeout=60).read().decode()
                    except OSError as error:
                        return "refused"
                print(json.dumps([tried() for _ in range(40)]))
                """
            )
        assert found[0] == "hello"
        assert found[-1] == "refused"
        assert 0 < attachment.sent + attachment.received <= 3000
        assert await days.used(ACME) == attachment.sent + attachment.received
        assert any("refused" in line and "of the day are used up" in line for line in world.lines), world.lines
        assert 'smcp_egress_verdicts_total{reason="quota",verdict="refused"}' in world.metrics.render().decode()
        await days.close()
