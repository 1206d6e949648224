"""The A/A test of a pipeline: what arms that all serve the baseline say, which must be nothing but noise.

Notation: M metrics, B buckets, A arms (control first), D deals of the verify stage, each with a bucket map of its own.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from controller.core.estimate import Metric, Served, influences

Floats = NDArray[np.float64]

ALPHA = 1e-4  # P(a sound pipeline is ever refused), over metrics, arms and looks together


class Noise(msgspec.Struct, frozen=True):
    """How well one metric can be measured: relative standard errors of a change; NaN where it could not be."""

    metric: str
    arm_se: float  # of one exploring arm in one window
    test_se: float  # of the confirm test at its share and length, if buckets had no lasting traits beyond their past


def difference(
    metrics: tuple[Metric, ...], components: tuple[str, ...], deals: Sequence[Served], looks: int
) -> str | None:
    """Why the arms cannot have been served alike, or None. `looks`: how often this is asked in all."""
    if not deals:
        return None
    p = p_values(metrics, components, deals)
    m, arm = np.unravel_index(int(np.argmin(p)), p.shape)
    if p[m, arm] * p.size * max(looks, 1) >= ALPHA:
        return None
    who = "control" if arm == 0 else f"arm {arm}"
    return (
        f"A/A: {metrics[m].name} of {who} differs from the others', though all serve the baseline "
        f"(p = {p[m, arm]:.1g} over {len(deals)} deals)"
    )


def p_values(metrics: tuple[Metric, ...], components: tuple[str, ...], deals: Sequence[Served]) -> Floats:
    """(M, A) P(arms that are served alike differ by this much), each arm of the deals against all others.

    Buckets are dealt at random, so whatever they are like, an arm's are a random sample of all: ranks of what they do
    beyond their past, as normal scores (van der Waerden 1952), have a known mean and variance in it, and no heavy tail
    can look like a fault. Deals add up as independent z-scores; the deals have the same number of arms.
    """
    z = sum(_scores(metrics, components, deal) for deal in deals) / np.sqrt(len(deals))
    return np.asarray(2.0 * ndtr(-np.abs(z)))


def _scores(metrics: tuple[Metric, ...], components: tuple[str, ...], deal: Served) -> Floats:
    """(M, A) z-score of each arm in one deal; 0 where nothing can be told."""
    from scipy.stats import rankdata  # half a second, which every command would take

    beyond = _together(metrics, components, deal)
    buckets = beyond.shape[1]
    score = ndtri((rankdata(np.nan_to_num(beyond), axis=1) - 0.5) / buckets)
    score = score - score.mean(axis=1, keepdims=True)
    count = np.bincount(deal.arm_of, minlength=deal.arms)
    total = score @ (deal.arm_of[:, None] == np.arange(deal.arms)).astype(np.float64)
    variance = (score**2).sum(axis=1, keepdims=True) / (buckets - 1) * count * (1.0 - count / buckets)
    return np.asarray(np.divide(total, np.sqrt(variance), out=np.zeros_like(total), where=variance > 0.0))


def noise(
    metrics: tuple[Metric, ...],
    components: tuple[str, ...],
    deals: Sequence[Served],
    shares: tuple[float, float],
    windows: float,
) -> tuple[Noise, ...]:
    """What can be measured, per metric, by deals that lasted a window each.

    Args:
        metrics: M metrics.
        components: C names.
        deals: D deals.
        shares: of the buckets, that a confirm test gives its vector and control.
        windows: of a confirm test.
    """
    found = []
    per_bucket = np.mean([_together(metrics, components, deal).var(axis=1, ddof=1) for deal in deals], axis=0)
    count = np.bincount(deals[-1].arm_of, minlength=deals[-1].arms)
    of_arm = 1.0 / count[1:].mean() + 1.0 / count[0]
    of_test = sum(1.0 / share for share in shares) / (count.sum() * windows)
    for metric, variance in zip(metrics, per_bucket, strict=True):
        found.append(Noise(metric.name, float(np.sqrt(variance * of_arm)), float(np.sqrt(variance * of_test))))
    return tuple(found)


def _together(metrics: tuple[Metric, ...], components: tuple[str, ...], deal: Served) -> Floats:
    """(M, B) what each bucket adds to the level of all, who are served alike."""
    return influences(metrics, components, Served(deal.sums, np.zeros_like(deal.arm_of), 1, deal.history))
