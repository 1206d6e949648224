"""A simulated product on real services: it serves by the table it reads, and sends the events that come of it.

In lockstep with the daemon's `--clock events` days pass in minutes: the traffic up to a window's end + grace is sent on
every partition, then the product waits for the table that was decided on that window, and serves by it from there on.

Several products may share the work, each with its own partitions: every one draws all of the traffic and sends its
part, so the events are the same, to the byte, for any number of them.
"""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from controller.assignment import Assignment
from controller.core.plan import Plan
from controller.shell.story import in_utc
from simulators.closed_loop import START_MS, spans
from simulators.events import Delivery, Rows
from simulators.faults import Fault
from simulators.kinds import AnyScenario, AnyWorld, over_time, population
from simulators.sinks import ColumnSink, Sink
from simulators.traffic import Traffic
from simulators.wire import arrow_batch, by_partition

TICK_MS = 250  # of real time
PATIENCE_S = 1.0  # after which it is said what is waited for


class NoAnswer(Exception):
    """The daemon did not publish what was waited for."""


class Tables(Protocol):
    """The table in Redis, as a serving client holds it (`controller.serving.Client` is one)."""

    @property
    def table(self) -> Assignment | None:
        """The table held; None before the first one."""
        ...

    def wait(self, after: int = 0, timeout_s: float = 5.0) -> bool:
        """Wait until a version above `after` is held; False when that took longer than `timeout_s`."""
        ...


class Progress(msgspec.Struct, frozen=True):
    """How far a simulation has come."""

    through_ms: int  # end of the traffic sent
    events: int
    table: Assignment | None
    waited_s: float  # for tables, in all
    awaited: str | None = None  # what has not come for a while


class Product:
    """A world whose traffic goes to a sink, in order of arrival.

    Args:
        start_ms: hour 0 of the scenario and of its faults.
        mine: the partitions that this one sends, of all that the sink has.

    Raises:
        ValueError: columns are asked for where a fault breaks the events' bytes.
    """

    def __init__(
        self,
        plan: Plan,
        world: AnyWorld | AnyScenario,
        sink: Sink | ColumnSink,
        seed: int,
        *,
        events_per_record: int = 1,
        delivery: Delivery | None,
        faults: Sequence[Fault] = (),
        start_ms: int = START_MS,
        mine: Sequence[int] | None = None,
    ) -> None:
        self.events = 0
        self._sink, self._per_record = sink, events_per_record
        self._mine = range(sink.partitions) if mine is None else mine
        scenario = over_time(world)
        people = population(scenario.world, seed, plan.salt, sink.partitions)
        self._traffic = Traffic(scenario, people, sink.partitions, start_ms, delivery=delivery, faults=faults)
        self._sent = [0] * sink.partitions
        if isinstance(sink, ColumnSink) and self._traffic.breaks_bytes:
            raise ValueError("the fault `corrupt` breaks JSON: write NDJSON, or send to Kafka without --arrow")

    @property
    def complete(self) -> bool:
        """Whether every partition's watermark has passed the end of what was sent last."""
        return self._traffic.complete

    def send_span(self, table: Assignment | None, begin_ms: int, end_ms: int, *, beat: bool) -> None:
        """Send what arrives until `end_ms`; `beat`: then an event of `end_ms` on every partition, for its watermark."""
        self._send(self._traffic.until(table, begin_ms, end_ms, beat=beat))

    def finish(self) -> None:
        """Send what is still on its way."""
        rest = self._traffic.rest()
        if rest is not None:
            self._send(rest)

    def _send(self, rows: Rows) -> None:
        world, people = self._traffic.scenario.world, self._traffic.people
        parts = by_partition(people, rows, self._sink.partitions)
        for partition in self._mine:
            part = parts[partition]
            if isinstance(self._sink, ColumnSink):
                self._sink.send_columns(partition, arrow_batch(world, people, part))
            else:
                events = self._traffic.events(part, partition, self._sent[partition])
                self._sink.send(partition, _records(events, self._per_record))
            self._sent[partition] += len(part)
            self.events += len(part)
        self._sink.flush()


def lockstep(
    plan: Plan,
    product: Product,
    tables: Tables,
    start_ms: int | None,
    windows: int,
    wait_s: float,
    watch: Callable[[Progress], None],
) -> int:
    """Send so many windows, waiting after each for its decision; returns the start of the first.

    `start_ms` None goes on after the last window that the study has decided on, or begins at `closed_loop.START_MS`.
    Raises `NoAnswer` when a table does not come within `wait_s`, or `start_ms` lies before what was decided already.
    """
    waited_s = 0.0

    def tell(awaited: str) -> None:
        watch(Progress(reached_ms, product.events, tables.table, waited_s, awaited))

    reached_ms = 0
    table = await_table(tables, 0, wait_s, tell)
    start_ms = _first(plan, table, start_ms)
    sent_ms = table.decided_through_ms + plan.window.grace_ms  # by the run that this one goes on from, if any
    for begin, end, _ in spans(plan.window, start_ms, windows):
        product.send_span(table, max(begin, sent_ms), end, beat=True)
        reached_ms = end
        asked_s = time.monotonic()
        if product.complete:  # while a partition stands still there is no decision to wait for
            table = await_table(tables, end - plan.window.grace_ms, wait_s, tell)
        waited_s += time.monotonic() - asked_s
        watch(Progress(end, product.events, table, waited_s))
    product.finish()
    return start_ms


def realtime(
    product: Product,
    tables: Tables,
    until_ms: int,
    watch: Callable[[Progress], None],
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    sleep: Callable[[float], None] = time.sleep,
    tick_ms: int = TICK_MS,
) -> None:
    """Send traffic as it would come by itself, on the wall clock, until `until_ms` (or KeyboardInterrupt).

    Ticks lie on one grid for all processes, so that these draw the same traffic.
    """
    begin = now_ms() // tick_ms * tick_ms
    while begin < until_ms:
        sleep(tick_ms / 1000)
        for end in range(begin + tick_ms, min(now_ms(), until_ms) + 1, tick_ms):
            product.send_span(tables.table, begin, end, beat=False)
            watch(Progress(end, product.events, tables.table, 0.0))
            begin = end
    product.finish()


def written(
    plan: Plan,
    product: Product,
    table: Assignment | None,
    start_ms: int | None,
    windows: int,
    watch: Callable[[Progress], None],
) -> int:
    """Send so many windows under one table, without a daemon; returns the start of the first."""
    start_ms = (START_MS if start_ms is None else start_ms) // plan.window.length_ms * plan.window.length_ms
    for begin, end, _ in spans(plan.window, start_ms, windows):
        product.send_span(table, begin, end, beat=True)
        watch(Progress(end, product.events, table, 0.0))
    product.finish()
    return start_ms


def await_table(
    tables: Tables, decided_through_ms: int, wait_s: float, tell: Callable[[str], None] = lambda awaited: None
) -> Assignment:
    """The first table that was decided on this time; raises `NoAnswer`. `tell`: what is waited for, unless it is there.

    With `decided_through_ms` 0 any table will do.
    """
    deadline_s = time.monotonic() + wait_s
    told = False
    while True:
        table = tables.table
        if table is not None and table.decided_through_ms >= decided_through_ms:
            return table
        left_s = deadline_s - time.monotonic()
        came = left_s > 0 and tables.wait(
            0 if table is None else table.version, left_s if told else min(left_s, PATIENCE_S)
        )
        if not came and told:
            raise NoAnswer(_unanswered(tables.table, decided_through_ms, wait_s))
        if not came:
            tell(_awaited(tables.table, decided_through_ms, wait_s))
            told = True


def _awaited(table: Assignment | None, decided_through_ms: int, wait_s: float) -> str:
    if table is None:
        return (
            f"a first table of this study in Redis, from `trimtab run STUDY.toml --clock events` (up to {wait_s:g} s)"
        )
    return f"the daemon's decision on the window that ends at {in_utc(decided_through_ms)} (up to {wait_s:g} s)"


def _unanswered(table: Assignment | None, decided_through_ms: int, wait_s: float) -> str:
    if table is None:
        return (
            f"Redis has had no table of this study for {wait_s:g} s: start `trimtab run STUDY.toml --clock events` "
            "on the same study file"
        )
    return (
        f"the daemon has not decided on the window that ends at {in_utc(decided_through_ms)} within {wait_s:g} s; its "
        f"last table is version {table.version}, stage {table.stage}, decided through "
        f"{in_utc(table.decided_through_ms)}. Is `trimtab run STUDY.toml --clock events --from earliest` running, and "
        "does it read this topic?"
    )


def _first(plan: Plan, table: Assignment, start_ms: int | None) -> int:
    decided, length = table.decided_through_ms, plan.window.length_ms
    if start_ms is None:
        return decided or START_MS // length * length
    first = start_ms // length * length
    if first < decided:
        raise NoAnswer(
            f"the study has decided through {in_utc(decided)} already: --start-ms must not be below {decided}"
        )
    return first


def _records(events: list[bytes], per_record: int) -> list[bytes]:
    if per_record == 1:
        return events
    return [b"\n".join(events[at : at + per_record]) for at in range(0, len(events), per_record)]
