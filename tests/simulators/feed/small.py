"""A short-video feed of few people, and what serves it."""

import msgspec
import numpy as np

from simulators.closed_loop import START_MS
from simulators.events import Served
from simulators.feed.shipped import SHORTVIDEO
from simulators.worlds import HOUR_MS, Floats

SMALL = msgspec.structs.replace(SHORTVIDEO, events_per_hour=3_000.0)
GREEDY = np.array([1.0, 0.05, 0.3, 0.8, 1.5, 1.5, 0.0])  # clicks and nothing else
BOUNDS = (START_MS, START_MS + HOUR_MS)


def serving(*thetas: Floats, buckets: int = SMALL.buckets) -> Served:
    """Control and others, on buckets in turn."""
    names = ("control", *(f"e{k}" for k in range(1, len(thetas))))
    return Served(7, names, np.arange(buckets) % len(thetas), tuple({"all": theta} for theta in thetas))
