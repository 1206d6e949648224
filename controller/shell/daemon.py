"""The shell's loop: poll, decode, step, commit, publish. What decides stands in the core; what waits stands here."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from controller.core import step as core
from controller.core.ledger import Record
from controller.core.operate import Command
from controller.core.plan import Plan
from controller.core.step import Effect, State
from controller.core.windows import Batch, PartBatch, PartitionState
from controller.shell.admin import Health
from controller.shell.dead_letters import DeadLetter, DeadLetters, DeadLettersUnavailable
from controller.shell.journal import Journal
from controller.shell.metrics import Metrics
from controller.shell.publisher import PublisherUnavailable
from controller.shell.records import decode_records
from controller.shell.recorder import Recorder
from controller.shell.sources import OffsetLost, Poll, Source, SourceUnavailable

Clock = Literal["wall", "events"]

POLL_S = 0.1
COMMIT_S = 1.0  # without a decision, how much work a crash may make the next start do again
LOOK_S = 0.2  # how often the inbox is read
CHECK_S = 5.0  # how often Redis is asked whether it still holds the table
FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.2, 10.0

log = logging.getLogger("trimtab")


class Every:
    """True at most once in `period_s` of the monotonic clock."""

    def __init__(self, period_s: float) -> None:
        self._period_s, self._next_s = period_s, 0.0

    def __call__(self) -> bool:
        now_s = time.monotonic()
        due = now_s >= self._next_s
        if due:
            self._next_s = now_s + self._period_s
        return due


class Backoff:
    """Waits that double, from `FIRST_BACKOFF_S` to `LAST_BACKOFF_S`, until something succeeds."""

    def __init__(self) -> None:
        self._wait_s, self._until_s = FIRST_BACKOFF_S, 0.0

    def due(self) -> bool:
        """Whether it is time to try again."""
        return time.monotonic() >= self._until_s

    def failed(self) -> None:
        """Wait twice as long as the last time."""
        self._until_s = time.monotonic() + self._wait_s
        self._wait_s = min(2 * self._wait_s, LAST_BACKOFF_S)

    def succeeded(self) -> None:
        """Start again from the shortest wait."""
        self._wait_s, self._until_s = FIRST_BACKOFF_S, 0.0


class Daemon:
    """One run of one study. `run` returns when it is told to stop, or raises what it cannot go on after."""

    def __init__(
        self,
        plan: Plan,
        source: Source,
        journal: Journal,
        recorder: Recorder,
        state: State,
        *,
        clock: Clock,
        health: Health,
        metrics: Metrics,
        dead_letters: DeadLetters | None = None,
    ) -> None:
        self._plan, self._source, self._journal, self._recorder = plan, source, journal, recorder
        self._state, self._clock, self._health, self._metrics = state, clock, health, metrics
        self._dead_letters = dead_letters
        self._rng = core.seeded(plan.seed)
        self._inbox_due, self._commit_due, self._check_due = Every(LOOK_S), Every(COMMIT_S), Every(CHECK_S)
        self._backoff, self._letters_backoff = Backoff(), Backoff()
        self._letters: list[DeadLetter] = []  # not sent yet: nothing more is polled until they are
        self._effects: tuple[Effect, ...] = ()  # not committed yet
        self._dirty = False

    def run(self, stop: threading.Event, start_at: Literal["earliest", "latest"], until_idle_s: float | None) -> None:
        """Work until `stop` is set or, with `until_idle_s`, until the source has had nothing new for so long."""
        self._publish()
        self._connect(stop, start_at)
        last_news_s = time.monotonic()
        while not stop.is_set():
            try:
                if not self._settle():
                    stop.wait(POLL_S)
                elif self._poll():
                    last_news_s = time.monotonic()
            except OffsetLost as lost:
                self._lose(lost)
                self._connect(stop, start_at)
            if self._inbox_due():
                self._obey()
            self._publish()
            if until_idle_s is not None and time.monotonic() - last_news_s >= until_idle_s and self._source.caught_up():
                log.info("nothing new for %g s: done", until_idle_s)
                break
        if self._settle():  # else the offsets stay where they are, and the next start sends the letters
            self._commit(())

    def _now_ms(self) -> int:
        return int(time.time() * 1000) if self._clock == "wall" else core.event_clock_ms(self._state)

    def _connect(self, stop: threading.Event, start_at: Literal["earliest", "latest"]) -> None:
        """Find the partitions and write their start offsets into the journal before anything is read."""
        backoff = Backoff()
        while not stop.is_set():
            try:
                self._start_source(start_at)
            except SourceUnavailable as error:
                self._health.set("source", str(error))
                backoff.failed()
                while not backoff.due() and not stop.wait(POLL_S):
                    self._publish()
                continue
            except OffsetLost as lost:
                self._lose(lost)
                continue
            self._health.set("source", None)
            self._health.set("start", None)
            return

    def _start_source(self, start_at: Literal["earliest", "latest"]) -> None:
        known = self._state.windows.partitions
        offsets = self._source.start({p: part.next_offset for p, part in known.items()} or None, start_at)
        new = {p: PartitionState(None, offset) for p, offset in offsets.items() if p not in known}
        windows = msgspec.structs.replace(self._state.windows, partitions=known | new)
        self._state = msgspec.structs.replace(self._state, windows=windows)
        self._commit(())
        log.info("reading from %s", offsets)

    def _poll(self) -> bool:
        """One turn: what the source brings goes through the step and into the journal. True when there was anything."""
        poll = self._source.poll(POLL_S)
        self._health.set("source", self._source.health())
        batch, letters = self._decode(poll)
        started_s = time.perf_counter()
        now_ms = int(time.time() * 1000) if self._clock == "wall" else None
        self._state, effects, info = core.step(self._plan, self._state, batch, now_ms, self._rng)
        rejected = [item for part in batch.parts for item in part.rejected.items()]
        self._metrics.stepped(self._state, info, rejected, time.perf_counter() - started_s)
        self._dirty = self._dirty or bool(batch.parts)
        self._letters += letters + _ahead(poll, info)
        self._effects += effects
        self._settle()
        for decision in info.decisions:
            carry = self._state.control.carry
            log.info("window %d: %s, stage %s, %s", decision.end_ms, decision.outcome, carry.stage, decision.why)
        return any(part.records for part in poll.parts)

    def _decode(self, poll: Poll) -> tuple[Batch, list[DeadLetter]]:
        parts = []
        letters: list[DeadLetter] = []
        unknown: dict[str, int] = {}
        size = 0
        for part in poll.parts:
            decoded = decode_records(part.records, self._plan.events)
            reasons: dict[str, int] = {}
            for row in decoded.rejected:
                reasons[row.reason] = reasons.get(row.reason, 0) + 1
            part_size = sum(len(record.value) for record in part.records)
            parts.append(PartBatch(part.partition, decoded.events, reasons, part.next_offset, part_size))
            size += part_size
            letters += [DeadLetter(part.partition, row.offset, row.reason, row.data) for row in decoded.rejected]
            for name, rows in decoded.unknown_components.items():
                unknown[name] = unknown.get(name, 0) + rows
        self._metrics.polled(size, poll.behind, unknown)
        return Batch(tuple(parts), poll.idle, poll.backlog), letters

    def _settle(self) -> bool:
        """Send the dead letters, then let the offsets move on: letters may come twice, they are never lost."""
        if self._letters and self._dead_letters is not None:
            if not self._letters_backoff.due():
                return False
            try:
                self._dead_letters.send(self._letters)
            except DeadLettersUnavailable as error:
                self._letters_backoff.failed()
                self._health.set("dead letters", str(error))
                return False
            self._letters_backoff.succeeded()
            self._health.set("dead letters", None)
        self._letters = []
        if self._effects or (self._dirty and self._commit_due()):
            self._commit(())
        return True

    def _lose(self, lost: OffsetLost) -> None:
        """Records are gone that were never read: the study freezes, and reading goes on where there is something."""
        log.error("%s", lost)
        self._order(Command("freeze", "trimtab", str(lost)))
        partitions = self._state.windows.partitions
        moved = msgspec.structs.replace(partitions[lost.partition], next_offset=lost.earliest)
        windows = msgspec.structs.replace(self._state.windows, partitions=partitions | {lost.partition: moved})
        self._state = msgspec.structs.replace(self._state, windows=windows)
        body = {"partition": lost.partition, "asked": lost.asked, "earliest": lost.earliest, "latest": lost.latest}
        self._commit((Record(self._now_ms(), "offsets_lost", body),))

    def _obey(self) -> None:
        for waiting in self._journal.inbox():
            try:
                order = msgspec.convert(waiting.command, Command)
            except msgspec.ValidationError as error:
                body = {"order": waiting.command, "said": f"refused: {error}"}
                self._commit((Record(self._now_ms(), "operator_refused", body),), (waiting.id,))
                continue
            self._order(order, (waiting.id,))

    def _order(self, order: Command, applied: tuple[int, ...] = ()) -> None:
        self._state, effects, answer = core.command(self._plan, self._state, order, self._now_ms())
        self._commit(effects, applied)
        log.warning("%s by %s: %s", order.command, order.who, answer.said)

    def _commit(self, effects: tuple[Effect, ...], applied: tuple[int, ...] = ()) -> None:
        self._state = self._recorder.commit(self._state, (*self._effects, *effects), applied)
        self._effects = ()
        self._dirty = False

    def _publish(self) -> None:
        """Give Redis the newest table; decisions go on without it."""
        if not self._backoff.due():
            return
        try:
            if self._check_due():
                self._recorder.check_stored()
            self._recorder.publish(self._now_ms())
        except PublisherUnavailable as error:
            self._backoff.failed()
            self._metrics.publish_failed()
            self._health.set("redis", str(error))
        else:
            self._backoff.succeeded()
            self._health.set("redis", None)


def _ahead(poll: Poll, info: core.Info) -> list[DeadLetter]:
    """The records of rows that were refused only when they met the clock or the sums."""
    values = {(part.partition, record.offset): record.value for part in poll.parts for record in part.records}
    return [
        DeadLetter(row.partition, row.offset, row.reason, values.get((row.partition, row.offset), b""))
        for row in info.ingested.refused
    ]


def readiness_log(metrics: Metrics) -> Callable[[dict[str, str]], None]:
    """Writes every change of readiness to the log and the metrics."""

    def changed(faults: dict[str, str]) -> None:
        metrics.ready(not faults)
        if faults:
            log.warning("not ready: %s", "; ".join(_lines(faults)))
        else:
            log.info("ready")

    return changed


def _lines(faults: dict[str, str]) -> Iterator[str]:
    return (f"{part}: {fault}" for part, fault in sorted(faults.items()))
