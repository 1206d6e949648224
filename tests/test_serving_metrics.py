import fakeredis
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from controller.serving_metrics import FAMILIES, ServingCollector
from tests.serving_study import NOW, client_of, publish, table
from tests.waiting import wait_until


def test_the_client_s_status_is_what_prometheus_reads() -> None:
    connection = fakeredis.FakeRedis()
    registry = CollectorRegistry()
    now_ms = NOW + 500
    with client_of(connection, clock=lambda: now_ms) as client:
        registry.register(ServingCollector(client))

        def value(name: str, **labels: str) -> float | None:
            return registry.get_sample_value(f"trimtab_serving_{name}", {"study": "feed", **labels})

        wait_until(lambda: value("connected") == 1, "Redis was read")
        assert value("table_version") == 0
        client.assign("u1")
        assert value("fallback_units_total") == 1
        publish(connection, table())
        assert client.wait()
        assert (value("table_version"), value("table_age_seconds"), value("table_expired")) == (1_000_001, 0.5, 0)
        assert value("tables_total", result="taken") == 1
        client.assign(None)  # type: ignore[arg-type]  # what a product may pass all the same
        assert (value("unusable_units_total"), value("fallback_units_total")) == (1, 2)
        now_ms += 10_000
        assert value("table_expired") == 1
        assert value("running") == 1
    assert value("running") == 0


def test_two_studies_in_one_process_are_one_family() -> None:
    registry = CollectorRegistry()
    with client_of(fakeredis.FakeRedis()) as one, client_of(fakeredis.FakeRedis()) as other:
        other.study = "ads"
        registry.register(ServingCollector(one, other))
        text = generate_latest(registry).decode()
    for family in FAMILIES:
        assert text.count(f"# TYPE {family.exposed} ") == 1
    assert {'study="feed"', 'study="ads"'} <= {part.split("}")[0] for part in text.split("{")}
