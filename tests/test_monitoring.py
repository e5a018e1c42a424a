"""The alert rules and the dashboard fit the metrics, and each alert fires when it should, and only then."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from crossfade.serving.metrics import METRICS

INFRA = Path(__file__).parents[1] / "infra"
PROMETHEUS = INFRA / "prometheus"
RULES = PROMETHEUS / "crossfade.rules.yml"
TESTS = sorted(PROMETHEUS.glob("crossfade*.test.yml"))
GRAFANA = INFRA / "grafana"

_SUFFIXES = ("_bucket", "_sum", "_count")
_SCRAPE_LABELS = {"job", "instance"}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: apt-get install prometheus)"
)


def _rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def _alerts() -> list[dict[str, Any]]:
    return [rule for rule in _rules() if "alert" in rule]


def _dashboard() -> dict[str, Any]:
    shown: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "crossfade.json").read_text())
    return shown


def _shown_queries() -> list[str]:
    """Every query of the dashboard, with Grafana's variables filled in."""
    dashboard = _dashboard()
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    queries += [one["expr"] for one in dashboard["annotations"]["list"] if "expr" in one]
    return [query.replace("$job", "crossfade").replace("$__rate_interval", "1m") for query in queries]


def _promtool(*arguments: str | Path) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_finds_nothing_wrong() -> None:
    """With the rules, nor with the configuration that names them."""
    _promtool("check", "rules", RULES)
    _promtool("check", "config", PROMETHEUS / "prometheus.yml")


@needs_promtool
def test_alerts_fire_when_they_should() -> None:
    """And not when they should not: the rules' own unit tests."""
    _promtool("test", "rules", *TESTS)


@needs_promtool
def test_prometheus_can_read_the_dashboards_queries(tmp_path: Path) -> None:
    """Each of them parses."""
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(_shown_queries())]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    _promtool("check", "rules", file)


@pytest.mark.parametrize("query", [*(rule["expr"] for rule in _rules()), *_shown_queries()])
def test_queries_name_what_the_router_tells(query: str) -> None:
    """Every metric is one of the router's, and every label that is asked for is one of that metric's."""
    known = {metric.name: {*metric.labels, *_SCRAPE_LABELS} for metric in METRICS}
    known |= {
        metric.name + suffix: known[metric.name] | {"le"}
        for metric in METRICS
        if metric.kind == "histogram"
        for suffix in _SUFFIXES
    }
    named = re.findall(r"\b(crossfade_\w+)(?:\{([^}]*)\})?", query)
    assert named or re.search(r"crossfade:|\bup\b|\bALERTS\b", query)
    for metric, matchers in named:
        assert metric in known
        assert set(re.findall(r"(\w+)\s*[=!]~?", re.sub(r'"[^"]*"', "", matchers))) <= known[metric]


def test_recorded_numbers_exist() -> None:
    """What a rule reads from another one is recorded by one."""
    recorded = {rule["record"] for rule in _rules() if "record" in rule}
    used = {name for rule in _rules() for name in re.findall(r"\bcrossfade:[\w:]+", rule["expr"])}
    assert used <= recorded


@pytest.mark.parametrize("alert", _alerts(), ids=lambda alert: str(alert["alert"]))
def test_an_alert_says_what_to_do(alert: dict[str, Any]) -> None:
    """It has a summary, a description, how long it waits, how bad it is, and a place in the documentation."""
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert "for" in alert
    assert alert["annotations"]["summary"]
    assert len(alert["annotations"]["description"]) > 80
    assert f"`{alert['alert']}`" in (INFRA.parent / "docs" / "monitoring.md").read_text()


@pytest.mark.parametrize("alert", [alert["alert"] for alert in _alerts()])
def test_an_alert_is_tried_both_ways(alert: str) -> None:
    """The unit tests hold a moment when it fires, and one when it does not."""
    groups = [group for path in TESTS for group in yaml.safe_load(path.read_text())["tests"]]
    looks = [look for group in groups for look in group["promql_expr_test"] if f"'{alert}'" in look["expr"]]
    assert {bool(look["exp_samples"]) for look in looks} == {True, False}


def test_panels_neither_overlap_nor_repeat() -> None:
    """Each has an id, a title and a place of its own."""
    panels = _dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


def test_grafana_is_provisioned_with_what_is_there() -> None:
    """The files for Grafana's own provisioning are of its version and point at the dashboard's folder."""
    source = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text())
    boards = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "crossfade.yml").read_text())
    assert (source["apiVersion"], boards["apiVersion"]) == (1, 1)
    assert source["datasources"][0]["type"] == "prometheus"
    assert boards["providers"][0]["options"]["path"] == "/var/lib/grafana/dashboards"
