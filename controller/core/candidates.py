"""Points of the unit cube that a decision chooses among.

Notation: k points, b anchors, d free weights, u0 the baseline.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

INITIAL_REACH = 0.25  # half the side of the first box: far enough to be seen, near enough to be borne
EVERYWHERE, RAYS, LOCAL = 96, 160, 256  # how many of each kind `pool` holds
LOCAL_REACH = (0.01, 0.3)  # scales of local steps, log-uniform
MOVED = 3.0  # coordinates that a local step moves on average (all of them in few dimensions)


def initial(baseline: Floats, points: int, rng: np.random.Generator) -> Floats:
    """The first vectors, (points, d): a scrambled Sobol set in a box around the baseline, folded in at the cube."""
    from scipy.stats import qmc  # half a second, which every command would take

    sobol = qmc.Sobol(len(baseline), scramble=True, rng=rng)
    spread: Floats = sobol.random_base2(max(1, int(np.ceil(np.log2(points)))))[:points]
    inside = np.abs(baseline + INITIAL_REACH * (2.0 * spread - 1.0))
    return np.asarray(np.minimum(inside, 2.0 - inside))


def pool(baseline: Floats, anchors: Floats, rng: np.random.Generator) -> Floats:
    """Candidates, (k, d): the anchors, points everywhere, on rays from the baseline, and around the anchors.

    The rays reach from the baseline into all of the cube and through the anchors, so that a small
    neighbourhood in which the risk can be borne holds points at every distance.
    """
    d = len(baseline)
    everywhere = rng.random((EVERYWHERE, d))
    targets = rng.random((RAYS, d))
    if len(anchors):
        targets[::2] = anchors[rng.integers(len(anchors), size=len(targets[::2]))]
    rays = baseline + rng.uniform(0.0, 1.5, (RAYS, 1)) * (targets - baseline)
    local = around(np.concatenate((baseline[None], anchors)), LOCAL, rng)
    return np.asarray(np.clip(np.concatenate((anchors, everywhere, rays, local)), 0.0, 1.0))


def around(anchors: Floats, points: int, rng: np.random.Generator) -> Floats:
    """Steps of many sizes off anchors drawn at random, (points, d), a few coordinates at a time.

    Moving few coordinates keeps what made an anchor good (Regis and Shoemaker 2013; Eriksson et al. 2019, TuRBO).
    """
    d = anchors.shape[1]
    moved = rng.random((points, d)) < MOVED / d
    moved[np.arange(points), rng.integers(d, size=points)] = True
    low, high = np.log(LOCAL_REACH)
    reach = np.exp(rng.uniform(low, high, (points, 1)))
    step = moved * reach * rng.standard_normal((points, d))
    return np.asarray(np.clip(anchors[rng.integers(len(anchors), size=points)] + step, 0.0, 1.0))


def rms_distance(a: Floats, b: Floats) -> Floats:
    """(k, b) root mean square distances over coordinates of (k, d) and (b, d) points."""
    return np.asarray(np.sqrt(((a[:, None] - b) ** 2).mean(axis=-1)))
