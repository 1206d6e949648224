"""What a study is after: an objective, within limits; and how probably a vector keeps them.

| symbol | shape | meaning |
|---|---|---|
| M, L, k | | metrics, limits, points |
| f | (..., M, k) | relative changes, drawn or expected |
| margin | (..., L, k) | sign x (f - limit): the guardrail is kept where it is >= 0 |
"""

from collections.abc import Callable
from typing import Literal

import msgspec
import numpy as np
from scipy.special import ndtr

from controller.core.estimate import Metric
from controller.core.kernel import Floats
from controller.core.safety import Guardrail

TOLERANCE = 0.07  # of a limit: a pick that is over it by less keeps it, as few studies could tell
TAIL, TAIL_RISK = 0.01, 0.015  # P(a margin is below -TAIL, a relative change) of a vector that may be dealt
CERTAIN = 1e-9  # a standard deviation below this is rounding


class Limit(msgspec.Struct, frozen=True):
    """A guardrail by metric index: sign x (change - limit) >= 0 keeps it."""

    metric: int
    sign: Literal[1, -1]  # 1: the change must stay at or above the limit, -1: at or below it
    limit: float


class Goal(msgspec.Struct, frozen=True):
    """Maximise sum of coefficient x change, within the limits."""

    objective: tuple[float, ...]  # M
    limits: tuple[Limit, ...]  # L


def goal_of(metrics: tuple[Metric, ...], objective: dict[str, float], guardrails: tuple[Guardrail, ...]) -> Goal:
    """A study's objective and guardrails, by metric index."""
    index = {metric.name: i for i, metric in enumerate(metrics)}
    limits = []
    for rail in guardrails:
        if rail.min_change is not None:
            limits.append(Limit(index[rail.metric], 1, rail.min_change))
        if rail.max_change is not None:
            limits.append(Limit(index[rail.metric], -1, rail.max_change))
    return Goal(tuple(objective.get(metric.name, 0.0) for metric in metrics), tuple(limits))


def part(goal: Goal, share: Floats) -> Goal:
    """The goal of a group that makes these shares (M,) of the metrics: its sum is what it adds to the whole's."""
    return Goal(tuple((np.array(goal.objective) * share).tolist()), goal.limits)


def margins(goal: Goal, f: Floats) -> Floats:
    """(..., L, k) margins of (..., M, k) relative changes."""
    metric = [limit.metric for limit in goal.limits]
    sign = np.array([limit.sign for limit in goal.limits], dtype=np.float64)
    limits = np.array([limit.limit for limit in goal.limits])
    return np.asarray(sign[:, None] * (f[..., metric, :] - limits[:, None]))


def p_kept(goal: Goal, mean: Floats, sd: Floats) -> Floats:
    """(k,) P(every limit is kept) at k points of these marginals, (M, k) each; metrics are independent.

    A metric between two limits misses at most one of them: P(both are kept) = P(one is) + P(the other is) - 1.
    """
    rails = [(limit.metric, limit.sign) for limit in goal.limits]
    kept = ndtr(_standardised(margins(goal, mean), sd[[metric for metric, _ in rails]]))  # (L, k)
    found = np.ones(mean.shape[1])
    for metric in dict.fromkeys(metric for metric, _ in rails):
        sides = [kept[[rail == (metric, sign) for rail in rails]].min(axis=0, initial=1.0) for sign in (1, -1)]
        found *= np.maximum(sides[0] + sides[1] - 1.0, 0.0)
    return found


def tolerant(goal: Goal) -> Goal:
    """The goal with every limit moved out by `TOLERANCE` of it: what a vector is recommended and tested by."""
    return _relaxed(goal, lambda own: own.limit - own.sign * TOLERANCE * abs(own.limit))


def outermost(goal: Goal) -> Goal:
    """The goal with limits that nothing may be dealt beyond: `TAIL` outside its own, or the baseline where that is."""
    return _relaxed(goal, lambda own: own.sign * (min(own.sign * own.limit, 0.0) - TAIL))


def _relaxed(goal: Goal, limit: Callable[[Limit], float]) -> Goal:
    return Goal(goal.objective, tuple(Limit(own.metric, own.sign, limit(own)) for own in goal.limits))


def _standardised(margin: Floats, sd: Floats) -> Floats:
    """Margins in standard deviations; a margin of 0 without doubt (the baseline, a limit of 0) is kept."""
    certain = np.where(margin >= 0.0, np.inf, -np.inf)
    return np.where(sd > CERTAIN, margin / np.maximum(sd, CERTAIN), certain)
