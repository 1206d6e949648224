"""How many different units a window has had, by bucket, in bounded memory.

A unit sets one of its bucket's m bits, so what counts is the set of units, not the order in which they came, nor how
often. Units that share a bit are allowed for: of n units in m bits, c bits are set, n = -m log(1 - c / m) (Whang,
Vander-Zanden and Taylor 1990, "A linear-time probabilistic counting algorithm for database applications"). A second
map, of a sixteenth of the units by hash, is read where the first one is too full (Estan, Varghese and Fisk 2006,
"Bitmap algorithms for counting active flows on high-speed links").

| symbol | shape | meaning |
|---|---|---|
| B, m | | buckets; bits a bucket has in each map, a whole number of bytes |
| c, n | (B,) | bits that are set; units |
"""

from collections.abc import Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.core.runs import frozen

MAP_BITS = 1 << 22  # of each map, over all buckets: half a MiB
LEAST_BITS = 64  # of a bucket, where there are very many
RARE = np.uint64(15 << 24)  # of a unit's hash: the second map holds the units that have none of these bits
CHUNK = 16_384  # rows whose columns stay in the processor's cache
FULL = 0.8  # part of the first map's bits above which the second one says more

Places = NDArray[np.uint32]  # of bits, counted over both maps


class Seen(msgspec.Struct, frozen=True, eq=False):
    """The units of one window."""

    bits: NDArray[np.uint8]  # (2, B, m / 8) read-only
    fresh: tuple[Places, ...] = ()  # bits that no journal segment holds yet; one may be there more than once
    segments: int = 0  # journal segments written


def nobody(buckets: int) -> Seen:
    """Before any unit."""
    bits = max(MAP_BITS // buckets, LEAST_BITS)
    return Seen(frozen(np.zeros((2, buckets, bits // 8), np.uint8)))


def met(seen: Seen, bucket: NDArray[np.int32], unit_hash: NDArray[np.uint64]) -> Seen:
    """The units with some more (n,), new or not; the same object where all were known."""
    bits, fresh = seen.bits, list[Places]()
    for start in range(0, len(bucket), CHUNK):
        part = slice(start, start + CHUNK)
        place = _places(bits.shape, bucket[part], unit_hash[part])
        new = place[bits.reshape(-1)[place >> 3] & _bit(place) == 0]
        if len(new):
            bits = bits if fresh else bits.copy()
            _set(bits, new)
            fresh.append(new)
    return Seen(frozen(bits), (*seen.fresh, frozen(np.concatenate(fresh))), seen.segments) if fresh else seen


def units(seen: Seen) -> NDArray[np.int64]:
    """(B,) different units, or a sixteenth of them where there are too many to tell."""
    m = 8 * seen.bits.shape[-1]
    every, rare = np.bitwise_count(seen.bits).sum(axis=-1, dtype=np.int64)
    c = every if every.sum() <= FULL * m * len(every) else rare
    free = np.maximum(m - c, 0.5) / m
    return np.asarray(np.rint(-m * np.log(free)), np.int64)


def fresh(seen: Seen) -> Places:
    """The bits that no journal segment holds, ascending."""
    found = np.sort(np.concatenate([np.empty(0, np.uint32), *seen.fresh]))
    return np.asarray(found[np.append(True, found[1:] != found[:-1])[: len(found)]])


def unwritten(seen: Seen) -> Seen:
    """The same as one that no journal holds anything of."""
    every = np.flatnonzero(np.unpackbits(seen.bits, bitorder="little")).astype(np.uint32)
    return Seen(seen.bits, (frozen(every),) if len(every) else ())


def rebuilt(buckets: int, segments: Iterable[Places]) -> Seen:
    """What journal segments hold."""
    bits, count = nobody(buckets).bits.copy(), 0
    for place in segments:
        _set(bits, place)
        count += 1
    return Seen(frozen(bits), segments=count)


def _places(shape: tuple[int, ...], bucket: NDArray[np.int32], unit_hash: NDArray[np.uint64]) -> Places:
    """Every unit's bit in the first map, then those of the rare ones in the second."""
    _, buckets, size = shape
    m = 8 * size
    within = (unit_hash >> np.uint64(32)) * np.uint64(m) >> np.uint64(32)  # high bits: the bucket takes the low ones
    first = bucket.astype(np.uint32) * np.uint32(m) + within.astype(np.uint32)
    rare = np.flatnonzero(unit_hash & RARE == 0)
    return np.concatenate([first, first[rare] + np.uint32(buckets * m)])


def _set(bits: NDArray[np.uint8], place: Places) -> None:
    np.bitwise_or.at(bits.reshape(-1), place >> 3, _bit(place))


def _bit(place: Places) -> NDArray[np.uint8]:
    return np.left_shift(np.uint8(1), (place & 7).astype(np.uint8))
