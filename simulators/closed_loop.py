"""The production step in virtual time: a world answers every table, the step decides on its events, days in seconds.

Nothing here decides. Columns take the place of Kafka, a variable that of Redis; step, recorder and journal are the
daemon's own, so the journal is one that `trimtab verify` accepts.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from controller import assignment
from controller.core.clock import PartitionState
from controller.core.events import decode
from controller.core.plan import Plan
from controller.core.step import Info, State, event_clock_ms, seeded, step
from controller.core.windows import Batch, PartBatch, WindowPlan
from controller.shell.fingerprint import single_threaded
from controller.shell.journal import Journal
from controller.shell.publisher import MemoryPublisher
from controller.shell.recorder import Recorder
from simulators.events import Delivery, Rows
from simulators.faults import Fault
from simulators.kinds import AnyScenario, AnyWorld, over_time, population
from simulators.traffic import Traffic
from simulators.wire import by_partition, decoded

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
    world: AnyWorld | AnyScenario,
    windows: int,
    seed: int,
    journal: Path,
    watch: Callable[[Turn], None] = lambda turn: None,
    delivery: Delivery | None = None,
    faults: Sequence[Fault] = (),
) -> State:
    """Let a study tune a world for so many windows; returns the state after the last one was decided on.

    The world's randomness follows from `seed`, the decisions' from the plan's. Raises `JournalRefused` or
    `PlanRefused` when the journal exists and is not this study's.
    """
    scenario = over_time(world)
    with single_threaded(), Journal.open(journal, plan.study) as book:
        shelf = MemoryPublisher()
        recorder, state = Recorder.take_over(plan, book, shelf, 0, "events")
        parts = {p: PartitionState(None, 0) for p in range(PARTITIONS)}
        state = msgspec.structs.replace(state, windows=msgspec.structs.replace(state.windows, partitions=parts))
        state = recorder.commit(state, ())
        recorder.publish(0)
        people = population(scenario.world, seed, plan.salt, PARTITIONS)
        traffic = Traffic(scenario, people, PARTITIONS, START_MS, delivery=delivery or Delivery(), faults=faults)
        events = 0
        for rows in _polls(plan, traffic, windows, shelf):
            state, effects, info = step(plan, state, _batch(plan, traffic, state, rows), None, seeded(plan.seed))
            state = recorder.commit(state, effects)
            recorder.publish(event_clock_ms(state))
            events += len(rows)
            watch(Turn(state, info, events))
    return state


def _polls(plan: Plan, traffic: Traffic, windows: int, shelf: MemoryPublisher) -> Iterator[Rows]:
    """Polls of events in order of arrival, each served by the table of its moment."""
    for begin, end, settles in spans(plan.window, START_MS, windows, POLLS):
        yield traffic.until(assignment.decode(shelf.table) if shelf.table else None, begin, end, beat=settles)


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


def _batch(plan: Plan, traffic: Traffic, state: State, rows: Rows) -> Batch:
    world, people = traffic.scenario.world, traffic.people
    parts = []
    for partition, part in enumerate(by_partition(people, rows, PARTITIONS)):
        offset = state.windows.partitions[partition].next_offset
        if traffic.breaks_bytes:
            offsets = range(offset, offset + len(part))
            found = decode(traffic.events(part, partition, offset), offsets, plan.events)
        else:
            found = decoded(world, people, part, plan.events, offset)
        refused: Counter[str] = Counter()
        for row in found.rejected:
            refused[row.reason] += row.rows
        parts.append(PartBatch(partition, found.events, dict(refused), offset + len(part)))
    return Batch(tuple(parts))
