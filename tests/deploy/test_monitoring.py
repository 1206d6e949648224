"""The committed dashboards, rules, tables and runbook say what the code says."""

import itertools
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from controller import serving_metrics
from controller.shell import metrics_catalog
from deploy.monitoring.generated import DASHBOARDS, files
from deploy.monitoring.panels import Dashboard, rendered
from tests.services import prometheus_server
from tests.services.needed import need

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
PROVISIONING = ROOT / "deploy" / "grafana" / "provisioning"
KNOWN = {family.exposed: family for family in (*metrics_catalog.FAMILIES, *serving_metrics.FAMILIES)}


def rules() -> list[dict[str, object]]:
    groups = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def used(expr: str) -> set[str]:
    """The metrics of a query, a histogram by its own name."""
    return {re.sub(r"_bucket$", "", name) for name in re.findall(r"trimtab_[a-z_]+", expr)}


@pytest.mark.parametrize("path", sorted(files()))
def test_what_is_committed_is_what_the_code_makes(path: str) -> None:
    assert (ROOT / path).read_text() == files()[path], "python -m deploy.monitoring writes it anew"


def test_dashboards_and_rules_ask_for_metrics_that_exist() -> None:
    asked = [q.expr for page in DASHBOARDS for row in page.rows for panel in row.panels for q in panel.queries]
    asked += [str(rule["expr"]) for rule in rules()]
    assert set().union(*map(used, asked)) <= KNOWN.keys()


def test_every_metric_is_on_a_dashboard() -> None:
    asked = [q.expr for page in DASHBOARDS for row in page.rows for panel in row.panels for q in panel.queries]
    unseen = KNOWN.keys() - set().union(*map(used, asked))
    assert unseen == {
        "trimtab_watermark_timestamp_seconds", "trimtab_assignment_published_timestamp_seconds",  # their ages are
    }  # fmt: skip


def test_every_alert_has_its_entry_in_the_runbook_and_no_entry_is_left_over() -> None:
    entries = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    assert entries == [rule["alert"] for rule in rules()]
    for rule in rules():
        annotations = rule["annotations"]
        assert isinstance(annotations, dict)
        assert annotations["runbook_url"] == f"docs/runbook.md#{str(rule['alert']).lower()}"
    for entry in (ROOT / "docs" / "runbook.md").read_text().split("\n## ")[1:]:
        assert all(word in entry for word in ("**Means**", "**Look at**", "**Do**")), entry


def test_every_alert_is_tested_to_be_quiet_and_to_fire() -> None:
    looks: dict[str, list[bool]] = {}
    for test in yaml.safe_load((PROMETHEUS / "alerts_test.yaml").read_text())["tests"]:
        for look in test["alert_rule_test"]:
            looks.setdefault(look["alertname"], []).append(bool(look["exp_alerts"]))
    assert looks.keys() == {rule["alert"] for rule in rules()}
    for alert, (quiet, *fires) in looks.items():
        assert not quiet, alert
        assert fires, alert
        assert all(fires), alert


def test_the_rules_do_what_their_tests_say() -> None:
    need(prometheus_server.missing())
    command = ["promtool", "test", "rules", str(PROMETHEUS / "alerts_test.yaml")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("page", DASHBOARDS)
def test_panels_have_ids_of_their_own_and_do_not_overlap(page: Dashboard) -> None:
    panels = json.loads(rendered(page))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: list[tuple[int, int]] = []
    for place in (panel["gridPos"] for panel in panels):
        assert place["x"] + place["w"] <= 24
        columns, rows = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        taken += itertools.product(columns, rows)
    assert len(set(taken)) == len(taken)


def test_arms_of_several_studies_are_not_shown_as_one_s() -> None:
    for page in DASHBOARDS:
        (studies,) = (v for v in json.loads(rendered(page))["templating"]["list"] if v["name"] == "study")
        assert bool(studies.get("includeAll")) is (page.uid != "trimtab-study")


@pytest.mark.parametrize("page", [page for page in DASHBOARDS if not page.one_study])
def test_series_of_two_studies_are_neither_added_up_nor_called_alike(page: Dashboard) -> None:
    for panel in (panel for panel in json.loads(rendered(page))["panels"] if panel["type"] != "row"):
        for target in panel["targets"]:
            kept = re.findall(r"(?:sum|min|max|count) ?(by \([^)]*\))?", target["expr"])
            assert all("study" in by for by in kept), target["expr"]
            assert panel["type"] == "table" or "{{study}}" in target["legendFormat"], panel["title"]
        if panel["type"] == "table":
            assert "study" not in panel["transformations"][1]["options"]["excludeByName"]


def test_grafana_finds_the_dashboards_by_file() -> None:
    provider = yaml.safe_load((PROVISIONING / "dashboards" / "trimtab.yaml").read_text())["providers"][0]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
    source = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yaml").read_text())["datasources"][0]
    assert source["type"] == "prometheus"
    uids = [json.loads(path.read_text())["uid"] for path in (ROOT / "deploy" / "grafana" / "dashboards").iterdir()]
    assert sorted(uids) == sorted(page.uid for page in DASHBOARDS)
