"""The dashboard, the alerts and the example scrape name what exists, and nothing else."""

import json
import re
from typing import Any, Final

import pytest

from checks import tree
from smcp.kernel import observe

_FOLDER: Final = tree.ROOT / "monitoring"
_OF_THE_PROCESS: Final = {
    "process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_max_fds",
}  # fmt: skip
_OF_PROMETHEUS: Final = {"job", "instance", "le"}
_WORDS: Final = {
    *("sum", "max", "min", "by", "without", "rate", "increase", "histogram_quantile", "time", "and", "or", "unless"),
    "label_values",
}
_SELECTOR: Final = re.compile(r"([a-z_][a-z0-9_]*)\{([^}]*)\}")
_MATCHER: Final = re.compile(r'([a-z_]+)(=~|!~|!=|=)"([^"]*)"')
_RULE: Final = re.compile(
    r"      - alert: (?P<name>\w+)\n        expr: (?P<expr>.+)\n        for: (?P<for>\d+[smhd])\n"
    r"        labels:\n          severity: (?P<severity>critical|warning|info)\n"
    r"        annotations:\n          summary: '(?P<summary>.+)'\n          description: '(?P<description>.+)'\n"
)

_SERIES: Final[dict[str, observe.Definition]] = {
    name + suffix: definition
    for name, definition in ((metric.value, one) for metric, one in observe.DEFINITIONS.items())
    for suffix in (("_bucket", "_sum", "_count") if definition.kind is observe.Kind.HISTOGRAM else ("",))
}


def wrong(expr: str) -> list[str]:
    """What in a PromQL expression names nothing that a platform shows."""
    found: list[str] = []
    labels = set[str](_OF_PROMETHEUS)
    for name, matchers in _SELECTOR.findall(expr):
        definition = _SERIES.get(name)
        known = dict(definition.labels) if definition else {}
        for label, operator, value in _MATCHER.findall(matchers):
            if label in _OF_PROMETHEUS:
                continue
            if label not in known:
                found.append(f"{name} has no label {label}")
            elif known[label]:
                values = value.split("|") if "~" in operator else [value]
                found += [f"{name}'s {label} is never {one}" for one in values if one not in known[label]]
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\$\w+', " ", expr)
    grouped = {one.strip() for names in re.findall(r"\bby \(([^)]*)\)", bare) for one in names.split(",")}
    names = set(re.findall(r"[a-zA-Z_:][\w:]*", re.sub(r"\bby \([^)]*\)", " ", bare))) - _WORDS
    found += [f"there is no {name}" for name in names if name not in _SERIES and name not in _OF_THE_PROCESS | {"up"}]
    for name in names & set(_SERIES):
        labels |= {label for label, _ in _SERIES[name].labels}
    return found + [f"nothing here has a label {label} to go by" for label in grouped - labels]


def _rules() -> list[dict[str, str]]:
    return [match.groupdict() for match in _RULE.finditer((_FOLDER / "alerts.yml").read_text("utf-8"))]


def _dashboard() -> dict[str, Any]:
    return json.loads((_FOLDER / "grafana.json").read_text("utf-8"))


@pytest.mark.requirement("checks:monitoring:names")
@pytest.mark.parametrize(
    ("expr", "complaint"),
    [
        ("smcp_no_such_thing > 0", "there is no smcp_no_such_thing"),
        ("rate(mcp_server_operation_duration_seconds[5m])", "there is no mcp_server_operation_duration_seconds"),
        ('smcp_http_requests_total{status="6xx"}', "smcp_http_requests_total's status is never 6xx"),
        ('smcp_http_requests_total{status=~"5xx|6xx"}', "smcp_http_requests_total's status is never 6xx"),
        ('smcp_http_requests_total{code="500"}', "smcp_http_requests_total has no label code"),
        ("sum by (tenant) (smcp_sessions_live)", "nothing here has a label tenant to go by"),
        ("sum by (le) (rate(smcp_event_loop_lag_seconds_bucket[5m]))", ""),
    ],
)
def test_the_reader_of_expressions_sees_what_is_wrong(expr: str, complaint: str) -> None:
    assert wrong(expr) == ([complaint] if complaint else [])


@pytest.mark.requirement("checks:monitoring:names")
@pytest.mark.parametrize("rule", _rules(), ids=lambda rule: rule["name"])
def test_every_alert_asks_for_what_exists(rule: dict[str, str]) -> None:
    assert wrong(rule["expr"]) == []
    # Plain YAML scalars: neither may begin a comment or a mapping.
    assert not re.search(r"(: | #)", rule["expr"])


@pytest.mark.requirement("checks:monitoring:names")
def test_the_file_of_alerts_is_rules_and_nothing_else() -> None:
    text = (_FOLDER / "alerts.yml").read_text("utf-8")
    rest = _RULE.sub("", text)
    assert re.fullmatch(r"(#.*\n)+groups:\n(  - name: [a-z-]+\n    rules:\n)+", rest)
    names = [rule["name"] for rule in _rules()]
    assert len(names) == len(set(names)) == text.count("- alert:")


@pytest.mark.requirement("checks:monitoring:names")
def test_every_panel_asks_for_what_exists_and_for_the_data_source_that_is_chosen_on_import() -> None:
    dashboard = _dashboard()
    [source] = dashboard["__inputs"]
    wanted = {"type": "prometheus", "uid": "${" + source["name"] + "}"}
    panels = [one for one in dashboard["panels"] if one["type"] != "row"]
    assert len({one["id"] for one in dashboard["panels"]}) == len(dashboard["panels"])
    complaints = {one["title"]: wrong(target["expr"]) for one in panels for target in one["targets"]}
    assert {title: found for title, found in complaints.items() if found} == {}
    for one in [*panels, *(target for panel in panels for target in panel["targets"])]:
        assert one["datasource"] == wanted
    [variable] = dashboard["templating"]["list"]
    assert wrong(variable["query"]["query"].replace(", instance", "")) == []
    cells = [(place["y"] + down, place["x"] + right) for place in (one["gridPos"] for one in dashboard["panels"])
             for down in range(place["h"]) for right in range(place["w"])]  # fmt: skip
    assert len(cells) == len(set(cells)), "panels lie over each other"


@pytest.mark.requirement("checks:monitoring:names")
def test_the_example_scrapes_the_metrics_path_with_a_key_and_loads_the_alerts() -> None:
    text = (_FOLDER / "prometheus.yml").read_text("utf-8")
    for part in ("job_name: smcp", "metrics_path: /metrics", "credentials_file:", "- alerts.yml"):
        assert part in text
