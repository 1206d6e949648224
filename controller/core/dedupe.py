"""Which 128-bit keys have been seen, by window: sorted immutable runs, merged as they grow.

A log-structured merge index (O'Neil et al. 1996): a batch adds one sorted run, runs of similar
size are merged, a window expires by its tag. Nothing is ever changed in place, so an old index
stays valid. Notation: n keys, high word `hi` (uniform: it orders the runs), low word `lo`, whose
lowest `TAG_BITS` give way to the slot of the key's window, so that a key costs 16 bytes.
"""

from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

T = TypeVar("T", bound=np.generic)

TAG_BITS = 20  # 2**20 live windows; 108 bits of the hash remain: 1e9 keys collide with p < 1e-14
TAG = np.uint64((1 << TAG_BITS) - 1)
GROWTH = 4  # a run is merged into the one before it when that is at most this many times larger
PEELED = 8  # so many distinct values are taken off one at a time before the rest is sorted
DEAD_SHARE = 0.5  # of a run: above it the expired keys are cut out


class Run(msgspec.Struct, frozen=True, eq=False):
    """Keys in the order of `hi`; arrays are read-only."""

    hi: NDArray[np.uint64]  # (n,) ascending
    lo: NDArray[np.uint64]  # (n,) low word, tagged with the window's slot
    slots: dict[int, int]  # slot -> keys of it in this run


class Fresh(msgspec.Struct, frozen=True, eq=False):
    """Keys that no journal segment holds yet."""

    hi: NDArray[np.uint64]  # (n,)
    lo: NDArray[np.uint64]  # (n,) untagged: the lowest bits are 0
    end_ms: NDArray[np.int64]  # (n,)


class Index(msgspec.Struct, frozen=True, eq=False):
    """The keys of all live windows. Keys of windows that end at or before `floor_ms` may be gone."""

    runs: tuple[Run, ...] = ()  # largest first
    slots: dict[int, int] = {}  # window end -> slot
    ends: dict[int, int] = {}  # slot -> window end
    floor_ms: int | None = None
    fresh: tuple[Fresh, ...] = ()
    segments: dict[int, int] = {}  # window end -> journal segments written


class Matches(msgspec.Struct, frozen=True, eq=False):
    """Pairs (needle, window in which its key is registered); a needle may appear more than once."""

    needle: NDArray[np.intp]  # (m,) position in what was asked for
    end_ms: NDArray[np.int64]  # (m,)


def find(index: Index, hi: NDArray[np.uint64], lo: NDArray[np.uint64]) -> Matches:
    """Where the keys (n,), in ascending order of `hi`, are registered."""
    needles: list[NDArray[np.intp]] = []
    tags: list[NDArray[np.uint64]] = []
    for run in index.runs:
        for needle, tag in _matches(run, hi, lo):
            needles.append(needle)
            tags.append(tag)
    if not needles:
        return Matches(np.empty(0, np.intp), np.empty(0, np.int64))
    return Matches(np.concatenate(needles), _ends_of(index, np.concatenate(tags)))


def deduplicated(
    index: Index,
    key: NDArray[np.uint64],
    before_ms: NDArray[np.int64],
    end_ms: NDArray[np.int64],
    horizon_ms: int,
) -> tuple[NDArray[np.bool_], Index]:
    """Tell which rows (n,) repeat a key (n, 2), and register the others.

    A key is remembered under the window of the row that brought it, until the watermark `before_ms`
    of the row that asks has passed that window's end by the horizon.
    """
    order = np.argsort(key[:, 0])
    hi, lo = key[order, 0], key[order, 1]
    last_ms = end_ms + horizon_ms
    new = before_ms < last_ms
    if index.floor_ms is not None:
        new &= end_ms > index.floor_ms
    repeat = np.zeros(len(key), np.bool_)
    seen = find(index, hi, lo)
    if len(seen.needle):
        row = order[seen.needle]
        remembered = before_ms[row] < seen.end_ms + horizon_ms
        if index.floor_ms is not None:
            remembered &= seen.end_ms > index.floor_ms
        repeat[row[remembered]] = True
    twin = hi[1:] == hi[:-1]
    if twin.any():
        twins = order[np.append(twin, False) | np.append(False, twin)]
        _repeat_within(key, twins, before_ms, last_ms, new, repeat)
    new &= ~repeat
    if not new.all():
        kept = new[order]
        order, hi, lo = order[kept], hi[kept], lo[kept]
    return repeat, add(index, hi, lo, end_ms[order])


def _repeat_within(
    key: NDArray[np.uint64],
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
    first = np.repeat(rows[starts], np.diff(np.append(starts, len(rows))))
    plain = (new[first] & ~repeat[first]) & ((before_ms[rows] < last_ms[first]) | (rows == first))
    plain = np.logical_and.reduceat(plain, starts) | np.logical_and.reduceat(repeat[rows], starts)
    groups = np.split(rows, starts[1:]) if not plain.all() else []
    later = rows[np.repeat(plain, np.diff(np.append(starts, len(rows)))) & (rows != first)]
    repeat[later] = True
    for group in np.flatnonzero(~plain).tolist():
        _repeat_in_order(groups[group].tolist(), before_ms, last_ms, new, repeat)


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


def add(index: Index, hi: NDArray[np.uint64], lo: NDArray[np.uint64], end_ms: NDArray[np.int64]) -> Index:
    """Register keys (n,), in ascending order of `hi`, under the windows that end at `end_ms`."""
    if not len(hi):
        return index
    lo = lo & ~TAG
    fresh = (*index.fresh, Fresh(frozen(hi), frozen(lo), frozen(end_ms)))
    return _inserted(msgspec.structs.replace(index, fresh=fresh), hi, lo, end_ms)


def expire(index: Index, floor_ms: int) -> Index:
    """Forget the windows that end at or before `floor_ms`; their keys leave memory now or in a merge."""
    if index.floor_ms is not None and floor_ms <= index.floor_ms:
        return index
    dead = {slot for slot, end in index.ends.items() if end <= floor_ms}
    segments = {end: count for end, count in index.segments.items() if end > floor_ms}
    fresh = tuple(part for part in (_live(part, floor_ms) for part in index.fresh) if len(part.hi))
    runs = tuple(run for run in (_compacted(run, dead) for run in index.runs) if run.slots)
    index = msgspec.structs.replace(index, runs=runs, floor_ms=floor_ms, fresh=fresh, segments=segments)
    return _without_unused(index)


def rebuilt(parts: dict[int, list[tuple[NDArray[np.uint64], NDArray[np.uint64]]]], floor_ms: int | None) -> Index:
    """The index that journal segments (window end -> its segments' words) describe."""
    index = Index(floor_ms=floor_ms, segments={end: len(words) for end, words in parts.items()})
    keys = [(hi, lo, np.full(len(hi), end, np.int64)) for end, words in parts.items() for hi, lo in words]
    if not keys:
        return index
    hi, lo, ends = (np.concatenate(column) for column in zip(*keys, strict=True))
    order = np.argsort(hi)
    return _inserted(index, hi[order], lo[order], ends[order])


def keys(index: Index) -> Fresh:
    """Every live key, in no promised order."""
    hi = np.concatenate([np.empty(0, np.uint64), *(run.hi for run in index.runs)])
    lo = np.concatenate([np.empty(0, np.uint64), *(run.lo for run in index.runs)])
    found = Fresh(hi, lo & ~TAG, _ends_of(index, lo & TAG))
    return found if index.floor_ms is None else _live(found, index.floor_ms)


def unwritten(index: Index) -> Index:
    """The index as one that no journal holds anything of."""
    return msgspec.structs.replace(index, fresh=(keys(index),), segments={})


def fresh_by_window(index: Index) -> dict[int, tuple[NDArray[np.uint64], NDArray[np.uint64]]]:
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


def _matches(
    run: Run, hi: NDArray[np.uint64], lo: NDArray[np.uint64]
) -> list[tuple[NDArray[np.intp], NDArray[np.uint64]]]:
    at = np.searchsorted(run.hi, hi)
    needle = np.flatnonzero(run.hi[np.minimum(at, len(run.hi) - 1)] == hi)
    at = at[needle]
    found = []
    while len(needle):  # a stretch of equal high words is one key long but for keys registered again
        tagged = run.lo[at]
        equal = (tagged ^ lo[needle]) <= TAG
        if equal.any():
            found.append((needle[equal], tagged[equal] & TAG))
        at = at + 1
        more = at < len(run.hi)
        more[more] = run.hi[at[more]] == hi[needle[more]]
        needle, at = needle[more], at[more]
    return found


def _inserted(index: Index, hi: NDArray[np.uint64], lo: NDArray[np.uint64], end_ms: NDArray[np.int64]) -> Index:
    slots, ends, tag = _tags(index, end_ms)
    run = _run(hi, lo & ~TAG | tag)
    dead = set() if index.floor_ms is None else {slot for slot, end in ends.items() if end <= index.floor_ms}
    runs = list(index.runs)
    while runs and len(runs[-1].hi) <= GROWTH * len(run.hi):
        run = _merged(runs.pop(), run, dead)
    return msgspec.structs.replace(index, runs=(*runs, run), slots=slots, ends=ends)


def _tags(
    index: Index, end_ms: NDArray[np.int64]
) -> tuple[dict[int, int], dict[int, int], NDArray[np.uint64] | np.uint64]:
    """Slots for the windows of a batch: (window end -> slot, slot -> window end, the rows' tags)."""
    distinct, code = codes(end_ms)
    slots, ends = dict(index.slots), dict(index.ends)
    for end in distinct:
        if end not in slots:
            slots[end] = slot = next(s for s in range(len(ends) + 1) if s not in ends)
            ends[slot] = end
    if len(ends) > int(TAG) + 1:
        raise OverflowError(f"at most {int(TAG) + 1} windows can be live at once: found {len(ends)}")
    tag = np.array([slots[end] for end in distinct], np.uint64)
    return slots, ends, tag[code] if len(distinct) > 1 else tag[0]


def codes(values: NDArray[np.int64]) -> tuple[list[int], NDArray[np.intp]]:
    """Distinct values (k) and each row's position among them (n,); quick when there are few."""
    code = np.zeros(len(values), np.intp)
    distinct: list[int] = []
    rest = np.arange(len(values))
    while len(rest) and len(distinct) < PEELED:
        code[rest] = len(distinct)
        left = values[rest]
        distinct.append(int(left[0]))
        rest = rest[left != left[0]]
    if len(rest):
        unique, inverse = np.unique(values[rest], return_inverse=True)
        code[rest] = inverse + len(distinct)
        distinct += unique.tolist()
    return distinct, code


def _run(hi: NDArray[np.uint64], lo: NDArray[np.uint64]) -> Run:
    slots, code = codes((lo & TAG).astype(np.int64))
    counts = np.bincount(code, minlength=len(slots)).tolist()
    return Run(frozen(hi), frozen(lo), dict(zip(slots, counts, strict=True)))


def _merged(old: Run, new: Run, dead: set[int]) -> Run:
    old, new = _without(old, dead), _without(new, dead)
    hi = np.concatenate([old.hi, new.hi])
    order = np.argsort(hi, kind="stable")  # merges two sorted stretches in one pass
    slots = dict(old.slots)
    for slot, count in new.slots.items():
        slots[slot] = slots.get(slot, 0) + count
    return Run(frozen(hi[order]), frozen(np.concatenate([old.lo, new.lo])[order]), slots)


def _compacted(run: Run, dead: set[int]) -> Run:
    gone = sum(count for slot, count in run.slots.items() if slot in dead)
    return _without(run, dead) if gone > DEAD_SHARE * len(run.hi) else run


def _without(run: Run, dead: set[int]) -> Run:
    if not dead.intersection(run.slots):
        return run
    keep = np.isin(run.lo & TAG, np.array(sorted(dead), np.uint64), invert=True)
    slots = {slot: count for slot, count in run.slots.items() if slot not in dead}
    return Run(frozen(run.hi[keep]), frozen(run.lo[keep]), slots)


def _without_unused(index: Index) -> Index:
    """A slot is free again once no run holds a key of it."""
    used = {slot for run in index.runs for slot in run.slots}
    ends = {slot: end for slot, end in index.ends.items() if slot in used}
    return msgspec.structs.replace(index, ends=ends, slots={end: slot for slot, end in ends.items()})


def _live(part: Fresh, floor_ms: int) -> Fresh:
    keep = part.end_ms > floor_ms
    return part if keep.all() else Fresh(part.hi[keep], part.lo[keep], part.end_ms[keep])


def _ends_of(index: Index, tags: NDArray[np.uint64]) -> NDArray[np.int64]:
    table = np.zeros(max(index.ends, default=0) + 1, np.int64)
    for slot, end in index.ends.items():
        table[slot] = end
    return table[tags.astype(np.intp)]


def frozen(array: NDArray[T]) -> NDArray[T]:
    """The same array, read-only from now on."""
    array.flags.writeable = False
    return array
