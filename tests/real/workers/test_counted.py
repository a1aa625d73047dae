"""How the pool counts Workers: their process against the plan, and their instances in metrics."""

import asyncio

import pytest

from smcp.kernel import errors, observe
from smcp.runtime import driver, ledger, pool
from smcp.runtime.drivers.workerd import driver as workerd
from support import handmade

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

_SOURCE = 'import { serve } from "./mcp.js";\nexport default serve({ who: () => "WHO" });\n'
_MEMORY = 1000


def _pool(made: handmade.Workers, metrics: observe.Metrics) -> pool.Pool:
    """A pool of Workers of tenants whose plans have room for two processes, and a little."""

    def lines(spec: driver.Spec) -> driver.Lines:
        return made.lines.setdefault(f"{spec.tenant}/{spec.server}", []).append

    return pool.Pool(
        made.driver,
        lines,
        metrics,
        pool.Patience(idle_stop_s=3600.0, start_s=60.0, check_s=3600.0, answer_s=60.0),
        caps=lambda tenant: ledger.Caps(10, 0, 2 * _MEMORY + 1),
        starts_at_once=4,
        memory_bytes=lambda spec: ledger.Process(workerd.process(spec), _MEMORY),
    )


@pytest.mark.requirement("workers:counted:process")
@pytest.mark.requirement("workers:counted:metrics")
async def test_a_tenants_process_counts_once_and_its_instances_are_workers_in_metrics() -> None:
    metrics = observe.Metrics("0")
    async with handmade.handmade() as made:
        copies = _pool(made, metrics)
        await copies.start()
        try:
            specs = [made.spec(name, _SOURCE) for name in ("one", "two", "three")]
            for instance in await asyncio.gather(*map(copies.shared, specs)):
                assert await handmade.call(instance, "who") == "WHO"
            alone = made.spec("alone", _SOURCE, alone=True)
            first, second = await asyncio.gather(copies.private(alone), copies.private(alone))
            # Two processes: the one of three servers, and that of the server that has its own, with two sessions.
            assert copies.used(specs[0].tenant) == (5, 2 * _MEMORY)
            with pytest.raises(errors.RateLimited):
                await copies.private(made.spec("further", _SOURCE, alone=True))
            text = metrics.render().decode()
            assert 'smcp_instances_live{driver="worker",state="serving"} 5' in text
            assert 'smcp_instances_live{driver="stdio",state="serving"} 0' in text
            assert 'smcp_instance_start_duration_seconds_count{driver="worker",outcome="succeeded"} 5' in text
            await copies.release(first, "done")
            assert copies.used(specs[0].tenant) == (4, 2 * _MEMORY)
            await copies.release(second, "done")
            assert copies.used(specs[0].tenant) == (3, _MEMORY)
            for spec in specs:
                await copies.stop_server(spec.tenant, spec.server, "stopped")
            assert copies.used(specs[0].tenant) == (0, 0)
        finally:
            await copies.close()
