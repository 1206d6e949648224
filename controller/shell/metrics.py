"""What a daemon shows to Prometheus. Its metrics are those of `metrics_catalog`; names and units are stable."""

import math
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from controller import metric_family
from controller.assignment import Stage
from controller.core.clock import Clock
from controller.core.decide import Decision, Outcome
from controller.core.events import REASONS
from controller.core.experiment import Experiment
from controller.core.ledger import Record
from controller.core.plan import Plan
from controller.core.rollout import MOVES
from controller.core.rows import MAX_UNKNOWN, OTHERS
from controller.core.step import Effect, State, event_clock_ms
from controller.core.step import Info as StepInfo
from controller.core.windows import RESULTS
from controller.shell.effects import Z95
from controller.shell.journal import Journal
from controller.shell.metrics_catalog import BY_NAME

MAX_TRIPS = 100  # looked at when a daemon starts
PARTS = ("start", "source", "redis", "dead letters")  # of the daemon, each of which may keep it from being ready

Labels = tuple[str, ...]


class Series:
    """A gauge whose set of series changes: with every deal there are other arms."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._present: set[Labels] = set()

    def set(self, values: Mapping[Labels, float]) -> None:
        """Show these values and no others; NaN, what could not be estimated, is left out.

        A scrape at this moment may find a series too many, never one too few.
        """
        known = {labels: value for labels, value in values.items() if not math.isnan(value)}
        for labels, value in known.items():
            self._gauge.labels(*labels).set(value)
        for labels in self._present - known.keys():
            self._gauge.remove(*labels)
        self._present = set(known)


class OfStudy(Collector):
    """All series of a registry with the study's name: one Prometheus watches many studies."""

    def __init__(self, registry: CollectorRegistry, study: str) -> None:
        self._registry, self._study = registry, study

    def collect(self) -> Iterator[Metric]:
        """The registry's families, each sample labelled."""
        for family in self._registry.collect():
            family.samples = [s._replace(labels={"study": self._study, **s.labels}) for s in family.samples]
            yield family


class Metrics:
    """What one daemon shows; `registry` is passed in, so that tests and embedders keep theirs apart.

    `clock`: whose time ages are told in; `wall_s`: the wall clock, s since the epoch.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        plan: Plan,
        build: Mapping[str, str],
        clock: Clock = "wall",
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        def gauge(name: str) -> Gauge:
            return metric_family.gauge(BY_NAME[name], registry)

        def counter(name: str) -> Counter:
            return metric_family.counter(BY_NAME[name], registry)

        def histogram(name: str) -> Histogram:
            return metric_family.histogram(BY_NAME[name], registry)

        self._plan, self._clock, self._wall_s, self._unknown_names = plan, clock, wall_s, set[str]()
        self._state: State | None = None
        self._shown: Experiment | None = None
        self._events, self._rejected = counter("events"), counter("events_rejected")
        self._unknown, self._capped = counter("unknown_components"), counter("capped_events")
        self._bytes, self._lag = counter("received_bytes"), Series(gauge("lag_records"))
        self._watermark, self._open = gauge("watermark_timestamp_seconds"), gauge("windows_open")
        self._settled, self._sealed, self._amended = map(
            counter, ("windows_settled", "windows_sealed", "windows_amended")
        )
        self._stage, self._awaiting = gauge("stage"), gauge("awaiting_approval")
        self._share, self._arm_events = Series(gauge("arm_share_ratio")), Series(gauge("arm_events"))
        self._change = tuple(Series(gauge(f"relative_change{end}_ratio")) for end in ("_low", "", "_high"))
        self._margin = tuple(Series(gauge(f"guardrail_margin{end}_ratio")) for end in ("_low", ""))
        self._tripped, self._trip_age = counter("guardrail_trips"), gauge("guardrail_trip_age_seconds")
        self._tripped_ms: dict[str, int] = {}  # by metric, the daemon's clock
        self._carryover = Series(gauge("carryover_ratio"))
        self._decisions = counter("decisions")
        self._step_s, self._decision_s = histogram("step_seconds"), histogram("decision_seconds")
        self._version, self._published = gauge("assignment_version"), gauge("assignment_published_timestamp_seconds")
        self._pending, self._publications = gauge("assignment_pending"), counter("publications")
        self._publish_failures = counter("publish_failures")
        self._ready, self._fault = gauge("ready"), gauge("fault")
        self._journal, self._free = gauge("journal_bytes"), gauge("journal_free_bytes")
        self._commit_s = histogram("journal_commit_seconds")
        for name, age_s in _AGES.items():  # asked for at each scrape: a daemon that hangs grows old all the same
            gauge(name).set_function(lambda age_s=age_s: self._aged(age_s))  # type: ignore[misc]  # mypy infers no lambda with a default
        for name, field in _PICKED.items():
            gauge(name).set_function(lambda field=field: self._picked(field))  # type: ignore[misc]  # as above
        Info("trimtab_build", BY_NAME["build"].text, registry=registry).info({"clock": clock, **build})
        self._at_zero()

    def _at_zero(self) -> None:
        """Show what has not happened yet as 0, so that its first time counts in a rate."""
        for result in RESULTS:
            self._events.labels(result)
        for guardrail in self._plan.guardrails:
            self._tripped.labels(guardrail.metric)
            self._trip_age.labels(guardrail.metric).set_function(partial(self._aged, self._since(guardrail.metric)))
        for reason in REASONS:
            self._rejected.labels(reason)
        for component in self._plan.components:
            if component.cap is not None:
                self._capped.labels(component.name)
        for outcome in get_args(Outcome):
            self._decisions.labels(outcome)
        self.faults(("start",))

    def journal(self, path: Path) -> None:
        """Show the size of the journal at `path` from now on."""
        self._journal.set_function(lambda: sum(_size(file) for file in (path, path.with_name(f"{path.name}-wal"))))
        self._free.set_function(lambda: shutil.disk_usage(path.parent).free)

    def recall(self, journal: Journal) -> None:
        """When guardrails tripped before this start; the newest trips are enough to alert on."""
        newest = journal.last(MAX_TRIPS, ("guardrail_tripped",))
        self._tripped_ms = {trip.body["metric"]: trip.at_ms for trip in newest}

    def polled(self, size: int, lag: Mapping[int, int], unknown: Mapping[str, int], capped: Mapping[str, int]) -> None:
        """A poll's bytes, the lag by partition, the components that the study does not use, and those capped.

        At most `MAX_UNKNOWN` of the unknown have a series of their own: a producer can invent any number of names.
        """
        self._bytes.inc(size)
        self._lag.set({(str(partition),): records for partition, records in lag.items()})
        for name, rows in capped.items():
            self._capped.labels(name).inc(rows)
        for name, rows in unknown.items():
            if len(self._unknown_names) < MAX_UNKNOWN and name != OTHERS:
                self._unknown_names.add(name)
            self._unknown.labels(name if name in self._unknown_names else OTHERS).inc(rows)

    def tally(self) -> str:
        """What became of the rows since the start, as in `12 accepted, 1 rejected as malformed`."""
        said = [(self._events, "result", ""), (self._rejected, "reason", "rejected as ")]
        parts = [
            f"{sample.value:,.0f} {words}{sample.labels[label]}"
            for counter, label, words in said
            for sample in next(iter(counter.collect())).samples
            if sample.name.endswith("_total") and sample.value
        ]
        partitions = {} if self._state is None else self._state.windows.partitions
        if held := sum(part.held is not None for part in partitions.values()):
            parts.append(f"{held} held, far ahead until the next event of the partition agrees")
        return ", ".join(parts) or "none"

    def stepped(
        self,
        state: State,
        info: StepInfo,
        effects: Sequence[Effect],
        rejected: Iterable[tuple[str, int]],
        seconds: float,
    ) -> None:
        """What a step did. `rejected`: reason -> rows that the decoder refused."""
        self._step_s.observe(seconds)
        for result, rows in info.ingested.counts.items():
            if rows:
                self._events.labels(result).inc(rows)
        for reason, rows in rejected:
            self._rejected.labels(reason).inc(rows)
        self._amended.inc(len(info.ingested.amended))
        self._sealed.inc(len(info.sealed))
        self._open.set(len({end for end, _ in state.windows.cells}))
        if state.windows.watermark_ms is not None:
            self._watermark.set(state.windows.watermark_ms / 1000)
        for effect in effects:
            if isinstance(effect, Record) and effect.kind == "guardrail_tripped":
                self._tripped.labels(effect.body["metric"]).inc()
                self._tripped_ms[effect.body["metric"]] = effect.at_ms
        for decision in info.decisions:
            self._decided(state, decision)
        if info.decisions:
            self._decision_s.observe(seconds)
        self.show(state)

    def committed(self, seconds: float) -> None:
        """A transaction of the journal took so long."""
        self._commit_s.observe(seconds)

    def published(self) -> None:
        """Redis took the newest table."""
        self._publications.inc()
        self._pending.set(0)

    def publish_failed(self, pending: bool) -> None:
        """Redis did not answer; `pending`: the newest table waits for it."""
        self._publish_failures.inc()
        self._pending.set(pending)

    def faults(self, parts: Collection[str]) -> None:
        """The parts that keep the daemon from being ready."""
        self._ready.set(not parts)
        for part in (*PARTS, *parts):
            self._fault.labels(part).set(part in parts)

    def show(self, state: State) -> None:
        """Where the study stands; little is touched while that has not changed."""
        self._state = state
        if state.experiment is self._shown:
            return
        self._shown = state.experiment
        carry = state.experiment.carry
        stages: Iterable[Stage] = MOVES
        for stage in stages:
            self._stage.labels(stage).set(stage == carry.stage)
        self._awaiting.set(carry.awaiting_approval)
        self._version.set(carry.version)
        self._published.set(carry.published_ms / 1000)
        deal = state.experiment.deals[carry.deal]
        counts = np.bincount(deal.buckets, minlength=len(deal.arms)) / self._plan.buckets
        self._share.set({(name,): share for name, share in zip(deal.names, counts.tolist(), strict=True)})
        known = carry.carryover
        rows = zip(self._plan.metrics, known.score, known.information, strict=False)
        self._carryover.set({(m.name,): score / weight for m, score, weight in rows if weight > 0.0})

    def _decided(self, state: State, decision: Decision) -> None:
        self._decisions.labels(decision.outcome).inc()
        self._settled.inc()
        self._arm_events.set(dict(_events_by_arm(state, decision)))
        changes = {(arm, metric): (y, Z95 * se) for arm, metric, y, se in self._changes(decision)}
        for series, side in zip(self._change, (-1, 0, 1), strict=True):
            series.set({labels: y + side * half for labels, (y, half) in changes.items()})
        margins = {
            (arm, rail.metric, "min_change" if rail.sign > 0 else "max_change"): (rail.sign * (y - rail.limit), half)
            for rail in self._plan.guardrails
            for (arm, metric), (y, half) in changes.items()
            if metric == rail.metric
        }
        for series, side in zip(self._margin, (-1, 0), strict=True):
            series.set({labels: margin + side * half for labels, (margin, half) in margins.items()})

    def _changes(self, decision: Decision) -> Iterator[tuple[str, str, float, float]]:
        """(arm, metric, relative change over all traffic, its standard error) of the deal that was decided on."""
        if decision.changes is None:
            return
        for m, metric in enumerate(self._plan.metrics):
            variance = np.diagonal(decision.changes.covariance[m, 0]).tolist()
            for a, name in enumerate(decision.deal.names[1:]):
                yield name, metric.name, float(decision.changes.change[m, 0, a]), math.sqrt(max(variance[a], 0.0))

    def _since(self, metric: str) -> Callable[[State, int], float]:
        """The age of a metric's last trip; endless where there was none."""
        return lambda _, now_ms: now_ms - self._tripped_ms.get(metric, -math.inf)

    def _picked(self, field: str) -> float:
        """A number of the best vector known; NaN while there is none."""
        pick = None if self._state is None else self._state.experiment.carry.pick
        return math.nan if pick is None else float(getattr(pick, field))

    def _aged(self, age_ms: Callable[[State, int], float]) -> float:
        """An age in s on the daemon's clock; NaN before there is a state."""
        state = self._state
        if state is None:
            return math.nan
        return age_ms(state, event_clock_ms(state) if self._clock == "events" else int(self._wall_s() * 1000)) / 1000


_PICKED = {
    "expected_gain_ratio": "gain_mean",
    "expected_gain_sd_ratio": "gain_sd",
    "feasible_probability_ratio": "p_feasible",
    "better_probability_ratio": "p_better",
    "expected_regret_ratio": "regret",
}


def _watermark_age_ms(state: State, now_ms: int) -> float:
    mark = state.windows.watermark_ms
    return math.nan if mark is None else now_ms - mark


def _stage_age_ms(state: State, now_ms: int) -> float:
    carry = state.experiment.carry
    since = carry.stage_since_ms or carry.started_ms  # the first stage begins with the study
    return math.nan if since is None else now_ms - since


def _remaining_ms(state: State, now_ms: int) -> float:
    until = state.experiment.carry.valid_until_ms
    return math.inf if until is None else until - now_ms


_AGES: dict[str, Callable[[State, int], float]] = {
    "watermark_age_seconds": _watermark_age_ms,
    "stage_age_seconds": _stage_age_ms,
    "assignment_age_seconds": lambda state, now_ms: now_ms - state.experiment.carry.published_ms,
    "assignment_remaining_seconds": _remaining_ms,
}


def _events_by_arm(state: State, decision: Decision) -> Iterator[tuple[Labels, float]]:
    """Accepted events of the decision's window, under the deal that it judged; nothing once it is sealed."""
    deal = decision.deal
    versions = [version for version, dealt in state.experiment.versions.items() if dealt == deal.id]
    cells = [state.windows.cells.get((decision.end_ms, version)) for version in versions]
    by_bucket = [cell.events.sum(axis=0) for cell in cells if cell is not None]
    if by_bucket:
        counts = np.bincount(deal.buckets, weights=np.sum(by_bucket, axis=0), minlength=len(deal.arms))
        yield from (((name,), count) for name, count in zip(deal.names, counts.tolist(), strict=True))


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:  # no write-ahead log at this moment
        return 0
