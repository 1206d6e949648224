"""Find the best feasible vector of each feed: `python -m simulators.feed.best` prints it for `calibrated.py`.

The cross-entropy method (Rubinstein 1999): vectors drawn from a normal distribution over the unit cube of all segments'
free weights, refitted to the best of them, round after round. Common random numbers make the truth a fixed function.
"""

import pprint
import sys

import numpy as np

from controller.core.space import Space
from simulators.feed.product import Feed
from simulators.feed.shipped import FEEDS
from simulators.feed.truth import Truth
from simulators.worlds import Floats, gain, margins

ROUNDS, DRAWS, ELITE = 25, 60, 10
MARGIN = 3e-4  # of room kept under each guardrail: the error of the truth
PEOPLE, PAGES = 3_000, 8


def best(feed: Feed, seed: int = 0) -> dict[str, tuple[float, ...]]:
    """The vector by segment; how it goes is told on standard error."""
    truth, space, rng = Truth(feed, PEOPLE, PAGES), Space(feed.weights), np.random.default_rng(seed)
    parts = len(feed.segments or ["all"])
    d = space.d * parts
    mean, sd = np.tile(space.baseline_unit, parts), np.full(d, 0.25)
    kept, scores = np.empty((0, d)), np.empty(0)
    for number in range(ROUNDS):
        drawn = np.clip(mean + sd * rng.standard_normal((DRAWS, d)), 0.0, 1.0)
        found = np.array([_score(feed, truth, theta_of(feed, space, v)) for v in drawn])
        everything, all_scores = np.concatenate((kept, drawn)), np.concatenate((scores, found))
        order = np.argsort(-all_scores)[:ELITE]
        kept, scores = everything[order], all_scores[order]
        mean, sd = 0.7 * kept.mean(axis=0) + 0.3 * mean, 0.7 * kept.std(axis=0) + 0.3 * sd
        sys.stderr.write(f"{feed.name} round {number}: {scores[0]:+.3%}\n")
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


def main() -> None:
    """Search every feed that ships."""
    found = {name: best(feed) for name, feed in FEEDS.items()}
    rounded = {
        feed: {segment: tuple(round(w, 4) for w in vector) for segment, vector in by_segment.items()}
        for feed, by_segment in found.items()
    }
    sys.stdout.write(f"BEST: dict[str, dict[str, tuple[float, ...]]] = {pprint.pformat(rounded, sort_dicts=False)}\n")


if __name__ == "__main__":
    main()
