"""The shell's loop: poll, decode, step, commit, publish. What decides stands in the core; what waits stands here."""

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from controller.core import step as core
from controller.core.clock import AHEAD_OF_EVENTS_MS, Clock, PartitionState
from controller.core.events import EventPlan, Events, capped_rows
from controller.core.ledger import Record
from controller.core.operate import Command
from controller.core.plan import Plan
from controller.core.rows import MAX_TOLD
from controller.core.step import Effect, State
from controller.core.windows import Batch, PartBatch, Refused
from controller.shell.board import Board
from controller.shell.dead_letters import (
    MAX_LETTERS,
    DeadLetter,
    DeadLetters,
    DeadLettersUnavailable,
    bounded,
    chunk,
)
from controller.shell.health import Health
from controller.shell.journal import Journal
from controller.shell.metrics import Metrics
from controller.shell.publisher import PublisherUnavailable
from controller.shell.recorder import Recorder
from controller.shell.records import decode_records, rows_at
from controller.shell.sources import At, Fetched, OffsetLost, Poll, Source, SourceUnavailable, TopicReplaced
from controller.shell.story import in_utc

Turn = Literal["waiting", "quiet", "news"]  # for a service; nothing came; records came

POLL_S = 0.1
COMMIT_S = 1.0  # without a decision, how much work a crash may make the next start do again
LOOK_S = 0.2  # how often the inbox is read
CHECK_S = 5.0  # how often Redis is asked whether it still holds the table
SHOW_S = 1.0  # how often the board is renewed at most
SHOW_SHARE = 0.01  # of the loop's time, that it may cost
FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.2, 10.0

log = logging.getLogger("trimtab")


class Every:
    """True at most once in `period_s` of a clock in seconds, and at the first call."""

    def __init__(self, period_s: float, monotonic: Callable[[], float]) -> None:
        self._period_s, self._monotonic = period_s, monotonic
        self._next_s: float = -math.inf

    def __call__(self) -> bool:
        """Whether the time has come."""
        now_s = self._monotonic()
        due = now_s >= self._next_s
        if due:
            self._next_s = now_s + self._period_s
        return due


class Backoff:
    """Waits that double, from `FIRST_BACKOFF_S` to `LAST_BACKOFF_S`, until something succeeds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._wait_s, self._until_s = FIRST_BACKOFF_S, -math.inf

    def due(self) -> bool:
        """Whether it is time to try again."""
        return self._monotonic() >= self._until_s

    def failed(self) -> None:
        """Wait twice as long as the last time."""
        self._until_s = self._monotonic() + self._wait_s
        self._wait_s = min(2 * self._wait_s, LAST_BACKOFF_S)

    def succeeded(self) -> None:
        """Start again from the shortest wait."""
        self._wait_s, self._until_s = FIRST_BACKOFF_S, -math.inf


class _Polled(NamedTuple):
    """A poll that has not been taken in yet."""

    poll: Poll
    batch: Batch
    letters: list[DeadLetter]  # of the rows that the decoder refused; what is stored is taken out
    told: frozenset[DeadLetter] = frozenset()  # those stored of rows that the step refused


class Daemon:
    """One run of one study. `run` returns when it is told to stop, or raises what it cannot go on after.

    `turn` is one pass of its loop; `monotonic` (seconds) and `wall_ms` are its clocks.
    """

    def __init__(
        self,
        plan: Plan,
        source: Source,
        journal: Journal,
        recorder: Recorder,
        state: State,
        *,
        clock: Clock,
        start_at: At,
        health: Health,
        metrics: Metrics,
        board: Board,
        dead_letters: DeadLetters | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._plan, self._source, self._journal, self._recorder = plan, source, journal, recorder
        self._state, self._clock, self._start_at = state, clock, start_at
        self._health, self._metrics, self._board, self._dead_letters = health, metrics, board, dead_letters
        self._monotonic, self._wall_ms = monotonic, wall_ms
        self._rng = core.seeded(plan.seed)
        self._inbox_due, self._commit_due, self._check_due = (Every(s, monotonic) for s in (LOOK_S, COMMIT_S, CHECK_S))
        self._source_backoff, self._letters_backoff, self._redis_backoff = (Backoff(monotonic) for _ in range(3))
        self._show_next_s = -math.inf
        self._reading = False
        self._held: _Polled | None = None  # its dead letters are not stored: nothing more is polled until they are
        self._dirty = False  # the state is ahead of the journal
        self._unsure = False  # Redis did not answer: whether it holds the table is asked as soon as it does
        metrics.show(state)

    def run(self, stop: threading.Event, until_idle_s: float | None = None) -> None:
        """Work until `stop` is set or, with `until_idle_s`, until the source has had nothing new for so long."""
        last_news_s = self._monotonic()
        self._show()  # before it is ready: whoever waits for that finds something to see
        while not stop.is_set():
            came = self.turn()
            if came == "news":
                last_news_s = self._monotonic()
            elif came == "waiting":
                stop.wait(POLL_S)
            elif (
                until_idle_s is not None
                and self._monotonic() - last_news_s >= until_idle_s
                and self._source.caught_up()
            ):
                log.info("nothing new for %g s: done", until_idle_s)
                break
        self.finish()

    def turn(self) -> Turn:
        """Publish what waits, take one poll in, obey the commands that came."""
        self._publish()
        try:
            came = self._read()
        except OffsetLost as lost:
            self._lose(lost)
            came = "waiting"
        except TopicReplaced as replaced:
            self._begin_anew(replaced)
            came = "waiting"
        if self._inbox_due():
            self._obey()
        if self._dirty and self._commit_due():
            self._commit(())
        self._show()
        return came

    def finish(self) -> None:
        """Leave everything that was taken in to the next start. A poll that is still held will be read again."""
        self._commit(())
        self._publish()
        if self._recorder.pending:
            log.warning("the newest table has not reached Redis; the next start publishes again")

    def _show(self) -> None:
        """Renew what people see: at once after an entry in the ledger, else now and then, as cheap as it is."""
        shown = self._board.study
        if self._monotonic() < self._show_next_s and shown and shown.history == self._board.history.revision:
            return
        started_s = time.perf_counter()
        self._board.show(self._state, self._health.faults, self._now_ms())
        cost_s = time.perf_counter() - started_s
        self._show_next_s = self._monotonic() + max(SHOW_S, cost_s / SHOW_SHARE)

    def _now_ms(self) -> int:
        return self._wall_ms() if self._clock == "wall" else core.event_clock_ms(self._state)

    def _read(self) -> Turn:
        if not self._reading and not self._connected():
            return "waiting"
        polled = self._polled() if self._held is None else self._held
        self._held = self._left_of(polled)
        if self._held is not None:
            return "news" if self._letters_backoff.due() else "waiting"
        return "news" if any(part.records for part in polled.poll.parts) else "quiet"

    def _connected(self) -> bool:
        """Find the partitions and write their start offsets into the journal before anything is read."""
        if not self._source_backoff.due():
            return False
        windows = self._state.windows
        known, at = windows.partitions, self._start_at
        try:
            offsets = self._source.start({p: part.next_offset for p, part in known.items()} or None, at, windows.log)
        except SourceUnavailable as error:
            self._health.set("source", str(error))
            self._source_backoff.failed()
            return False
        new = {p: PartitionState(None, offset) for p, offset in offsets.items() if p not in known}
        self._state = _with_partitions(self._state, known | new, self._source.log)
        self._commit(())
        log.info("reading from %s", ", ".join(f"partition {p} offset {offsets[p]}" for p in sorted(offsets)))
        self._reading = True
        self._health.set("source", None)
        self._health.set("start", None)
        return True

    def _polled(self) -> _Polled:
        poll = self._source.poll(POLL_S)
        self._source_backoff.succeeded()
        self._health.set("source", self._source.health())
        return _Polled(poll, *self._decode(poll))

    def _left_of(self, polled: _Polled) -> _Polled | None:
        """Let the step see a poll; its outcome counts, and its offsets move on, once its dead letters are stored.

        They are stored a chunk a turn, however many there are, so that stop and commands are looked at in between.
        Until then what is left comes back. So letters may be sent twice, but never get lost.
        """
        if not self._letters_backoff.due():
            return polled
        polled = polled._replace(letters=polled.letters[self._stored(polled.letters) :])
        if polled.letters:
            return polled
        started_s = time.perf_counter()
        now_ms = self._wall_ms() if self._clock == "wall" else None
        state, effects, info = core.step(self._plan, self._state, polled.batch, now_ms, self._rng)
        refused = bounded(_ahead(polled.poll, info, self._plan.events))
        ahead = [letter for letter in refused if letter not in polled.told]
        stored = self._stored(ahead)
        if stored < len(ahead):
            return polled._replace(told=polled.told.union(ahead[:stored]))
        self._state, self._dirty = state, self._dirty or bool(polled.batch.parts)
        if effects:
            self._commit(effects)
        rejected = [item for part in polled.batch.parts for item in part.rejected.items()]
        self._metrics.stepped(self._state, info, effects, rejected, time.perf_counter() - started_s)
        for decision in info.decisions:
            stage = state.experiment.carry.stage
            log.info("window %s: %s, stage %s, %s", in_utc(decision.end_ms), decision.outcome, stage, decision.why)
        return None

    def _decode(self, poll: Poll) -> tuple[Batch, list[DeadLetter]]:
        parts = []
        letters: list[DeadLetter] = []
        unknown: Counter[str] = Counter()
        capped: Counter[str] = Counter()
        size = 0
        for part in poll.parts:
            decoded = decode_records(part.records, self._plan.events)
            reasons: dict[str, int] = {}
            for row in decoded.rejected:
                reasons[row.reason] = reasons.get(row.reason, 0) + row.rows
            last = self._last(part, decoded.events)
            parts.append(PartBatch(part.partition, decoded.events, reasons, part.next_offset, last))
            size += sum(len(record.value) for record in part.records)
            letters += [DeadLetter(part.partition, *msgspec.structs.astuple(row)) for row in decoded.rejected]
            unknown.update(decoded.unknown_components)
            capped.update(capped_rows(decoded.events, self._plan.events))
        self._metrics.polled(size, poll.behind, unknown, capped)
        self._board.polled(sum(poll.behind.values()))
        return Batch(tuple(parts), poll.idle, poll.backlog), bounded(letters)

    def _last(self, part: Fetched, events: Events) -> bytes:
        """The last row as it came, where it is far enough ahead to be held."""
        if self._clock == "wall" or not len(events.offset):
            return b""
        known = self._state.windows.partitions.get(part.partition)
        mark = int(events.ts_ms[0]) if known is None or known.watermark_ms is None else known.watermark_ms
        if events.ts_ms[-1] - mark <= AHEAD_OF_EVENTS_MS:
            return b""
        of_record = events.offset == events.offset[-1]
        record = next(record for record in reversed(part.records) if record.offset == events.offset[-1])
        return rows_at(record, [int(of_record.sum()) - 1], self._plan.events)[0]

    def _stored(self, letters: Sequence[DeadLetter]) -> int:
        """Store a chunk; how many of the first letters need no more care."""
        if not letters or self._dead_letters is None:
            return len(letters)
        now = chunk(letters)
        try:
            self._dead_letters.send(now)
        except DeadLettersUnavailable as error:
            if error.stored:
                self._letters_backoff.succeeded()
            self._letters_backoff.failed()
            self._health.set("dead letters", str(error))
            return error.stored
        self._letters_backoff.succeeded()
        self._health.set("dead letters", None)
        return len(now)

    def _lose(self, lost: OffsetLost) -> None:
        """Records are gone that were never read: the study freezes, and reading goes on at the log's beginning.

        The partition's watermark and the ids stay: in a topic that was made anew, copies of what was counted are
        dropped, and what is older than the lateness is expired. A partition that is not there any more is forgotten,
        else its watermark would hold the others back for ever.
        """
        log.error("%s", lost)
        partitions = dict(self._state.windows.partitions)
        known = partitions.get(lost.partition, PartitionState(None, max(lost.earliest, 0)))
        if not self._reading and lost.earliest <= lost.asked <= lost.latest:  # the offset is well: the partition is not
            partitions.pop(lost.partition, None)
        elif lost.earliest >= 0:  # else nobody could say; the source is asked again at its start
            partitions[lost.partition] = msgspec.structs.replace(known, next_offset=lost.earliest)
        body = {"partition": lost.partition, "asked": lost.asked, "earliest": lost.earliest, "latest": lost.latest}
        self._freeze(
            _with_partitions(self._state, partitions, self._state.windows.log), str(lost), "offsets_lost", body
        )
        if lost.earliest < 0 or (self._reading and lost.asked == lost.earliest):  # the next start may find the same
            self._source_backoff.failed()
        self._reading = False

    def _begin_anew(self, replaced: TopicReplaced) -> None:
        """As where all offsets are lost: what the new topic holds from its beginning is read, copies are dropped."""
        log.error("%s", replaced)
        partitions = {
            p: msgspec.structs.replace(part, next_offset=0) for p, part in self._state.windows.partitions.items()
        }
        body = {"before": replaced.before, "topic": replaced.log}
        self._freeze(_with_partitions(self._state, partitions, replaced.log), str(replaced), "topic_replaced", body)
        self._reading = False

    def _freeze(self, state: State, why: str, kind: str, body: dict[str, Any]) -> None:
        """Stop the study in a state, with an entry of its own for what was found."""
        now_ms = self._now_ms()
        self._state, effects, _ = core.command(self._plan, state, Command("freeze", "trimtab", why), now_ms)
        self._commit((*effects, Record(now_ms, kind, body)))

    def _obey(self) -> None:
        """Carry out the commands of the inbox, each in a transaction with its mark that it was applied."""
        for waiting in self._journal.inbox():
            try:
                order = msgspec.convert(waiting.command, Command)
            except msgspec.ValidationError as error:
                body = {"order": waiting.command, "said": f"refused: {error}"}
                self._commit((Record(self._now_ms(), "operator_refused", body),), (waiting.id,))
                log.warning("command %d: %s", waiting.id, body["said"])
                continue
            self._state, effects, answer = core.command(self._plan, self._state, order, self._now_ms())
            self._commit(effects, (waiting.id,))
            log.warning("%s by %s: %s", order.command, order.who, answer.said)

    def _commit(self, effects: tuple[Effect, ...], applied: tuple[int, ...] = ()) -> None:
        started_s = time.perf_counter()
        self._state = self._recorder.commit(self._state, effects, applied)
        self._metrics.committed(time.perf_counter() - started_s)
        self._metrics.show(self._state)  # an order, or a loss, is shown also where nothing can be read
        self._board.committed(effects)
        self._dirty = False

    def _publish(self) -> None:
        """Give Redis the newest table, and look now and then whether it still has it; decisions go on without it."""
        if not self._redis_backoff.due() or not (self._recorder.pending or self._unsure or self._check_due()):
            return
        try:
            if not self._recorder.pending:
                self._recorder.check_stored()
            pending = self._recorder.pending
            self._recorder.publish(self._now_ms())
            if pending:
                self._metrics.published()
        except PublisherUnavailable as error:
            self._unsure = True
            self._redis_backoff.failed()
            self._metrics.publish_failed(self._recorder.pending)
            self._health.set("redis", str(error).removeprefix("redis: "))
        else:
            self._unsure = False
            self._redis_backoff.succeeded()
            self._health.set("redis", None)


def _with_partitions(state: State, partitions: dict[int, PartitionState], topic: str) -> State:
    windows = msgspec.structs.replace(state.windows, partitions=partitions, log=topic)
    return msgspec.structs.replace(state, windows=windows)


def _ahead(poll: Poll, info: core.Info, plan: EventPlan) -> list[DeadLetter]:
    """The rows that were refused only when they met the clock or the sums, as the decoder cuts and counts them."""
    refused: dict[tuple[int, int], list[Refused]] = {}
    for row in info.ingested.refused:
        refused.setdefault((row.partition, row.offset), []).append(row)
    records = {(part.partition, record.offset): record for part in poll.parts for record in part.records if refused}
    letters: Counter[DeadLetter] = Counter()
    for (partition, offset), rows in refused.items():
        told = rows[:MAX_TOLD] if len(letters) < MAX_LETTERS else []
        now = [row.place for row in told if row.place >= 0]
        shown = iter(rows_at(records[partition, offset], now, plan) if now else [])
        for row in told:
            letters[DeadLetter(partition, offset, row.reason, next(shown) if row.place >= 0 else row.row)] += 1
        letters.update(DeadLetter(partition, offset, row.reason, b"") for row in rows[len(told) :])
    return [letter._replace(rows=count) for letter, count in letters.items()]


def readiness_log(metrics: Metrics) -> Callable[[dict[str, str]], None]:
    """Writes every change of readiness to the log and the metrics."""

    def changed(faults: dict[str, str]) -> None:
        metrics.faults(faults)
        if faults:
            log.warning("not ready: %s", "; ".join(_lines(faults)))
        else:
            log.info("ready")

    return changed


def _lines(faults: dict[str, str]) -> Iterator[str]:
    return (f"{part}: {fault}" for part, fault in sorted(faults.items()))
