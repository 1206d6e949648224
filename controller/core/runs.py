"""Sorted immutable runs of 128-bit keys: finding, merging, forgetting.

A log-structured merge index (O'Neil et al. 1996), with tiers as in Cassandra's and a one-hash
Bloom filter a run. Nothing is ever changed in place, so an old index stays valid. Notation: n
keys, high word `hi` (uniform: it orders the runs), low word `lo`, whose lowest `TAG_BITS` give
way to a tag. A key costs 16 bytes, and about one more in the filter.
"""

from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

TAG_BITS = 20
TAG = np.uint64((1 << TAG_BITS) - 1)
FAN_IN = 4  # runs of one tier that become one of the next: 14 ns a key and tier, 5 to 30 ns a look-up and run
LARGEST = 1 << 21  # a run from here on stays as it is: merges stay below 8 million keys, about 0.2 s in warm memory
FILTER_BITS = 8  # of a run's filter, a key: 12 % of the keys that are not there pass it
START_BITS = 4  # 2**4 keys between two entries of `starts`
DEAD_SHARE = 0.5  # of a run: above it the keys with dead tags are cut out

T = TypeVar("T", bound=np.generic)
Words = NDArray[np.uint64]


class Run(msgspec.Struct, frozen=True, eq=False):
    """Keys in the order of `hi`; arrays are read-only."""

    hi: Words  # (n,) ascending
    lo: Words  # (n,) with the tag in the lowest bits
    tags: dict[int, int]  # tag -> keys that carry it
    filter: NDArray[np.uint8]  # bit number hi >> filter_shift is set for every key
    filter_shift: int
    starts: NDArray[np.int64]  # entry k: position of the first key with hi >> starts_shift >= k
    starts_shift: int


def run_of(hi: Words, lo: Words, tags: dict[int, int]) -> Run:
    """A run of keys that are sorted already."""
    bits = max(3, round(np.log2(len(hi) * FILTER_BITS)))
    marked = np.zeros(1 << bits, np.bool_)
    marked[(hi >> np.uint64(64 - bits)).view(np.int64)] = True
    filled = np.packbits(marked, bitorder="little")
    top = max(1, len(hi).bit_length() - START_BITS)
    edges = np.arange(1, 1 << top, dtype=np.uint64) << np.uint64(64 - top)
    starts = np.concatenate([[0], np.searchsorted(hi, edges), [len(hi)]])
    return Run(frozen(hi), frozen(lo), tags, frozen(filled), 64 - bits, frozen(starts), 64 - top)


def order_of(hi: Words) -> NDArray[np.intp]:
    """The stable ascending order: one pass by the highest 16 bits, after which little is left to do."""
    coarse = np.argsort((hi >> np.uint64(48)).astype(np.uint16), kind="stable")
    return coarse[np.argsort(hi[coarse], kind="stable")]


def find(runs: tuple[Run, ...], hi: Words, lo: Words) -> tuple[NDArray[np.intp], Words]:
    """Look keys (n,) up that are sorted by `hi`: (m,) positions of keys found, (m,) tags they were found with."""
    needles, tags = [np.empty(0, np.intp)], [np.empty(0, np.uint64)]
    for run in runs:
        bit = (hi >> np.uint64(run.filter_shift)).view(np.int64)
        hit = run.filter[bit >> 3] >> (bit & 7).astype(np.uint8) & np.uint8(1)
        maybe = np.flatnonzero(hit.view(np.bool_))
        for needle, tag in _matches(run, hi[maybe], lo[maybe]):
            needles.append(maybe[needle])
            tags.append(tag)
    return np.concatenate(needles), np.concatenate(tags)


def _matches(run: Run, hi: Words, lo: Words) -> list[tuple[NDArray[np.intp], Words]]:
    at = _positions(run, hi)
    needle = np.flatnonzero(run.hi[np.minimum(at, len(run.hi) - 1)] == hi)
    at = at[needle]
    found = []
    while len(needle):  # a stretch of equal high words is one key long, but for keys that came again after their time
        tagged = run.lo[at]
        equal = (tagged ^ lo[needle]) <= TAG
        found.append((needle[equal], tagged[equal] & TAG))
        at = at + 1
        more = np.flatnonzero(at < len(run.hi))
        more = more[run.hi[at[more]] == hi[needle[more]]]
        needle, at = needle[more], at[more]
    return found


def _positions(run: Run, hi: Words) -> NDArray[np.int64]:
    """`searchsorted(run.hi, hi)`, all keys abreast so that their cache misses overlap: 5 times as quick."""
    block = (hi >> np.uint64(run.starts_shift)).view(np.int64)
    low, high = run.starts[block], run.starts[block + 1]
    for _ in range(int((high - low).max(initial=0)).bit_length()):
        middle = (low + high) >> 1
        above = (low < high) & (run.hi[np.minimum(middle, len(run.hi) - 1)] < hi)
        low, high = np.where(above, middle + 1, low), np.where(above, high, middle)
    return low


def with_run(runs: tuple[Run, ...], new: Run, dead: set[int]) -> tuple[Run, ...]:
    """The runs, largest first, with one more; merging leaves keys with dead tags out."""
    out = [*runs, new]
    while (tail := _to_merge(out)) > 1:
        out[-tail:] = merged(out[-tail:], dead)
    return tuple(out)


def merged(runs: list[Run], dead: set[int]) -> list[Run]:
    """One run with all live keys, or none when there is no such key."""
    live = [run for run in (without(run, dead) for run in runs) if run.tags]
    if len(live) < 2:
        return live
    hi = np.concatenate([run.hi for run in live])
    order = np.argsort(hi, kind="stable")  # merges what is sorted piece by piece
    tags: dict[int, int] = {}
    for run in live:
        for tag, count in run.tags.items():
            tags[tag] = tags.get(tag, 0) + count
    return [run_of(hi[order], np.concatenate([run.lo for run in live])[order], tags)]


def compacted(runs: tuple[Run, ...], dead: set[int]) -> tuple[Run, ...]:
    """The runs without the keys of dead tags, where these are the larger part."""
    out = []
    for run in runs:
        gone = sum(count for tag, count in run.tags.items() if tag in dead)
        if gone < len(run.hi):
            out.append(without(run, dead) if gone > DEAD_SHARE * len(run.hi) else run)
    return tuple(out)


def without(run: Run, dead: set[int]) -> Run:
    """The run without the keys of dead tags."""
    if not dead.intersection(run.tags):
        return run
    keep = np.isin(run.lo & TAG, np.array(sorted(dead), np.uint64), invert=True)
    tags = {tag: count for tag, count in run.tags.items() if tag not in dead}
    return run_of(run.hi[keep], run.lo[keep], tags)


def _to_merge(runs: list[Run]) -> int:
    """How many runs at the end become one now: a full tier, or smaller ones that stand before a larger one."""
    if not runs or len(runs[-1].hi) >= LARGEST:
        return 0
    tier = _tier(runs[-1])
    tail = 1
    while tail < len(runs) and _tier(runs[-tail - 1]) <= tier:
        tail += 1
    return tail if tail >= FAN_IN or any(_tier(run) < tier for run in runs[-tail:]) else 0


def _tier(run: Run) -> int:
    return max(0, len(run.hi).bit_length() - 10) // 2


def frozen(array: NDArray[T]) -> NDArray[T]:
    """The same array, read-only from now on."""
    array.flags.writeable = False
    return array
