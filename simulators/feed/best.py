"""Find the best feasible vector of each feed: `python -m simulators.feed.best` prints it for `calibrated.py`."""

import pprint
import sys

import numpy as np

from controller.core.experiment import Theta
from controller.core.space import Space
from simulators.feed.product import Feed
from simulators.feed.search import searched
from simulators.feed.shipped import FEEDS

ROUNDS, DRAWS, SPREAD = 25, 60, 0.25


def best(feed: Feed, seed: int = 0) -> Theta:
    """The vector by segment; how it goes is told on standard error."""
    near = np.tile(Space(feed.weights).baseline_unit, len(feed.segments or ["all"]))

    def tell(number: int, score: float) -> None:
        sys.stderr.write(f"{feed.name} round {number}: {score:+.3%}\n")

    return searched(feed, near, SPREAD, ROUNDS, DRAWS, seed, tell)


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
