"""This node's unpacked copies, on a real store: what is trusted is there."""

import asyncio
import pathlib

import pytest

from smcp.deploy import artefacts
from smcp.kernel import clock, ids, settings
from smcp.stores import local

_ACME = ids.TenantId("acme")


@pytest.mark.requirement("deploy:artefact:verified")
async def test_a_copy_that_is_removed_while_it_is_compared_is_not_trusted_afterwards(tmp_path: pathlib.Path) -> None:
    store = local.open_local(tmp_path / "data", settings.Settings(), clock.SystemClock())
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("x")
    try:
        await store.provision(_ACME)
        first = artefacts.Artefacts(store, tmp_path / "cache", 1000)
        digest = await first.save(_ACME, tree, tmp_path / "a.tar")
        await first.path(_ACME, digest)
        later = artefacts.Artefacts(store, tmp_path / "cache", 1000)
        starting = asyncio.create_task(later.path(_ACME, digest))
        await asyncio.sleep(0)
        await asyncio.gather(starting, later.discard(_ACME, digest), return_exceptions=True)
        assert await later.save(_ACME, tree, tmp_path / "b.tar") == digest
        assert (await later.path(_ACME, digest) / "file").read_text() == "x"
    finally:
        await store.close()
