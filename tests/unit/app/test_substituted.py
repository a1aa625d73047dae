"""Secrets that are to be substituted, where they are found: the value is for the way out alone."""

import pathlib

import pytest

from smcp.app import secrets as giving
from smcp.deploy import secrets
from smcp.kernel import clock, errors, ids
from smcp.runtime import driver
from support import storage

ACME = ids.tenant("acme")
REACHER = ids.ServerName("reacher")


def _spec(worker: driver.Worker | None, kind: str) -> driver.Spec:
    secrets = (("TOKEN", kind),)
    return driver.Spec(
        tenant=ACME, server=REACHER, deployment="d1", artefact="", argv=(), secrets=secrets, worker=worker
    )


@pytest.mark.requirement("workers:substitution:manifest")
@pytest.mark.parametrize("kind", ["substituted", "substituted:api.example.com"])
async def test_only_a_worker_gets_a_secret_that_is_to_be_substituted(tmp_path: pathlib.Path, kind: str) -> None:
    async with storage.opened(tmp_path) as store:
        await store.provision(ACME)
        kept = secrets.Secrets(store, clock.SystemClock())
        await kept.set(ACME, REACHER, "TOKEN", b"a-very-secret-value", by="someone", kind="file")
        find = giving.Giver(kept)
        worker = driver.Worker(modules=(), compatibility_date="2026-11-01")
        (given,) = await find(_spec(worker, kind))
        assert (given.name, given.value, given.file) == ("TOKEN", b"a-very-secret-value", False)
        with pytest.raises(errors.SecretMissing, match="only for Workers"):
            await find(_spec(None, kind))
