"""Whether a bucket's arm of the deal before still shows in it: exploring deals anew, so it should not.

| symbol | shape | meaning |
|---|---|---|
| M, B | | metrics; buckets |
| u | (M, B) | what a bucket adds to its arm's level now, beyond the arm's mean and its own past (`influences`) |
| c | (M, B) | the change that the bucket's arm of the deal before had, as the other half of the buckets measured it |
| kappa | (M,) | how much of it is still there: u = kappa (c - its mean within the arm now) + noise |

Deals are shuffled, so a bucket's arm before says nothing of its arm now, and without carry-over kappa is 0. The change
that an arm had comes from the other half of its buckets: measured on the bucket itself it would hold the bucket's
traits and visits that run over the hour, which are there now too, and every study would seem to carry over. The past
is from before the deal before: a newer one would hold what that deal did.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.core import safety
from controller.core.estimate import MAX_CHANGE, Metric, Served, influences, relative_changes

Floats = NDArray[np.float64]

ALPHA = 1e-4  # P(carry-over is ever reported where there is none), over metrics and looks together
NOTHING = 1e-12  # mean square of c below which it is rounding
LONGER = 6  # times as long vectors stay once something surely carries over: it is a smaller part of what they show
TIGHT_SD = 0.1  # the sequence is tightest where kappa is known to a tenth


class Carryover(msgspec.Struct, frozen=True):
    """All that was learned so far, per metric: kappa is score / information, its variance 1 / information."""

    score: tuple[float, ...] = ()
    information: tuple[float, ...] = ()
    deal: int = 0  # the last one that was looked at


def learned(
    known: Carryover, metrics: tuple[Metric, ...], components: tuple[str, ...], before: Served, now: Served
) -> Carryover:
    """What is known after one more deal `now` that followed `before`, with a map of its own."""
    score, information = observed(metrics, components, before, now)
    if known.score:
        score, information = score + np.array(known.score), information + np.array(known.information)
    return Carryover(tuple(score.tolist()), tuple(information.tolist()), known.deal)


def observed(
    metrics: tuple[Metric, ...], components: tuple[str, ...], before: Served, now: Served
) -> tuple[Floats, Floats]:
    """(M,) kappa's score and information in one deal; 0 where nothing can be told.

    Least squares with White's (1980) variance, so neither busy buckets nor heavy tails make it surer than it is.
    """
    u = influences(metrics, components, msgspec.structs.replace(now, history=before.history))
    c = _within(_changes(metrics, components, before), now)
    moment, square, spread = (c * u).sum(axis=1), (c**2).sum(axis=1), ((c * u) ** 2).sum(axis=1)
    told = (
        np.isfinite(spread) & (square > NOTHING * u.shape[1]) & (spread > 0.0) & (np.abs(c) <= MAX_CHANGE).all(axis=1)
    )
    spread = np.where(told, spread, 1.0)
    return np.where(told, square * moment / spread, 0.0), np.where(told, square**2 / spread, 0.0)


def found(known: Carryover, metrics: Sequence[Metric]) -> str | None:
    """What surely carries over, and what helps; else None. Valid at all looks together."""
    worst, why = 0.0, None
    for metric, score, information in zip(metrics, known.score, known.information, strict=False):
        if information <= 0.0:
            continue
        kappa = score / information
        width = float(safety.radius(np.array(1.0 / information), ALPHA / len(metrics), TIGHT_SD))
        if abs(kappa) > max(width, worst):
            worst = abs(kappa)
            why = (
                f"carry-over: {kappa:+.0%} +- {width:.0%} of what an arm did to {metric.name} still shows in its "
                f"buckets under the next arm: vectors stay {LONGER} times as long"
            )
    return why


def _changes(metrics: tuple[Metric, ...], components: tuple[str, ...], before: Served) -> Floats:
    """(M, B) c, each half of the buckets by the other; NaN where a metric cannot be measured."""
    half = _half(len(before.arm_of))
    c = np.empty((len(metrics), len(before.arm_of)))
    for k in (0, 1):
        others = np.where(half == k, -1, before.arm_of)
        effect = relative_changes(metrics, components, msgspec.structs.replace(before, arm_of=others)).change[:, 0]
        by_arm = np.concatenate((np.zeros((len(metrics), 1)), effect), axis=1)
        c[:, half == k] = by_arm[:, before.arm_of[half == k]]
    return c


def _within(c: Floats, now: Served) -> Floats:
    """(M, B) c less its mean within each half of each arm now: an arm that goes on from deal to deal says nothing."""
    cell = 2 * now.arm_of + _half(len(now.arm_of))
    member = (cell == np.arange(2 * now.arms)[:, None]).astype(np.float64)
    mean = (c @ member.T) / np.maximum(member.sum(axis=1), 1.0)
    return np.asarray(c - mean[:, cell])


def _half(buckets: int) -> NDArray[np.int64]:
    """(B,) which half a bucket belongs to: the dealing is at random, so any rule will do."""
    return np.arange(buckets) % 2
