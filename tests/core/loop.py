"""A study in virtual time by hand: one event per bucket and window, a known truth, the production step.

`Loop` plays Kafka and the product: it serves the newest table, keeps what the step asks for, and lets a test bend each
window's events before they are read.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np

from controller import assignment
from controller.assignment import ALL, Assignment
from controller.core import codec
from controller.core import step as core
from controller.core.estimate import Metric
from controller.core.events import FIXED_POINT, Component, Events
from controller.core.ledger import Record
from controller.core.operate import Answer, Command, Verb
from controller.core.plan import Plan
from controller.core.rollout import RolloutPlan, TrafficPlan
from controller.core.safety import Guardrail, SafetyPlan
from controller.core.space import Weight
from controller.core.step import Effect, Info, Publish, State
from controller.core.windows import Batch, PartBatch, WindowPlan

HOUR = 3_600_000
GRACE = 300_000
START = 1_699_920_000_000  # a whole hour

Theta = tuple[float, ...]
Truth = Callable[[Theta, str], dict[str, float]]  # (weights, segment) -> relative change of each component's rate

PLAN = Plan(
    study="hand",
    seed=7,
    form="linear",
    salt="hand:",
    buckets=120,
    window=WindowPlan(HOUR, GRACE, 2 * HOUR, 2 * HOUR, 3 * HOUR),
    segments=(),
    components=(Component("impressions"), Component("clicks"), Component("watch_s")),
    weights=(
        Weight("p_click", 0.2, 5.0, 1.0, "log", fixed=True),
        Weight("p_watch", 0.1, 10.0, 1.0, "log"),
        Weight("p_share", -1.0, 1.0, 0.0),
    ),
    metrics=(Metric("watch", "watch_s", "impressions"), Metric("ctr", "clicks", "impressions")),
    objective={"watch": 1.0},
    guardrails=(Guardrail("ctr", min_change=-0.05),),
    traffic=TrafficPlan(explore_arms=4, explore_share=0.4, max_share_at_risk=0.4),
    rollout=RolloutPlan(3 * HOUR, 6 * HOUR, 3 * HOUR, HOUR, (0.1, 0.5, 0.9)),
    safety=SafetyPlan(),
)
LEVEL = {"impressions": 1000.0, "clicks": 100.0, "watch_s": 5000.0, "returned": 50.0}


def pleasant(theta: Theta, segment: str) -> dict[str, float]:
    """More of p_watch brings watch time and costs clicks, gently: most of the space is feasible."""
    x = np.log(theta[1]) / np.log(10.0)
    return {"watch_s": 0.25 * x - 0.1 * x * x, "clicks": -0.02 * x - 0.01 * theta[2]}


def indifferent(theta: Theta, segment: str) -> dict[str, float]:
    """No weight vector changes anything."""
    return {}


class Row(NamedTuple):
    """One event. `unit` stands for its id and its unit."""

    unit: int
    ts_ms: int
    bucket: int
    segment: int
    version: int
    arm: str
    values: tuple[float, ...]


class Loop:
    """One run. `records`, `tables` and `infos` hold everything that came out, in order."""

    def __init__(self, plan: Plan = PLAN, truth: Truth = pleasant, noise: float = 0.01, seed: int = 0) -> None:
        self.plan, self.truth, self.noise, self.seed = plan, truth, noise, seed
        self.hour = 0
        self.records: list[Record] = []
        self.tables: list[Assignment] = []
        self.infos: list[Info] = []
        self._next_id = 0
        self.state = core.start(plan)
        body = {"plan": msgspec.to_builtins(plan), "digest": ""}
        self.records.append(Record(0, "study_started", body))
        self.begin(1)

    @property
    def table(self) -> Assignment:
        """What the product serves by."""
        return self.tables[-1]

    @property
    def carry(self) -> Any:
        return self.state.experiment.carry

    def begin(self, epoch: int, now_ms: int | None = None) -> None:
        """A daemon's start."""
        now = core.event_clock_ms(self.state) if now_ms is None else now_ms
        self.state, record, publish = core.begin(self.plan, self.state, epoch, now, {})
        self._keep((record, publish))

    def replan(self, plan: Plan) -> None:
        """The operator edits the study file and starts the daemon again."""
        self.state, records = core.change_plan(self.plan, plan, self.state, core.event_clock_ms(self.state))
        self.plan = plan
        self._keep(records)
        self.begin(self.carry.epoch + 1)

    def order(self, verb: Verb, why: str = "", **choice: Any) -> Answer:
        """An operator's command."""
        order = Command(verb, "test", why, **choice)
        self.state, effects, answer = core.command(self.plan, self.state, order, core.event_clock_ms(self.state))
        self._keep(effects)
        return answer

    def rows(self, hour: int | None = None, minute: float = 30.0) -> list[Row]:
        """What the product's people do in an hour under the newest table: one event a bucket and segment."""
        hour = self.hour if hour is None else hour
        rng = np.random.default_rng((self.seed, hour + 1000))
        table, rows = self.table, []
        for bucket, arm_index in enumerate(table.buckets):
            arm = table.arms[arm_index]
            for number, segment in enumerate(self.plan.segments or (ALL,)):
                change = self.truth(arm.theta.get(segment, arm.theta[ALL]), segment)
                luck = 1.0 + self.noise * rng.standard_normal(len(self.plan.components))
                values = tuple(
                    LEVEL[c.name] * (1.0 + change.get(c.name, 0.0)) * (1.0 if c.name == "impressions" else float(e))
                    for c, e in zip(self.plan.components, luck, strict=True)
                )
                at = START + hour * HOUR + int(minute * 60_000)
                slot = number + 1 if self.plan.segments else 0
                rows.append(Row(self._new(), at, bucket, slot, table.version, arm.arm, values))
        return rows

    def beat(self, ts_ms: int) -> Row:
        """An event without a table, which moves the clock and nothing else."""
        return Row(self._new(), ts_ms, 0, 0, 0, "control", (0.0,) * len(self.plan.components))

    def settles(self, hour: int | None = None) -> Row:
        """The event that settles an hour."""
        hour = self.hour if hour is None else hour
        return self.beat(START + (hour + 1) * HOUR + GRACE)

    def poll(
        self, rows: list[Row], *, rejected: int = 0, backlog: bool = False, now_ms: int | None = None
    ) -> tuple[Effect, ...]:
        """One step on these rows."""
        parts = self.state.windows.partitions
        offset = parts[0].next_offset if parts else 0
        part = PartBatch(0, columns(rows, offset), {"malformed": rejected} if rejected else {}, offset + len(rows))
        batch = Batch((part,), frozenset(), backlog)
        self.state, effects, info = core.step(self.plan, self.state, batch, now_ms, core.seeded(self.plan.seed))
        self.infos.append(info)
        self._keep(effects)
        return effects

    def window(self, bend: Callable[[Row], Row | None] = lambda row: row, rejected: int = 0) -> str:
        """One hour: its events, bent by the test (None: lost), then the event that settles it; the outcome."""
        self.poll([bent for row in self.rows() if (bent := bend(row)) is not None], rejected=rejected)
        self.poll([self.settles()])
        self.hour += 1
        return self.infos[-1].decisions[-1].outcome

    def windows(self, count: int) -> None:
        for _ in range(count):
            self.window()

    def until(self, stage: str, limit: int = 30) -> None:
        """Hours until the study is in a stage."""
        for _ in range(limit):
            if self.carry.stage == stage:
                return
            self.window()
        raise AssertionError(f"{limit} hours did not lead to {stage}: {self.story()}")

    def clone(self) -> "Loop":
        """Another run that has had the same past."""
        other = copy.copy(self)
        other.records, other.tables, other.infos = [*self.records], [*self.tables], [*self.infos]
        return other

    def story(self) -> list[str]:
        """What the decisions were, for a test that fails."""
        return [f"{d.outcome}: {d.why}" for info in self.infos for d in info.decisions]

    def decisions(self) -> list[Record]:
        return [record for record in self.records if record.kind == "decided"]

    def _new(self) -> int:
        self._next_id += 1
        return self._next_id

    def _keep(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            if isinstance(effect, Publish):
                self.tables.append(assignment.decode(effect.table))
                assert self.tables[-1].version == effect.version
            else:
                self.records.append(effect)


@functools.cache
def _reached(stage: str) -> Loop:
    loop = Loop()
    loop.until(stage)
    return loop


def at_stage(stage: str) -> Loop:
    """A run of `PLAN` that has just come to a stage."""
    return _reached(stage).clone()


def columns(rows: list[Row], first_offset: int = 0) -> Events:
    """The rows as the decoder hands them on."""
    names = tuple(dict.fromkeys(row.arm for row in rows))
    n = len(rows)
    ids = np.array([row.unit for row in rows], np.uint64)
    mixed = ids * np.uint64(0x9E3779B97F4A7C15)
    values = np.array([row.values for row in rows]).reshape(n, len(rows[0].values) if rows else 3)
    return Events(
        offset=np.arange(first_offset, first_offset + n, dtype=np.int64),
        ts_ms=np.array([row.ts_ms for row in rows], np.int64),
        id_hash=np.stack([mixed, ids], axis=1),
        bucket=np.array([row.bucket for row in rows], np.int32),
        unit_hash=mixed,
        has_unit=np.ones(n, np.bool_),
        segment=np.array([row.segment for row in rows], np.int16),
        version=np.array([row.version for row in rows], np.int64),
        arm=np.array([names.index(row.arm) for row in rows], np.int32),
        arm_names=names,
        values=np.rint(values * FIXED_POINT).astype(np.int64),
    )


class Entry(NamedTuple):
    """A ledger entry as the journal gives it back."""

    seq: int
    at_ms: int
    kind: str
    body: dict[str, Any]
    data: bytes | None


def journalled(records: list[Record]) -> list[Entry]:
    """The records after a trip through the journal's JSON, whose keys are sorted."""
    return [
        Entry(seq, r.at_ms, r.kind, msgspec.json.decode(msgspec.json.encode(r.body, order="sorted")), r.data)
        for seq, r in enumerate(records, 1)
    ]


def varied(plan: Plan = PLAN, **changes: object) -> Plan:
    """The plan with other parts: `rollout={...}` and such replace fields inside of a part."""
    parts = {
        name: msgspec.structs.replace(getattr(plan, name), **value)
        if isinstance(value, dict) and name not in ("objective", "objectives")
        else value
        for name, value in changes.items()
    }
    return msgspec.structs.replace(plan, **parts)


def same(a: object, b: object) -> bool:
    """Whether two records hold the same, arrays to the bit (NaN equals NaN)."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, msgspec.Struct) and type(a) is type(b):
        return all(same(getattr(a, f), getattr(b, f)) for f in a.__struct_fields__)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def frozen_copy(state: State) -> bytes:
    """A state's bytes, to see that nothing was changed in place."""
    return codec.encode((state.experiment, state.recorded, sorted(state.windows.cells.items()), state.rejected))
