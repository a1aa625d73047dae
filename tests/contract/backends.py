"""Stores to test with: raw ones, and whole ones as the platform opens them."""

from pathlib import Path

from smcp.kernel import clock as clocks
from smcp.kernel import crypto, ids, settings
from smcp.stores import local, tenant

ACME = ids.tenant("acme")
OTHER = ids.tenant("other")


async def opened(
    directory: Path, clock: clocks.Clock, *, quota_bytes: int | None = None, quota_keys: int | None = None
) -> tenant.Store:
    """The embedded store in `directory`, started, with two tenants."""
    defaults = settings.Stores()
    store = local.open_local(
        directory,
        settings.Settings(
            stores=settings.Stores(
                quota_bytes=quota_bytes or defaults.quota_bytes, quota_keys=quota_keys or defaults.quota_keys
            )
        ),
        clock,
    )
    await store.start()
    await store.provision(ACME)
    await store.provision(OTHER)
    return store


def ring(directory: Path) -> crypto.KeyRing:
    """A key ring with the same two tenants, for wrappers that are tested over raw back ends."""
    opened = crypto.KeyRing.open(directory / "keys", directory / "keys" / "root.key")
    for name in (ids.PLATFORM, ACME, OTHER):
        opened.create(name)
    return opened
