"""The metrics' own numbers, beside the library that everybody knows: same page, a fraction of the cost."""

import math
import timeit

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import exposition, parser, registry

from smcp.kernel import observe
from smcp.kernel.observe import series

Read = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def _read(page: str) -> Read:
    """Every sample of a page, as Prometheus' own reader sees it."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parser.text_string_to_metric_families(page)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


_numbers = st.floats(min_value=0, max_value=1e6, allow_nan=False)


@pytest.mark.requirement("kernel:metrics:format")
@given(st.lists(_numbers, max_size=40), st.text(max_size=20))
def test_a_histogram_reads_as_the_known_librarys_does(seen: list[float], label: str) -> None:
    bounds = (0.001, 0.5, 1, 2.5, 1000)
    into = registry.CollectorRegistry()
    known = prometheus_client.Histogram("took_seconds", "x", ["who"], registry=into, buckets=bounds).labels(label)
    ours = series.Histogram("took_seconds", (("who", label),), bounds)
    for number in (*seen, *bounds):
        known.observe(number)
        ours.observe(number)
    page = "# TYPE took_seconds histogram\n" + "".join(ours.lines())
    assert _read(page) == _read(exposition.generate_latest(into).decode())


@pytest.mark.requirement("kernel:metrics:format")
@pytest.mark.parametrize("number", [0, 1, 1.5, 1e21, 5e-324, 2**53, math.inf, -math.inf, -0.25])
@pytest.mark.parametrize("label", ["plain", 'a "word"', "back\\slash", "two\nlines", "", "é"])
def test_every_number_and_every_label_is_read_back(number: float, label: str) -> None:
    gauge = series.Gauge("level", (("who", label), ("b", "c")))
    gauge.set(number)
    read = _read("# TYPE level gauge\n" + "".join(gauge.lines()))
    assert read == {("level", (("b", "c"), ("who", label))): float(number)}


@pytest.mark.requirement("kernel:metrics:format")
def test_the_whole_page_is_read_by_prometheus_own_reader_and_buckets_add_up() -> None:
    metrics = observe.Metrics("1")
    for place, seconds in enumerate((0.0005, 0.001, 0.0011, 7.0, 1e9)):
        metrics.operation("tools/call", "2026-07-28", seconds, failed=place == 0)
    families = {one.name: one for one in parser.text_string_to_metric_families(metrics.render().decode())}
    for metric, definition in observe.DEFINITIONS.items():
        family = families[metric.value.removesuffix("_total")]
        assert (family.type, family.documentation) == (definition.kind.value, definition.help)
    samples = families["mcp_server_operation_duration_seconds"].samples
    fine = [one for one in samples if one.labels["error_type"] == ""]
    buckets = [one.value for one in fine if one.name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    assert buckets[0] == 1
    assert [one.value for one in fine if one.name.endswith("_count")] == [buckets[-1]] == [4]
    assert [one.value for one in fine if one.name.endswith("_sum")] == [pytest.approx(1e9 + 7.0021)]


@pytest.mark.requirement("kernel:metrics:format")
def test_a_counter_never_goes_down() -> None:
    counter = observe.Metrics("1").counter(observe.Metric.AUTH_FAILURES, surface="control")
    with pytest.raises(ValueError, match="only grows"):
        counter.inc(-1)
    assert counter.value == 0


@pytest.mark.requirement("kernel:metrics:cheap")
@pytest.mark.alone
def test_counting_costs_a_fraction_of_what_the_known_library_takes() -> None:
    metrics = observe.Metrics("1")
    into = registry.CollectorRegistry()
    bounds = observe.DEFINITIONS[observe.Metric.OPERATION_DURATION].buckets
    known_histogram = prometheus_client.Histogram("a", "x", registry=into, buckets=bounds)
    known_counter = prometheus_client.Counter("b", "x", registry=into)
    counter = metrics.counter(observe.Metric.AUTH_FAILURES, surface="control")

    def cost(what: object) -> float:
        return min(timeit.repeat("f()", globals={"f": what}, number=5000, repeat=7))

    call = cost(lambda: metrics.operation("tools/call", "2026-07-28", 0.004, failed=False))
    assert call < cost(lambda: known_histogram.observe(0.004))
    assert cost(lambda: counter.inc(1)) < cost(lambda: known_counter.inc(1))
