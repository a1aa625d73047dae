"""A large object through a Worker: it streams, so that neither the platform nor workerd holds it."""

import pathlib
from typing import Final

import pytest

from support import large
from support.platform import Platform

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

_SIZE: Final = 384 * large.MIB
_MOST_PLATFORM: Final = 48 * large.MIB
"""By which the platform may grow after a small object went through: an eighth of the large one."""
_MOST_WORKERD: Final = _SIZE
"""What workerd may have at all, though it has a heap of its own and lets go of buffers when it finds the time."""


@pytest.mark.requirement("workers:stores:large")
async def test_a_large_object_streams_through_a_worker_in_constant_memory(tmp_path: pathlib.Path) -> None:
    """The bytes are made and hashed in the Worker, put whole and in parts, and got there and over the API.

    `python -m bench.large` does the same with 5 GiB, as much as one put may have.
    """
    with Platform(tmp_path, large.settings(_SIZE)) as platform, large.deployed(platform, tmp_path) as worker:
        small = [step.peaks async for step in worker.steps(8 * large.MIB, 5 * large.MIB)][-1]
        async for step in worker.steps(_SIZE, 64 * large.MIB):
            assert step.peaks.platform - small.platform < _MOST_PLATFORM, (small, step)
            assert 0 < step.peaks.workerd < _MOST_WORKERD, (small, step)
