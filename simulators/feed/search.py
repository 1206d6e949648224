"""The best feasible vector of a feed, by the cross-entropy method (Rubinstein 1999).

Vectors are drawn from a normal distribution over the unit cube of all segments' free weights, refitted to the best of
them, round after round. Common random numbers make the truth a fixed function.
"""

from collections.abc import Callable

import numpy as np

from controller.core.experiment import Theta
from controller.core.space import Space
from simulators.feed.product import Feed
from simulators.feed.truth import Truth
from simulators.worlds import Floats, gain, margins

ELITE = 10
MARGIN = 3e-4  # of room kept under each guardrail: the error of the truth
PEOPLE, PAGES = 3_000, 8


def searched(
    feed: Feed, near: Floats, sd: float, rounds: int, draws: int, seed: int, watch: Callable[[int, float], None]
) -> Theta:
    """The vector by segment, begun around `near` (d,) with a spread of `sd` of a side; `watch` hears of each round."""
    truth, space, rng = Truth(feed, PEOPLE, PAGES), Space(feed.weights), np.random.default_rng(seed)
    mean, spread = near, np.full(len(near), sd)
    kept, scores = np.empty((0, len(near))), np.empty(0)
    for number in range(rounds):
        drawn = np.clip(mean + spread * rng.standard_normal((draws, len(near))), 0.0, 1.0)
        found = np.array([_score(feed, truth, theta_of(feed, space, v)) for v in drawn])
        everything, all_scores = np.concatenate((kept, drawn)), np.concatenate((scores, found))
        order = np.argsort(-all_scores)[:ELITE]
        kept, scores = everything[order], all_scores[order]
        mean, spread = 0.7 * kept.mean(axis=0) + 0.3 * mean, 0.7 * kept.std(axis=0) + 0.3 * spread
        watch(number, float(scores[0]))
    return {name: tuple(map(float, v)) for name, v in theta_of(feed, space, kept[0]).items()}


def theta_of(feed: Feed, space: Space, v: Floats) -> dict[str, Floats]:
    """Weights by segment, at coordinates (segments x free weights)."""
    if not feed.segments:
        return {"all": space.to_theta(v)}
    blocks = np.split(v, len(feed.segments))
    found = {name: space.to_theta(block) for name, block in zip(feed.segments, blocks, strict=True)}
    return {"all": space.to_theta(space.baseline_unit), **found}


def _score(feed: Feed, truth: Truth, theta: dict[str, Floats]) -> float:
    change = truth.settled(theta).change
    missing = np.minimum(margins(feed, change) - MARGIN, 0.0).sum()
    return float(gain(feed, change) + 20.0 * missing)
