"""What the journal gets of the windows, and what comes back."""

import msgspec
import pytest

from controller.core import codec, dedupe
from controller.core.clock import PartitionState
from controller.core.dedupe import Index
from controller.core.persist import window_changes, window_restore
from controller.core.windows import Batch, WindowsState, ingest, initial, seal
from tests.core.stream import EVENTS, HOUR, PLAN, TABLES, Row, part, right

NO_IDLE: frozenset[int] = frozenset()


def take(state: WindowsState, rows: list[Row]) -> WindowsState:
    first = state.partitions[0].next_offset if state.partitions else 0
    return ingest(PLAN, EVENTS, state, Batch((part(0, rows, first),)), TABLES, 0, "events")[0]


def busy() -> WindowsState:
    """A state with everything in it: several windows and versions, units, a held row."""
    rows = [right(k, k * 600_000, unit=k) for k in range(12)]
    rows += [Row(100, HOUR, version=0), right(101, HOUR, 5)._replace(arm="gone")]
    rows += [right(102, 900 * HOUR)]
    return take(initial(), rows)


def stored(table: dict[str, bytes], put: dict[str, bytes], drop: tuple[str, ...]) -> dict[str, bytes]:
    return {key: value for key, value in (table | put).items() if key not in drop}


def logical(state: WindowsState) -> dict[str, object]:
    """Everything that decides what comes next, whatever the runs of the index look like."""
    return {
        "partitions": {p: codec.encode(known) for p, known in state.partitions.items()},
        "cells": {key: codec.encode(cell) for key, cell in state.cells.items()},
        "quality": state.quality,
        "units": {end: (seen.bits.tobytes(), seen.segments) for end, seen in state.units.items()},
        "ids": index_content(state.ids),
        "marks": (state.sealed_through_ms, state.watermark_ms, state.counted_through_ms),
    }


def index_content(index: Index) -> tuple[object, ...]:
    held = dedupe.keys(index)
    rows = set(zip(held.hi.tolist(), held.lo.tolist(), held.end_ms.tolist(), strict=True))
    return rows, index.floor_ms, index.segments


def test_the_rows_give_an_equal_state() -> None:
    put, drop, held = window_changes(None, busy())
    assert drop == ()
    assert logical(window_restore(put)) == logical(held)
    assert held.partitions[0].held is not None


def test_an_empty_state_comes_back() -> None:
    put, _, held = window_changes(None, initial())
    assert logical(window_restore(put)) == logical(held)


def test_a_commit_writes_only_what_changed() -> None:
    _, _, held = window_changes(None, busy())
    put, drop, again = window_changes(held, held)
    assert (set(put), drop) == ({"windows"}, ())
    after = take(again, [right(200, 901 * HOUR, unit=1), right(201, 901 * HOUR, unit=1)])
    put, drop, _ = window_changes(again, after)
    ends = (901 * HOUR, 902 * HOUR)  # the row that was held, and the new ones
    assert {key for key in put if key.startswith(("cell", "ids", "units"))} == {
        *(f"cell/{end}/7" for end in ends),
        *(f"ids/{end}/0" for end in ends),
        *(f"units/{end}/0" for end in ends),
    }
    assert drop == ()


def test_segments_are_appended_and_dropped_with_their_window() -> None:
    table: dict[str, bytes] = {}
    held = None
    state = initial()
    for k in range(3):
        state = take(state, [right(10 * k + j, j * 60_000, unit=j) for j in range(5)])
        put, drop, state = window_changes(held, state)
        held, table = state, stored(table, put, drop)
    assert {key for key in table if key.startswith("ids")} == {f"ids/{HOUR}/{n}" for n in range(3)}
    state, _ = seal(PLAN, take(state, [right(99, 4 * HOUR)]), NO_IDLE)
    put, drop, state = window_changes(held, state)
    assert {key for key in drop if key.startswith("ids")} == {f"ids/{HOUR}/{n}" for n in range(3)}
    assert f"cell/{HOUR}/7" in drop
    table = stored(table, put, drop)
    assert all(not key.startswith((f"ids/{HOUR}/", f"units/{HOUR}/")) for key in table)
    assert logical(window_restore(table)) == logical(state)


def test_an_empty_table_gets_everything_even_from_a_state_that_was_written_elsewhere() -> None:
    _, _, held = window_changes(None, busy())
    put, _, again = window_changes(None, held)
    assert logical(window_restore(put)) == logical(again)


def test_rows_of_other_parts_are_left_alone() -> None:
    put, _, held = window_changes(None, busy())
    assert logical(window_restore(put | {"posterior": b"?"})) == logical(held)


def test_a_missing_row_is_named() -> None:
    put, _, _ = window_changes(None, busy())
    for key in put:
        rest = {name: value for name, value in put.items() if name != key}
        with pytest.raises(ValueError, match=f"expected a row '{key}', found none"):
            window_restore(rest)


def test_a_row_of_another_kind_is_refused() -> None:
    put, _, _ = window_changes(None, busy())
    with pytest.raises(msgspec.ValidationError):
        window_restore(put | {"windows": codec.encode(["no", "head"])})


def test_restored_arrays_are_read_only() -> None:
    put, _, _ = window_changes(None, busy())
    state = window_restore(put)
    with pytest.raises(ValueError, match="read-only"):
        next(iter(state.cells.values())).sums[0] = 1
    assert not any(run.hi.flags.writeable for run in state.ids.runs)


def test_a_partition_that_an_older_version_wrote_is_read() -> None:
    fields = msgspec.msgpack.decode(codec.encode(PartitionState(5, 17)))
    del fields["held_row"]
    assert codec.decode(msgspec.msgpack.encode(fields), PartitionState).held_row == b""
