"""What the daemon shows to people: immutable snapshots, made by its own loop, read by the admin interface.

A request never waits for the loop nor the loop for a request: each snapshot is put here by one assignment.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, get_args

import msgspec
import numpy as np

from controller.assignment import Stage
from controller.core.clock import Clock
from controller.core.evidence import deal_sums, served
from controller.core.experiment import Choice, Experiment, Vector, fallback, tuned
from controller.core.ledger import Record
from controller.core.operate import Command, apply
from controller.core.plan import Plan, digest
from controller.core.rollout import Deal
from controller.core.step import Effect as StepEffect
from controller.core.step import State
from controller.core.trend import Step
from controller.core.windows import Quality
from controller.shell.effects import ArmEffects, Measured, arm_effects, measured
from controller.shell.journal import Journal
from controller.shell.messages import Verb
from controller.shell.story import SENTENCES

MAX_DECISIONS = 400  # kept for the charts: two weeks of hourly windows
MAX_EVENTS = 200  # beside decisions: starts, stages, guardrails, orders
ORDERS: tuple[Verb, ...] = get_args(Verb)


class Action(msgspec.Struct, frozen=True):
    """An order that could be given now, or why not."""

    command: str
    possible: bool
    because: str  # why not; "" when possible


class ArmView(msgspec.Struct, frozen=True):
    """An arm of the table in force. `effects`: null for control, and before its first events."""

    arm: str
    role: str
    share: float  # of the buckets
    events: int
    theta: dict[str, tuple[float, ...]]
    effects: ArmEffects | None


class WeightView(msgspec.Struct, frozen=True):
    """A weight and its bounds."""

    name: str
    low: float
    high: float
    baseline: float
    scale: str
    fixed: bool


class WindowView(msgspec.Struct, frozen=True):
    """Rows of the newest window with any, by what became of them."""

    end_ms: int
    accepted: int
    misattributed: int
    fallback: int
    unknown_version: int


class StudyView(msgspec.Struct, frozen=True, kw_only=True):
    """Where the study stands. Times in ms since the epoch on the daemon's clock, changes relative to control."""

    study: str
    plan: str  # its digest
    clock: Clock
    now_ms: int
    stage: Stage
    before: Stage  # the stage that paused or rolled_back left
    stage_since_ms: int
    reason: str
    notice: str
    decision: str  # the newest one's why; "" before any
    epoch: int
    version: int
    valid_until_ms: int | None  # from then on clients serve the fallback
    fallback: str  # the arm
    decided_through_ms: int
    sealed_through_ms: int
    next_decision_ms: int  # when the window after that is settled
    watermark_ms: int | None
    window_ms: int
    behind: int  # records between the daemon's position and the log's end
    faults: dict[str, str]  # part -> why the daemon is not ready
    objective: dict[str, float]
    weights: tuple[WeightView, ...]
    arms: tuple[ArmView, ...]  # of the table in force, control first
    served: tuple[ArmView, ...]  # of the table before it, where that had other arms
    candidate: Vector | None
    awaiting_approval: bool
    pick: Choice | None  # what would be promoted if the study ended now
    measured: Measured | None
    ramp_shares: tuple[float, ...]
    ramp_step: int
    steps: tuple[Step, ...]  # what the candidate gained at each share so far, its confirm sample first
    banned: int
    window: WindowView | None
    actions: tuple[Action, ...]
    history: int  # rises with every entry of the history


class HistoryEntry(msgspec.Struct, frozen=True):
    """A ledger entry for people. The figures are a decision's: what is expected of the best vector known."""

    at_ms: int
    kind: str
    what: str
    stage: str = ""
    window_end_ms: int | None = None
    outcome: str = ""
    gain_mean: float | None = None
    gain_sd: float | None = None
    p_feasible: float | None = None
    objective: dict[str, float] | None = None  # that an operator had chosen; null: the study file's


class History(msgspec.Struct, frozen=True):
    """The newest decisions and events, oldest first. `revision` rises with every entry."""

    revision: int
    decisions: tuple[HistoryEntry, ...]
    events: tuple[HistoryEntry, ...]


class Board:
    """The snapshots of one daemon. Written by the daemon's thread alone; `study` and `history` are read by any."""

    def __init__(self, plan: Plan, clock: Clock) -> None:
        self._plan, self._clock, self._digest = plan, clock, digest(plan)
        self._decisions: deque[HistoryEntry] = deque(maxlen=MAX_DECISIONS)
        self._events: deque[HistoryEntry] = deque(maxlen=MAX_EVENTS)
        self._behind = 0
        self.study: StudyView | None = None  # None: the daemon has not shown anything yet
        self.history = History(0, (), ())

    def recall(self, journal: Journal) -> None:
        """Begin with what the journal holds of the days before."""
        self.told((entry.at_ms, entry.kind, entry.body) for entry in journal.last(MAX_EVENTS, tuple(SENTENCES)))
        self.told((entry.at_ms, entry.kind, entry.body) for entry in journal.last(MAX_DECISIONS, ("decided",)))

    def committed(self, effects: Sequence[StepEffect]) -> None:
        """What went into the ledger."""
        self.told((e.at_ms, e.kind, e.body) for e in effects if isinstance(e, Record))

    def told(self, entries: Iterable[tuple[int, str, dict[str, Any]]]) -> None:
        """Add entries, oldest first."""
        found = [entry for entry in (history_entry(*told) for told in entries) if entry is not None]
        for entry in found:
            (self._decisions if entry.kind == "decided" else self._events).append(entry)
        if found:
            revision = self.history.revision + len(found)
            self.history = History(revision, tuple(self._decisions), tuple(self._events))

    def polled(self, behind: int) -> None:
        """How many records wait in the log."""
        self._behind = behind

    def show(self, state: State, faults: dict[str, str], now_ms: int) -> None:
        """Take a picture of the state."""
        self.study = _view(self._plan, self._digest, self._clock, state, faults, now_ms, self._behind, self.history)


def history_entry(at_ms: int, kind: str, body: dict[str, Any]) -> HistoryEntry | None:
    """An entry of the ledger for people; None for those that only machines read."""
    if kind in SENTENCES:
        return HistoryEntry(at_ms, kind, SENTENCES[kind](body))
    if kind != "decided":
        return None
    carry = body["carry"]
    pick = carry.get("pick") or {}
    return HistoryEntry(
        at_ms,
        kind,
        body["why"],
        carry["stage"],
        body["window_end_ms"],
        body["outcome"],
        pick.get("gain_mean"),
        pick.get("gain_sd"),
        pick.get("p_feasible"),
        carry.get("objective"),
    )


def _view(
    plan: Plan,
    plan_digest: str,
    clock: Clock,
    state: State,
    faults: dict[str, str],
    now_ms: int,
    behind: int,
    history: History,
) -> StudyView:
    experiment, carry = state.experiment, state.experiment.carry
    plan = tuned(plan, carry)
    cells, window = state.windows.cells, plan.window
    return StudyView(
        study=plan.study,
        plan=plan_digest,
        clock=clock,
        now_ms=now_ms,
        stage=carry.stage,
        before=carry.before,
        stage_since_ms=carry.stage_since_ms,
        reason=carry.reason,
        notice=carry.notice,
        decision=history.decisions[-1].what if history.decisions else "",
        epoch=carry.epoch,
        version=carry.version,
        valid_until_ms=carry.valid_until_ms,
        fallback=fallback(carry, experiment.deals[carry.deal]),
        decided_through_ms=carry.decided_through_ms,
        sealed_through_ms=carry.sealed_through_ms,
        next_decision_ms=carry.decided_through_ms + window.length_ms + window.grace_ms,
        watermark_ms=state.windows.watermark_ms,
        window_ms=window.length_ms,
        behind=behind,
        faults=faults,
        objective=plan.objective,
        weights=tuple(WeightView(w.name, w.low, w.high, w.baseline, w.scale, w.fixed) for w in plan.weights),
        arms=_arms(plan, state, experiment.deals[carry.deal]),
        served=_served(plan, state),
        candidate=carry.candidate,
        awaiting_approval=carry.awaiting_approval,
        pick=carry.pick,
        measured=measured(plan, experiment, cells),
        ramp_shares=plan.rollout.ramp_shares,
        ramp_step=carry.ramp_step,
        steps=carry.shares,
        banned=len(carry.banned),
        window=_window(state.windows.quality),
        actions=tuple(_action(plan, experiment, verb, now_ms) for verb in ORDERS),
        history=history.revision,
    )


def _served(plan: Plan, state: State) -> tuple[ArmView, ...]:
    experiment = state.experiment
    known = (deal for id_, deal in sorted(experiment.deals.items(), reverse=True) if id_ != experiment.carry.deal)
    last = next((d for d in known if len(d.arms) > 1 and deal_sums(experiment, state.windows.cells, d.id)), None)
    return () if last is None else _arms(plan, state, last)


def _arms(plan: Plan, state: State, deal: Deal) -> tuple[ArmView, ...]:
    count = np.bincount(deal.buckets, minlength=len(deal.arms))
    events = np.zeros(len(deal.arms), np.int64)
    cell = deal_sums(state.experiment, state.windows.cells, deal.id)
    effects: tuple[ArmEffects | None, ...] = (None,) * len(deal.arms)
    if cell is not None:
        by_bucket = cell.events.sum(axis=0)
        events = np.bincount(deal.buckets, weights=by_bucket, minlength=len(deal.arms)).astype(np.int64)
        if len(deal.arms) > 1:
            effects = (None, *arm_effects(plan, served(deal, cell)))
    return tuple(
        ArmView(arm.arm, arm.role, int(count[a]) / plan.buckets, int(events[a]), arm.theta, effects[a])
        for a, arm in enumerate(deal.arms)
    )


def _window(quality: dict[int, Quality]) -> WindowView | None:
    if not quality:
        return None
    end_ms = max(quality)
    rows = quality[end_ms]
    return WindowView(end_ms, rows.accepted, rows.misattributed, rows.fallback, rows.unknown_version)


def _action(plan: Plan, experiment: Experiment, verb: Verb, now_ms: int) -> Action:
    """Whether an order would be followed: by carrying it out on the side, so that this cannot differ from what is."""
    _, answer = apply(plan, experiment, Command(verb, ""), now_ms)
    return Action(verb, answer.table is not None, "" if answer.table else answer.said.removeprefix("refused: "))
