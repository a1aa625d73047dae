"""How long uploads live, on a store whose clock the test moves; what the API says of them is in unit/control."""

import pathlib
from collections.abc import AsyncGenerator

import pytest

from smcp.deploy import uploads
from smcp.kernel import clock, errors, ids, settings
from smcp.stores import local

_ACME = ids.TenantId("acme")


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
