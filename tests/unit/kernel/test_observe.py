"""Logs, metrics and spans: redacted, closed, and cheap."""

import io
import json

import pytest

from smcp.kernel import errors, observe, settings

KEY = "smcp_acme_0k3v9q2m7x5c8b1n4z6a0s2d4f6g8h"


def _lines(format_: str, level: str = "info") -> tuple[observe.Logger, io.StringIO]:
    out = io.StringIO()
    return observe.logger(settings.Log(level=level, format=format_), out), out


@pytest.mark.requirement("kernel:observe:redacted")
@pytest.mark.parametrize("format_", ["json", "console"])
def test_every_line_is_redacted_with_its_exception_and_keeps_the_private_detail(format_: str) -> None:
    log, out = _lines(format_)
    try:
        try:
            raise ValueError("Bearer abcdefgh")
        except ValueError as cause:
            raise errors.NotFound(detail=f"row 7 {KEY}") from cause
    except errors.NotFound as error:
        log.warning(f"refused {KEY}", error=error, password="plain", nested=[{"cookie": "plain"}], exc_info=True)
    text = out.getvalue()
    assert "row 7" in text
    assert "NotFound" in text
    for secret in (KEY[10:], "abcdefgh", "plain"):
        assert secret not in text


@pytest.mark.requirement("kernel:observe:one-line")
def test_json_is_one_object_a_line_with_time_and_level() -> None:
    log, out = _lines("json")
    log.info("started\nlevel=error forged", port=8080)
    log.error("broke")
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert first["level"] == "info"
    assert first["port"] == 8080
    assert first["time"].endswith("Z")
    assert "\n" not in first["event"]
    assert second["level"] == "error"


@pytest.mark.requirement("kernel:observe:one-line")
def test_console_text_without_exception_is_one_line_and_without_colour_when_it_is_no_terminal() -> None:
    log, out = _lines("console")
    log.info("a\nb\x1b[31mc", name="x\ny")
    assert len(out.getvalue().splitlines()) == 1
    assert "\x1b" not in out.getvalue()


@pytest.mark.requirement("kernel:observe:unwritable")
@pytest.mark.parametrize("closed", [False, True])
def test_a_log_on_a_full_disk_or_without_a_reader_fails_nobody(closed: bool) -> None:
    with open("/dev/full", "w", encoding="utf-8", buffering=1) as stream:  # full(4): each write is ENOSPC
        log = observe.logger(settings.Log(), stream)
        with pytest.raises(OSError, match="No space left"):
            stream.write("a line\n")
        if closed:
            with pytest.raises(OSError, match="No space left"):
                stream.close()
        for _ in range(3):
            log.error("lost")
        if not closed:
            with pytest.raises(OSError, match="No space left"):
                stream.close()


@pytest.mark.requirement("kernel:observe:level")
def test_lines_below_the_level_are_not_written() -> None:
    log, out = _lines("json", "warning")
    log.info("quiet")
    log.warning("loud")
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == ["loud"]


@pytest.mark.requirement("kernel:metrics:closed")
def test_every_metric_has_a_definition_and_its_name_says_its_unit() -> None:
    assert set(observe.DEFINITIONS) == set(observe.Metric)
    for metric, definition in observe.DEFINITIONS.items():
        assert metric.value.startswith(("smcp_", "mcp_server_", "http_server_"))
        if definition.kind is observe.Kind.COUNTER:
            assert metric.value.endswith("_total")
        if definition.unit in ("seconds", "bytes"):
            assert definition.unit in metric.value
        assert bool(definition.buckets) is (definition.kind is observe.Kind.HISTOGRAM)


@pytest.mark.requirement("kernel:metrics:closed")
def test_a_label_or_value_outside_of_the_list_is_refused() -> None:
    metrics = observe.Metrics("0")
    with pytest.raises(ValueError, match="not a value"):
        metrics.counter(observe.Metric.HTTP_REQUESTS, surface="gateway", status="418")
    with pytest.raises(ValueError, match="has the labels"):
        metrics.counter(observe.Metric.HTTP_REQUESTS, surface="gateway")
    with pytest.raises(ValueError, match="not a gauge"):
        metrics.gauge(observe.Metric.HTTP_REQUESTS, surface="gateway", status="2xx")


@pytest.mark.requirement("kernel:metrics:closed")
def test_a_caller_who_invents_methods_makes_no_new_series() -> None:
    metrics = observe.Metrics("0")
    metrics.operation("invented/0", "1999-01-01", 0.01, failed=True)
    before = len(metrics.render().splitlines())
    for number in range(1000):
        metrics.operation(f"invented/{number}", f"2099-{number}", 0.01, failed=True)
    page = metrics.render().decode()
    assert len(page.splitlines()) == before
    assert 'mcp_method_name="_OTHER"' in page
    assert "invented" not in page


@pytest.mark.requirement("kernel:metrics:closed")
def test_a_caller_who_invents_verbs_makes_no_new_series() -> None:
    metrics = observe.Metrics("0")
    for number in range(1000):
        metrics.answered("gateway", f"VERB{number}", 405, 0.01)
    metrics.answered("gateway", "POST", 0, 0.01)
    metrics.answered("gateway", "POST", 299, 0.01)
    page = metrics.render().decode()
    labels = 'http_request_method="_OTHER",http_response_status_code="405",surface="gateway"'
    assert f"http_server_request_duration_seconds_count{{{labels}}} 1000.0" in page
    assert page.count("http_server_request_duration_seconds_count{") == 3
    assert "VERB1" not in page


@pytest.mark.requirement("kernel:metrics:scrape")
def test_every_error_of_ours_can_be_counted_by_its_code() -> None:
    metrics = observe.Metrics("0")
    for code in {
        kind.code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.SmcpError)
    }:
        metrics.error("gateway", code)
    metrics.error("control", errors.NotFound.code)
    assert 'smcp_errors_total{error_type="not_found",surface="control"} 1.0' in metrics.render().decode()


@pytest.mark.requirement("kernel:metrics:scrape")
def test_what_was_counted_is_what_is_scraped() -> None:
    metrics = observe.Metrics("9.8.7")
    metrics.counter(observe.Metric.HTTP_REQUESTS, surface="gateway", status="2xx").inc(3)
    metrics.operation("tools/call", "2026-07-28", 0.004, failed=False)
    live = [1, 2]
    metrics.watch(observe.Metric.SESSIONS, lambda: len(live))
    live.append(3)
    done = [5.0]
    metrics.follow(observe.Metric.STORE_OPS, lambda: done[0], interface="kv")
    metrics.render()
    done[0] = 7.0
    page = metrics.render().decode()
    assert 'smcp_http_requests_total{status="2xx",surface="gateway"} 3.0' in page
    assert "smcp_sessions_live 3.0" in page
    assert 'smcp_store_operations_total{interface="kv"} 7.0' in page
    assert 'smcp_build_info{version="9.8.7"} 1.0' in page
    assert 'mcp_method_name="tools/call",mcp_protocol_version="2026-07-28"} 0.004' in page
    assert "process_resident_memory_bytes" in page
    assert "_created" not in page


@pytest.mark.requirement("kernel:metrics:scrape")
def test_two_platforms_in_one_process_share_nothing() -> None:
    one, other = observe.Metrics("1"), observe.Metrics("2")
    one.counter(observe.Metric.AUTH_FAILURES, surface="control").inc()
    assert 'smcp_auth_failures_total{surface="control"} 1.0' in one.render().decode()
    assert 'smcp_auth_failures_total{surface="control"} 1.0' not in other.render().decode()
