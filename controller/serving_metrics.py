"""A serving client's status for Prometheus, for products that have it: `serving` itself knows nothing of it.

    prometheus_client.REGISTRY.register(ServingCollector(client))

Every series has the label `study`. One collector a process, beside the product's own metrics. Nothing is counted while
requests are served: the client's `status()` is read at each scrape.
"""

import math
from collections.abc import Iterator
from typing import Final, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from controller.metric_family import Family
from controller.serving import Status

VERSION: Final = Family("serving_table_version", "gauge", "Version of the table held; 0: none yet")
AGE: Final = Family("serving_table_age_seconds", "gauge", "Since it was published; NaN: none yet")
EXPIRED: Final = Family("serving_table_expired", "gauge", "1 while the table held is over and its fallback arm serves")
CONNECTED: Final = Family("serving_connected", "gauge", "1 when the last attempt to read Redis succeeded")
RUNNING: Final = Family("serving_running", "gauge", "1 while the client's background thread lives")
TABLES: Final = Family(
    "serving_tables", "counter", "Tables: taken, refused (broken, or of no use), older", ("result",)
)  # fmt: skip
MISSING: Final = Family("serving_missing", "counter", "Times that the key went absent")
FAILURES: Final = Family("serving_read_failures", "counter", "Failed attempts to read Redis")
FALLBACKS: Final = Family("serving_fallback_units", "counter", "Units served without a valid table")
UNUSABLE: Final = Family("serving_unusable_units", "counter", "Units of a wrong type; they are fallbacks too")
FAMILIES: Final = (VERSION, AGE, EXPIRED, CONNECTED, RUNNING, TABLES, MISSING, FAILURES, FALLBACKS, UNUSABLE)


class Serving(Protocol):
    """What is watched; `controller.serving.Client` is one."""

    @property
    def study(self) -> str:
        """Whose table it serves."""
        ...

    def status(self) -> Status:
        """How it is doing."""
        ...


class ServingCollector(Collector):
    """Reads clients' status, one a study, whenever Prometheus asks."""

    def __init__(self, *clients: Serving) -> None:
        self._clients = clients

    def collect(self) -> Iterator[Metric]:
        """The families of `FAMILIES`, as they are now."""
        seen = [(client.study, client.status()) for client in self._clients]
        for family in FAMILIES:
            metric = _KIND[family.kind](f"trimtab_{family.name}", family.text, labels=("study", *family.labels))
            for study, status in seen:
                for labels, value in _values(family, status):
                    metric.add_metric([study, *labels], value)
            yield metric


_KIND: Final = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily}


def _values(family: Family, status: Status) -> list[tuple[tuple[str, ...], float]]:
    """Label values and value of each series that a client has in a family."""
    if family is TABLES:
        return [((result,), getattr(status, result)) for result in ("taken", "refused", "older")]
    if family is AGE:
        return [((), math.nan if status.age_ms is None else status.age_ms / 1000)]
    return [((), float(getattr(status, _FIELD[family])))]


_FIELD: Final = {
    VERSION: "version",
    EXPIRED: "expired",
    CONNECTED: "connected",
    RUNNING: "running",
    MISSING: "missing",
    FAILURES: "read_failures",
    FALLBACKS: "fallbacks",
    UNUSABLE: "unusable",
}
