"""The truth of an hour: the volume-weighted mean of the relative changes over the next 24 hours, by the closed form.

A jump counts from its own hour on: nobody can foresee it. What is best is that of the world whose coefficients are the
mean of those hours': with a drift the two differ by the curvature of the exponential, under 1 % of the gain
(`tests/benchmarks/test_arena_truth.py`).
"""

from collections.abc import Mapping, Sequence
from functools import cache

import msgspec
import numpy as np

from benchmarks._arena_worlds import SCENARIOS, Scenario
from controller.core.control import Theta
from simulators.optimum import Best, best_feasible
from simulators.worlds import Floats, Polynomial, World, segment_names, true_change, volume, weights_of

AHEAD_H, KNOT_H = 24, 6


def truth(scenario: Scenario, hour: int, thetas: Sequence[Theta | None]) -> Floats:
    """Relative changes (n, M) of these vectors (None: the baseline) in the 24 hours from `hour` on."""
    world = scenario.world
    base: Theta = {"all": tuple(world.baseline.tolist())}
    vectors = [theta or base for theta in thetas]
    stacked = {name: np.stack([weights_of(v, name) for v in vectors]) for name in ("all", *world.segments)}
    return np.asarray(sum(share * true_change(then, stacked) for share, then in _ahead(scenario, hour)))


def best_gain(scenario: Scenario, hour: int, *, common: bool) -> float:
    """The gain of the best feasible vector; in a drift between every sixth hour's, by a straight line."""
    if scenario.drift is None:
        return optimum(scenario, hour, common=common).gain
    begin = _begin(scenario, hour)
    early = begin + (hour - begin) // KNOT_H * KNOT_H
    gains = [optimum(scenario, knot, common=common).gain for knot in (early, early + KNOT_H)]
    return float(np.interp(hour, (early, early + KNOT_H), gains))


def optimum(scenario: Scenario, hour: int, *, common: bool) -> Best:
    """The best feasible vector of the 24 hours from `hour` on; one vector for everyone where `common`."""
    from_hour = _begin(scenario, hour) if scenario.drift is None else hour
    return _optimum(scenario.name, from_hour, common or len(segment_names(scenario.world)) == 1)


@cache
def _optimum(name: str, hour: int, common: bool) -> Best:
    scenario = SCENARIOS[name]
    begin = _begin(scenario, hour)
    near = None if hour == begin else dict(_optimum(name, begin, common).theta)
    return best_feasible(_mean_world(_ahead(scenario, hour)), common=common, near=near)


def _begin(scenario: Scenario, hour: int) -> int:
    """The jump's hour once it lies behind, else the first hour."""
    return (scenario.jump_hour or 0) if scenario.jumped(hour) else 0


def _ahead(scenario: Scenario, hour: int) -> list[tuple[float, World]]:
    """The worlds of the next 24 hours with their shares of the traffic; one where they are the same."""
    if scenario.drift is None:
        return [(1.0, scenario.at(hour))]
    hours = range(hour, hour + AHEAD_H)
    share = volume(scenario.world, np.array([(h + 0.5) % 24 for h in hours]))
    return [(float(s), scenario.foreseen(hour, h)) for s, h in zip(share / share.sum(), hours, strict=True)]


def _mean_world(parts: Sequence[tuple[float, World]]) -> World:
    first = parts[0][1]

    def mean(terms: Sequence[Polynomial]) -> Polynomial:
        return {key: sum(s * t[key] for (s, _), t in zip(parts, terms, strict=True)) for key in terms[0]}

    quantities = []
    for i, quantity in enumerate(first.quantities):
        same = [world.quantities[i] for _, world in parts]
        tilts: Mapping[str, Polynomial] = {name: mean([q.tilts[name] for q in same]) for name in quantity.tilts}
        quantities.append(msgspec.structs.replace(quantity, response=mean([q.response for q in same]), tilts=tilts))
    visits = mean([world.visits for _, world in parts])
    return msgspec.structs.replace(first, quantities=tuple(quantities), visits=visits)
