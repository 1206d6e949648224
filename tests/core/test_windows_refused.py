"""Rows that only the state can refuse: counted, and named by partition, offset and place."""

import msgspec
import numpy as np

from controller.core.sums import LIMIT
from controller.core.windows import RESULTS, Batch, PartBatch, ingest, initial
from tests.core.stream import DAY, EVENTS, HOUR, PLAN, TABLES, Row, bucket, columns, part, right
from tests.core.test_windows import NO_IDLE, NOW, counts, take


def test_every_result_is_counted_also_where_there_is_none() -> None:
    assert take(initial(), {0: []})[1].counts == dict.fromkeys(RESULTS, 0)


def test_the_wall_clock_refuses_the_future_and_names_the_row() -> None:
    limit = NOW + 5 * 60_000
    state, info = take(initial(), {3: [right(1, limit), right(2, limit + 1), right(3, NOW)]})
    assert counts(info) == {"accepted": 2, "future": 1}
    assert [(r.partition, r.offset, r.ts_ms, r.reason) for r in info.refused] == [(3, 1, limit + 1, "future")]
    assert state.partitions[3].watermark_ms == limit


def test_a_refused_row_is_named_by_its_place_among_its_records_rows() -> None:
    big = 9 * 10**15
    fill = [right(k, HOUR, values=(big, -big)) for k in range(LIMIT // (2 * big))]
    full, _ = take(initial(), {0: fill})
    late, over = NOW + 6 * 60_000, (big, big)
    rows = [right(9000, HOUR), right(9001, late)]
    rows += [right(9002, HOUR, values=over), right(9003, late), right(9004, late), right(9005, HOUR, values=over)]
    events = msgspec.structs.replace(columns(rows), offset=np.array([70, 70, 71, 71, 71, 71]))
    batch = Batch((PartBatch(0, events, {}, 72),), NO_IDLE)
    _, info = ingest(PLAN, EVENTS, full, batch, TABLES, NOW, "wall")
    found = {(r.reason, r.offset, r.place) for r in info.refused}
    assert found == {("future", 70, 1), ("future", 71, 1), ("future", 71, 2), ("overflow", 71, 0), ("overflow", 71, 3)}


def test_a_refused_row_behind_one_that_was_held_is_named_by_its_place_too() -> None:
    state, _ = take(initial(), {0: [right(1, HOUR), right(2, 99 * DAY)]}, "events")
    big = LIMIT // 4
    rows = [right(key, 99 * DAY, values=(big, big)) for key in (3, 4, 5, 6)]
    _, info = take(state, {0: rows}, "events")
    assert counts(info) == {"accepted": 2, "overflow": 3}
    assert [(r.offset, r.place) for r in info.refused] == [(3, 0), (4, 0), (5, 0)]


def test_a_held_row_keeps_its_bytes_until_it_is_judged() -> None:
    def batch(first: int, rows: list[Row], last: bytes) -> Batch:
        return Batch((msgspec.structs.replace(part(0, rows, first), last=last),), NO_IDLE)

    state = initial()
    for polled in (batch(0, [right(1, HOUR), right(2, 99 * DAY)], b"far"), batch(2, [], b"")):
        state, _ = ingest(PLAN, EVENTS, state, polled, TABLES, NOW, "events")
        assert state.partitions[0].held_row == b"far"
    after, info = ingest(PLAN, EVENTS, state, batch(2, [right(3, HOUR)], b"near"), TABLES, NOW, "events")
    assert [(r.offset, r.place, r.row) for r in info.refused] == [(1, -1, b"far")]
    assert after.partitions[0].held_row == b""


def test_sums_that_could_wrap_are_refused_and_named() -> None:
    big = 9 * 10**15
    fits = LIMIT // (2 * big)
    rows = [right(k, HOUR, values=(big, -big)) for k in range(fits + 3)]
    state, info = take(initial(), {0: rows[:100]})
    state, info = take(state, {0: [*rows[100:], right(5000, HOUR, values=(1, -1))]})
    assert counts(info) == {"accepted": fits - 100 + 1, "overflow": 3}
    assert [r.offset for r in info.refused] == [fits, fits + 1, fits + 2]
    cell = state.cells[2 * HOUR, 7]
    assert cell.sums[0, bucket(0)].tolist() == [fits * big + 1, -fits * big - 1]
    assert state.quality[2 * HOUR].accepted == fits + 1
