"""Event time against a recount row by row, and one test for each rule."""

from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from controller.core import distinct
from controller.core.clock import Clock, stream_ms
from controller.core.persist import window_changes, window_restore
from controller.core.windows import (
    Batch,
    Ingested,
    PartBatch,
    Sealed,
    WindowPlan,
    WindowsState,
    forgiven,
    ingest,
    initial,
    seal,
    without_units,
)
from tests.core.naive_windows import NaiveWindows
from tests.core.stream import ARMS, DAY, EVENTS, HOUR, PLAN, TABLES, Row, bucket, columns, dense, part, right

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
    return ingest(plan, EVENTS, state, Batch(tuple(parts), idle), TABLES, NOW, clock)


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
    assert {end: distinct.units(seen).tolist() for end, seen in run.state.units.items()} == {
        end: np.bincount([bucket(unit) for unit in units], minlength=EVENTS.buckets).tolist()
        for end, units in naive.units.items()
    }
    assert {p: s.watermark_ms for p, s in run.state.partitions.items()} == naive.marks
    assert run.state.watermark_ms == naive.stream_mark


def _nonzero(
    cells: dict[tuple[int, int], Counter[tuple[int, int, int]]],
) -> dict[tuple[int, int], dict[tuple[int, int, int], int]]:
    return {key: {place: n for place, n in cell.items() if n} for key, cell in cells.items() if cell}


@settings(max_examples=60, deadline=None)
@given(streams)
def test_cuts_interleaving_and_restarts_change_no_bit(stream: Stream) -> None:
    """Copies of one id travel in one partition; here each partition has ids of its own."""
    for p, rows in enumerate(stream.rows):
        stream.rows[p] = [row._replace(key=row.key * 2 + p, values=(row.values[0] % 10**6, 1)) for row in rows]
    whole = msgspec.structs.replace(stream, polls=[])
    a, b = polled(stream), polled(whole, restarts=False)
    assert a.counts == b.counts
    assert _all_cells(a) == _all_cells(b)


def _all_cells(run: Run) -> dict[tuple[int, int], tuple[bytes, bytes, int]]:
    cells = run.state.cells | {(s.end_ms, v): cell for s in run.sealed for v, cell in s.cells.items()}
    return {key: (cell.sums.tobytes(), cell.events.tobytes(), cell.magnitude) for key, cell in cells.items()}


# --- one rule at a time --------------------------------------------------------------------------------------------


def counts(info: Ingested) -> dict[str, int]:
    return {result: n for result, n in info.counts.items() if n}


def test_an_accepted_row_lands_in_its_window_version_segment_and_bucket() -> None:
    row = right(1, 5 * HOUR - 1, unit=3, segment=2, values=(10, -4))
    state, info = take(initial(), {0: [row]})
    assert counts(info) == {"accepted": 1}
    assert info.touched == (5 * HOUR,)
    assert dense(state.cells[5 * HOUR, 7]) == {(2, bucket(3), 0): 10, (2, bucket(3), 1): -4, (2, bucket(3), -1): 1}
    assert state.partitions[0].watermark_ms == 5 * HOUR - 1


def test_a_row_on_the_edge_belongs_to_the_next_window() -> None:
    state, _ = take(initial(), {0: [right(1, 5 * HOUR)]})
    assert list(state.cells) == [(6 * HOUR, 7)]


def test_nothing_of_the_state_before_is_changed_and_untouched_cells_keep_their_identity() -> None:
    first, _ = take(initial(), {0: [right(1, HOUR), right(2, 2 * HOUR)]})
    sums = {key: cell.sums.copy() for key, cell in first.cells.items()}
    second, _ = take(first, {0: [right(3, 2 * HOUR)]})
    assert second.cells[2 * HOUR, 7] is first.cells[2 * HOUR, 7]
    assert second.cells[3 * HOUR, 7] is not first.cells[3 * HOUR, 7]
    assert all((first.cells[key].sums == was).all() for key, was in sums.items())
    again, info = take(first, {0: [right(3, 2 * HOUR)]})  # the old state still works, and knows nothing of key 3
    assert counts(info) == {"accepted": 1}
    assert (again.cells[3 * HOUR, 7].sums == second.cells[3 * HOUR, 7].sums).all()
    with pytest.raises(ValueError, match="read-only"):
        second.cells[3 * HOUR, 7].sums[0] = 1


def test_expiry_goes_by_the_watermark_before_the_row() -> None:
    late = right(1, HOUR - 1)
    on_time, _ = take(initial(), {0: [right(2, 4 * HOUR - 1), late]})
    assert (HOUR, 7) in on_time.cells
    _, info = take(initial(), {0: [right(2, 4 * HOUR), late]})
    assert counts(info) == {"accepted": 1, "expired": 1}


def test_a_copy_is_a_duplicate_also_under_another_time_and_in_one_batch() -> None:
    state, info = take(initial(), {0: [right(1, HOUR), right(1, HOUR), right(1001, HOUR)]})
    assert counts(info) == {"accepted": 2, "duplicate": 1}
    _, info = take(state, {0: [right(1, 3 * HOUR), right(1001, HOUR), right(2001, HOUR)]})
    assert counts(info) == {"accepted": 1, "duplicate": 2}


def test_a_short_horizon_forgets_ids_while_the_window_is_still_open() -> None:
    plan = msgspec.structs.replace(PLAN, dedupe_ms=HOUR)
    state, _ = take(initial(), {0: [right(1, 0), right(2, 2 * HOUR - 1)]}, plan=plan)
    _, info = take(state, {0: [right(1, 0)]}, plan=plan)
    assert counts(info) == {"duplicate": 1}
    state, _ = take(state, {0: [right(3, 2 * HOUR)]}, plan=plan)
    _, info = take(state, {0: [right(1, 0)]}, plan=plan)
    assert counts(info) == {"accepted": 1}


def test_a_copy_counts_again_once_the_watermark_of_its_batch_has_passed_the_horizon() -> None:
    plan = msgspec.structs.replace(PLAN, dedupe_ms=HOUR)
    state, _ = take(initial(), {0: [right(1, 0)]}, plan=plan)
    copies = [right(1, 0), right(2, 2 * HOUR), right(1, HOUR), right(1, HOUR)]
    _, info = take(state, {0: copies}, plan=plan)
    assert counts(info) == {"duplicate": 2, "accepted": 2}


@pytest.mark.parametrize(
    ("row", "result"),
    [
        (Row(1, HOUR, version=0, arm="anything"), "fallback"),
        (Row(1, HOUR, version=99), "unknown_version"),
        (right(1, HOUR)._replace(arm="gone"), "misattributed"),
        (right(1, HOUR, unit=1)._replace(version=8, arm="e1"), "misattributed"),
    ],
)
def test_rows_kept_out_of_the_sums_still_register_their_id_and_move_the_watermark(row: Row, result: str) -> None:
    state, info = take(initial(), {0: [row, row]})
    assert counts(info) == {result: 1, "duplicate": 1}
    assert not state.cells
    assert state.partitions[0].watermark_ms == HOUR
    assert getattr(state.quality[2 * HOUR], result) == 1


def test_a_version_counts_in_windows_that_begin_before_it_ended() -> None:
    rows = [right(1, 2 * HOUR - 1), right(2, 2 * HOUR), Row(3, 3 * HOUR, version=8)]
    batch = Batch((part(0, rows),), NO_IDLE)
    for ended, unknown in [(2 * HOUR, 1), (HOUR + 1, 1), (HOUR, 2), (2 * HOUR + 1, 0)]:
        _, info = ingest(PLAN, EVENTS, initial(), batch, TABLES, NOW, "events", {7: ended})
        assert counts(info).get("unknown_version", 0) == unknown
        assert counts(info)["accepted"] == 3 - unknown


def test_versions_of_no_table_are_not_looked_for_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client may send a time there: as many versions as rows."""
    looks, flatnonzero = [], np.flatnonzero

    def looked(where: NDArray[np.bool_]) -> NDArray[np.intp]:
        looks.append(len(where))
        return flatnonzero(where)

    monkeypatch.setattr(np, "flatnonzero", looked)
    rows = [Row(key, HOUR, version=99 + key) for key in range(300)]
    _, info = ingest(PLAN, EVENTS, initial(), Batch((part(0, rows),)), TABLES, NOW, "wall")
    assert counts(info) == {"unknown_version": 300}
    assert len(looks) < 30


def test_the_events_clock_believes_two_rows_that_agree_and_holds_a_lone_one() -> None:
    state, info = take(initial(), {0: [right(1, HOUR), right(2, 99 * DAY)]}, "events")
    assert counts(info) == {"accepted": 1}
    assert state.partitions[0].held is not None
    lone, info = take(state, {0: [right(3, 2 * HOUR)]}, "events")
    assert counts(info) == {"accepted": 1, "future": 1}
    assert (info.refused[0].offset, lone.partitions[0].held) == (1, None)
    empty, info = take(state, {0: []}, "events")
    assert (counts(info), empty.partitions[0].held is not None) == ({}, True)
    both, info = take(empty, {0: [right(3, 99 * DAY - HOUR)]}, "events")
    assert counts(info) == {"accepted": 2}
    assert both.partitions[0].watermark_ms == 99 * DAY


def test_after_a_leap_the_higher_of_the_two_rows_is_the_watermark() -> None:
    leap = [right(2, 99 * DAY + 20 * HOUR), right(3, 99 * DAY), right(4, 99 * DAY + 40 * HOUR), right(5, 99 * DAY)]
    _, info = take(initial(), {0: [right(1, HOUR), *leap]}, "events")
    assert counts(info) == {"accepted": 3, "expired": 2}


def test_a_copy_of_a_row_that_is_far_ahead_does_not_speak_for_it() -> None:
    state, info = take(initial(), {0: [right(1, HOUR), right(2, 99 * DAY), right(2, 99 * DAY)]}, "events")
    assert counts(info) == {"accepted": 1, "future": 1}
    assert state.partitions[0].held is not None
    _, info = take(state, {0: [right(3, 2 * HOUR)]}, "events")
    assert counts(info) == {"accepted": 1, "future": 1}


def test_large_values_add_up_exactly() -> None:
    rng = np.random.default_rng(3)
    values = rng.integers(0, 2**53, 400).tolist()
    state, _ = take(initial(), {0: [right(k, HOUR, values=(v, -(v // 7))) for k, v in enumerate(values)]})
    assert state.cells[2 * HOUR, 7].sums.sum(axis=(0, 1)).tolist() == [sum(values), -sum(v // 7 for v in values)]


def test_distinct_units_are_counted_once_a_window_and_only_when_accepted() -> None:
    a, b = 1, 2
    rows = [right(1, HOUR, a), right(2, HOUR, a), right(3, HOUR, b, has_unit=False), right(4, 2 * HOUR, a)]
    rows.append(right(5, HOUR, b)._replace(arm="gone"))
    state, _ = take(initial(), {0: rows})
    state, _ = take(state, {0: [right(6, HOUR, a)]})
    expected = np.bincount([bucket(a)], minlength=5).tolist()
    found = {end: distinct.units(seen).tolist() for end, seen in state.units.items()}
    assert found == {2 * HOUR: expected, 3 * HOUR: expected}


def test_units_of_a_window_that_was_decided_on_are_let_go_of_and_not_counted_again() -> None:
    state, _ = take(initial(), {0: [right(1, HOUR, 1), right(2, 2 * HOUR, 1)]})
    state = without_units(state, 2 * HOUR)
    assert list(state.units) == [3 * HOUR]
    state, info = take(state, {0: [right(3, HOUR, 2)]})
    assert counts(info) == {"accepted": 1}
    assert list(state.units) == [3 * HOUR]
    assert without_units(state, HOUR) is state


# --- watermark and sealing -----------------------------------------------------------------------------------------


def test_the_stream_waits_for_its_slowest_partition_that_is_not_idle() -> None:
    state, _ = take(initial(), {0: [right(1, 9 * HOUR)], 1: []})
    assert stream_ms(state.partitions, state.watermark_ms, NO_IDLE) is None
    assert stream_ms(state.partitions, state.watermark_ms, frozenset({1})) == 9 * HOUR
    state, _ = take(state, {1: [right(2, 5 * HOUR)]})
    assert state.watermark_ms == 5 * HOUR
    assert stream_ms(state.partitions, state.watermark_ms, frozenset({0, 1})) == 5 * HOUR


def test_an_idle_partition_that_wakes_never_moves_the_stream_back() -> None:
    state, _ = take(initial(), {0: [right(1, 9 * HOUR)], 1: [right(2, 2 * HOUR)]}, idle=frozenset({1}))
    assert state.watermark_ms == 9 * HOUR
    state, sealed = seal(PLAN, state, frozenset({1}))
    assert [s.end_ms for s in sealed] == [3 * HOUR]
    state, info = take(state, {1: [right(3, 3 * HOUR - 1), right(4, 7 * HOUR)]})
    assert counts(info) == {"expired": 1, "accepted": 1}
    assert state.watermark_ms == 9 * HOUR
    state, _ = take(state, {0: [right(5, 20 * HOUR)]})
    assert state.watermark_ms == 9 * HOUR


def test_a_partition_of_refused_rows_alone_holds_the_stream_back_for_two_windows() -> None:
    state, _ = take(initial(), {0: [right(1, 9 * HOUR)], 1: [right(2, 9 * HOUR)]})

    def later(state: WindowsState, key: int, ts_ms: int, backlog: bool = False) -> WindowsState:
        broken = PartBatch(1, columns([]), {"malformed": 150}, 0)
        polled = Batch((part(0, [right(key, ts_ms)]), broken), backlog=backlog)
        return ingest(PLAN, EVENTS, state, polled, TABLES, NOW, "events")[0]

    state = later(state, 3, 10 * HOUR)
    assert (state.watermark_ms, state.partitions[1].refused) == (9 * HOUR, 150)
    state = later(state, 4, 11 * HOUR)
    assert state.watermark_ms == 9 * HOUR  # not yet for more than two windows
    assert later(state, 5, 12 * HOUR, backlog=True).watermark_ms == 9 * HOUR  # it may only be behind
    assert later(forgiven(state), 5, 12 * HOUR).watermark_ms == 9 * HOUR  # too few of them
    state = later(state, 5, 12 * HOUR)
    assert state.watermark_ms == 12 * HOUR
    state, info = take(state, {1: [right(6, 11 * HOUR)]})
    assert (counts(info), state.partitions[1].refused) == ({"accepted": 1}, 0)
    state, _ = take(state, {0: [right(7, 15 * HOUR)]})
    assert state.watermark_ms == 12 * HOUR  # it counts again


def test_rows_in_the_future_are_refused_rows_too() -> None:
    rows = [right(key, NOW + HOUR) for key in range(250)]
    state, _ = take(initial(), {0: [right(999, NOW - 3 * HOUR)], 1: rows}, clock="wall")
    assert (state.partitions[1].refused, state.watermark_ms) == (250, NOW - 3 * HOUR)


def test_the_ids_of_a_sealed_window_are_forgotten_also_where_a_partition_was_idle() -> None:
    """So that a partition without events does not keep all ids for ever; `sealed` says from which record on."""
    state, _ = take(initial(), {0: [right(1, HOUR)], 1: [right(5, HOUR)]})
    state, _ = take(state, {0: [right(2, 6 * HOUR)]})
    waking: dict[int, Sequence[Row]] = {1: [right(5, 4 * HOUR)]}
    assert counts(take(seal(PLAN, state, NO_IDLE)[0], waking)[1]) == {"duplicate": 1}
    state, sealed = seal(PLAN, state, frozenset({1}))
    assert [(window.end_ms, window.offsets) for window in sealed] == [(2 * HOUR, {0: 2, 1: 1})]
    assert counts(take(state, waking)[1]) == {"accepted": 1}


def test_no_id_is_forgotten_while_a_partition_has_had_no_event() -> None:
    state, _ = take(initial(), {0: [right(1, HOUR)], 1: []})
    state, _ = take(state, {0: [right(2, 60 * HOUR)]})
    state, _ = seal(PLAN, state, NO_IDLE)
    assert counts(take(state, {1: [right(1, HOUR)]})[1]) == {"duplicate": 1}


def test_sealing_hands_the_windows_out_once_with_the_offsets() -> None:
    state, _ = take(initial(), {0: [right(1, 0), Row(2, HOUR, version=0), right(3, 5 * HOUR)], 4: [right(4, 5 * HOUR)]})
    after, sealed = seal(PLAN, state, NO_IDLE)
    assert [(s.end_ms, list(s.cells), s.offsets) for s in sealed] == [
        (HOUR, [7], {0: 3, 4: 1}),
        (2 * HOUR, [], {0: 3, 4: 1}),
    ]
    assert sealed[0].cells[7] is state.cells[HOUR, 7]
    assert (sealed[0].quality.accepted, sealed[1].quality.fallback) == (1, 1)
    assert after.sealed_through_ms == 2 * HOUR
    assert seal(PLAN, after, NO_IDLE)[1] == ()


def test_amended_windows_are_those_the_stream_had_settled() -> None:
    state, _ = take(initial(), {0: [right(1, 0), right(2, HOUR + PLAN.grace_ms - 1)]})
    state, info = take(state, {0: [right(3, 0), right(4, HOUR + PLAN.grace_ms)]})
    assert (info.touched, info.amended) == ((HOUR, 2 * HOUR), ())
    _, info = take(state, {0: [right(5, 0), right(6, 2 * HOUR)]})
    assert (info.touched, info.amended) == ((HOUR, 3 * HOUR), (HOUR,))


def test_the_state_does_not_grow_with_time() -> None:
    state, key, sizes = initial(), 0, []
    for hour in range(60):
        rows = [right(key + k, hour * HOUR + k * 60_000, unit=key + k) for k in range(50)]
        key += 50
        state, _ = take(state, {0: rows})
        state, _ = seal(PLAN, state, NO_IDLE)
        if hour % 7 == 0:
            _, _, state = window_changes(state, state)
        keys = sum(len(run.hi) for run in state.ids.runs) + sum(len(part.hi) for part in state.ids.fresh)
        small = len(state.cells) + len(state.quality) + len(state.units) + len(state.ids.slots)
        sizes.append((keys, small + len(state.ids.segments)))
    assert max(sizes[30:]) <= max(sizes[10:30])
