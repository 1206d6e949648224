"""Whether one model is better than another: a paired interval over rows, or people, and seeds.

Rows of one data set are as hard for one model as for another, so differences row by row are far less noisy than either
model's own metric; and a model is its training seed's too. Drawing a handful of seeds anew claims too often (with five,
15 % of equal models at a level of 5 %): the seeds' share of the variance has Satterthwaite's degrees of freedom.
"""

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
DRAWS, LEVEL = 1000, 0.95


class Gap(msgspec.Struct, frozen=True):
    """First minus second: the mean, its interval, and whether that excludes 0."""

    mean: float
    low: float
    high: float

    @property
    def claimed(self) -> bool:
        """Whether a gap may be claimed."""
        return self.low > 0 or self.high < 0


def paired_gap(
    first: Floats, second: Floats, weight: Floats | None = None, group: NDArray[np.int64] | None = None
) -> Gap:
    """Of per-row losses (seeds, n) of two models on the same rows, which count by `weight` (n,), alike without it.

    `group` (n,) numbers what rows belong to, each its own without it: rows of one person are alike, so that people are
    drawn, of whom each brings the sum of their rows' differences from the mean (Liang and Zeger 1986).

    Variance: of the rows' differences, plus each model's over its seeds (Welch 1947; Satterthwaite 1946). With one seed
    a model, the gap is between these two trainings and says nothing of others.
    """
    n = first.shape[1]
    share = np.full(n, 1.0 / n) if weight is None else weight / weight.sum()
    difference = first.mean(0) - second.mean(0)
    mean = float(share @ difference)
    counts = share != 0  # a row of weight 0 tells nothing, also not of how sure the others are
    residual = (share * (difference - mean))[counts]  # of a ratio of sums, by linearisation
    if group is not None:
        residual = np.bincount(np.unique(group[counts], return_inverse=True)[1], weights=residual)
    count = len(residual)
    parts = [(float(residual @ residual) * count / (count - 1), count - 1)]
    for model in (first, second):
        seeds = len(model)
        if seeds > 1:
            parts.append((float((model @ share).var(ddof=1)) / seeds, seeds - 1))
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / df for part, df in parts) if variance else 1.0
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * variance**0.5
    return Gap(mean, mean - half, mean + half)


def bootstrap_statistic(
    statistic: Callable[[NDArray[np.int64]], float], n: int, seed: int = 0, draws: int = DRAWS
) -> Gap:
    """A statistic of n things, as its value on all of them and the interval over drawn indices."""
    rng = np.random.default_rng(seed)
    drawn = [statistic(rng.integers(n, size=n)) for _ in range(draws)]
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return Gap(statistic(np.arange(n)), float(low), float(high))
