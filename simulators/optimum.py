"""The best vector of a world that keeps every guardrail, found without an event.

Notation: d free weights, S segments; v = the free unit coordinates of all segments (S d,), or (d,) shared by all.
"""

from collections.abc import Callable
from itertools import cycle

import msgspec
import numpy as np
from scipy.optimize import minimize
from scipy.stats import qmc

from controller.core.space import Space, Weight
from simulators.worlds import Floats, World, gain, margins, segment_names, true_change

LOG2_POINTS = 14  # of the Sobol net that the climbs start from
STARTS = 8
NEAR = 0.3  # of the way from the baseline: a second net
DIFFERENCE = 1e-5  # of a unit coordinate, to both sides: the climbs' gradients


class Best(msgspec.Struct, frozen=True):
    """`theta` per segment, its objective, and each metric's true relative change."""

    theta: dict[str, tuple[float, ...]]
    gain: float
    change: dict[str, float]


def best_feasible(
    world: World, *, constrained: bool = True, common: bool = False, near: dict[str, tuple[float, ...]] | None = None
) -> Best:
    """The optimum by SLSQP from the best points of a Sobol net (never worse than the net, never infeasible).

    With `constrained` false the guardrails are ignored, with `common` all segments get one vector; `near` is the
    optimum of a world that differs little: the climb starts there, and there is no net unless it fails. Raises
    `ValueError` when nothing is feasible.
    """
    if near is not None:
        found = _climb(world, _unit(world, near, common), constrained)
        if np.isfinite(_score(world, found, constrained)):
            return _report(world, found)
    d = len(_free(world)) * (1 if common else len(segment_names(world)))
    net = qmc.Sobol(d, rng=0).random_base2(LOG2_POINTS)
    base = np.tile(Space(world.weights).baseline_unit, d // len(_free(world)))
    net = np.concatenate((base[None], net, base + NEAR * (net - base)))  # with many weights only the near are feasible
    change = true_change(world, _theta(world, net))
    slack = margins(world, change).min(axis=-1, initial=np.inf) if constrained else np.ones(len(net))
    objective = np.where(slack >= 0, gain(world, change), -np.inf)
    if not np.isfinite(objective).any():
        raise ValueError(f"world {world.name!r}: no vector keeps every guardrail")
    starts = net[np.argsort(objective)[-STARTS:]]
    climbed = [_climb(world, start, constrained) for start in starts]
    best = max([*climbed, starts[-1]], key=lambda v: _score(world, v, constrained))
    return _report(world, best)


def _climb(world: World, start: Floats, constrained: bool) -> Floats:
    def gains(v: Floats) -> Floats:
        return np.negative(gain(world, true_change(world, _theta(world, v))))

    def rooms(v: Floats) -> Floats:
        return margins(world, true_change(world, _theta(world, v))) - 1e-9

    keep = {"type": "ineq", "fun": rooms, "jac": lambda v: _slopes(rooms, v)}
    found = minimize(
        gains,
        start,
        jac=lambda v: _slopes(gains, v),
        method="SLSQP",
        bounds=[(0.0, 1.0)] * len(start),
        constraints=[keep] if constrained and world.guardrails else [],
        options={"maxiter": 200, "ftol": 1e-12},
    )
    return np.asarray(np.clip(found.x, 0.0, 1.0))


def _slopes(of: Callable[[Floats], Floats], v: Floats) -> Floats:
    """Derivatives (..., n) of a function of (..., n) coordinates, by central differences in one call."""
    step = DIFFERENCE * np.eye(len(v))
    return np.asarray((of(v + step) - of(v - step)).T / (2 * DIFFERENCE))


def _score(world: World, v: Floats, constrained: bool) -> float:
    change = true_change(world, _theta(world, v))
    broken = constrained and bool((margins(world, change) < 0).any())
    return -np.inf if broken else float(gain(world, change))


def _report(world: World, v: Floats) -> Best:
    theta = _theta(world, v)
    change = true_change(world, theta)
    vectors = {segment: tuple(map(float, vector)) for segment, vector in theta.items()}
    names = [metric.name for metric in world.metrics]
    return Best(vectors, float(gain(world, change)), dict(zip(names, map(float, change), strict=True)))


def _theta(world: World, v: Floats) -> dict[str, Floats]:
    """Weights (..., W) of every segment at v (..., S d) or (..., d)."""
    blocks = dict(zip(segment_names(world), cycle(np.split(v, v.shape[-1] // len(_free(world)), axis=-1))))
    return {"all": world.baseline} | {name: _weights(world, block) for name, block in blocks.items()}


def _weights(world: World, u: Floats) -> Floats:
    columns, position = [], 0
    for weight in world.weights:
        if weight.fixed:
            columns.append(np.full(u.shape[:-1], weight.baseline))
            continue
        columns.append(_value(weight, u[..., position]))
        position += 1
    return np.stack(columns, axis=-1)


def _value(weight: Weight, u: Floats) -> Floats:
    if weight.scale == "log":
        return np.asarray(weight.low * (weight.high / weight.low) ** u)
    return np.asarray(weight.low + (weight.high - weight.low) * u)


def _unit(world: World, theta: dict[str, tuple[float, ...]], common: bool) -> Floats:
    """The coordinates v of a vector per segment."""
    names = segment_names(world)[: 1 if common else None]
    return np.concatenate([Space(world.weights).to_unit(np.array(theta[name])) for name in names])


def _free(world: World) -> list[Weight]:
    return [weight for weight in world.weights if not weight.fixed]
