"""Prometheus metrics of a daemon. Names and units are stable: dashboards and alerts are made of them."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from controller.assignment import Stage
from controller.core.control import Control
from controller.core.decide import Decision
from controller.core.ledger import Record
from controller.core.plan import Plan
from controller.core.rollout import MOVES
from controller.core.step import Effect, State
from controller.core.step import Info as StepInfo

MAX_UNKNOWN = 100  # component names with a series of their own: a producer can invent any number
OTHER = "(other)"

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


class Metrics:
    """What one daemon shows; `registry` is passed in, so that tests and embedders keep theirs apart."""

    def __init__(self, registry: CollectorRegistry, plan: Plan, build: Mapping[str, str]) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"trimtab_{name}", text, labels, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"trimtab_{name}", text, labels, registry=registry)

        self._plan, self._unknown_names = plan, set[str]()
        self._shown: Control | None = None
        self._events = counter("events", "Rows by what became of them", "result")
        self._rejected = counter("events_rejected", "Rows that were refused, by reason", "reason")
        self._unknown = counter("unknown_components", "Rows with a component that the study does not use", "component")
        self._capped = counter("capped_events", "Rows with a value beyond its component's cap", "component")
        self._bytes = counter("received_bytes", "Bytes of record values polled")
        self._lag = gauge("lag_records", "Records between the daemon's position and the end", "partition")
        self._watermark = gauge("watermark_seconds", "Event time that the stream has passed, s since the epoch")
        self._open = gauge("windows_open", "Windows that are not sealed yet")
        self._sealed = counter("windows_sealed", "Windows sealed")
        self._amended = counter("windows_amended", "Polls that changed a window already settled")
        self._decisions = counter("decisions", "Decisions by outcome", "outcome")
        self._step_s = Histogram("trimtab_step_seconds", "Duration of a step", registry=registry)
        self._change = Series(gauge("relative_change_ratio", "Relative change against control", "arm", "metric"))
        self._change_se = Series(gauge("relative_change_se_ratio", "Its standard error", "arm", "metric"))
        self._share = Series(gauge("arm_share_ratio", "Share of buckets", "arm"))
        self._stage = gauge("stage", "1 for the stage the study is in", "stage")
        self._version = gauge("assignment_version", "Version of the newest table")
        self._published = gauge("assignment_published_seconds", "When it was made, daemon's clock, s since the epoch")
        self._publish_failures = counter("publish_failures", "Publications that Redis did not take")
        self._tripped = counter("guardrail_trips", "Guardrails that an arm broke", "metric")
        self._gain = gauge("expected_gain_ratio", "Expected gain of the best vector known")
        self._feasible = gauge("feasible_probability_ratio", "P(it keeps every guardrail)")
        self._regret = gauge("expected_regret_ratio", "Expected gain of the best feasible vector over it")
        self._carryover = Series(gauge("carryover_ratio", "Of an arm's change, left in its buckets", "metric"))
        self._ready = gauge("ready", "1 while the daemon is ready")
        Info("trimtab_build", "What is running", registry=registry).info(dict(build))

    def polled(self, size: int, lag: Mapping[int, int], unknown: Mapping[str, int], capped: Mapping[str, int]) -> None:
        """A poll's bytes, the lag by partition, the components that the study does not use, and those capped."""
        self._bytes.inc(size)
        for partition, records in lag.items():
            self._lag.labels(str(partition)).set(records)
        for name, rows in capped.items():
            self._capped.labels(name).inc(rows)
        for name, rows in unknown.items():
            if len(self._unknown_names) < MAX_UNKNOWN:
                self._unknown_names.add(name)
            self._unknown.labels(name if name in self._unknown_names else OTHER).inc(rows)

    def tally(self) -> str:
        """What became of the rows since the start, as in `12 accepted, 1 rejected as malformed`."""
        said = [(self._events, "result", ""), (self._rejected, "reason", "rejected as ")]
        parts = [
            f"{sample.value:,.0f} {words}{sample.labels[label]}"
            for counter, label, words in said
            for sample in next(iter(counter.collect())).samples
            if sample.name.endswith("_total") and sample.value
        ]
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
        for decision in info.decisions:
            self._decided(decision)
        self.show(state)

    def publish_failed(self) -> None:
        """Redis did not take the table."""
        self._publish_failures.inc()

    def ready(self, ready: bool) -> None:
        """Whether the daemon is ready."""
        self._ready.set(ready)

    def show(self, state: State) -> None:
        """Where the study stands; nothing is touched while that has not changed."""
        if state.control is self._shown:
            return
        self._shown = state.control
        carry = state.control.carry
        stages: Iterable[Stage] = MOVES
        for stage in stages:
            self._stage.labels(stage).set(stage == carry.stage)
        self._version.set(carry.version)
        self._published.set(carry.published_ms / 1000)
        deal = state.control.deals[carry.deal]
        counts = np.bincount(deal.buckets, minlength=len(deal.arms)) / self._plan.buckets
        self._share.set({(name,): share for name, share in zip(deal.names, counts.tolist(), strict=True)})
        if carry.pick is not None:
            self._gain.set(carry.pick.gain_mean)
            self._feasible.set(carry.pick.p_feasible)
            self._regret.set(carry.pick.regret)

        known = carry.carryover
        rows = zip(self._plan.metrics, known.score, known.information, strict=False)
        self._carryover.set({(m.name,): score / weight for m, score, weight in rows if weight > 0.0})

    def _decided(self, decision: Decision) -> None:
        self._decisions.labels(decision.outcome).inc()
        change: dict[Labels, float] = {}
        error: dict[Labels, float] = {}
        if decision.changes is not None:
            for m, metric in enumerate(self._plan.metrics):
                variance = np.diagonal(decision.changes.covariance[m, 0]).tolist()
                for a, name in enumerate(decision.deal.names[1:]):
                    change[name, metric.name] = float(decision.changes.change[m, 0, a])
                    error[name, metric.name] = math.sqrt(max(variance[a], 0.0))
        self._change.set(change)
        self._change_se.set(error)
