"""What of the state goes into the journal's checkpoint table: only what a commit changed.

Rows of the windows (end in ms, n counts from 0):
    windows              watermarks, offsets, held rows, quality, which rows below exist
    cell/{end}/{version} sums of one cell
    units/{end}          distinct sampled units by bucket
    ids/{end}/{n}        event ids, exposed/{end}/{n} units: segments that are written once
"""

from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.core import codec, dedupe
from controller.core.dedupe import Index
from controller.core.windows import Cell, PartitionState, Quality, WindowsState

HEAD = "windows"


class _Head(msgspec.Struct, frozen=True):
    """All that is small; it also names every other row."""

    partitions: dict[int, PartitionState]
    quality: dict[int, Quality]
    sealed_through_ms: int | None
    watermark_ms: int | None
    cells: tuple[tuple[int, int], ...]
    units: tuple[int, ...]
    ids: dict[int, int]  # window end -> segments
    ids_floor_ms: int | None
    exposed: dict[int, int]
    exposed_floor_ms: int | None


class _Words(msgspec.Struct, frozen=True, eq=False):
    hi: NDArray[np.uint64]  # (n,)
    lo: NDArray[np.uint64]  # (n,)


class _Counts(msgspec.Struct, frozen=True, eq=False):
    units: NDArray[np.int64]  # (B,)


def window_changes(
    before: WindowsState | None, after: WindowsState
) -> tuple[dict[str, bytes], tuple[str, ...], WindowsState]:
    """Rows to put and keys to drop, so that a table that holds `before` holds `after`; and `after`, as now held.

    `before` is what the last call returned, or what was restored; None for an empty table.
    """
    if before is None:
        before = WindowsState({}, {}, {}, {}, Index(), Index())
        after = msgspec.structs.replace(after, ids=dedupe.unwritten(after.ids), exposed=dedupe.unwritten(after.exposed))
    put = {_cell(key): codec.encode(cell) for key, cell in after.cells.items() if before.cells.get(key) is not cell}
    put |= {
        f"units/{end}": codec.encode(_Counts(counts))
        for end, counts in after.units.items()
        if before.units.get(end) is not counts
    }
    ids, exposed = _segments("ids", after.ids, put), _segments("exposed", after.exposed, put)
    held = msgspec.structs.replace(after, ids=ids, exposed=exposed)
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
        units={end: codec.decode(_row(rows, f"units/{end}"), _Counts).units for end in head.units},
        ids=_index(rows, "ids", head.ids, head.ids_floor_ms),
        exposed=_index(rows, "exposed", head.exposed, head.exposed_floor_ms),
        sealed_through_ms=head.sealed_through_ms,
        watermark_ms=head.watermark_ms,
    )


def _head(state: WindowsState) -> _Head:
    return _Head(
        partitions=dict(sorted(state.partitions.items())),
        quality=dict(sorted(state.quality.items())),
        sealed_through_ms=state.sealed_through_ms,
        watermark_ms=state.watermark_ms,
        cells=tuple(sorted(state.cells)),
        units=tuple(sorted(state.units)),
        ids=dict(sorted(state.ids.segments.items())),
        ids_floor_ms=state.ids.floor_ms,
        exposed=dict(sorted(state.exposed.segments.items())),
        exposed_floor_ms=state.exposed.floor_ms,
    )


def _segments(name: str, index: Index, put: dict[str, bytes]) -> Index:
    """Put the keys that no segment holds; the index that counts them as written."""
    segments = dict(index.segments)
    for end, words in dedupe.fresh_by_window(index).items():
        n = segments.get(end, 0)
        put[f"{name}/{end}/{n}"] = codec.encode(_Words(*words))
        segments[end] = n + 1
    return msgspec.structs.replace(index, fresh=(), segments=segments)


def _index(rows: dict[str, bytes], name: str, segments: dict[int, int], floor_ms: int | None) -> Index:
    names = ((end, f"{name}/{end}/{n}") for end, count in segments.items() for n in range(count))
    words = ((end, codec.decode(_row(rows, key), _Words)) for end, key in names)
    return dedupe.rebuilt(segments, ((end, w.hi, w.lo) for end, w in words), floor_ms)


def _gone(before: WindowsState, after: WindowsState) -> Iterator[str]:
    """Keys of the windows that left."""
    yield from (_cell(key) for key in before.cells.keys() - after.cells.keys())
    yield from (f"units/{end}" for end in before.units.keys() - after.units.keys())
    for name, old, new in (("ids", before.ids, after.ids), ("exposed", before.exposed, after.exposed)):
        for end in old.segments.keys() - new.segments.keys():
            yield from (f"{name}/{end}/{n}" for n in range(old.segments[end]))


def _cell(key: tuple[int, int]) -> str:
    return f"cell/{key[0]}/{key[1]}"


def _row(rows: dict[str, bytes], key: str) -> bytes:
    if key not in rows:
        raise ValueError(f"checkpoint: expected a row {key!r}, found none")
    return rows[key]
