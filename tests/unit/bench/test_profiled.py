"""A profile counts what py-spy saw of the event loop's thread: by function, and by room or package."""

import pytest
from bench import profiled

FOLDED = """\
thread (0x7f01): "MainThread";run (/srv/src/smcp/gateway/pipeline.py);decode (/venv/lib/site-packages/msgspec/x.py) 3
thread (0x7f01): "MainThread";run (/srv/src/smcp/gateway/pipeline.py);run (/srv/src/smcp/gateway/pipeline.py) 5
thread (0x7f01): "MainThread";run (/srv/src/smcp/gateway/pipeline.py);wait (/usr/lib/python3.11/threading.py:12) 1
thread (0x7f01): "MainThread";write (x86_64-linux-gnu/libc.so.6) 1
thread (0x7f02): "store";_take (/srv/src/smcp/stores/sqlite.py) 90
"""


@pytest.mark.requirement("bench:profile:shares")
def test_own_time_is_the_innermost_functions_and_recursion_counts_once() -> None:
    count, groups, functions = profiled.fold(profiled.read(FOLDED))
    assert count == 10
    assert {line.name: (line.own, line.total) for line in groups} == {
        "smcp.gateway": (0.5, 0.9),
        "msgspec": (0.3, 0.3),
        "stdlib": (0.1, 0.1),
        "native": (0.1, 0.1),
    }
    assert functions[0] == profiled.Line("run (gateway/pipeline.py)", 0.5, 0.9)


@pytest.mark.requirement("bench:profile:shares")
def test_threads_that_wait_for_work_are_left_out() -> None:
    assert all("sqlite" not in line.name for line in profiled.fold(profiled.read(FOLDED))[2])
