"""The dashboard, the alerts and the page about metrics name what there is, and nothing else."""

import json
import re
import subprocess
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import yaml

from meshnode.web.metricfamilies import FAMILIES
from tests.unit.web.metrics_scene import SCRAPED, find_promtool, names_and_labels, scene
from tests.unit.work.work_fakes import inline_run_sync

ROOT = Path(__file__).parents[3]
ALERTS = ROOT / "examples/prometheus/alerts.yml"
SCRAPES = ROOT / "examples/prometheus/prometheus.yml"
DASHBOARD = ROOT / "examples/grafana/meshnode.json"
PAGE = ROOT / "docs/metrics.md"

STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
SELECTOR = re.compile(r"\b((?:meshnode|process)_\w+|up)\b\s*(\{[^}]*\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!=|!~|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
AGGREGATION = re.compile(r"\b(?:sum|count|min|max|avg)\b")
SHOWN = re.compile(r"\{\{\s*\$labels\.(\w+)\s*\}\}|\{\{(\w+)\}\}")


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    return list(group["rules"])


def targets() -> Iterator[tuple[str, dict[str, Any]]]:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield f"{panel['title']} {target['refId']}", target


def expressions() -> Iterator[tuple[str, str, set[str]]]:
    """Yield each query with its name, and the labels that are shown of what it finds."""
    for one in rules():
        texts = " ".join(one["annotations"].values())
        yield one["alert"], one["expr"], {a or b for a, b in SHOWN.findall(texts)}
    for name, target in targets():
        shown = {a or b for a, b in SHOWN.findall(target["legendFormat"])}
        yield name, target["expr"], shown


EXPRESSIONS = list(expressions())
KNOWN = names_and_labels()


def faults(expression: str, shown: Set[str]) -> list[str]:
    """Return what a query names that there is not."""
    selectors = [(match[1], match[2] or "") for match in SELECTOR.finditer(expression)]
    unknown = [f"metric {name}" for name, _ in selectors if name not in KNOWN]
    if unknown or not selectors:
        return unknown or ["no metric"]
    found = [
        f"label {label} of {name}"
        for name, matchers in selectors
        for label, _, _ in MATCHER.findall(matchers)
        if label not in KNOWN[name]
    ]
    common = frozenset.intersection(*(KNOWN[name] for name, _ in selectors))
    groups = [set(re.findall(r"\w+", part)) for part in GROUPING.findall(expression)]
    found += [f"label {label}" for group in groups for label in sorted(group - common)]
    kept = set.intersection(*groups) if groups else set()
    if not AGGREGATION.search(STRING.sub("", expression)):
        kept |= common
    return found + [f"shown label {label}" for label in sorted(shown - kept)]


@pytest.mark.parametrize(
    ("expression", "shown"), [one[1:] for one in EXPRESSIONS], ids=[one[0] for one in EXPRESSIONS]
)
def test_each_metric_and_label_of_a_query_is_there(expression: str, shown: set[str]) -> None:
    assert faults(expression, shown) == []


@pytest.mark.parametrize(
    ("expression", "shown", "found"),
    [
        ("meshnode_route > 1", set(), ["metric meshnode_route"]),
        ('meshnode_routes{peer="x"}', set(), ["label peer of meshnode_routes"]),
        ("sum by (peer) (meshnode_routes)", set(), ["label peer"]),
        ("sum(meshnode_link_up)", {"peer"}, ["shown label peer"]),
        ("meshnode_link_up", {"peer", "runner"}, ["shown label runner"]),
        ("meshnode_unit_run_seconds", set(), ["metric meshnode_unit_run_seconds"]),
        ("1 > 0", set(), ["no metric"]),
    ],
)
def test_a_query_that_names_what_is_not_there_is_found(
    expression: str, shown: set[str], found: list[str]
) -> None:
    assert faults(expression, shown) == found


async def test_each_value_that_a_query_asks_for_is_one_that_a_label_has(
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trio.to_thread, "run_sync", inline_run_sync)
    values: dict[tuple[str, str], set[str]] = {}
    async with scene(tmp_path) as foo:
        for name, labels in await foo.samples():
            for label, value in labels:
                values.setdefault((name, label), set()).add(value)
    for _, expression, _ in EXPRESSIONS:
        for match in SELECTOR.finditer(expression):
            for label, operator, value in MATCHER.findall(match[2] or ""):
                if operator in {"=", "!="} and label not in SCRAPED:
                    assert value in values[match[1], label], expression


def test_the_dashboard_can_be_imported() -> None:
    board = json.loads(DASHBOARD.read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [tuple(panel["gridPos"][key] for key in "xywh") for panel in panels]
    cells = [(x + i, y + j) for x, y, w, h in places for i in range(w) for j in range(h)]
    assert len(set(cells)) == len(cells), "two panels lie on one another"
    assert all(x < 24 for x, _ in cells)
    variables = {one["name"] for one in board["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)\}?", json.dumps(panels))) - {"__rate_interval"}
    assert used == variables
    assert all(panel["description"] for panel in panels if panel["type"] != "row")


def test_each_alert_says_what_is_wrong_and_where() -> None:
    names = [one["alert"] for one in rules()]
    assert len(set(names)) == len(names)
    for one in rules():
        assert "$labels.instance" in one["annotations"]["summary"], one["alert"]
        assert one["annotations"]["description"].strip().endswith((".", "why."))
        assert one["labels"]["severity"] in {"warning", "critical"}


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    found = find_promtool()
    if found is None:
        pytest.skip("promtool is not installed (Debian's package prometheus)")
    return subprocess.run([found, *arguments], capture_output=True, text=True, check=False)


def test_prometheus_takes_the_alerts() -> None:
    done = promtool("check", "rules", str(ALERTS))
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_scrape_configuration() -> None:
    done = promtool("check", "config", "--syntax-only", str(SCRAPES))
    assert done.returncode == 0, done.stdout + done.stderr


CASES: dict[str, tuple[dict[str, str], str]] = {
    "MeshnodeDown": ({'up{job="meshnode", instance="foo:1"}': "0x10"}, "5m"),
    "MeshnodePeerDown": ({'meshnode_configured_peer_up{address="b:1"}': "0x10"}, "6m"),
    "MeshnodeQueueGrows": ({'meshnode_queue_length{type="render"}': "20+5x100"}, "80m"),
    "MeshnodeUnitsFail": (
        {
            'meshnode_units_ended_total{type="render", state="failed"}': "0+1x60",
            'meshnode_units_ended_total{type="render", state="succeeded"}': "0+1x60",
        },
        "45m",
    ),
    "MeshnodeDiskNearlyFull": (
        {"meshnode_disk_free_bytes": "4x20", "meshnode_disk_size_bytes": "100x20"},
        "8m",
    ),
    "MeshnodeRefusals": (
        {'meshnode_signature_refusals_total{reason="expired"}': "0+60x60"},
        "30m",
    ),
    "MeshnodeLoopDelay": (
        {
            'meshnode_event_loop_delay_seconds_bucket{le="0.3"}': "0x60",
            'meshnode_event_loop_delay_seconds_bucket{le="1.0"}': "0+9x60",
            'meshnode_event_loop_delay_seconds_bucket{le="+Inf"}': "0+9x60",
        },
        "30m",
    ),
}
"""Series of alerts, with a value for each minute; and when such an alert stands."""


@pytest.mark.parametrize("is_wrong", [True, False], ids=["wrong", "well"])
def test_alerts_stand_when_something_is_wrong_and_not_when_all_is_well(
    is_wrong: bool, tmp_path: Path
) -> None:
    tests = [
        {
            "name": name,
            "interval": "1m",
            "input_series": [
                {"series": one, "values": values if is_wrong else "1x100"}
                for one, values in series.items()
            ],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}}) or vector(0)',
                    "eval_time": at,
                    "exp_samples": [{"labels": "{}", "value": int(is_wrong)}],
                }
            ],
        }
        for name, (series, at) in CASES.items()
    ]
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": tests}))
    done = promtool("test", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_reads_each_query_of_the_dashboard(tmp_path: Path) -> None:
    queries = [target["expr"] for _, target in targets()]
    read = [query.replace("$__rate_interval", "5m").replace("$node", ".+") for query in queries]
    assert not [query for query in read if "$" in query]
    rules = [{"record": f"query:{number}", "expr": one} for number, one in enumerate(read)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = promtool("check", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


# --- the page ------------------------------------------------------------------------------------


def test_the_page_has_each_metric_as_it_is() -> None:
    rows = re.findall(
        r"^\| `(meshnode_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", PAGE.read_text(), re.MULTILINE
    )
    expected = [
        (one.name, one.kind.value, ", ".join(f"`{label}`" for label in one.labels), one.help)
        for one in FAMILIES
    ]
    assert rows == expected


def test_the_page_shows_the_scrape_configuration_of_the_example() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    shown = [block for block in blocks if "scrape_configs" in block]
    assert (
        yaml.safe_load(shown[0])["scrape_configs"]
        == (yaml.safe_load(SCRAPES.read_text())["scrape_configs"])
    )
