"""A cumulative change without the window that speaks most against it: one bad hour proves nothing.

Notation: K windows of one deal or test; y_k a window's change, f_k its share of the whole (of control's numerator).
"""

from collections.abc import Sequence

import msgspec


class Look(msgspec.Struct, frozen=True):
    """One window of a test."""

    end_ms: int
    change: float  # y_k
    share: float  # f_k


def without_worst(
    change: float, variance: float, windows: Sequence[Look], sign: int
) -> tuple[float, float, Look | None]:
    """The change and its variance without the window whose absence moves it most to the good side; and that window.

    To first order a change over several windows is the mean of theirs by share: y = sum of f_k y_k, so without k it is
    (y - f_k y_k) / (1 - f_k). Noise grows as 1 / (1 - f_k), at most. `sign`: +1 where a rise is good, -1 where a fall.
    A lone window cannot be told from a bad one: its whole is nothing, and nothing can be said (an infinite variance).
    """
    told = [look for look in windows if 0.0 < look.share < 1.0]
    if len(told) < 2:
        return change, float("inf"), None
    worst = max(told, key=lambda look: sign * (change - look.change) * look.share / (1.0 - look.share))
    rest = 1.0 - worst.share
    return (change - worst.share * worst.change) / rest, variance / rest, worst
