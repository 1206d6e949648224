"""The whole middle of Trimtab as one pure function.

Gather a poll's events into windows; decide on every window that has settled, in order; stop catastrophes within
a window; seal what cannot change any more. No IO, no clock, no hidden randomness.
"""

from collections.abc import Callable, Iterator

import msgspec
import numpy as np

from controller.core import breaker, distinct, ledger, operate, replan, windows
from controller.core.decide import Decision, decide
from controller.core.evidence import fold
from controller.core.experiment import Experiment, Statistics, ended_ms, initial, tables
from controller.core.faults import by_cause
from controller.core.ledger import Cells, Record
from controller.core.operate import Answer, Command
from controller.core.plan import Plan, digest
from controller.core.windows import Batch, Ingested, Quality, WindowsState

Randomness = Callable[[int], np.random.Generator]  # window end in ms -> its generator

BREAKER_EVERY_MS = 60_000


class State(msgspec.Struct, frozen=True, eq=False):
    """Everything a step needs of the steps before it. Never mutated."""

    windows: WindowsState
    experiment: Experiment
    recorded: Cells  # sums as the ledger holds them, of windows that are not sealed
    rejected: int = 0  # rows refused since the last decision
    arrived: int = 0  # all rows since then
    looked_ms: int = 0  # when the breaker last looked
    reasons: dict[str, int] = {}  # the refused rows by reason


class Publish(msgspec.Struct, frozen=True):
    """A table to put into Redis, once the entries before it are safe in the ledger."""

    version: int
    table: bytes


Effect = Record | Publish


class Info(msgspec.Struct, frozen=True, eq=False):
    """What people and metrics want to see of a step."""

    now_ms: int
    ingested: Ingested
    decisions: tuple[Decision, ...]
    sealed: tuple[int, ...]  # window ends


def start(plan: Plan) -> State:
    """The state of a study that has seen nothing."""
    return State(windows.initial(), initial(plan), {})


def seeded(seed: int) -> Randomness:
    """The study's randomness: every decision's generator follows from the seed and its window's end alone."""
    return lambda end_ms: np.random.default_rng((seed, end_ms))


def event_clock_ms(state: State) -> int:
    """The time of a run on the events' own clock: the highest watermark of any partition, 0 before any event."""
    marks = (part.watermark_ms for part in state.windows.partitions.values())
    return max((mark for mark in marks if mark is not None), default=0)


def step(
    plan: Plan, state: State, batch: Batch, now_ms: int | None, rng: Randomness
) -> tuple[State, tuple[Effect, ...], Info]:
    """Take in one poll.

    Args:
        now_ms: the wall clock, or None to run on the events' own clock.
        rng: gives the generator of a window's decision.

    Returns:
        The next state; what to do, in order (a table is published only after the records before it are durable);
        and what to show.
    """
    state, ingested = _ingest(plan, state, batch, now_ms)
    now = event_clock_ms(state) if now_ms is None else now_ms
    effects: list[Effect] = []
    decisions = []
    if ingested.counts.get("overflow"):
        state, effects = _frozen(plan, state, "impossible values: a window's sums would overflow", now)
    ends = list(_settled(plan, state))
    if not ends and (why := _nothing_taken(plan, state, batch, now_ms)):
        state, entries = _frozen(plan, state, why, now)
        effects += entries
    for end in ends:
        act = end == ends[-1] and not batch.backlog
        state, decision, entries = _decide(plan, state, end, now, rng(end), act)
        decisions.append(decision)
        effects += entries
    if not ends:
        state, entries = _break(plan, state, now)
        effects += entries
    state, sealed, entries = _seal(plan, state, batch, now)
    effects += entries
    return state, tuple(effects), Info(now, ingested, tuple(decisions), sealed)


def begin(plan: Plan, state: State, epoch: int, now_ms: int, about: dict[str, str]) -> tuple[State, Record, Publish]:
    """Take the study over under a new epoch; its table is published before any event is read.

    `about`: what the process is (code, fingerprint), for the ledger.
    """
    experiment, table = operate.begin(plan, state.experiment, epoch, now_ms)
    body = {"epoch": epoch, "about": about, "table": table.decode(), "carry": ledger.carried(experiment.carry)}
    state = msgspec.structs.replace(state, experiment=experiment)
    return state, Record(now_ms, "daemon_started", body), Publish(experiment.carry.version, table)


def change_plan(before: Plan, plan: Plan, state: State, now_ms: int) -> tuple[State, tuple[Record, ...]]:
    """Go on under a plan that an operator has changed, in a way that `replan.refused` does not name."""
    experiment = replan.follow(before, plan, state.experiment, now_ms)
    deal = state.experiment.deals[state.experiment.carry.deal]
    body = {
        "plan": msgspec.to_builtins(plan),
        "digest": digest(plan),
        "changed": list(replan.differences(before, plan)),
        "carry": ledger.carried(experiment.carry),
    }
    facts = ledger.facts(state.experiment.carry, experiment.carry, (), deal, now_ms)
    return msgspec.structs.replace(state, experiment=experiment), (Record(now_ms, "plan_changed", body), *facts)


def command(plan: Plan, state: State, order: Command, now_ms: int) -> tuple[State, tuple[Effect, ...], Answer]:
    """Carry out an operator's command."""
    before = state.experiment.carry
    experiment, answer = operate.apply(plan, state.experiment, order, now_ms)
    body = {
        "order": msgspec.to_builtins(order),
        "said": answer.said,
        "table": None if answer.table is None else answer.table.decode(),
        "carry": ledger.carried(experiment.carry),
    }
    effects: list[Effect] = [Record(now_ms, "operator", body)]
    effects += ledger.facts(before, experiment.carry, (), experiment.deals[before.deal], now_ms)
    if answer.table is not None:
        effects.append(Publish(experiment.carry.version, answer.table))
    state = msgspec.structs.replace(state, experiment=experiment)
    if order.command == "resume" and answer.table is not None:  # what was refused before it is not held against it
        forgiven = windows.forgiven(state.windows)
        state = msgspec.structs.replace(state, windows=forgiven, rejected=0, arrived=0, reasons={})
    return state, tuple(effects), answer


def _ingest(plan: Plan, state: State, batch: Batch, now_ms: int | None) -> tuple[State, Ingested]:
    after, ingested = windows.ingest(
        plan.window,
        plan.events,
        state.windows,
        batch,
        tables(state.experiment),
        now_ms or 0,
        "events" if now_ms is None else "wall",
        ended_ms(plan, state.experiment),
    )
    new = windows.by_reason(*(part.rejected for part in batch.parts), {"future": ingested.counts.get("future", 0)})
    refused = sum(new.values())
    arrived = refused + sum(count for result, count in ingested.counts.items() if result != "future")
    return msgspec.structs.replace(
        state,
        windows=after,
        rejected=state.rejected + refused,
        arrived=state.arrived + arrived,
        reasons=windows.by_reason(state.reasons, new),
    ), ingested


def _nothing_taken(plan: Plan, state: State, batch: Batch, now_ms: int | None) -> str | None:
    """Why no window can settle: every partition that is not idle brings refused rows alone; or None."""
    parts = state.windows.partitions
    refusing = frozenset() if batch.backlog else windows.refusing(plan.window, state.windows, now_ms or 0)
    if not refusing or not parts.keys() <= refusing | batch.idle:
        return None
    rows = sum(part.refused for part in parts.values())
    why = by_cause(windows.by_reason(*(part.reasons for part in parts.values())))
    number, most = max(parts.items(), key=lambda item: item[1].refused)
    where = f"the newest of partition {number} before offset {most.next_offset}"
    return f"impossible values: all of the last {rows} events were rejected, so no window can settle{why}; {where}"


def _settled(plan: Plan, state: State) -> Iterator[int]:
    """Ends of the windows to decide on now. A run of empty ones is decided on once, at its end."""
    mark, length = state.windows.watermark_ms, plan.window.length_ms
    if mark is None:
        return
    last = (mark - plan.window.grace_ms) // length * length
    filled = sorted(end for end in state.windows.quality if end <= last)  # also with rows that were not believed
    done = state.experiment.carry.decided_through_ms or (filled[0] - length if filled else last)
    for end in filled:
        if end - length > done:
            yield end - length
        if end > done:
            yield end
            done = end
    if last > done:
        yield last


def _statistics(state: State, plan: Plan, end_ms: int | None) -> Statistics:
    """What is known up to a window's end; None: of everything, the open window included."""
    cells = state.windows.cells
    kept = cells if end_ms is None else {key: cell for key, cell in cells.items() if key[0] <= end_ms}
    last = max((end for end, _ in kept), default=0) if end_ms is None else end_ms
    seen = state.windows.units.get(last)
    return Statistics(
        last,
        kept,
        np.zeros(plan.buckets, np.int64) if seen is None else distinct.units(seen),
        state.windows.quality.get(last, Quality()),
        state.rejected,
        state.arrived,
        state.reasons,
    )


def _decide(
    plan: Plan, state: State, end_ms: int, now_ms: int, rng: np.random.Generator, act: bool
) -> tuple[State, Decision, list[Effect]]:
    seen, before = _statistics(state, plan, end_ms), state.experiment.carry
    experiment, decision = decide(plan, state.experiment, seen, now_ms, rng, act)
    data, recorded = ledger.pack(seen, state.recorded)
    effects: list[Effect] = [ledger.decided(decision, experiment.carry, now_ms, act, data)]
    effects += ledger.facts(before, experiment.carry, decision.tripped, decision.deal, now_ms)
    if decision.table is not None:
        effects.append(Publish(experiment.carry.version, decision.table))
    after = windows.without_units(state.windows, end_ms)
    state = msgspec.structs.replace(
        state, windows=after, experiment=experiment, recorded=recorded, rejected=0, arrived=0, reasons={}
    )
    return state, decision, effects


def _break(plan: Plan, state: State, now_ms: int) -> tuple[State, list[Effect]]:
    """Look for a catastrophe, at most once a minute; a clock that was set back must not keep it from looking."""
    if state.looked_ms <= now_ms < state.looked_ms + BREAKER_EVERY_MS:
        return state, []
    state = msgspec.structs.replace(state, looked_ms=now_ms)
    seen, before = _statistics(state, plan, None), state.experiment.carry
    tripped = breaker.tripped(plan, state.experiment, seen)
    if not tripped:
        return state, []
    experiment, table = breaker.stop(plan, state.experiment, tripped, seen.end_ms, now_ms)
    data, recorded = ledger.pack(seen, state.recorded)
    deal = state.experiment.deals[before.deal]
    body = {"table": table.decode(), "carry": ledger.carried(experiment.carry)}
    effects: list[Effect] = [Record(now_ms, "breaker_tripped", body, data)]
    effects += ledger.facts(before, experiment.carry, tripped, deal, now_ms)
    effects.append(Publish(experiment.carry.version, table))
    return msgspec.structs.replace(state, experiment=experiment, recorded=recorded), effects


def _frozen(plan: Plan, state: State, reason: str, now_ms: int) -> tuple[State, list[Effect]]:
    if state.experiment.carry.stage == "paused":
        return state, []
    state, effects, _ = command(plan, state, Command("freeze", "trimtab", reason), now_ms)
    return state, list(effects)


def _seal(plan: Plan, state: State, batch: Batch, now_ms: int) -> tuple[State, tuple[int, ...], list[Effect]]:
    after, sealed = windows.seal(plan.window, state.windows, batch.idle)
    experiment, recorded = state.experiment, state.recorded
    effects: list[Effect] = []
    for window in sealed:
        cells = {(window.end_ms, version): cell for version, cell in window.cells.items()}
        seen = Statistics(window.end_ms, cells, np.zeros(plan.buckets, np.int64), window.quality)
        data, recorded = ledger.pack(seen, recorded)
        recorded = ledger.without(recorded, window.end_ms)
        experiment = fold(plan, experiment, window.end_ms, window.cells)
        body = {
            "window_end_ms": window.end_ms,
            "offsets": {str(p): offset for p, offset in window.offsets.items()},
            "sums_sha256": ledger.digest(cells),
            "carry": ledger.carried(experiment.carry),
        }
        effects.append(Record(now_ms, "sealed", body, data))
    ends = tuple(window.end_ms for window in sealed)
    return msgspec.structs.replace(state, windows=after, experiment=experiment, recorded=recorded), ends, effects
