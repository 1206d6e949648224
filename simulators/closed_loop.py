"""The production step in virtual time: a world answers every table, the step decides on its events, days in seconds.

Nothing here decides. Columns take the place of Kafka, a variable that of Redis; step, recorder and journal are the
daemon's own, so the journal is one that `trimtab verify` accepts.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from controller import assignment
from controller.core.plan import Plan
from controller.core.step import Info, State, event_clock_ms, seeded, step
from controller.core.windows import Batch, PartBatch, PartitionState, WindowPlan
from controller.shell.fingerprint import single_threaded
from controller.shell.journal import Journal
from controller.shell.publisher import MemoryPublisher
from controller.shell.recorder import Recorder
from simulators.events import Delivery, Population, Rows, arrived, exposures, heartbeats, joined, population
from simulators.serving import served
from simulators.wire import by_partition, decoded
from simulators.worlds import World

START_MS = 1_699_920_000_000  # a Tuesday, 0:00 UTC
PARTITIONS = 2
POLLS = 4  # of a window: the breaker looks at each


class Turn(msgspec.Struct, frozen=True, eq=False):
    """What one poll came to."""

    state: State
    info: Info
    events: int  # so far


def run(
    plan: Plan,
    world: World,
    windows: int,
    seed: int,
    journal: Path,
    watch: Callable[[Turn], None] = lambda turn: None,
    delivery: Delivery | None = None,
) -> State:
    """Let a study tune a world for so many windows; returns the state after the last one was decided on.

    The world's randomness follows from `seed`, the decisions' from the plan's. Raises `JournalRefused` or
    `PlanRefused` when the journal exists and is not this study's.
    """
    with single_threaded(), Journal.open(journal, plan.study) as book:
        shelf = MemoryPublisher()
        recorder, state = Recorder.take_over(plan, book, shelf, 0, "events")
        parts = {p: PartitionState(None, 0) for p in range(PARTITIONS)}
        state = msgspec.structs.replace(state, windows=msgspec.structs.replace(state.windows, partitions=parts))
        state = recorder.commit(state, ())
        recorder.publish(0)
        people = population(world, seed, plan.salt, PARTITIONS)
        events = 0
        for rows in traffic(plan, world, people, windows, shelf, delivery or Delivery()):
            batch = _batch(plan, world, people, state, rows)
            state, effects, info = step(plan, state, batch, None, seeded(plan.seed))
            state = recorder.commit(state, effects)
            recorder.publish(event_clock_ms(state))
            events += len(rows)
            watch(Turn(state, info, events))
    return state


def traffic(
    plan: Plan, world: World, people: Population, windows: int, shelf: MemoryPublisher, delivery: Delivery
) -> Iterator[Rows]:
    """Polls of events in order of arrival, each served by the table of its moment."""
    waiting: Rows | None = None
    for begin, end, settles in spans(plan.window, START_MS, windows, POLLS):
        table = served(world, assignment.decode(shelf.table) if shelf.table else None, begin)
        fresh = exposures(world, people, table, begin, end, delivery)
        due, waiting = arrived(fresh if waiting is None else joined(waiting, fresh), end)
        yield joined(due, heartbeats(world, people, table, end, PARTITIONS)) if settles else due


def spans(window: WindowPlan, start_ms: int, windows: int, polls: int = 1) -> Iterator[tuple[int, int, bool]]:
    """(begin, end, whether a window is settled by it) from the window that holds `start_ms` on, without gaps.

    A window's last span ends with its grace: what follows is served by the table that was decided on it.
    """
    begin = first = start_ms // window.length_ms * window.length_ms
    for number in range(1, windows + 1):
        settled = first + number * window.length_ms + window.grace_ms
        step_ms = (settled - begin) // polls
        for end in [*(begin + k * step_ms for k in range(1, polls)), settled]:
            yield begin, end, end == settled
            begin = end


def _batch(plan: Plan, world: World, people: Population, state: State, rows: Rows) -> Batch:
    parts = []
    for partition, part in enumerate(by_partition(people, rows, PARTITIONS)):
        offset = state.windows.partitions[partition].next_offset
        events = decoded(world, people, part, plan.events, offset)
        parts.append(PartBatch(partition, events, {}, offset + len(part)))
    return Batch(tuple(parts))
