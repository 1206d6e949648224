"""What a study found, and how: read from its journal in one pass, bounded however long the study has run."""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from controller.assignment import ALL
from controller.core import ledger
from controller.core.advance import measured_gain
from controller.core.durations import DAY_MS
from controller.core.evidence import served
from controller.core.experiment import Carry, Experiment, Theta, tuned
from controller.core.plan import Plan
from controller.core.step import State
from controller.core.surface import Surface, surface
from controller.core.windows import Cell
from controller.shell.board import HistoryEntry, history_entry
from controller.shell.effects import ArmEffects, Measured, arm_effects, effect, measured, own_test
from controller.shell.journal import Journal, Recorded, check_chain
from controller.shell.journal_file import JournalRefused
from controller.shell.recorder import restored, writer
from controller.shell.story import SENTENCES
from controller.shell.verdict import Step, Verdict, judged

MAX_DECISIONS = 1500  # in the log, one by one: two months of hourly windows; older ones by day
MAX_EVENTS = 1500
MAX_DAYS = 800
MAX_POINTS = 400  # of the curve of expected gain
MAX_STARTS = 50

Progress = Callable[[int, int], None]  # entries read, of


class Day(msgspec.Struct, frozen=True):
    """A day (UTC) of decisions and of sealed windows' rows, by what became of them."""

    day_ms: int
    decisions: dict[str, int] = {}  # outcome -> windows
    accepted: int = 0
    misattributed: int = 0
    fallback: int = 0
    unknown_version: int = 0
    rejected: int = 0  # refused before they could be counted to a window
    sealed: int = 0  # windows


class Start(msgspec.Struct, frozen=True):
    """One start of a daemon, and what it ran on."""

    at_ms: int
    epoch: int
    about: dict[str, str]


class PlanChange(msgspec.Struct, frozen=True):
    """An edit of the study file that the study has followed."""

    at_ms: int
    digest: str
    changed: tuple[str, ...]


class SegmentEffects(msgspec.Struct, frozen=True):
    """What the vector does in one segment."""

    segment: str
    effects: ArmEffects


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """The whole story. Changes are relative to control; times in ms since the epoch on the daemon's clock."""

    study: str
    journal: str
    entries: int
    head: str
    chain: str  # "whole", or what is broken
    verdict: Verdict
    plan: Plan | None  # the newest; None: no daemon has run
    plan_digest: str
    plan_changes: tuple[PlanChange, ...] = ()
    starts: tuple[Start, ...] = ()  # the newest
    started: int = 0  # all
    began_ms: int = 0
    decided_through_ms: int = 0
    sealed_through_ms: int = 0
    objective: dict[str, float] = {}  # what gains are of, now
    theta: Theta | None = None  # the vector that the report is about
    measured: Measured | None = None
    steps: tuple[Step, ...] = ()
    segments: tuple[SegmentEffects, ...] = ()
    surface: Surface | None = None
    vectors: int = 0  # dealt so far
    banned: int = 0
    notice: str = ""
    lacks: str = ""  # why measurements and surfaces are not here, "" when they are
    curve: tuple[HistoryEntry, ...] = ()  # decisions, thinned
    decisions: tuple[HistoryEntry, ...] = ()  # the newest
    decided: int = 0  # all
    outcomes: dict[str, int] = {}
    events: tuple[HistoryEntry, ...] = ()  # the newest
    happened: int = 0  # all
    days: tuple[Day, ...] = ()


class _Story:
    """What one pass over the ledger gathers."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.plan_digest = ""
        self.plan_changes: list[PlanChange] = []
        self.starts: deque[Start] = deque(maxlen=MAX_STARTS)
        self.decisions: deque[HistoryEntry] = deque(maxlen=MAX_DECISIONS)
        self.events: deque[HistoryEntry] = deque(maxlen=MAX_EVENTS)
        self.newest = ""  # why the newest decision was taken
        self.curve: list[HistoryEntry] = []
        self.days: dict[int, Day] = {}
        self.counts: Counter[str] = Counter()  # "decided", "events", "starts"
        self.outcomes: Counter[str] = Counter()
        self.first_ms = 0
        self.carry: dict[str, Any] = {}
        self.shares: tuple[str, list[dict[str, float]]] = ("", [])  # a candidate, and what it gained at each share
        self.proof: tuple[str, dict[str, float]] = ("", {})  # a candidate, and what it gained in its confirm test
        self._every = 1  # decisions between two points of the curve

    def take(self, entry: Recorded) -> None:
        """One entry more."""
        body = entry.body  # decoded at each look
        told = history_entry(entry.at_ms, entry.kind, body) if entry.kind in _TOLD else None
        if told is not None and told.kind == "decided":
            self._decided(told, entry)
        elif told is not None:
            self.counts["events"] += 1
            self.events.append(told)
        before, self.carry = self.carry.get("stage"), body.get("carry", self.carry)
        if self.carry.get("candidate") and self.carry.get("shares"):
            self.shares = (self.carry["candidate"]["arm"], self.carry["shares"])
            if before == "confirm":  # which a ramp that was paused and resumed no longer knows
                self.proof = (self.shares[0], self.shares[1][0])
        match entry.kind:
            case "study_started" | "plan_changed":
                self._planned(entry)
            case "daemon_started":
                self.counts["starts"] += 1
                self.starts.append(Start(entry.at_ms, body["epoch"], body["about"]))
            case "sealed":
                self._sealed(entry)

    def _planned(self, entry: Recorded) -> None:
        body = entry.body
        self.plan, self.plan_digest = msgspec.convert(body["plan"], Plan), body["digest"]
        if entry.kind == "plan_changed":
            self.plan_changes.append(PlanChange(entry.at_ms, body["digest"], tuple(body["changed"])))

    def _decided(self, told: HistoryEntry, entry: Recorded) -> None:
        end_ms = told.window_end_ms or 0
        self.first_ms = self.first_ms or end_ms
        self.counts["decided"] += 1
        self.outcomes[told.outcome] += 1
        self.decisions.append(told)
        self.newest = told.what
        if self.counts["decided"] % self._every == 0:
            self.curve.append(msgspec.structs.replace(told, what=""))
        if len(self.curve) > 2 * MAX_POINTS:
            self.curve, self._every = self.curve[1::2], 2 * self._every
        day = self._day(end_ms)
        seen = day.decisions | {told.outcome: day.decisions.get(told.outcome, 0) + 1}
        refused = 0 if entry.data is None else ledger.row_counts(entry.data)[1]
        self.days[day.day_ms] = msgspec.structs.replace(day, decisions=seen, rejected=day.rejected + refused)

    def _sealed(self, entry: Recorded) -> None:
        day = self._day(entry.body["window_end_ms"])
        rows = ledger.row_counts(entry.data or b"")[0]
        self.days[day.day_ms] = msgspec.structs.replace(
            day,
            accepted=day.accepted + rows.accepted,
            misattributed=day.misattributed + rows.misattributed,
            fallback=day.fallback + rows.fallback,
            unknown_version=day.unknown_version + rows.unknown_version,
            sealed=day.sealed + 1,
        )

    def _day(self, end_ms: int) -> Day:
        day_ms = (end_ms - 1) // DAY_MS * DAY_MS
        return self.days.get(day_ms, Day(day_ms))


_TOLD = frozenset(SENTENCES) | {"decided"}
_READ = tuple(_TOLD | {"sealed", "breaker_tripped"})


def findings(path: Path, progress: Progress = lambda done, total: None) -> Findings:
    """Everything that the report tells.

    Raises:
        JournalRefused, JournalFailed: it is no journal of this version, or cannot be read.
        JournalCorrupt: an entry is damaged so that it cannot be read at all.
    """
    broken = check_chain(path)
    with Journal.read_only(path) as journal, journal.snapshot():
        head, study = journal.head(), journal.study()
        state, lacks = _state(journal)
        try:
            story = _read(journal.entries(_READ), head.seq, progress)
            plan, carry = story.plan, msgspec.convert(story.carry, Carry)
        except msgspec.ValidationError as error:
            raise JournalRefused(
                f"journal {path}: its ledger is not of this version of Trimtab ({error}): "
                f"read it with the version that wrote it ({writer(journal)})"
            ) from error
    vector, steps = carry.candidate or carry.pick, _behind(carry, story)
    found = Findings(
        study=study,
        journal=str(path),
        entries=head.seq,
        head=head.hash.hex(),
        chain="whole" if broken is None else str(broken),
        verdict=judged(plan, carry, None, None, story.outcomes, steps, bool(lacks), story.newest),
        lacks=lacks,
        plan=plan,
        plan_digest=story.plan_digest,
        plan_changes=tuple(story.plan_changes),
        starts=tuple(story.starts),
        started=story.counts["starts"],
        began_ms=story.first_ms,
        decided_through_ms=carry.decided_through_ms,
        sealed_through_ms=carry.sealed_through_ms,
        objective={} if plan is None else tuned(plan, carry).objective,
        theta=None if vector is None else vector.theta,
        steps=steps,
        vectors=carry.arms,
        banned=len(carry.banned),
        notice=carry.notice,
        curve=tuple(story.curve),
        decisions=tuple(story.decisions),
        decided=story.counts["decided"],
        outcomes=dict(story.outcomes),
        events=tuple(story.events),
        happened=story.counts["events"],
        days=tuple(story.days[day] for day in sorted(story.days))[-MAX_DAYS:],
    )
    return found if plan is None or state is None else _with_state(found, plan, state, story)


def _state(journal: Journal) -> tuple[State | None, str]:
    """The newest state; without one of this version, what is read is what any version can read: the ledger."""
    try:
        return restored(journal), ""
    except JournalRefused as error:
        return None, str(error)


def _read(entries: Iterable[Recorded], total: int, progress: Progress) -> _Story:
    story = _Story()
    for entry in entries:
        story.take(entry)
        if entry.seq % 64 == 0 or entry.seq == total:
            progress(entry.seq, total)
    return story


def _with_state(found: Findings, plan: Plan, state: State, story: _Story) -> Findings:
    experiment, cells = state.experiment, state.windows.cells
    carry, plan = experiment.carry, tuned(plan, experiment.carry)
    theta = found.theta or {ALL: tuple(w.baseline for w in plan.weights)}
    seen = measured(plan, experiment, cells)
    around = surface(plan, experiment, cells, theta) if carry.decided_through_ms else None
    steps = _steps(plan, experiment, cells, story)
    return msgspec.structs.replace(
        found,
        verdict=judged(plan, carry, seen, around, found.outcomes, steps, newest=story.newest),
        measured=seen,
        steps=steps,
        segments=_by_segment(plan, experiment, cells),
        surface=around,
    )


def _steps(plan: Plan, experiment: Experiment, cells: dict[tuple[int, int], Cell], story: _Story) -> tuple[Step, ...]:
    """The shares that are behind the candidate and the one that it has now."""
    carry, steps, test = experiment.carry, _behind(experiment.carry, story), own_test(experiment, cells)
    if test is None:
        return steps
    trial, cell = test
    now, confirm = float(np.mean(trial.buckets == 1)), carry.stage == "confirm"
    if steps and steps[-1].confirm == confirm and abs(steps[-1].share - now) <= 1e-9:
        return steps
    return (*steps, Step(now, effect(*measured_gain(plan, trial, cell)), confirm))


def _behind(carry: Carry, story: _Story) -> tuple[Step, ...]:
    """What the candidate gained in its confirm test, and at each share that is behind it since."""
    again = carry.stage == "confirm" and not carry.shares  # a test that a pause has ended begins afresh
    if carry.candidate is None or carry.candidate.arm != story.shares[0] or again:
        return ()
    (arm, proven), steps = story.proof, story.shares[1]
    first = [proven] if arm == story.shares[0] and proven not in steps else []
    return tuple(Step(s["share"], effect(s["gain"], s["se"]), s == proven) for s in (*first, *steps))


def _by_segment(plan: Plan, experiment: Experiment, cells: dict[tuple[int, int], Cell]) -> tuple[SegmentEffects, ...]:
    """The candidate's test by segment; nothing without a test."""
    test = own_test(experiment, cells)
    if test is None:
        return ()
    return tuple(
        SegmentEffects(segment, arm_effects(plan, served(*test), group)[0])
        for group, segment in enumerate(plan.segments, 1)
    )
