"""Whether a vector's gain falls as its share of the traffic grows: what a ramp is for finding out.

What one bucket's people do can reach others' (a shared budget, a shared stock of items, novelty that wears off with
use): then a gain at 5 % of the traffic is not the gain at 95 %, and no test at one share shows it.
"""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from scipy.special import ndtri

ALPHA = 0.001  # P(a vector whose gain is the same at every share is stopped), per ramp
LOST = 0.5  # of the gain at the first share that may be gone at the last: effects swing with the hour of the day


class Step(msgspec.Struct, frozen=True):
    """What was measured at one share."""

    share: float
    gain: float  # of the objective
    se: float


def kept_by_line(steps: Sequence[Step]) -> tuple[float, float]:
    """What the gain at the last share exceeds the part it must keep of the first share's by, and its standard error.

    Both are read off the weighted least-squares line through the steps, so it is a sum of the gains with known
    coefficients. A larger share holds every smaller one's buckets: what they have in common mostly cancels, so the
    error is somewhat smaller than that of independent steps, as which they are taken.
    """
    steps = sorted(steps, key=lambda step: step.share)
    share, gain, se = (np.array([getattr(step, name) for step in steps]) for name in ("share", "gain", "se"))
    design = np.stack((np.ones_like(share), share), axis=1)  # (n, 2)
    weighted = design / se[:, None] ** 2
    covariance = np.linalg.inv(design.T @ weighted)
    contrast = design[-1] - (1.0 - LOST) * design[0]
    return float(contrast @ covariance @ weighted.T @ gain), math.sqrt(contrast @ covariance @ contrast)


def kept_at_last(steps: Sequence[Step]) -> tuple[float, float]:
    """The same of the newest step, as it was measured, and the weighted mean of those before: no line is straight."""
    gain, se = (np.array([getattr(step, name) for step in steps]) for name in ("gain", "se"))
    weight = 1.0 / se[:-1] ** 2
    before, before_se = float(weight @ gain[:-1] / weight.sum()), 1.0 / math.sqrt(weight.sum())
    return float(gain[-1]) - (1.0 - LOST) * before, math.hypot(se[-1], (1.0 - LOST) * before_se)


def falling(steps: Sequence[Step], looks: int) -> str | None:
    """Why the ramp is not to go on, or None. `looks`: how often this is asked in a ramp."""
    told = [step for step in steps if math.isfinite(step.gain) and math.isfinite(step.se) and step.se > 0.0]
    if len({step.share for step in told}) < 2:
        return None
    sure = -float(ndtri(ALPHA / (2 * max(looks, 1))))  # two ways to look at it
    if not any(excess < -sure * se for excess, se in (kept_by_line(told), kept_at_last(told))):
        return None
    seen = ", ".join(f"{step.gain:+.2%} +- {step.se:.2%} at {step.share:.0%}" for step in told)
    return f"the gain falls as the share grows: {seen}; the vector acts beyond the people it serves, or wears off"
