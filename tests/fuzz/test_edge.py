"""The HTTP edge, with its share of the minute that fuzzing has in `make test`."""

import pathlib

import pytest

from fuzz import edge, engine
from support import wire

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


@pytest.mark.requirement("protocol:fuzz:edge")
async def test_ten_seconds_of_byte_streams_are_answered_or_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory: pathlib.Path = tmp_path_factory.mktemp("platform")
    with edge.hosting(tmp_path_factory.mktemp("wheels"), directory) as platform:
        at = edge.endpoint(platform)
        await edge.run(platform, at, seed=0, cases=100)  # what it allocates once
        before = wire.vitals(platform)
        warm = engine.resident(before.pid)
        print(f"seed {engine.SEED}")
        assert await edge.run(platform, at, seed=engine.SEED, cases=1_000_000, seconds=10.0) > 0
        # Copies of the server come and go with the load; nobody's session or request may be left.
        wanted = before._replace(instances=1 << 30, children=1 << 30)
        after = await wire.settled(platform, wanted, files=edge.FILES)
        assert after.pid == before.pid, "the platform has started anew"
        assert after.in_flight <= before.in_flight
        assert after.files <= before.files + edge.FILES
        assert after.sessions <= before.sessions
        assert engine.resident(after.pid) - warm < engine.GROWTH_BYTES


@pytest.mark.requirement("protocol:fuzz:findings")
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n",
        b"<html>",
        b"",
        b'HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{"id":"b"}',
        b'HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{"id":"a"}more',
        b'HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{"id":"a"}HTTP/1.1 400 Bad Request\r\n\r\n',
    ],
)
def test_an_answer_that_is_none_is_a_finding(answer: bytes) -> None:
    with pytest.raises(AssertionError):
        edge.judge(edge.Stream([], ["a"]), answer)
