"""The truth of an hour: the volume-weighted mean of the relative changes over the next 24 hours, by the closed form.

A jump counts once its own hour has been seen: nobody can foresee it. What is best is that of the world whose
coefficients are the mean of those hours': with a drift the two differ by the curvature of the exponential, .2 % of the
gain (`tests/simulators/test_truth.py`).
"""

from collections.abc import Mapping, Sequence
from functools import cache

import msgspec
import numpy as np

from controller.core.experiment import Theta
from simulators.optimum import Best, best_feasible
from simulators.scenarios import Scenario
from simulators.worlds import Floats, Polynomial, World, segment_names, true_change, volume, weights_of

AHEAD_H, KNOT_H = 24, 3


def truth(scenario: Scenario, hour: int, thetas: Sequence[Theta | None], *, seen: int | None = None) -> Floats:
    """Relative changes (n, M) of these vectors (None: the baseline) in the 24 hours from `hour` on.

    `seen`: the hour whose world is known, by default the first of them.
    """
    world = scenario.world
    base: Theta = {"all": tuple(world.baseline.tolist())}
    vectors = [theta or base for theta in thetas]
    stacked = {name: np.stack([weights_of(v, name) for v in vectors]) for name in ("all", *world.segments)}
    return np.asarray(sum(share * true_change(then, stacked) for share, then in _ahead(scenario, hour, seen)))


def best_gain(scenario: Scenario, hour: int, *, common: bool, seen: int | None = None) -> float:
    """The gain of the best feasible vector; in a drift between every third hour's, by a straight line."""
    seen = hour if seen is None else seen
    if scenario.drift is None:
        return optimum(scenario, hour, common=common, seen=seen).gain
    early = hour // KNOT_H * KNOT_H
    gains = [optimum(scenario, knot, common=common, seen=seen).gain for knot in (early, early + KNOT_H)]
    return float(np.interp(hour, (early, early + KNOT_H), gains))


def optimum(scenario: Scenario, hour: int, *, common: bool, seen: int | None = None) -> Best:
    """The best feasible vector of the 24 hours from `hour` on; one vector for everyone where `common`."""
    common = common or len(segment_names(scenario.world)) == 1
    hour, seen = (0 if scenario.drift is None else hour), scenario.last_change(hour if seen is None else seen)
    return _optimum(scenario, hour, seen, common)


@cache
def _optimum(scenario: Scenario, hour: int, seen: int, common: bool) -> Best:
    near = None if hour == 0 else dict(_optimum(scenario, 0, seen, common).theta)
    return best_feasible(_mean_world(_ahead(scenario, hour, seen)), common=common, near=near)


def _ahead(scenario: Scenario, hour: int, seen: int | None) -> list[tuple[float, World]]:
    """The worlds of 24 hours with their shares of the traffic; one where they are the same."""
    seen = hour if seen is None else seen
    if scenario.drift is None:
        return [(1.0, scenario.foreseen(seen, hour))]
    hours = range(hour, hour + AHEAD_H)
    share = volume(scenario.world, np.array([(h + 0.5) % 24 for h in hours]))
    return [(float(s), scenario.foreseen(seen, h)) for s, h in zip(share / share.sum(), hours, strict=True)]


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
