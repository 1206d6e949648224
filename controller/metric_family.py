"""A Prometheus metric as data: made from it, and told of in docs/metrics.md."""

from collections.abc import Iterable
from typing import Literal

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

Kind = Literal["counter", "gauge", "histogram", "info"]
SUFFIX: dict[Kind, str] = {"counter": "_total", "gauge": "", "histogram": "", "info": "_info"}


class Family(msgspec.Struct, frozen=True):
    """One metric: `name` without `trimtab_` and without the suffix that its kind brings."""

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()  # upper bounds of a histogram, in the unit of its name

    @property
    def exposed(self) -> str:
        """The name that a query uses; a histogram's series add `_bucket`, `_sum` and `_count`."""
        return f"trimtab_{self.name}{SUFFIX[self.kind]}"


def gauge(family: Family, registry: CollectorRegistry) -> Gauge:
    """The gauge in a registry."""
    return Gauge(f"trimtab_{family.name}", family.text, family.labels, registry=registry)


def counter(family: Family, registry: CollectorRegistry) -> Counter:
    """The counter in a registry."""
    return Counter(f"trimtab_{family.name}", family.text, family.labels, registry=registry)


def histogram(family: Family, registry: CollectorRegistry) -> Histogram:
    """The histogram in a registry."""
    return Histogram(
        f"trimtab_{family.name}", family.text, family.labels, buckets=family.buckets or Histogram.DEFAULT_BUCKETS,
        registry=registry,
    )  # fmt: skip


def table(families: Iterable[Family]) -> str:
    """The families as a Markdown table, in order."""
    rows = [
        f"| `{f.exposed}` | {f.kind} | {', '.join(f'`{name}`' for name in f.labels)} | {f.text} |" for f in families
    ]
    return "\n".join(["| metric | type | labels | meaning |", "|---|---|---|---|", *rows]) + "\n"
