"""How long uploads live, on a store whose clock the test moves; what the API says of them is in unit/control."""

import asyncio
import pathlib
from collections.abc import AsyncGenerator

import pytest

from smcp.deploy import uploads
from smcp.kernel import clock, errors, ids, settings
from smcp.stores import local

_ACME = ids.TenantId("acme")
_OTHER = ids.TenantId("other")


async def _bytes(data: bytes) -> AsyncGenerator[bytes]:
    yield data


@pytest.mark.requirement("deploy:upload:expires")
async def test_an_upload_is_gone_a_day_after_it_was_sent_last_and_its_bytes_with_it(tmp_path: pathlib.Path) -> None:
    now = clock.FrozenClock()
    store = local.open_local(tmp_path, settings.Settings(), now)
    try:
        await store.provision(_ACME)
        kept = uploads.Uploads(store, 1000)
        first = (await kept.store(_ACME, _bytes(b"first"))).source
        second = (await kept.store(_ACME, _bytes(b"second"))).source
        now.advance(uploads.KEPT_S - 1)
        await kept.store(_ACME, _bytes(b"second"))
        now.advance(2)
        with pytest.raises(errors.NotFound, match="Send it again"):
            await kept.copy(_ACME, first, tmp_path / "first")
        await kept.sweep(_ACME)
        assert len(await store.tenant(_ACME).objects.list(("upload",))) == 1
        await kept.copy(_ACME, second, tmp_path / "second")
        assert (tmp_path / "second").read_bytes() == b"second"
    finally:
        await store.close()


@pytest.mark.requirement("deploy:upload:bounded")
async def test_a_tenant_keeps_so_many_uploads_and_no_more_than_its_quota(tmp_path: pathlib.Path) -> None:
    config = settings.Settings(stores=settings.Stores(quota_bytes=200_000))
    store = local.open_local(tmp_path, config, clock.SystemClock())
    try:
        await store.provision(_ACME)
        kept = uploads.Uploads(store, 1_000_000)
        with pytest.raises(errors.QuotaExceeded):
            await kept.store(_ACME, _bytes(b"x" * 300_000))
        for number in range(100):
            await kept.store(_ACME, _bytes(str(number).encode()))
        with pytest.raises(errors.QuotaExceeded, match="a day after"):
            await kept.store(_ACME, _bytes(b"one more"))
        assert (await store.tenant(_ACME).usage()).bytes < 200_000
    finally:
        await store.close()


@pytest.mark.requirement("deploy:upload:suspended")
@pytest.mark.parametrize("more", [True, False], ids=["amid its bytes", "behind its last byte"])
async def test_an_upload_under_way_ends_with_its_tenants_suspension_and_no_others_does(
    tmp_path: pathlib.Path, more: bool
) -> None:
    store = local.open_local(tmp_path, settings.Settings(), clock.SystemClock())
    go_on = asyncio.Event()

    async def slowly(begun: asyncio.Event) -> AsyncGenerator[bytes]:
        yield b"first"
        begun.set()
        await go_on.wait()
        if more:
            yield b"second"

    try:
        kept = uploads.Uploads(store, 1000)
        for tenant in (_ACME, _OTHER):
            await store.provision(tenant)
        under_way = {tenant: asyncio.Event() for tenant in (_ACME, _OTHER)}
        mine, others = [asyncio.create_task(kept.store(one, slowly(begun))) for one, begun in under_way.items()]
        for begun in under_way.values():
            await asyncio.wait_for(begun.wait(), 60)
        kept.stop_tenant(_ACME)
        go_on.set()
        with pytest.raises(errors.TenantSuspended):
            await mine
        assert await store.tenant(_ACME).objects.list(("upload",)) == []
        await kept.check(_OTHER, (await others).source)
        # Resumed: the next one is taken.
        await kept.store(_ACME, _bytes(b"later"))
    finally:
        await store.close()
