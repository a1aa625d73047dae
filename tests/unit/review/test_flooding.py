"""A hosted server that writes without end gets its own end, and nobody else waits meanwhile."""

import time

import pytest

from smcp.runtime import budgets, driver, spool
from smcp.runtime.drivers import stdio

_CHUNK = 65536
"""What one read of a pipe brings."""


def _none() -> spool.Spool:
    raise AssertionError("short lines need no disk")


def _child(said: list[str]) -> tuple[stdio.StdioInstance, stdio._Pipes]:  # pyright: ignore[reportPrivateUsage] - fed without a process
    limits = driver.Limits(stop_grace_s=1.0, max_message_bytes=1 << 24, stream_buffer=1024, tenant_buffer_bytes=1 << 26)
    budget = budgets.Budget(1 << 26)
    child = stdio.StdioInstance(limits, said.append, lambda _: None, modern=True, budget=budget, spools=_none)
    return child, stdio._Pipes(child)  # pyright: ignore[reportPrivateUsage] - as above


@pytest.mark.requirement("review:flood:stdout")
@pytest.mark.parametrize("line", [b"x\n", b"{\n", b'{"jsonrpc":"1.0"}\n'])
async def test_a_flood_of_lines_that_are_no_messages_ends_the_server(line: bytes) -> None:
    said: list[str] = []
    child, pipes = _child(said)
    began = time.process_time()
    for _ in range(20):
        pipes.stdout(line * (_CHUNK // len(line)))
    assert time.process_time() - began < 0.5
    assert not child.alive
    assert "[smcp] killed: it wrote more than" in said[-1]


@pytest.mark.requirement("review:flood:stdout")
async def test_a_server_that_prints_a_screenful_by_mistake_lives_on() -> None:
    said: list[str] = []
    child, pipes = _child(said)
    pipes.stdout(b"Traceback\n" * 400)
    assert child.alive


@pytest.mark.requirement("review:flood:stderr")
async def test_of_a_flood_on_stderr_a_part_is_kept_and_the_rest_is_counted() -> None:
    said: list[str] = []
    child, pipes = _child(said)
    pipes.stderr(b"x\n" * (_CHUNK // 2))
    assert said[:2] == ["x", "x"]
    assert len(said) == 501
    assert said[-1] == "[smcp] 32268 lines were dropped: too many at once"
    assert child.alive
