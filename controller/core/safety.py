"""Guardrails, time-uniform sequences, and the checks that freeze a study.

Notation: y relative change, v its variance, l a guardrail's limit, s its sign (+1: y must stay at or above l,
-1: at or below), m = s (y - l) the margin: negative where the guardrail is broken.
"""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.core.estimate import Changes, Metric
from controller.core.worst import Looks, without_worst

Floats = NDArray[np.float64]

MIN_INFORMATION_SD = 0.005  # sequences are tuned to be tightest where a change is known to this s.e., or to the limit
BREAKER_ALPHA = 1e-6  # per arm, over its guardrails: the breaker looks every minute at every arm and must not cry wolf
MIN_ATTRIBUTED = 200  # fewer events than this say nothing about a share
SILENCE_ALPHA = 1e-9  # P(an arm is called silent that only had no luck), per arm and window


class Guardrail(msgspec.Struct, frozen=True):
    """A limit on a metric's relative change, in the direction that hurts: exactly one of the two is set.

    `min_change`: the change must stay at or above it (a loss limit, e.g. -0.005).
    `max_change`: the change must stay at or below it (e.g. reports, +0.01).
    A limit that a change of 0 does not keep (clicks must rise by 1 %) makes the baseline itself infeasible.
    """

    metric: str
    min_change: float | None = None
    max_change: float | None = None

    @property
    def sign(self) -> int:
        """+1 where the change must stay above the limit, -1 where below."""
        return 1 if self.min_change is not None else -1

    @property
    def limit(self) -> float:
        """The limit itself."""
        limit = self.min_change if self.min_change is not None else self.max_change
        assert limit is not None  # one of the two is set: the study file is checked where it enters
        return limit

    def eased(self, part: float) -> "Guardrail":
        """The guardrail with its limit moved out by a part of it."""
        moved = self.limit - self.sign * part * abs(self.limit)
        return Guardrail(self.metric, *((moved, None) if self.min_change is not None else (None, moved)))

    @property
    def borne(self) -> "Guardrail":
        """The guardrail with a limit that the baseline keeps."""
        low, high = self.min_change, self.max_change
        return Guardrail(self.metric, None if low is None else min(low, 0.0), None if high is None else max(high, 0.0))


class SafetyPlan(msgspec.Struct, frozen=True):
    """Error budgets and alarm limits.

    `risk` is the operator's one number for exploring: the part of the explore traffic that is expected to be on vectors
    that break a guardrail, at most. By how much they may break it is bounded apart from it (`goal.TAIL`).
    """

    risk: float = 0.3  # mean over the arms of a deal of P(a guardrail is broken)
    stop_alpha: float = 0.01  # P(a harmless vector is ever stopped) in confirm and ramp, per vector
    breaker_change: float = -0.3  # a margin surely below this trips the breaker within a window
    implausible_change: float = 0.5  # of a metric that a claim rests on: above it a person must look at the telemetry
    misattributed_share: float = 0.02  # of the attributed events of a window: above it the study freezes
    rejected_share: float = 0.2  # of the events since the last decision: above it the study freezes
    srm_alpha: float = 5e-6  # P(a sound window is called a sample-ratio mismatch): .04 % of studies of 72 windows


class Crossing(msgspec.Struct, frozen=True):
    """A guardrail that an arm broke: its margin is below zero by more than the sequence's radius."""

    arm: int  # index among the deal's arms, control being 0
    metric: str
    change: float
    limit: float
    radius: float


def radius(variance: Floats, alpha: float, tight_sd: float) -> Floats:
    """Radius of a normal-mixture confidence sequence, valid at all looks together.

    With information I = 1/v the error of a cumulative estimate is a Brownian motion B(I)/I, also where part of the
    error never averages out (bucket traits), because Cov(err at I1, err at I2 > I1) = 1/I2 either way. Robbins'
    mixture gives P(exists I: |B(I)| >= sqrt((I + rho) log((I + rho) / (rho alpha^2)))) <= alpha (Howard et al. 2021,
    eq. 14). rho makes it tightest where the s.e. is `tight_sd`. Used one-sided it spends half of alpha.
    """
    information = 1.0 / variance
    rho = 1.0 / (tight_sd**2 * (2.0 * math.log(1.0 / alpha) + math.log(1.0 + 2.0 * math.log(1.0 / alpha))))
    total = information + rho
    bound: Floats = np.sqrt(total * np.log(total / (rho * alpha**2))) / information
    return bound


def crossings(
    guardrails: Sequence[Guardrail], metrics: Sequence[Metric], changes: Changes, alpha: float, beyond: float = 0.0
) -> tuple[Crossing, ...]:
    """The arms whose margin over all traffic is surely below `beyond`, spending `alpha` over guardrails and looks."""
    names = [metric.name for metric in metrics]
    found = []
    for guardrail in guardrails:
        m = names.index(guardrail.metric)
        y = changes.change[m, 0]  # (A-1,)
        v = np.diagonal(changes.covariance[m, 0])
        for arm in np.flatnonzero(np.isfinite(y) & (v > 0)):
            width = _radius(guardrail, v[arm], alpha / len(guardrails), beyond)
            if guardrail.sign * (y[arm] - guardrail.limit) + width < beyond:
                found.append(Crossing(int(arm) + 1, guardrail.metric, float(y[arm]), guardrail.limit, width))
    return tuple(found)


def _radius(guardrail: Guardrail, variance: np.float64, alpha: float, beyond: float = 0.0) -> float:
    """Radius of the sequence of a margin that is held against `beyond`."""
    tight = max(abs(guardrail.limit + guardrail.sign * beyond), MIN_INFORMATION_SD)
    return float(radius(np.asarray(variance), alpha, tight))


def lasting(
    found: Sequence[Crossing],
    guardrails: Sequence[Guardrail],
    metrics: Sequence[Metric],
    changes: Changes,
    alpha: float,
    looks: Looks,
) -> tuple[Crossing, ...]:
    """Of arm 1's crossings those that stand without the window that speaks most for them too.

    Less is stopped than by the crossings alone, so `alpha` holds all the more. A vector that breaks its limit all the
    time is stopped about a window later.
    """
    names = [metric.name for metric in metrics]
    y, v = changes.change[:, 0, 0], changes.covariance[:, 0, 0, 0]
    kept = []
    for crossing in found:
        rail = next(r for r in guardrails if (r.metric, r.limit) == (crossing.metric, crossing.limit))
        rest, variance = without_worst(y, v, looks, names.index(rail.metric), rail.sign)
        if math.isfinite(variance):
            width = _radius(rail, np.float64(variance), alpha / len(guardrails))
            if rail.sign * (rest - rail.limit) + width < 0.0:
                kept.append(crossing)
    return tuple(kept)


def silent_arm(events: NDArray[np.int64], arm_of: NDArray[np.int16], arms: int) -> int | None:
    """The first arm without any event that cannot be explained by little traffic; else None.

    `events`: (B,) accepted events per bucket of the deal in one window. Events come in bunches by unit, so what
    counts is how many of the other arms' buckets had any. Buckets are dealt at random: where i of the other m had
    none, n buckets are all among the i + n that had none with probability C(i + n, n) / C(m + n, n).
    """
    active = np.bincount(arm_of, weights=events > 0, minlength=arms)
    dealt = np.bincount(arm_of, minlength=arms)
    for arm in np.flatnonzero((active == 0) & (dealt > 0) & (dealt < len(arm_of))):
        before = np.arange(dealt[arm])  # buckets of the arm that were found to have none
        if np.prod((len(arm_of) - active.sum() - before) / (len(arm_of) - before)) < SILENCE_ALPHA:
            return int(arm)
    return None


def excessive(count: int, total: int, share: float) -> bool:
    """Whether `count` of `total` is clearly more than `share` of it."""
    return total >= MIN_ATTRIBUTED and count > share * total
