"""The coverage-guided part, with its share of the minute that fuzzing has in `make test`.

A file apart: files are what the workers of a run share.
"""

import os
import subprocess
import sys

import pytest

from fuzz import engine, targets

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


@pytest.mark.requirement("protocol:fuzz:readers")
@pytest.mark.parametrize("target", targets.ALL, ids=[one.name for one in targets.ALL])
def test_a_second_guided_by_coverage_break_no_promise(target: engine.Target) -> None:
    if not engine.guided():
        pytest.skip("atheris is not made for this Python or machine: only the unguided part ran")
    argv = [sys.executable, "-m", "fuzz.guided", target.name, f"-seed={engine.SEED}", "-max_total_time=1"]
    done = subprocess.run(argv, cwd=engine.ROOT / "tests", env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "Done " in done.stderr, done.stderr[-4000:]
