"""What is told of a cell's attempts: bounded, on one line each, and counted in full."""

import pytest

from smcp.kernel import clock, errors, observe, settings
from smcp.sandbox import egress
from smcp.sandbox.egress import verdicts
from smcp.sandbox.egress.verdicts import Reason


def _verdicts() -> tuple[verdicts.Verdicts, list[str], clock.FrozenClock, observe.Metrics]:
    lines: list[str] = []
    time = clock.FrozenClock()
    metrics = observe.Metrics("test")
    return verdicts.Verdicts(verdicts.counters(metrics), lines.append, time.monotonic), lines, time, metrics


@pytest.mark.requirement("sandbox:egress:verdicts")
def test_the_same_verdict_is_told_once_a_minute_and_counted_each_time() -> None:
    told, lines, time, metrics = _verdicts()
    for _ in range(5):
        told.tell(Reason.ALLOWED, "api.example:443", "140.82.121.6")
    assert lines == ["[smcp] egress allowed: api.example:443 → 140.82.121.6"]
    time.advance(61)
    told.tell(Reason.ALLOWED, "api.example:443", "140.82.121.6")
    told.tell(Reason.NAME, "api.example:443", why="not in the manifest's egress")
    assert len(lines) == 3
    assert lines[2] == "[smcp] egress refused: api.example:443 (not in the manifest's egress)"
    assert 'smcp_egress_verdicts_total{reason="",verdict="allowed"} 6.0' in metrics.render().decode()


@pytest.mark.requirement("sandbox:egress:verdicts", "sandbox:egress:bounded")
def test_a_flood_of_names_makes_few_lines_and_says_that_there_were_more() -> None:
    told, lines, time, _ = _verdicts()
    for number in range(10_000):
        told.tell(Reason.NAME, f"{number}.evil.example")
    assert len(lines) == 30
    time.advance(10)
    told.tell(Reason.NAME, "last.example")
    assert lines[30:] == ["[smcp] egress: 9970 more verdicts were not told", "[smcp] egress refused: last.example"]


@pytest.mark.requirement("sandbox:egress:verdicts")
def test_a_name_can_forge_no_line_and_drive_no_terminal() -> None:
    told, lines, _, _ = _verdicts()
    told.tell(Reason.NAME, "a\n[smcp] egress allowed: b\r\x1b[2J\x00\x85\u2028\u202e ü" + "x" * 1000)
    assert len(lines) == 1
    assert lines[0].isascii()
    assert lines[0].isprintable()
    assert "\\x0a[smcp]\\x20egress" in lines[0]
    assert len(lines[0]) < 1300


@pytest.mark.requirement("sandbox:egress:operator")
@pytest.mark.parametrize("pin", ["a.example", "a.example=", "a.example=b.example", "*.a.example=10.0.0.1", "=10.0.0.1"])
def test_a_wrong_pin_stops_the_start(pin: str) -> None:
    with pytest.raises(errors.BadSettings, match=r"egress\.hosts"):
        egress.Egress(settings.Egress(hosts=(pin,)), observe.Metrics("test"))


@pytest.mark.requirement("sandbox:egress:operator")
def test_a_name_may_be_pinned_to_several_addresses() -> None:
    made = egress.Egress(
        settings.Egress(hosts=("A.example.=10.0.0.1", "a.example=fd12::1", "b.example=10.0.0.2")),
        observe.Metrics("test"),
    )
    assert made.pins == {"a.example": ["10.0.0.1", "fd12::1"], "b.example": ["10.0.0.2"]}


@pytest.mark.requirement("sandbox:egress:bounded")
def test_a_bucket_says_how_long_an_overdraft_takes() -> None:
    time = clock.FrozenClock()
    bucket = verdicts.Bucket(10, 2.0, time.monotonic)
    assert [bucket.take() for _ in range(10)] == [0.0] * 10
    assert not bucket.ready()
    assert bucket.take(4) == 2.0
    time.advance(2.5)
    assert bucket.ready()
    time.advance(1000)
    assert bucket.take(10) == 0.0
    assert bucket.take(1) == 0.5
