"""What of the state goes into the journal's checkpoint table: only what a commit changed.

Rows of the windows (end in ms, n counts from 0):
    windows              watermarks, offsets, held rows, quality, which rows below exist
    cell/{end}/{version} sums of one cell
    ids/{end}/{n}        event ids, units/{end}/{n} bits of units (`distinct`): segments that are written once
"""

from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.core import codec, dedupe, distinct
from controller.core.clock import PartitionState
from controller.core.dedupe import Index
from controller.core.distinct import Seen
from controller.core.windows import Cell, Quality, WindowsState, initial

HEAD = "windows"


class _Head(msgspec.Struct, frozen=True):
    """All that is small; it also names every other row."""

    partitions: dict[int, PartitionState]
    quality: dict[int, Quality]
    sealed_through_ms: int | None
    watermark_ms: int | None
    cells: tuple[tuple[int, int], ...]
    units: dict[int, tuple[int, int]]  # window end -> buckets, segments
    ids: dict[int, int]  # window end -> segments
    ids_floor_ms: int | None
    counted_through_ms: int | None
    log: str = ""


class _Words(msgspec.Struct, frozen=True, eq=False):
    hi: NDArray[np.uint64]  # (n,)
    lo: NDArray[np.uint64]  # (n,)


class _Places(msgspec.Struct, frozen=True, eq=False):
    place: NDArray[np.uint32]  # (n,)


def window_changes(
    before: WindowsState | None, after: WindowsState
) -> tuple[dict[str, bytes], tuple[str, ...], WindowsState]:
    """Rows to put and keys to drop, so that a table that holds `before` holds `after`; and `after`, as now held.

    `before` is what the last call returned, or what was restored; None for an empty table.
    """
    if before is None:
        before = initial()
        units = {end: distinct.unwritten(seen) for end, seen in after.units.items()}
        after = msgspec.structs.replace(after, ids=dedupe.unwritten(after.ids), units=units)
    put = {_cell(key): codec.encode(cell) for key, cell in after.cells.items() if before.cells.get(key) is not cell}
    held = msgspec.structs.replace(after, ids=_segments(after.ids, put), units=_unit_segments(after.units, put))
    put[HEAD] = codec.encode(_head(held))
    return put, tuple(_gone(before, held)), held


def window_restore(rows: dict[str, bytes]) -> WindowsState:
    """The state that the rows hold; rows of other parts are left alone.

    Raises:
        ValueError: a row is missing or is not what its key says.
    """
    head = codec.decode(_row(rows, HEAD), _Head)
    return WindowsState(
        partitions=head.partitions,
        cells={key: codec.decode(_row(rows, _cell(key)), Cell) for key in head.cells},
        quality=head.quality,
        units={end: _seen(rows, end, *stored) for end, stored in head.units.items()},
        ids=_index(rows, head.ids, head.ids_floor_ms),
        counted_through_ms=head.counted_through_ms,
        sealed_through_ms=head.sealed_through_ms,
        watermark_ms=head.watermark_ms,
        log=head.log,
    )


def _head(state: WindowsState) -> _Head:
    return _Head(
        partitions=dict(sorted(state.partitions.items())),
        quality=dict(sorted(state.quality.items())),
        sealed_through_ms=state.sealed_through_ms,
        watermark_ms=state.watermark_ms,
        cells=tuple(sorted(state.cells)),
        units={end: (seen.bits.shape[1], seen.segments) for end, seen in sorted(state.units.items())},
        ids=dict(sorted(state.ids.segments.items())),
        ids_floor_ms=state.ids.floor_ms,
        counted_through_ms=state.counted_through_ms,
        log=state.log,
    )


def _segments(index: Index, put: dict[str, bytes]) -> Index:
    """Put the keys that no segment holds; the index that counts them as written."""
    segments = dict(index.segments)
    for end, words in dedupe.fresh_by_window(index).items():
        n = segments.get(end, 0)
        put[f"ids/{end}/{n}"] = codec.encode(_Words(*words))
        segments[end] = n + 1
    return msgspec.structs.replace(index, fresh=(), segments=segments)


def _unit_segments(units: dict[int, Seen], put: dict[str, bytes]) -> dict[int, Seen]:
    """The same of the units' bits."""
    held = dict(units)
    for end, seen in units.items():
        if seen.fresh:
            put[f"units/{end}/{seen.segments}"] = codec.encode(_Places(distinct.fresh(seen)))
            held[end] = msgspec.structs.replace(seen, fresh=(), segments=seen.segments + 1)
    return held


def _index(rows: dict[str, bytes], segments: dict[int, int], floor_ms: int | None) -> Index:
    names = ((end, f"ids/{end}/{n}") for end, count in segments.items() for n in range(count))
    words = ((end, codec.decode(_row(rows, key), _Words)) for end, key in names)
    return dedupe.rebuilt(segments, ((end, w.hi, w.lo) for end, w in words), floor_ms)


def _seen(rows: dict[str, bytes], end: int, buckets: int, segments: int) -> Seen:
    keys = (f"units/{end}/{n}" for n in range(segments))
    return distinct.rebuilt(buckets, (codec.decode(_row(rows, key), _Places).place for key in keys))


def _gone(before: WindowsState, after: WindowsState) -> Iterator[str]:
    """Keys of the windows that left."""
    yield from (_cell(key) for key in before.cells.keys() - after.cells.keys())
    for end in before.units.keys() - after.units.keys():
        yield from (f"units/{end}/{n}" for n in range(before.units[end].segments))
    for end in before.ids.segments.keys() - after.ids.segments.keys():
        yield from (f"ids/{end}/{n}" for n in range(before.ids.segments[end]))


def _cell(key: tuple[int, int]) -> str:
    return f"cell/{key[0]}/{key[1]}"


def _row(rows: dict[str, bytes], key: str) -> bytes:
    if key not in rows:
        raise ValueError(f"checkpoint: expected a row {key!r}, found none")
    return rows[key]
