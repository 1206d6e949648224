"""The committed files that are made from code: a test holds them to it."""

from controller import serving_metrics
from controller.metric_family import table
from controller.shell import metrics_catalog
from deploy.monitoring.panels import rendered
from deploy.monitoring.pipeline import PIPELINE
from deploy.monitoring.serving import SERVING
from deploy.monitoring.study import STUDY

DASHBOARDS = (STUDY, PIPELINE, SERVING)

_METRICS = """# Metrics

Made from the code by `python -m deploy.monitoring`. Names and units are stable: `_seconds`, `_bytes`, `_ratio` (0.01 is
1 %), `_total` for what only grows. Every series has the label `study` besides those listed.

The number of series is bounded: arms are those of the newest deal (an earlier deal's are taken out), partitions those
of the topic, component names that the study does not use at most 100, the rest together as `(other)`.

## The daemon, on `/metrics` of `trimtab run --listen`

Values of labels: `result` is accepted, duplicate, expired, fallback (version 0), unknown_version, misattributed,
overflow or future; `reason` is a key of `controller.core.events.REASONS`; `stage` is verify, explore, confirm, ramp,
hold, paused or rolled_back; `outcome` is dealt, kept, no_data, backlog or frozen; `part` is start, source, redis or
dead letters.

Ages are told on the daemon's clock: the wall, or the events' own under `--clock events`. An age before there is
anything to be old, and what is said of the best vector known while there is none, are NaN. The `process_*` metrics of
prometheus_client (processor, memory, start) are there as well.

{daemon}
## The serving client, in the recommender's own process

`controller.serving_metrics.ServingCollector`, registered with the product's registry:

```python
from prometheus_client import REGISTRY
from controller.serving_metrics import ServingCollector

REGISTRY.register(ServingCollector(client))  # several clients of a process: ServingCollector(one, other)
```

{serving}"""


def files() -> dict[str, str]:
    """Path from the repository's root -> text."""
    made = {f"deploy/grafana/dashboards/{page.uid}.json": rendered(page) for page in DASHBOARDS}
    tables = {"daemon": table(metrics_catalog.FAMILIES), "serving": table(serving_metrics.FAMILIES)}
    return made | {"docs/metrics.md": _METRICS.format(**tables)}
