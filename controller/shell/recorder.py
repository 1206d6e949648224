"""Carries out what steps ask for: ledger and state in one transaction first, then the newest table to Redis.

The order is the guarantee: nothing is published that the ledger does not hold.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from controller import assignment
from controller.core import checkpoint, decide, replan
from controller.core.clock import Clock
from controller.core.experiment import Experiment
from controller.core.ledger import Record
from controller.core.plan import Plan, digest
from controller.core.step import Effect, Publish, State, begin, change_plan, event_clock_ms, start
from controller.shell.fingerprint import code_version, fingerprint
from controller.shell.journal import Entry, Journal
from controller.shell.journal_file import JournalRefused
from controller.shell.publisher import Publisher, PublisherUnavailable


class PlanRefused(Exception):
    """The study file was changed in a way that its journal cannot follow."""


class Superseded(Exception):
    """Another daemon runs this study under a later epoch."""


class Recorder:
    """One study's journal and publisher, owned by one process."""

    def __init__(self, plan: Plan, journal: Journal, publisher: Publisher, epoch: int) -> None:
        self.epoch = epoch
        self._plan = plan
        self._journal = journal
        self._publisher = publisher
        self._written: State | None = None  # the state that the checkpoint holds
        self._pending: Publish | None = None  # the newest table, until Redis has taken it
        self._newest: Publish | None = None  # what Redis has to hold

    @property
    def pending(self) -> bool:
        """Whether a table waits for Redis."""
        return self._pending is not None

    @classmethod
    def take_over(
        cls,
        plan: Plan,
        journal: Journal,
        publisher: Publisher,
        now_ms: int,
        clock: Clock,
        source: str = "",
        admin: str = "",
    ) -> tuple["Recorder", State]:
        """Claim the journal for a new epoch and enter the study's start or its continuation.

        Args:
            now_ms: the wall clock; with the clock "events" the time of the newest event counts instead.
            source: what is read ("topic engagement"): the journal's offsets mean nothing in another one.
            admin: the admin interface's address, for commands on this machine.

        Raises:
            PlanRefused: the journal belongs to a plan or a source that this one cannot continue; nothing was
                written, and a daemon that runs on the journal goes on.
            JournalRefused: its checkpoint was written by another version of this program; likewise.
            Superseded: Redis holds a version above which there is no epoch; likewise.
            Fenced: another process claimed the journal at the same moment.
        """
        before = last_plan(plan, journal)
        _check_source(journal, source)
        restored(journal)  # what cannot be read is refused while a daemon that can read it goes on
        recorder = cls(plan, journal, publisher, next_epoch(plan.study, journal.epoch(), _stored(publisher)))
        journal.claim(recorder.epoch)  # from here on nobody else changes what is read next
        recorder._written = restored(journal)
        state = start(plan) if recorder._written is None else recorder._written
        if clock == "events":
            now_ms = event_clock_ms(state)
        first: tuple[Record, ...] = ()
        if before is None:
            body = {"plan": msgspec.to_builtins(plan), "digest": digest(plan)}
            first = (Record(now_ms, "study_started", body),)
        elif digest(before) != digest(plan):
            state, first = change_plan(before, plan, state, now_ms)
        about = fingerprint() | {"version": code_version(), "clock": clock, "source": source, "admin": admin}
        state, record, publish = begin(plan, state, recorder.epoch, now_ms, about)
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

    def publish(self, now_ms: int) -> None:
        """Give the newest table to Redis when it has not taken it yet.

        Raises:
            PublisherUnavailable: the table goes on waiting.
            Superseded: Redis holds a table of a later epoch.
        """
        if self._pending is None:
            return
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

    def check_stored(self) -> None:
        """Have the table put again when Redis holds another one: lost, older, or a later daemon's, which refuses it.

        Raises `PublisherUnavailable`.
        """
        stored = self._publisher.stored()
        if self._newest is not None and (stored is None or stored[0] != self._newest.version):
            self._pending = self._newest


def next_epoch(study: str, last: int, stored: tuple[int, int] | None) -> int:
    """The epoch after the journal's `last` and after what `Publisher.stored` tells.

    Raises `Superseded` where there is none.
    """
    held = 0 if stored is None else stored[0] // assignment.VERSIONS_PER_EPOCH
    epoch = max(last, held) + 1
    if (epoch + 1) * assignment.VERSIONS_PER_EPOCH > assignment.MAX_VERSION:
        raise Superseded(
            f"study {study}: Redis holds a version of epoch {held}, after which there is none: no daemon came "
            f"so far, so it is no table of this study's. Delete the key {assignment.key(study)}."
        )
    return epoch


def _stored(publisher: Publisher) -> tuple[int, int] | None:
    try:
        return publisher.stored()
    except PublisherUnavailable:
        return None  # the script refuses a version that does not rise, should Redis hold a later epoch


def _entry(record: Record) -> Entry:
    return Entry(record.at_ms, record.kind, record.body, record.data)


def topic(name: str) -> str:
    """What a source is called that is a topic of Kafka."""
    return f"topic {name}"


def _read(journal: Journal) -> str:
    """The source that the journal's offsets are of; "" where it does not say."""
    last = journal.newest(("daemon_started",))
    return "" if last is None else str(last.body["about"].get("source", ""))


def _check_source(journal: Journal, source: str) -> None:
    known = _read(journal)
    if known and source and known != source:
        raise PlanRefused(
            f"journal {journal.path}: its offsets are those of {known}, this run reads {source}. Read the same, or "
            "start a new journal."
        )


def restored(journal: Journal) -> State | None:
    """The state that the checkpoint holds; None before the first.

    Raises `JournalRefused` when another version of this program wrote it.
    """
    rows = journal.checkpoint()
    if not rows:
        return None
    try:
        return checkpoint.restore(rows)
    except (KeyError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise JournalRefused(
            f"journal {journal.path}: its checkpoint is not of this version of Trimtab ({error}): "
            f"go on with the version that wrote it ({writer(journal)}), or start a new journal"
        ) from error


def writer(journal: Journal) -> str:
    """The version of this program that ran on the journal last."""
    last = journal.newest(("daemon_started",))
    return "unknown" if last is None else str(last.body.get("about", {}).get("version", "unknown"))


def reached(path: Path, source: str) -> tuple[dict[int, int] | None, str]:
    """The offsets that a journal goes on from in a source, and the id of their topic; None, "" where it has none.

    Raises what `Journal.read_only` and `restored` raise.
    """
    if not path.exists():
        return None, ""
    with Journal.read_only(path) as journal, journal.snapshot():
        state = restored(journal) if _read(journal) == source else None
    if state is None or not state.windows.partitions:
        return None, ""
    return {p: part.next_offset for p, part in state.windows.partitions.items()}, state.windows.log


def edits(plan: Plan, path: Path, unwritten: Sequence[str] = (), source: str = "") -> tuple[str, ...]:
    """What the next start would enter as changed by an operator, and what becomes of a test that runs.

    () without a journal at `path`. `unwritten`: keys that the study file leaves to follow from others; they are marked.
    `source`: the topic that would be read; a journal of a file is not held to it, for it may be given that file again.

    Raises `PlanRefused` where it would be refused, and what `Journal.read_only` and `restored` raise.
    """
    if not path.exists():
        return ()
    with Journal.read_only(path) as journal, journal.snapshot():
        before = last_plan(plan, journal, unwritten)
        if _read(journal).startswith(topic("")):
            _check_source(journal, source)
        state = None if before is None else restored(journal)  # of no edit too: does this version read it?
    if before is None or before == plan:
        return ()
    changed = _marked(replan.differences(before, plan), unwritten)
    return changed if state is None else (*changed, *_outcome(before, plan, state.experiment))


def _outcome(before: Plan, after: Plan, experiment: Experiment) -> Iterator[str]:
    followed = replan.follow(before, after, experiment, 0)
    stage, then = experiment.carry.stage, followed.carry.stage
    if stage != then:
        yield f"the stage: {stage} before, {then} then ({followed.carry.reason})"
    elif decide.keeps_test(before, experiment) and not decide.keeps_test(after, followed):
        yield f"the {stage} test's shares: it begins anew, without what it has measured"


def _marked(changed: tuple[str, ...], unwritten: Sequence[str]) -> tuple[str, ...]:
    mark = " (not in the file: it follows from other keys)"
    return tuple(line + mark * (line.partition(":")[0] in unwritten) for line in changed)


def last_plan(plan: Plan, journal: Journal, unwritten: Sequence[str] = ()) -> Plan | None:
    """The plan that the journal was last run under, None before its first start; refuses a plan that cannot follow."""
    last = journal.newest(("study_started", "plan_changed"))
    if last is None:
        return None
    try:
        before = msgspec.convert(last.body["plan"], Plan)
    except msgspec.ValidationError as error:
        raise PlanRefused(
            f"journal {journal.path}: its plan is not of this version of Trimtab ({error}); start a new journal"
        ) from error
    refused = _marked(replan.refused(replan.differences(before, plan)), unwritten)
    if refused:
        raise PlanRefused(
            f"journal {journal.path}: the study file was changed where a journal cannot follow: {'; '.join(refused)}. "
            "Change it back, or name a new study's journal in journal.path. In mid-study may change: objective, "
            "guardrails, traffic (but buckets and salt), rollout, safety, and low and high of a weight."
        )
    return before
