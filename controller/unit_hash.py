"""xxh64 over many short strings at once, and the bucket of a unit: `xxh64(salt + unit) mod buckets`.

The algorithm is XXH64 of the xxHash specification (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md).
Vectorised by length: strings of one length take the same steps, so a group is hashed with one numpy
operation a step, in chunks that stay in the processor's cache. A prefix (the salt) is mixed in while words
are read, so no salted copy of the strings is made.

Notation: n strings, string i is `data[starts[i] : starts[i] + lengths[i]]`, h the running hashes (m,) of a group.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

_P1, _P2, _P3, _P4, _P5 = PRIMES = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)
_N1, _N2, _N3, _N4, _N5 = (np.uint64(prime) for prime in PRIMES)
_MASK = 2**64 - 1
_WORD, _STRIPE = 8, 32  # bytes
_CHUNK = 32_768  # rows; a column of 8 bytes a row then fits the L2 cache a few times over
_SMALL = 8  # a group of fewer strings is hashed one by one: numpy's cost per call would dominate

Hashes = NDArray[np.uint64]
Strings = Sequence[str] | Sequence[bytes] | Sequence[str | bytes]


def xxh64(data: bytes, seed: int = 0) -> int:
    """Hash one string of any length; `seed` is taken modulo 2**64."""
    end = len(data) // _WORD * _WORD
    words = np.frombuffer(data, "<u8", end // _WORD).tolist()
    stripes = len(data) // _STRIPE * 4
    h = _stripes(words[:stripes], seed) if stripes else seed + _P5
    h = (h + len(data)) & _MASK
    for word in words[stripes:]:
        h = (_rotate(h ^ _round(0, word), 27) * _P1 + _P4) & _MASK
    if len(data) - end >= 4:
        h = (_rotate(h ^ int.from_bytes(data[end : end + 4], "little") * _P1 & _MASK, 23) * _P2 + _P3) & _MASK
        end += 4
    for byte in data[end:]:
        h = _rotate(h ^ byte * _P5 & _MASK, 11) * _P1 & _MASK
    h = (h ^ h >> 33) * _P2 & _MASK
    h = (h ^ h >> 29) * _P3 & _MASK
    return h ^ h >> 32


def xxh64_many(data: NDArray[np.uint8], offsets: NDArray[np.int64], seed: int = 0, prefix: bytes = b"") -> Hashes:
    """Hash n strings laid end to end (the Arrow layout): `prefix + data[offsets[i]:offsets[i+1]]` -> (n,)."""
    starts = np.asarray(offsets[:-1], np.int64)
    return xxh64_spans(data, starts, np.diff(offsets), seed, prefix)


def xxh64_spans(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    seed: int = 0,
    prefix: bytes = b"",
) -> Hashes:
    """Hash n strings that lie anywhere in `data`, overlapping or not: `prefix + data[start:start+length]` -> (n,).

    Raises `ValueError` when a span does not lie inside `data`.
    """
    if len(starts) and (min(starts.min(), lengths.min()) < 0 or (starts + lengths).max() > len(data)):
        raise ValueError(f"spans must lie inside the data's {len(data)} bytes")
    padded = np.concatenate((np.asarray(data, np.uint8), np.zeros(_WORD, np.uint8)))
    return _hash_spans(padded, starts, lengths, seed, prefix)


class Packed(NamedTuple):
    """n strings laid end to end, as Arrow does: string i is `data[offsets[i]:offsets[i + 1]]`."""

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]  # (n + 1,)


def pack(strings: Strings) -> Packed:
    """Lay strings end to end as UTF-8. Raises `TypeError` on what is neither str nor bytes."""
    try:
        data = "".join(cast(Sequence[str], strings)).encode("ascii")  # the common case, where characters are bytes
    except (TypeError, UnicodeEncodeError):
        encoded = [_utf8(string) for string in strings]
        strings, data = encoded, b"".join(encoded)
    offsets = np.zeros(len(strings) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, strings), np.int64, len(strings)), out=offsets[1:])
    return Packed(np.frombuffer(data, np.uint8), offsets)


def _utf8(string: str | bytes) -> bytes:
    if isinstance(string, str):
        return string.encode()
    if isinstance(string, bytes):
        return string
    raise TypeError(f"expected str or bytes, found {type(string).__name__}")


def unit_hashes(units: Strings | NDArray[np.bytes_] | NDArray[np.str_], salt: str) -> Hashes:
    """`xxh64(salt + unit)` of n units (text counts as its UTF-8 bytes) -> (n,).

    Takes a sequence of str or bytes, or a numpy array of fixed-width strings (dtype S or U; numpy drops their
    trailing NULs). Raises `TypeError` on a unit that is neither, `UnicodeEncodeError` on a lone surrogate.
    """
    if isinstance(units, str):
        raise TypeError("units must be a sequence of str or bytes, found one str")
    prefix = salt.encode()
    if isinstance(units, np.ndarray):
        return _array_hashes(units, prefix)
    parts = [_list_hashes(units[at : at + _CHUNK], prefix) for at in range(0, len(units), _CHUNK)]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint64)


def buckets_of(hashes: Hashes, buckets: int) -> NDArray[np.int32]:
    """`hash mod buckets` -> (n,)."""
    divisor = np.uint64(buckets)
    whole = hashes // divisor * divisor  # numpy divides by a scalar with SIMD instructions, unlike its %
    return (hashes - whole).astype(np.int32)


def _array_hashes(units: NDArray[np.bytes_] | NDArray[np.str_], prefix: bytes) -> Hashes:
    if units.dtype.kind not in "SU":
        return unit_hashes(units.tolist(), prefix.decode())
    fixed = units.astype("S") if units.dtype.kind == "S" else _fixed_utf8(units.astype("U"))
    width = fixed.dtype.itemsize
    starts = np.arange(fixed.size, dtype=np.int64) * width
    lengths = np.strings.str_len(fixed).astype(np.int64)
    return xxh64_spans(np.frombuffer(fixed.tobytes(), np.uint8), starts, lengths, 0, prefix)


def _fixed_utf8(units: NDArray[np.str_]) -> NDArray[np.bytes_]:
    """UTF-8 in a fixed width; characters that are all ASCII are only narrowed from numpy's 4 bytes to 1."""
    points = np.ascontiguousarray(units).view(np.uint32)
    if points.max(initial=0) >= 128 or not points.size:
        return np.strings.encode(units, "utf-8")
    return points.astype(np.uint8).view(f"S{units.dtype.itemsize // 4}")


def _list_hashes(units: Strings, prefix: bytes) -> Hashes:
    """Join with NUL and look for the NULs: finding the ends so is several times faster than asking each `len`."""
    n = len(units)
    try:
        joined = _joined(units)
    except TypeError:
        return xxh64_many(*pack(units), prefix=prefix)
    padded = np.frombuffer(joined + bytes(_WORD), np.uint8)
    ends = np.flatnonzero(padded[: len(joined)] == 0)
    if len(ends) != n - 1:  # some unit holds a NUL itself
        return xxh64_many(*pack(units), prefix=prefix)
    starts, lengths = np.empty(n, np.int64), np.empty(n, np.int64)
    starts[0], starts[1:] = 0, ends + 1
    lengths[:-1], lengths[-1] = ends, len(joined)
    lengths -= starts
    return _hash_spans(padded, starts, lengths, 0, prefix)


def _joined(units: Strings) -> bytes:
    """Raises `TypeError` when not all units are of the first one's type."""
    if isinstance(units[0], str):
        return "\0".join(cast(Sequence[str], units)).encode()
    return b"\0".join(cast(Sequence[bytes], units))


def _hash_spans(
    padded: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64], seed: int, prefix: bytes
) -> Hashes:
    """As `xxh64_spans`; at least 8 bytes of padding follow the last span, since whole words are read."""
    out = np.empty(len(starts), np.uint64)
    for begin in range(0, len(starts), _CHUNK):
        chunk = slice(begin, begin + _CHUNK)
        at, hashes = starts[chunk], out[chunk]
        for rows, length in _by_length(lengths[chunk]):
            hashes[rows] = _hash_rows(padded, at[rows], length, seed, prefix)
    return out


def _by_length(lengths: NDArray[np.int64]) -> Iterator[tuple[slice | NDArray[np.int64], int]]:
    """Rows that share a length, and that length."""
    longest = int(lengths.max())
    if longest == lengths.min():
        yield slice(None), longest
        return
    narrow = lengths.astype(np.uint16) if longest < 2**16 else lengths  # 16 bits are sorted by radix: 4x faster
    order = np.argsort(narrow, kind="stable")
    bounds = [0, *(np.flatnonzero(np.diff(lengths[order])) + 1).tolist(), len(lengths)]
    for begin, end in pairwise(bounds):
        yield order[begin:end], int(lengths[order[begin]])


def _hash_rows(
    padded: NDArray[np.uint8], starts: NDArray[np.int64], length: int, seed: int, prefix: bytes
) -> Hashes | list[int]:
    """Hash strings of one length: a few one by one, evenly spaced ones without gathering, the others by gathering."""
    if len(starts) < _SMALL:
        return [xxh64(prefix + padded[start : start + length].tobytes(), seed) for start in starts.tolist()]
    first, step = int(starts[0]), int(starts[1] - starts[0])
    if step > 0 and (np.diff(starts) == step).all():
        even = slice(first, first + step * (len(starts) - 1) + 1, step)
        return _hash_group(padded, even, len(starts), length, seed, prefix)
    return _hash_group(padded, starts, len(starts), length, seed, prefix)


def _hash_group(
    padded: NDArray[np.uint8], starts: NDArray[np.int64] | slice, m: int, unit_length: int, seed: int, prefix: bytes
) -> Hashes:
    """Hash m strings of one length (m,)."""
    words = np.ndarray(len(padded) - _WORD + 1, "<u8", padded, strides=(1,))  # words[i]: the 8 bytes from byte i on
    length = len(prefix) + unit_length

    def read(position: int) -> Hashes:
        """The 8 bytes of every `prefix + string` from `position` on, as little-endian integers."""
        inside = position - len(prefix)
        if inside >= 0:
            return words[inside:][starts]
        known = np.full(1, int.from_bytes(prefix[position : position + _WORD], "little"), np.uint64)
        return known if inside <= -_WORD else words[starts] << np.uint64(-8 * inside) | known

    stripes = length // _STRIPE * _STRIPE
    h = np.empty(m, np.uint64)
    h[:] = _group_stripes(read, stripes, seed) if stripes else np.full(1, (seed + _P5) & _MASK, np.uint64)
    h += np.uint64(length)
    for position in range(stripes, length - _WORD + 1, _WORD):
        h ^= _round_many(read(position) * _N2)
        _rotate_multiply(h, 27, _N1)
        h += _N4
    if length % _WORD:
        _mix_tail(h, read(length // _WORD * _WORD), length % _WORD)
    return _avalanche(h)


def _group_stripes(read: Callable[[int], Hashes], end: int, seed: int) -> Hashes:
    """The four accumulators over all whole stripes before byte `end`, merged."""
    v = [np.full(1, start, np.uint64) for start in _accumulators(seed)]
    for position in range(0, end, _STRIPE):
        for lane in range(4):
            v[lane] = _round_many(read(position + lane * _WORD) * _N2 + v[lane])
    h = _rotated(v[0], 1) + _rotated(v[1], 7) + _rotated(v[2], 12) + _rotated(v[3], 18)
    for accumulator in v:
        h = (h ^ _round_many(accumulator * _N2)) * _N1 + _N4
    return h


def _round_many(mixed: Hashes) -> Hashes:
    return _rotate_multiply(mixed, 31, _N1)


def _mix_tail(h: Hashes, tail: Hashes, length: int) -> None:
    """Mix the last 1 to 7 bytes, which are the low bytes of `tail`, into `h` in place."""
    if length >= 4:
        h ^= (tail & np.uint64(0xFFFFFFFF)) * _N1
        _rotate_multiply(h, 23, _N2)
        h += _N3
        tail = tail >> np.uint64(32)
    for byte in range(length % 4):
        h ^= (tail >> np.uint64(8 * byte) & np.uint64(0xFF)) * _N5
        _rotate_multiply(h, 11, _N1)


def _avalanche(h: Hashes) -> Hashes:
    h ^= h >> np.uint64(33)
    h *= _N2
    h ^= h >> np.uint64(29)
    h *= _N3
    h ^= h >> np.uint64(32)
    return h


def _rotated(values: Hashes, bits: int) -> Hashes:
    return values << np.uint64(bits) | values >> np.uint64(64 - bits)


def _rotate_multiply(values: Hashes, bits: int, factor: np.uint64) -> Hashes:
    """Rotate left and multiply, in place."""
    high = values >> np.uint64(64 - bits)
    values <<= np.uint64(bits)
    values |= high
    values *= factor
    return values


def _stripes(words: list[int], seed: int) -> int:
    v = list(_accumulators(seed))
    for at in range(0, len(words), 4):
        v = [_round(v[lane], words[at + lane]) for lane in range(4)]
    h = sum(_rotate(value, bits) for value, bits in zip(v, (1, 7, 12, 18), strict=True))
    for value in v:
        h = ((h & _MASK) ^ _round(0, value)) * _P1 + _P4
    return h & _MASK


def _accumulators(seed: int) -> tuple[int, int, int, int]:
    return (seed + _P1 + _P2) & _MASK, (seed + _P2) & _MASK, seed & _MASK, (seed - _P1) & _MASK


def _round(accumulator: int, word: int) -> int:
    return _rotate((accumulator + word * _P2) & _MASK, 31) * _P1 & _MASK


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> (64 - bits)) & _MASK
