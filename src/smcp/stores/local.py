"""The embedded store: SQLite for keys and logs, a directory or an S3-compatible URL for objects, a key ring."""

from pathlib import Path

from smcp.kernel import clock as clocks
from smcp.kernel import crypto, settings
from smcp.stores import tenant
from smcp.stores.kv import sqlite as kv
from smcp.stores.log import sqlite as log
from smcp.stores.objects import obstore as objects


def open_local(data_dir: Path, settings: settings.Settings, clock: clocks.Clock) -> tenant.Store:
    """The store in `data_dir`, made where it does not exist; `start` it before use, `close` it in the end.

    The data is in `data_dir/store`, the keys are in `data_dir/keys`: never in one backup. Raises
    `errors.Unavailable` when another process has it, `errors.BadSettings` when the keys do not fit.
    """
    keys = data_dir / "keys"
    root = Path(settings.platform.root_key_file) if settings.platform.root_key_file else keys / "root.key"
    data = data_dir / "store"
    ring = crypto.KeyRing.open(keys, root)
    url = settings.stores.objects_url
    return tenant.Store(
        kv.SqliteKV(data / "kv.db", clock),
        log.SqliteLog(data / "log.db", clock),
        objects.ObstoreObjects.at_url(url) if url else objects.ObstoreObjects.in_directory(data / "objects"),
        ring,
        clock,
        quota_bytes=settings.stores.quota_bytes,
        quota_keys=settings.stores.quota_keys,
    )
