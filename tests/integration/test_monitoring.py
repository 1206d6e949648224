"""A real Prometheus scrapes a running daemon and the client of a simulated product.

Every query of the dashboards gives data, and three alerts that are provoked fire: an arm breaks a guardrail, Redis is
killed, events stop. The rules are the committed ones with their durations cut short.
"""

import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from kafka import KafkaProducer

from deploy.monitoring.generated import DASHBOARDS
from tests.integration.processes import DaemonProcess, Process
from tests.services.kafka_broker import MakeTopic
from tests.services.process import free_port
from tests.services.prometheus_server import MakePrometheus, PrometheusServer
from tests.services.redis_server import MakeRedis
from tests.waiting import wait_until

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yaml"
BROKEN_FEED = (sys.executable, "-m", "tests.integration.broken_feed")
DEADLINE_S = 180.0  # of each wait, on a machine that has much else to do
CAPPED = "\n[components]\nwatch_s = { cap = 120.0 }\n"


def hastened(rules: str) -> dict[str, object]:
    """The rules with ranges of 6 s, and without waiting."""
    found: dict[str, object] = yaml.safe_load(rules)
    text = json.dumps(found)
    text = re.sub(r'"for": "[0-9]+[smh]"', '"for": "0s"', text)
    hasty: dict[str, object] = json.loads(re.sub(r"\[[0-9]+[smh]\]", "[6s]", text))
    return hasty


def chosen(expr: str) -> str:
    """A panel's query as Grafana sends it with all studies chosen."""
    return expr.replace("$study", ".*").replace("$__rate_interval", "15s").replace("$__range", "5m")


def firing(server: PrometheusServer) -> dict[str, dict[str, str]]:
    return {a["labels"]["alertname"]: a["annotations"] for a in server.alerts() if a["state"] == "firing"}


def fired(server: PrometheusServer) -> set[str]:
    """What fires now or has, by the server's own record: an alert may be over before it is asked for."""
    found = server.query('max_over_time(ALERTS{alertstate="firing"}[1h])')
    return {series["metric"]["alertname"] for series in found}


def queries() -> Iterator[tuple[str, str]]:
    for page in DASHBOARDS:
        for row in page.rows:
            for panel in row.panels:
                for query in panel.queries:
                    yield f"{page.title}: {panel.title}", chosen(query.expr)


@pytest.mark.slow
def test_every_panel_shows_data_and_three_alerts_fire(
    tmp_path: Path, kafka_bootstrap: str, kafka_topic: MakeTopic, redis_server: MakeRedis, prometheus: MakePrometheus,
    study_file: Callable[..., Path],
) -> None:  # fmt: skip
    store, topic = redis_server(), kafka_topic(partitions=2)
    study = study_file("quick", topic, redis=store.url, more=CAPPED)
    produce_odd_rows(kafka_bootstrap, topic)
    daemon = DaemonProcess(study, tmp_path / "daemon.log", "--clock", "events", "--from", "earliest")
    listen = f"127.0.0.1:{free_port()}"
    world = Process(
        tmp_path / "world.log",
        "--study",
        str(study),
        "--hours",
        "2000",
        "--events-per-hour",
        "60000",
        "--listen",
        listen,
        program=BROKEN_FEED,
    )
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps(hastened(RULES.read_text())))
    server = prometheus(
        {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [
                {"job_name": "trimtab", "static_configs": [{"targets": [f"127.0.0.1:{daemon.port}"]}]},
                {"job_name": "recommender", "static_configs": [{"targets": [listen]}]},
            ],
        }
    )

    def fires(alert: str) -> bool:
        """And keeps what it says: a scrape that takes too long ends an alert for a moment."""
        assert daemon.running, daemon.text[-3000:]
        said.clear()
        said.update(firing(server))
        return alert in said

    unseen, told = list(queries()), {"TrimtabGuardrailBroken"}
    said: dict[str, dict[str, str]] = {}

    def all_is_shown_and_told() -> bool:
        """Both are watched from the start: a study whose arms break a guardrail in four windows freezes."""
        assert daemon.running, daemon.text[-3000:]
        told.difference_update(fired(server))
        unseen[:] = [(name, expr) for name, expr in unseen if not shows(server, expr)]
        return not unseen and not told

    try:
        wait_until(all_is_shown_and_told, "panels and an alert", DEADLINE_S, 0.2)
        assert world.running, world.text[-3000:]

        store.kill()
        wait_until(lambda: fires("TrimtabRedisDown"), "Redis that is down is told", DEADLINE_S, 0.2)
        assert "quick" in said["TrimtabRedisDown"]["summary"]

        world.kill()
        wait_until(lambda: fires("TrimtabEventsStopped"), "events that stopped are told", DEADLINE_S, 0.2)
    except TimeoutError as error:
        seen = f"firing {sorted(firing(server))}, not told {told}, without data {unseen}"
        raise AssertionError(f"{error}; {seen}; the daemon: {daemon.text[-2000:]}") from error
    finally:
        daemon.kill()
        world.kill()


def shows(server: PrometheusServer, expr: str) -> bool:
    """Whether a query gives a number: a series of NaN is an empty panel too."""
    return any(not math.isnan(float(series["value"][1])) for series in server.query(expr))


def produce_odd_rows(bootstrap: str, topic: str) -> None:
    """What a simulated product never sends: no JSON, and a component that the study does not use."""
    event = {"id": "odd", "ts_ms": 1_699_920_000_000, "unit": "u", "version": 0, "arm": "control"}
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    try:
        for value in (b"no JSON", json.dumps(event | {"values": {"impressions": 1, "saves": 1}}).encode()):
            producer.send(topic, value, partition=0).get(timeout=30)
    finally:
        producer.close()
