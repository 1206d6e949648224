"""Event time against a recount row by row, and one test for each rule."""

from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core.clock import Clock
from controller.core.persist import window_changes, window_restore
from controller.core.windows import (
    Batch,
    Ingested,
    Sealed,
    WindowPlan,
    WindowsState,
    ingest,
    initial,
    seal,
)
from tests.core.naive_windows import NaiveWindows
from tests.core.stream import ARMS, DAY, EVENTS, HOUR, PLAN, SAMPLE, TABLES, Row, bucket, dense, part

NOW = 1_000_000 * HOUR
NO_IDLE: frozenset[int] = frozenset()


def take(
    state: WindowsState,
    rows: dict[int, Sequence[Row]],
    clock: Clock = "wall",
    plan: WindowPlan = PLAN,
    idle: frozenset[int] = NO_IDLE,
) -> tuple[WindowsState, Ingested]:
    """Ingest one batch: partition -> rows that follow what it had."""
    parts = [part(p, new, state.partitions[p].next_offset if p in state.partitions else 0) for p, new in rows.items()]
    return ingest(plan, EVENTS, state, Batch(tuple(parts), idle), TABLES, NOW, clock, SAMPLE)


# --- any stream, cut anyhow, restarted anywhere, against the recount -----------------------------------------------

rows_of = st.builds(
    lambda key, hour, minute, unit, segment, version, arm, value: Row(
        key,
        NOW - 40 * DAY + hour * HOUR + minute * 60_000,
        unit,
        segment,
        version,
        TABLES[7][0][TABLES[7][1][bucket(unit)]] if arm is None else arm,
        (value, -value // 2),
        unit % 3 > 0,
    ),
    key=st.sampled_from([1, 2, 3, 1001, 1002, 2001, *range(10, 60)]),
    hour=st.one_of(st.integers(0, 8), st.integers(0, 8), st.sampled_from([30, 31, 80, 2000])),
    minute=st.integers(0, 59),
    unit=st.integers(0, 12),
    segment=st.integers(0, 2),
    version=st.sampled_from([7, 7, 7, 8, 0, 99]),
    arm=st.sampled_from([None, None, None, *ARMS, "gone"]),
    value=st.sampled_from([1, 5, 10**6, 9 * 10**15, -3]),
)


class Stream(msgspec.Struct):
    """What hypothesis draws: rows of each partition, and how they are polled."""

    rows: list[list[Row]]
    polls: list[tuple[int, int, bool]]  # (partition, how many rows at most, restart after it)
    clock: Clock
    dedupe_ms: int


streams = st.builds(
    Stream,
    rows=st.lists(st.lists(rows_of, max_size=40), min_size=2, max_size=2),
    polls=st.lists(st.tuples(st.integers(0, 1), st.integers(1, 12), st.booleans()), max_size=12),
    clock=st.sampled_from(["wall", "events"]),
    dedupe_ms=st.sampled_from([0, HOUR // 2, HOUR, 3 * HOUR]),
)


class Run(msgspec.Struct):
    state: WindowsState
    counts: Counter[str]
    sealed: list[Sealed]


def polled(stream: Stream, restarts: bool = True) -> Run:
    """Play the stream through the core, sealing after every poll."""
    plan = msgspec.structs.replace(PLAN, dedupe_ms=stream.dedupe_ms)
    run = Run(initial(), Counter(), [])
    rest = {p: list(rows) for p, rows in enumerate(stream.rows)}
    run.state, _ = take(run.state, {p: [] for p in rest}, stream.clock, plan)
    table: dict[str, bytes] = {}
    held = None
    for p, most, restart in [*stream.polls, (0, 10**6, True), (1, 10**6, False)]:
        rows, rest[p] = rest[p][:most], rest[p][most:]
        run.state, info = take(run.state, {p: rows}, stream.clock, plan)
        run.counts.update(info.counts)
        run.state, sealed = seal(plan, run.state, NO_IDLE)
        run.sealed += sealed
        if restart and restarts:
            put, drop, held = window_changes(held, run.state)
            table = {key: value for key, value in (table | put).items() if key not in drop}
            held = run.state = window_restore(table)
    return run


def recounted(stream: Stream) -> NaiveWindows:
    naive = NaiveWindows(msgspec.structs.replace(PLAN, dedupe_ms=stream.dedupe_ms), stream.clock, NOW)
    rest = {p: list(rows) for p, rows in enumerate(stream.rows)}
    naive.marks = dict.fromkeys(rest)
    for p, most, _ in [*stream.polls, (0, 10**6, True), (1, 10**6, False)]:
        rows, rest[p] = rest[p][:most], rest[p][most:]
        for row in rows:
            naive.row(p, row)
        naive.seal(NO_IDLE)
    return naive


@settings(max_examples=300, deadline=None)
@given(streams)
def test_equals_a_recount_row_by_row(stream: Stream) -> None:
    run, naive = polled(stream), recounted(stream)
    assert {r: n for r, n in run.counts.items() if n} == dict(naive.counts)
    assert {key: dense(cell) for key, cell in run.state.cells.items()} == _nonzero(naive.cells)
    assert {(s.end_ms, v): dense(c) for s in run.sealed for v, c in s.cells.items()} == _nonzero(
        {(end, v): cell for end, cells in naive.sealed.items() for v, cell in cells.items()}
    )
    assert {e: {k: n for k, n in msgspec.structs.asdict(q).items() if n} for e, q in run.state.quality.items()} == {
        end: dict(quality) for end, quality in naive.quality.items()
    }
    assert {end: counts.tolist() for end, counts in run.state.units.items()} == {
        end: np.bincount([bucket(unit) for unit in units], minlength=EVENTS.buckets).tolist()
        for end, units in naive.units.items()
    }
    assert {p: s.watermark_ms for p, s in run.state.partitions.items()} == naive.marks
    assert run.state.watermark_ms == naive.stream_mark


def _nonzero(
    cells: dict[tuple[int, int], Counter[tuple[int, int, int]]],
) -> dict[tuple[int, int], dict[tuple[int, int, int], int]]:
    return {key: {place: n for place, n in cell.items() if n} for key, cell in cells.items() if cell}
