"""Trade-offs between objectives that are all minimised: who dominates whom, and how far apart the best lie.

Notation: n points, m objectives.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def dominated(values: Floats) -> NDArray[np.bool_]:
    """(n,) whether another of the (n, m) points is nowhere worse and somewhere better."""
    no_worse = (values[:, None] <= values[None]).all(axis=2)
    better = (values[:, None] < values[None]).any(axis=2)
    return np.asarray((no_worse & better).any(axis=0))


def ranks(values: Floats) -> NDArray[np.int64]:
    """(n,) 0 for the front, 1 for the front of the rest, and so on (Deb et al. 2002, NSGA-II)."""
    found = np.zeros(len(values), np.int64)
    left = np.arange(len(values))
    rank = 0
    while len(left):
        out = dominated(values[left])
        found[left[~out]] = rank
        left = left[out]
        rank += 1
    return found


def crowding(values: Floats) -> Floats:
    """(n,) how far each point's neighbours lie apart, summed over objectives; infinite at the ends (NSGA-II)."""
    found = np.zeros(len(values))
    for column in values.T:
        order = np.argsort(column, kind="stable")
        width = column[order[-1]] - column[order[0]]
        found[order[[0, -1]]] = np.inf
        if width > 0 and len(order) > 2:
            found[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / width
    return found
