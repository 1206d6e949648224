"""A test without one of its windows: one bad hour proves nothing, against a vector or for it.

| symbol | shape | meaning |
|---|---|---|
| M, K | | metrics; windows of a test |
| y_k, w_k | (M,) | a window's changes; its weight, control's numerator in it |
| f_k | (M,) | its share of the whole, w_k / sum w |

To first order a change over several windows is the mean of theirs by weight, y = sum of f_k y_k, so without window k it
is (y - f_k y_k) / (1 - f_k), and its variance at most 1 / (1 - f_k) times as large.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BAD = 6.0  # robust standard deviations from the others: of a test of 24 windows, one in a million
MIN_LOOKS = 6  # windows that say what is usual
LEAST_REST = 1e-9  # of a test without one window: against 0 / 0 where that window is all of it
MAD_SD = 1.4826  # a normal's standard deviation over its median absolute deviation


class Look(msgspec.Struct, frozen=True):
    """One window of a test."""

    end_ms: int
    change: tuple[float, ...]  # y_k
    weight: tuple[float, ...]  # w_k
    se: tuple[float, ...] = ()  # of y_k; none: not known, in states of before


class Looks(msgspec.Struct, frozen=True):
    """The windows of one test, oldest first."""

    trial: int = 0
    windows: tuple[Look, ...] = ()
    older: tuple[float, ...] = ()  # (M,) total weight of windows that are not remembered each for itself

    def through(self, end_ms: int) -> "Looks":
        """Those that end by then."""
        return Looks(self.trial, tuple(look for look in self.windows if look.end_ms <= end_ms), self.older)

    def newest(self, count: int) -> "Looks":
        """The newest so many each for itself."""
        gone = self.windows[:-count]
        older = np.sum([*(look.weight for look in gone), *([self.older] if self.older else [])], axis=0)
        return Looks(self.trial, self.windows[-count:], tuple(older.tolist())) if gone else self


def share(looks: Looks, left_out: Look) -> Floats:
    """(M,) f of a window."""
    total = np.sum([look.weight for look in looks.windows] + ([looks.older] if looks.older else []), axis=0)
    return np.asarray(np.divide(left_out.weight, total, out=np.zeros(len(total)), where=total != 0.0))


def without(change: Floats, looks: Looks, left_out: Look) -> Floats:
    """(M,) changes of all windows but one."""
    f = share(looks, left_out)
    return np.asarray((change - f * left_out.change) / np.maximum(1.0 - f, LEAST_REST))


def without_worst(change: Floats, variance: Floats, looks: Looks, m: int, sign: int) -> tuple[float, float]:
    """A metric's change and variance without the window whose absence moves it most to the good side.

    `sign`: +1 where a rise is good, -1 where a fall is. A lone window cannot be told from a bad one: without it nothing
    is known (an infinite variance).
    """
    if len(looks.windows) < 2:
        return float(change[m]), float("inf")
    worst = max(looks.windows, key=lambda look: sign * float(without(change, looks, look)[m]))
    rest = 1.0 - float(share(looks, worst)[m])
    return float(without(change, looks, worst)[m]), float(variance[m]) / max(rest, LEAST_REST)


def bad(looks: Looks, metrics: Sequence[int]) -> Look | None:
    """The one window that in some of the metrics has nothing to do with the others; None where none or several are.

    Each window's distance from the median is taken in units of its noise, 1 / sqrt(w_k), and held against the median
    of all distances: effects that swing with the hour of the day, and a world that drifts, widen that too. It is held
    against the window's own standard error as well: where one huge amount makes a window, that is as large.
    """
    if len(looks.windows) < MIN_LOOKS:
        return None
    found: set[int] = set()
    for m in metrics:
        y, w, se = (
            np.array([row[m] if row else 0.0 for row in rows])
            for rows in zip(*((k.change, k.weight, k.se) for k in looks.windows), strict=True)
        )
        itself = np.abs(y - np.median(y)) > BAD * se
        distance = np.abs(y - np.median(y)) * np.sqrt(np.maximum(w, 0.0))
        usual = MAD_SD * float(np.median(distance))
        if np.isfinite(distance).all() and usual > 0.0:
            found |= set(np.flatnonzero(itself & (distance > BAD * usual)).tolist())
    return looks.windows[found.pop()] if len(found) == 1 else None
