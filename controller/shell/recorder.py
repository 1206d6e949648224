"""Carries out what steps ask for: ledger and state in one transaction first, then the newest table to Redis.

The order is the guarantee: nothing is published that the ledger does not hold.
"""

from collections.abc import Iterable, Sequence

import msgspec

from controller import assignment
from controller.core import checkpoint
from controller.core.ledger import Record
from controller.core.plan import Plan, digest
from controller.core.step import Effect, Publish, State, begin, event_clock_ms, start
from controller.shell.fingerprint import code_version, fingerprint
from controller.shell.journal import Entry, Journal
from controller.shell.publisher import Publisher, PublisherUnavailable


class PlanRefused(Exception):
    """The study file was changed in a way that its journal cannot follow."""


class Superseded(Exception):
    """Another daemon runs this study under a later epoch."""


# What sums, buckets and the posterior are made of: another value would make the journal's past meaningless.
_FIXED = ("study", "seed", "form", "salt", "buckets", "window", "segments", "components", "weights", "metrics")


class Recorder:
    """One study's journal and publisher, owned by one process."""

    def __init__(self, plan: Plan, journal: Journal, publisher: Publisher, epoch: int) -> None:
        self.epoch = epoch
        self._plan = plan
        self._journal = journal
        self._publisher = publisher
        self._written: State | None = None  # the state that the checkpoint holds
        self._pending: Publish | None = None  # the newest table, until Redis has taken it
        self._newest: Publish | None = None

    @property
    def pending(self) -> bool:
        """Whether a table waits for Redis."""
        return self._pending is not None

    @classmethod
    def take_over(
        cls, plan: Plan, journal: Journal, publisher: Publisher, now_ms: int, clock: str
    ) -> tuple["Recorder", State]:
        """Claim the journal for a new epoch and enter the study's start or its continuation.

        Raises:
            PlanRefused: the journal belongs to a plan that this one cannot continue.
            Fenced: another process claimed the journal at the same moment.
        """
        recorder = cls(plan, journal, publisher, max(journal.epoch(), _stored_epoch(publisher)) + 1)
        journal.claim(recorder.epoch)  # from here on nobody else changes what is read next
        rows = journal.checkpoint()
        state = checkpoint.restore(rows) if rows else start(plan)
        first = _plan_changed(plan, journal, now_ms) if rows else [_study_started(plan, now_ms)]
        about = fingerprint() | {"version": code_version(), "clock": clock}
        if clock == "events":
            now_ms = event_clock_ms(state)
        state, record, publish = begin(plan, state, recorder.epoch, now_ms, about)
        recorder._written = state if rows else None
        return recorder, recorder.commit(state, (*first, record, publish))

    def commit(self, state: State, effects: Sequence[Effect], applied: Iterable[int] = ()) -> State:
        """Make a state and its entries durable in one transaction; returns the state to go on from.

        Raises what `Journal.commit` raises; then nothing was written, and nothing may be published.
        """
        changed, state = checkpoint.changes(self._written, state)
        entries = [_entry(effect) for effect in effects if isinstance(effect, Record)]
        self._journal.commit(self.epoch, entries, changed.put, changed.drop, applied)
        self._written = state
        for effect in effects:
            if isinstance(effect, Publish):
                self._newest = self._pending = effect
        return state

    def publish(self, now_ms: int) -> bool:
        """Give the newest table to Redis when it has not taken it yet; True when nothing waits any more.

        Raises:
            PublisherUnavailable: the table goes on waiting.
            Superseded: Redis holds a table of a later epoch.
        """
        if self._pending is None:
            return True
        table = self._pending
        answer = self._publisher.publish(table.table, table.version)
        body = {"version": table.version, "accepted": answer.accepted, "stored_version": answer.version}
        self._journal.commit(self.epoch, [Entry(now_ms, "published", body)])
        self._pending = None
        if not answer.accepted:
            raise Superseded(
                f"study {self._plan.study}: Redis holds version {answer.version} of epoch {answer.epoch}, this daemon "
                f"is of epoch {self.epoch}: another daemon has taken the study over. Run one daemon a study."
            )
        return True

    def check_stored(self) -> None:
        """Put the table again when Redis lost it or holds an older one. Raises `PublisherUnavailable`."""
        stored = self._publisher.stored()
        if self._newest is not None and (stored is None or stored[0] < self._newest.version):
            self._pending = self._newest


def _stored_epoch(publisher: Publisher) -> int:
    try:
        stored = publisher.stored()
    except PublisherUnavailable:
        return 0  # the script refuses a version that does not rise, should Redis hold a later epoch
    return 0 if stored is None else stored[0] // assignment.VERSIONS_PER_EPOCH


def _entry(record: Record) -> Entry:
    return Entry(record.at_ms, record.kind, record.body, record.data)


def _study_started(plan: Plan, now_ms: int) -> Record:
    return Record(now_ms, "study_started", {"plan": msgspec.to_builtins(plan), "digest": digest(plan)})


def _plan_changed(plan: Plan, journal: Journal, now_ms: int) -> list[Record]:
    """An entry when the study file says something else than the ledger's last plan."""
    last = None
    for entry in journal.entries(kinds=("study_started", "plan_changed")):
        last = entry
    assert last is not None  # a journal with a checkpoint began with study_started
    if last.body["digest"] == digest(plan):
        return []
    before = msgspec.convert(last.body["plan"], Plan)
    broken = [name for name in _FIXED if getattr(before, name) != getattr(plan, name)]
    if broken:
        raise PlanRefused(
            f"journal {journal.path}: the study was started with another {', '.join(broken)}. Guardrails, objective, "
            "traffic, rollout and safety may change in mid-study; for anything else start a new journal."
        )
    return [Record(now_ms, "plan_changed", {"plan": msgspec.to_builtins(plan), "digest": digest(plan)})]
