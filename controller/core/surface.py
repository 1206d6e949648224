"""What the belief says around a vector: slices of every metric through it, and what each weight is worth.

| symbol | shape | meaning |
|---|---|---|
| M, G', d | | judged metrics, groups with weights of their own, free weights |
| x | (P,) | positions along one side of the unit cube |
| f | | the objective's posterior mean |
| A, B, A_B^i | (N, d) | random points; A with its column i from B |
"""

import msgspec
import numpy as np

from controller.assignment import ALL
from controller.core.belief import Believed, believe_decided, judged_metrics, points
from controller.core.experiment import Experiment, Theta, tuned
from controller.core.kernel import Floats
from controller.core.plan import Plan
from controller.core.policy import AHEAD_H
from controller.core.windows import Cell

STEPS = 33  # points of a slice
SOBOL_POINTS = 512  # N: an index is known to some 0.03
NORMAL = 1.96  # standard deviations within which 95 % lie
FLAT = 1e-6  # standard deviation of an objective that no weight moves, per unit of its coefficients


class Curve(msgspec.Struct, frozen=True):
    """One group's slice: the metric's relative change along a weight, all else as in the vector."""

    segment: str
    chosen: float  # the vector's own weight
    mean: tuple[float, ...]  # P
    sd: tuple[float, ...]


class Slice(msgspec.Struct, frozen=True):
    """A metric along a weight."""

    metric: str
    weight: str
    values: tuple[float, ...]  # P, of the weight
    curves: tuple[Curve, ...]  # G'


class Worth(msgspec.Struct, frozen=True):
    """What a weight is worth.

    `share`: its total effect on the objective over the whole space, as a part of the variance (interactions count for
    each weight in them, so shares may add up to more than 1). `kept`: what the vector gains by this weight alone: its
    objective less that of the vector with this weight back at the baseline; 2.5 and 97.5 % beside it.
    """

    weight: str
    share: float
    kept: float
    low: float
    high: float


class Expected(msgspec.Struct, frozen=True):
    """What is expected of the vector in a metric, over groups by their shares of it."""

    metric: str
    mean: float
    sd: float


class Surface(msgspec.Struct, frozen=True):
    """All of it."""

    rows: int  # observations behind it
    segments: tuple[str, ...]  # G'
    expected: tuple[Expected, ...]  # M
    slices: tuple[Slice, ...]
    worth: tuple[Worth, ...]  # d


def surface(plan: Plan, experiment: Experiment, cells: dict[tuple[int, int], Cell], theta: Theta) -> Surface:
    """The belief around a vector as of the newest decision. `cells`: sums that are not sealed."""
    carry, plan = experiment.carry, tuned(plan, experiment.carry)
    believed = believe_decided(plan, experiment, cells)
    unit = points(plan, believed.space, believed.groups, theta)  # (G', d)
    names = (ALL, *plan.segments)
    return Surface(
        rows=believed.posterior.rows,
        segments=tuple(names[group] for group in believed.groups),
        expected=_expected(plan, believed, unit),
        slices=tuple(_slices(plan, believed, unit)),
        worth=tuple(_worth(plan, believed, unit, np.random.default_rng((plan.seed, carry.decided_through_ms)))),
    )


def total_effects(f_a: Floats, f_mixed: Floats, unit: float = 1.0) -> Floats:
    """(d,) total-effect indices from f(A), (N,), and f(A_B^i), (d, N).

    Jansen's estimator: E[(f(A) - f(A_B^i))^2] / 2 V[f] (Saltelli et al. 2010, "Variance based sensitivity analysis of
    model output", table 2, f). All zero where f, in its unit, does not vary.
    """
    variance = float(f_a.var())
    return np.asarray(
        ((f_a - f_mixed) ** 2).mean(axis=1) / (2.0 * variance) if variance > (FLAT * unit) ** 2 else 0.0 * f_mixed[:, 0]
    )


def _expected(plan: Plan, believed: Believed, unit: Floats) -> tuple[Expected, ...]:
    posterior, groups, shares = believed.posterior, np.array(believed.groups), believed.shares
    mean = (posterior.mean(unit, groups, believed.hour, AHEAD_H) * shares).sum(axis=1)  # (M,)
    metrics = [plan.metrics[m].name for m in judged_metrics(plan)]
    sd = [
        posterior.sum_sd(metric[:, None] * shares, unit, groups, believed.hour, AHEAD_H)
        for metric in np.eye(len(metrics))
    ]
    return tuple(Expected(name, float(m), s) for name, m, s in zip(metrics, mean, sd, strict=True))


def _slices(plan: Plan, believed: Believed, unit: Floats) -> list[Slice]:
    metrics = [plan.metrics[m].name for m in judged_metrics(plan)]
    x, found, names = np.linspace(0.0, 1.0, STEPS), [], (ALL, *plan.segments)
    for i, free in enumerate(believed.space.free):
        along = np.repeat(unit[:, None], STEPS, axis=1)  # (G', P, d)
        along[:, :, i] = x
        values = believed.space.to_theta(along[0])[:, free]
        chosen = believed.space.to_theta(unit)[:, free]
        told = [believed.posterior.mean_sd(along[k], g, believed.hour, AHEAD_H) for k, g in enumerate(believed.groups)]
        for m, metric in enumerate(metrics):
            curves = tuple(
                Curve(names[g], float(chosen[k]), tuple(told[k][0][m].tolist()), tuple(told[k][1][m].tolist()))
                for k, g in enumerate(believed.groups)
            )
            found.append(Slice(metric, plan.weights[free].name, tuple(values.tolist()), curves))
    return found


def _worth(plan: Plan, believed: Believed, unit: Floats, rng: np.random.Generator) -> list[Worth]:
    found, shares = [], _effects(believed, rng)
    for i, (free, share) in enumerate(zip(believed.space.free, shares.tolist(), strict=True)):
        kept, sd = _kept(believed, unit, i)
        found.append(Worth(plan.weights[free].name, share, kept, kept - NORMAL * sd, kept + NORMAL * sd))
    return found


def _effects(believed: Believed, rng: np.random.Generator) -> Floats:
    """(d,) total effects on the objective, over groups by their parts of it."""
    from scipy.stats import qmc  # half a second, which every command would take

    d, coefficients = believed.space.d, np.array(believed.goal.objective)[:, None] * believed.shares  # (M, G')
    both = qmc.Sobol(2 * d, rng=rng).random(SOBOL_POINTS)
    mixed = np.repeat(both[None, :, :d], d, axis=0)  # (d, N, d)
    for i in range(d):
        mixed[i, :, i] = both[:, d + i]
    part, found = np.abs(coefficients).sum(axis=0), np.zeros(d)
    for k, group in enumerate(believed.groups):

        def f(at: Floats, group: int = group, own: Floats = coefficients[:, k]) -> Floats:
            return np.asarray(own @ believed.posterior.mean(at, group, believed.hour, AHEAD_H))

        indices = total_effects(f(both[:, :d]), np.stack([f(points_) for points_ in mixed]), float(part[k]))
        found += part[k] / part.sum() * indices
    return found


def _kept(believed: Believed, unit: Floats, i: int) -> tuple[float, float]:
    """What the vector (G', d) gains by weight i, and how surely: what groups have in common is no luck of each."""
    back = unit.copy()
    back[:, i] = believed.space.baseline_unit[i]
    weights = np.array(believed.goal.objective)[:, None] * believed.shares
    signed, both = np.hstack((weights, -weights)), np.concatenate((unit, back))
    groups, posterior = np.tile(believed.groups, 2), believed.posterior
    mean = posterior.mean(both, groups, believed.hour, AHEAD_H)
    return float((signed * mean).sum()), posterior.sum_sd(signed, both, groups, believed.hour, AHEAD_H)
