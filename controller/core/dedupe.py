"""Which 128-bit keys, event ids, have been seen, by window.

Keys of all live windows lie in one index of sorted runs; a key's tag is the slot of its window, so
one look-up asks all windows, and a window is forgotten by its tag. 2**20 windows can be live; of a
key's hash 108 bits remain, so that among 1e9 keys any two collide with p < 1e-14.
"""

from collections.abc import Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.core.runs import TAG, TAG_BITS, Run, Words, compacted, find, frozen, order_of, run_of, with_run

PEELED = 8  # so many distinct values are taken off one at a time before the rest is sorted
RESTORED = 1 << 21  # keys that are read from segments into one run


class Fresh(msgspec.Struct, frozen=True, eq=False):
    """Keys by themselves, such as those that no journal segment holds yet."""

    hi: Words  # (n,)
    lo: Words  # (n,) the lowest TAG_BITS are 0
    end_ms: NDArray[np.int64]  # (n,) window


class Index(msgspec.Struct, frozen=True, eq=False):
    """The keys of all live windows; those of windows that end at or before `floor_ms` count as gone."""

    runs: tuple[Run, ...] = ()  # largest first
    slots: dict[int, int] = {}  # window end -> slot
    floor_ms: int | None = None
    fresh: tuple[Fresh, ...] = ()
    segments: dict[int, int] = {}  # window end -> journal segments written


def deduplicated(
    index: Index,
    key: Words,
    before_ms: NDArray[np.int64],
    end_ms: NDArray[np.int64],
    horizon_ms: int,
) -> tuple[NDArray[np.bool_], Index]:
    """Tell which rows (n,) repeat a key (n, 2), and register the others.

    A key is remembered under the window of the row that brought it, until the watermark `before_ms`
    of the row that asks has passed that window's end by the horizon.
    """
    order = order_of(key[:, 0])
    hi, lo = key[order, 0], key[order, 1]
    last_ms = end_ms + horizon_ms
    repeat = np.zeros(len(key), np.bool_)
    needle, tag = find(index.runs, hi, lo)
    if len(needle):
        row, seen_ms = order[needle], _ends_of(index, tag)
        remembered = (before_ms[row] < seen_ms + horizon_ms) & _above(index.floor_ms, seen_ms)
        repeat[row[remembered]] = True
    new = (before_ms < last_ms) & _above(index.floor_ms, end_ms)
    twin = np.flatnonzero(hi[1:] == hi[:-1])
    if len(twin):
        _repeat_within(key, order[np.union1d(twin, twin + 1)], before_ms, last_ms, new, repeat)
    new &= ~repeat
    if not new.all():
        kept = new[order]
        order, hi, lo = order[kept], hi[kept], lo[kept]
    return repeat, add(index, hi, lo, end_ms[order])


def _repeat_within(
    key: Words,
    rows: NDArray[np.intp],
    before_ms: NDArray[np.int64],
    last_ms: NDArray[np.int64],
    new: NDArray[np.bool_],
    repeat: NDArray[np.bool_],
) -> None:
    """Mark in `repeat` those of `rows` that repeat an earlier row of the batch."""
    rows = rows[np.lexsort((rows, key[rows, 1] >> TAG_BITS, key[rows, 0]))]
    hi, lo = key[rows, 0], key[rows, 1] >> TAG_BITS
    starts = np.flatnonzero(np.append(True, (hi[1:] != hi[:-1]) | (lo[1:] != lo[:-1])))
    stops = np.append(starts[1:], len(rows))
    first = np.repeat(rows[starts], stops - starts)
    by_first = new[first] & ~repeat[first] & ((before_ms[rows] < last_ms[first]) | (rows == first))
    plain = np.logical_and.reduceat(by_first, starts)
    known = np.logical_and.reduceat(repeat[rows], starts)
    for group in np.flatnonzero(~plain & ~known).tolist():
        _repeat_in_order(rows[starts[group] : stops[group]].tolist(), before_ms, last_ms, new, repeat)
    repeat[rows[np.repeat(plain, stops - starts) & (rows != first)]] = True


def _repeat_in_order(
    rows: list[int],
    before_ms: NDArray[np.int64],
    last_ms: NDArray[np.int64],
    new: NDArray[np.bool_],
    repeat: NDArray[np.bool_],
) -> None:
    """One key that was forgotten between its copies."""
    registered: list[int] = []
    for row in rows:
        repeat[row] |= any(before_ms[row] < last_ms[other] for other in registered)
        if new[row] and not repeat[row]:
            registered.append(row)


def add(index: Index, hi: Words, lo: Words, end_ms: NDArray[np.int64]) -> Index:
    """Register keys (n,), in ascending order of `hi`, under the windows that end at `end_ms`."""
    if not len(hi):
        return index
    fresh = Fresh(frozen(hi), frozen(lo & ~TAG), frozen(end_ms))
    return msgspec.structs.replace(_inserted(index, fresh), fresh=(*index.fresh, fresh))


def expire(index: Index, floor_ms: int) -> Index:
    """Forget the windows that end at or before `floor_ms`; their keys leave memory now or in a merge."""
    if index.floor_ms is not None and floor_ms <= index.floor_ms:
        return index
    runs = compacted(index.runs, _dead(index.slots, floor_ms))
    used = {slot for run in runs for slot in run.tags}
    return Index(
        runs=runs,
        slots={end: slot for end, slot in index.slots.items() if slot in used},
        floor_ms=floor_ms,
        fresh=tuple(part for part in (_live(part, floor_ms) for part in index.fresh) if len(part.hi)),
        segments={end: count for end, count in index.segments.items() if end > floor_ms},
    )


def rebuilt(segments: dict[int, int], words: Iterable[tuple[int, Words, Words]], floor_ms: int | None) -> Index:
    """The index that journal segments, one by one (window end, hi, lo), describe."""
    index, parts, size = Index(floor_ms=floor_ms, segments=segments), list[Fresh](), 0
    for end, hi, lo in words:
        parts.append(Fresh(hi, lo, np.full(len(hi), end, np.int64)))
        size += len(hi)
        if size >= RESTORED:
            index, parts, size = _inserted(index, _sorted(parts)), [], 0
    return _inserted(index, _sorted(parts)) if size else index


def keys(index: Index) -> Fresh:
    """Every live key, in no promised order."""
    hi = np.concatenate([np.empty(0, np.uint64), *(run.hi for run in index.runs)])
    lo = np.concatenate([np.empty(0, np.uint64), *(run.lo for run in index.runs)])
    found = Fresh(hi, lo & ~TAG, _ends_of(index, lo & TAG))
    return found if index.floor_ms is None else _live(found, index.floor_ms)


def unwritten(index: Index) -> Index:
    """The index as one that no journal holds anything of."""
    return msgspec.structs.replace(index, fresh=(keys(index),), segments={})


def fresh_by_window(index: Index) -> dict[int, tuple[Words, Words]]:
    """The words (hi, lo) of the keys that no segment holds, by window end."""
    if not any(len(part.hi) for part in index.fresh):
        return {}
    hi = np.concatenate([part.hi for part in index.fresh])
    lo = np.concatenate([part.lo for part in index.fresh])
    ends, code = codes(np.concatenate([part.end_ms for part in index.fresh]))
    if len(ends) == 1:
        return {ends[0]: (hi, lo)}
    order = np.argsort(code, kind="stable")
    stops = np.cumsum(np.bincount(code))[:-1]
    words = zip(np.split(hi[order], stops), np.split(lo[order], stops), strict=True)
    return dict(zip(ends, words, strict=True))


def codes(values: NDArray[np.int64]) -> tuple[list[int], NDArray[np.intp]]:
    """Distinct values (k) and each row's position among them (n,); quick when there are few."""
    code = np.zeros(len(values), np.intp)
    if not len(values):
        return [], code
    distinct = [int(values[0])]
    rest = np.flatnonzero(values != values[0])
    while len(rest) and len(distinct) < PEELED:
        left = values[rest]
        code[rest] = len(distinct)
        distinct.append(int(left[0]))
        rest = rest[left != left[0]]
    if len(rest):
        unique, inverse = np.unique(values[rest], return_inverse=True)
        code[rest] = inverse + len(distinct)
        distinct += unique.tolist()
    return distinct, code


def _inserted(index: Index, keys: Fresh) -> Index:
    ends, code = codes(keys.end_ms)
    slots = _with_slots(index.slots, ends)
    tags = np.array([slots[end] for end in ends], np.uint64)
    counts = np.bincount(code, minlength=len(ends)).tolist()
    run = run_of(keys.hi, keys.lo | tags[code], dict(zip(tags.tolist(), counts, strict=True)))
    return msgspec.structs.replace(index, runs=with_run(index.runs, run, _dead(slots, index.floor_ms)), slots=slots)


def _with_slots(slots: dict[int, int], ends: list[int]) -> dict[int, int]:
    """A slot for every window, the lowest free ones for new windows."""
    missing = [end for end in ends if end not in slots]
    if not missing:
        return slots
    used = set(slots.values())
    free = [slot for slot in range(len(used) + len(missing)) if slot not in used]
    if free[len(missing) - 1] > int(TAG):
        raise OverflowError(f"ids of at most {int(TAG) + 1} windows can be kept: found {len(used) + len(missing)}")
    return slots | dict(zip(missing, free, strict=False))


def _dead(slots: dict[int, int], floor_ms: int | None) -> set[int]:
    return set() if floor_ms is None else {slot for end, slot in slots.items() if end <= floor_ms}


def _above(floor_ms: int | None, end_ms: NDArray[np.int64]) -> NDArray[np.bool_] | bool:
    return True if floor_ms is None else end_ms > floor_ms


def _sorted(parts: list[Fresh]) -> Fresh:
    hi = np.concatenate([part.hi for part in parts])
    order = np.argsort(hi, kind="stable")
    lo, end = np.concatenate([part.lo for part in parts]), np.concatenate([part.end_ms for part in parts])
    return Fresh(hi[order], lo[order], end[order])


def _live(part: Fresh, floor_ms: int) -> Fresh:
    keep = part.end_ms > floor_ms
    return part if keep.all() else Fresh(part.hi[keep], part.lo[keep], part.end_ms[keep])


def _ends_of(index: Index, tags: Words) -> NDArray[np.int64]:
    table = np.zeros(max(index.slots.values(), default=0) + 1, np.int64)
    table[list(index.slots.values())] = list(index.slots)
    return table[tags.view(np.int64)]
