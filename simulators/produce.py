"""A simulated product on real services: it serves by the table it reads, and sends the events that come of it.

In lockstep with the daemon's `--clock events` days pass in minutes: the traffic up to a window's end + grace is sent on
every partition, then the product waits for the table that was decided on that window, and serves by it from there on.
"""

import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from controller.assignment import Assignment
from controller.core.plan import Plan
from simulators.closed_loop import START_MS, spans
from simulators.events import Delivery, Population, Rows, arrived, exposures, heartbeats, joined, population
from simulators.serving import served
from simulators.sinks import Sink
from simulators.wire import by_partition, json_events
from simulators.worlds import World

TICK_MS = 250  # of real time


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


class Product:
    """A world whose traffic goes to a sink, in order of arrival."""

    def __init__(
        self, plan: Plan, world: World, sink: Sink, seed: int, *, events_per_record: int = 1, delivery: Delivery | None
    ) -> None:
        self.world, self.events = world, 0
        self._sink, self._per_record = sink, events_per_record
        self._people: Population = population(world, seed, plan.salt, sink.partitions)
        self._delivery = delivery
        self._waiting: Rows | None = None

    def send_span(self, table: Assignment | None, begin_ms: int, end_ms: int, *, beat: bool) -> None:
        """Send what arrives until `end_ms`; `beat`: then an event of `end_ms` on every partition, for its watermark."""
        now = served(self.world, table, begin_ms)
        fresh = exposures(self.world, self._people, now, begin_ms, end_ms, self._delivery)
        due, self._waiting = arrived(fresh if self._waiting is None else joined(self._waiting, fresh), end_ms)
        if beat:
            due = joined(due, heartbeats(self.world, self._people, now, end_ms, self._sink.partitions))
        self._send(due)

    def finish(self) -> None:
        """Send what is still on its way."""
        if self._waiting is not None:
            rest, self._waiting = arrived(self._waiting, 2**62)
            self._send(rest)

    def _send(self, rows: Rows) -> None:
        for partition, part in enumerate(by_partition(self._people, rows, self._sink.partitions)):
            self._sink.send(partition, _records(json_events(self.world, self._people, part), self._per_record))
        self._sink.flush()
        self.events += len(rows)


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
    table = await_table(tables, 0, wait_s)
    start_ms = _first(plan, table, start_ms)
    sent_ms = table.decided_through_ms + plan.window.grace_ms  # by the run that this one goes on from, if any
    for begin, end, _ in spans(plan.window, start_ms, windows):
        product.send_span(table, max(begin, sent_ms), end, beat=True)
        asked_s = time.monotonic()
        table = await_table(tables, end - plan.window.grace_ms, wait_s)
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
) -> None:
    """Send traffic as it would come by itself, on the wall clock, until `until_ms` (or KeyboardInterrupt)."""
    begin = now_ms()
    while begin < until_ms:
        sleep(TICK_MS / 1000)
        end = min(now_ms(), until_ms)
        product.send_span(tables.table, begin, end, beat=False)
        watch(Progress(end, product.events, tables.table, 0.0))
        begin = end
    product.finish()


def await_table(tables: Tables, decided_through_ms: int, wait_s: float) -> Assignment:
    """The first table that was decided on this time; raises `NoAnswer`."""
    deadline_s = time.monotonic() + wait_s
    while True:
        table = tables.table
        if table is not None and table.decided_through_ms >= decided_through_ms:
            return table
        left_s = deadline_s - time.monotonic()
        if left_s <= 0 or not tables.wait(0 if table is None else table.version, left_s):
            raise NoAnswer(_unanswered(tables.table, decided_through_ms, wait_s))


def _unanswered(table: Assignment | None, decided_through_ms: int, wait_s: float) -> str:
    if table is None:
        return (
            f"Redis has had no table of this study for {wait_s:g} s: start `trimtab run STUDY.toml --clock events` "
            "on the same study file"
        )
    return (
        f"the daemon has not decided on the window that ends at {decided_through_ms} within {wait_s:g} s; its last "
        f"table is version {table.version}, stage {table.stage}, decided through {table.decided_through_ms}. Is "
        "`trimtab run STUDY.toml --clock events --from earliest` running, and does it read this topic?"
    )


def _first(plan: Plan, table: Assignment, start_ms: int | None) -> int:
    decided, length = table.decided_through_ms, plan.window.length_ms
    if start_ms is None:
        return decided or START_MS // length * length
    first = start_ms // length * length
    if first < decided:
        raise NoAnswer(f"the study has decided through {decided} already: --start-ms must not be below it")
    return first


def _records(events: list[bytes], per_record: int) -> list[bytes]:
    if per_record == 1:
        return events
    return [b"\n".join(events[at : at + per_record]) for at in range(0, len(events), per_record)]
