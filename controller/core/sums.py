"""Exact sums of fixed-point values by group, at the speed of `bincount`.

Notation: n rows, C components, K groups.
"""

import numpy as np
from numpy.typing import NDArray

LIMIT = 2**62  # no sum of magnitudes may pass it, so no sum of a cell, nor of its buckets, can wrap
EXACT = 2**53  # float64 adds integers up to here without rounding
LOW_BITS = 27  # with values up to 2**53, both halves add up exactly over 2**26 rows


def by_group(group: NDArray[np.intp], values: NDArray[np.int64], groups: int) -> NDArray[np.int64]:
    """Sums (K, C) of values (n, C) by group (n,); n up to 2**26, |value| up to 2**53."""
    out = np.empty((groups, values.shape[1]), np.int64)
    exact = _peak(values) * len(values) < EXACT
    for c in range(values.shape[1]):
        out[:, c] = _one(group, values[:, c], groups, exact)
    return out


def magnitude(values: NDArray[np.int64]) -> int:
    """The sum of |value| over all rows and components, exactly."""
    if _peak(values) * values.size < 2**63:
        return int(np.abs(values).sum())
    low = int((np.abs(values) & ((1 << LOW_BITS) - 1)).sum())
    return (int((np.abs(values) >> LOW_BITS).sum()) << LOW_BITS) + low


def within(limit: int, values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which rows (n,), taken in order, still keep the sum of magnitudes at or below `limit`."""
    keep = np.zeros(len(values), np.bool_)
    for row, size in enumerate(map(sum, np.abs(values).tolist())):
        if size <= limit:
            keep[row] = True
            limit -= size
    return keep


def _one(group: NDArray[np.intp], column: NDArray[np.int64], groups: int, exact: bool) -> NDArray[np.int64]:
    if exact:
        return np.bincount(group, column, groups).astype(np.int64)
    low = np.bincount(group, column & ((1 << LOW_BITS) - 1), groups).astype(np.int64)
    high = np.bincount(group, column >> LOW_BITS, groups).astype(np.int64)
    return (high << LOW_BITS) + low


def _peak(values: NDArray[np.int64]) -> int:
    return max(int(values.max(initial=0)), -int(values.min(initial=0)))
