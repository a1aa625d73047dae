"""Verifying a long trail is long work: nobody else may feel it."""

import asyncio
import gc
import pathlib
import time

import pytest

from smcp.audit import events, trail
from smcp.kernel import clock, errors, ids
from support import storage

_ACME = ids.TenantId("acme")
_BATCHES = 8


@pytest.mark.requirement("review:audit:verify")
async def test_others_go_on_while_a_trail_is_verified_and_it_is_verified_once_at_a_time(tmp_path: pathlib.Path) -> None:
    async with storage.opened(tmp_path) as store:
        await store.provision(_ACME)
        told = trail.Trail(store, clock.SystemClock(), writer="test", ttl_days=1)
        await told.start()
        for _ in range(_BATCHES):
            for _ in range(500):
                told.note(events.AuditRead(tenant=_ACME, actor="key-1"))
            await told.flush(_ACME)
        verifying = asyncio.create_task(told.verify(_ACME))
        turns: list[float] = []
        refused = False
        gc.disable()  # what all other tests have left is no part of a turn
        try:
            while not verifying.done():
                began = time.thread_time()
                await asyncio.sleep(0)
                turns.append(time.thread_time() - began)
                if not refused:
                    with pytest.raises(errors.RateLimited):
                        await told.verify(_ACME)
                    refused = True
        finally:
            gc.enable()
        assert (await verifying).ok
        assert refused
        # The records came in one page: without pauses they were one turn.
        assert max(turns) < sum(turns) / 2
        assert (await told.verify(_ACME)).ok
        await told.close()
