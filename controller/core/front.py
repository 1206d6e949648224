"""The best trade-offs between several objectives: what an operator can choose from.

| symbol | shape | meaning |
|---|---|---|
| K, M, T | | objectives, metrics, trade-offs looked at |
| G', d, k | | groups with weights of their own, free weights, candidate points of a group |
| C | (K, M) | coefficients of each objective |
| lambda | (T, K) | trade-offs: a vector is the best for one when no other has a larger sum of lambda x objective |

Each trade-off is an objective like any other, so its best vector is found as `policy.recommend` finds one: cautious,
and probably inside every guardrail. All share one pool of candidates, searched around the best of each. lambda runs
over a simplex lattice (Das and Dennis 1998, "Normal-boundary intersection", section 4), each objective in units of the
most that it can gain. What no trade-off prefers, a dent of the front, is left out: no objective keeps a study there.
"""

import itertools

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.core import policy
from controller.core.candidates import around, rms_distance
from controller.core.goal import Goal, p_kept
from controller.core.kernel import Floats
from controller.core.posterior import Posterior

MOST = 12  # points that are offered
LATTICE = 40  # trade-offs looked at, at most
EDGE = 0.01  # least part of a trade-off that an objective has: a tie in the others is not decided by luck
ROUNDS, ROUND_POINTS = 5, 240  # of local search


class Point(msgspec.Struct, frozen=True, eq=False):
    """A vector that is the best for some trade-off; what is expected of it, over all groups."""

    unit: Floats  # (G', d)
    mean: Floats  # (K,)
    sd: Floats  # (K,)
    p_feasible: float  # every guardrail is kept in every group
    trade: Floats  # (K,) lambda; adds up to 1


class Question(msgspec.Struct, frozen=True, eq=False):
    """What is asked of the posterior."""

    posterior: Posterior
    goal: Goal  # its limits
    objectives: Floats  # (K, M) C
    groups: tuple[int, ...]  # G'
    hour: float
    shares: Floats  # (M, G') what each group makes of each metric; the rest to 1 keeps the baseline

    def parts(self, j: int) -> Floats:
        """(K, M) coefficients of what group j adds to each objective."""
        return np.asarray(self.objectives * self.shares[:, j])


class _Pool(msgspec.Struct, frozen=True, eq=False):
    """Candidates of one group, the baseline first, and what is believed of them."""

    unit: Floats  # (k, d)
    mean: Floats  # (M, k)
    sd: Floats  # (M, k)


def front(asked: Question, candidates: Floats, banned: Floats, rng: np.random.Generator) -> tuple[Point, ...]:
    """At most `MOST` vectors, none better than another in every objective, by the first objective's gain.

    Args:
        asked: the posterior and what is asked of it.
        candidates: (k, G', d) vectors dealt earlier.
        banned: (b, G', d) vectors that none may come near, in each group to that group's point.
        rng: the search's randomness.
    """
    base = asked.posterior.baseline
    pools = []
    for j, group in enumerate(asked.groups):
        known = policy.apart(policy.distinct(candidates[:, j]), base, banned[:, j])
        near = policy.apart(around(base[None], ROUND_POINTS, rng), base, banned[:, j])
        unit = np.concatenate((base[None], known, near))
        pools.append(_pool(asked, group, unit))
    for _ in range(ROUNDS):
        trades = _trades(asked, pools)
        for j, group in enumerate(asked.groups):
            best = np.unique(_best(asked, j, pools[j], trades))
            near = policy.apart(around(pools[j].unit[best], ROUND_POINTS, rng), base, banned[:, j])
            pools[j] = _joined(pools[j], _pool(asked, group, near))
    trades = _trades(asked, pools)
    chosen = np.stack([_best(asked, j, pool, trades) for j, pool in enumerate(pools)], axis=1)  # (T, G')
    _, first = np.unique(chosen, axis=0, return_index=True)
    points = [_point(asked, pools, chosen[t], trades[t]) for t in sorted(first) if chosen[t].any()]
    return _spread([point for point in points if point is not None], _least(asked))


def valued(asked: Question, unit: Floats) -> tuple[Floats, Floats, float]:
    """Mean and standard deviation, (K,) each, of the objectives at a vector (G', d), and P(every guardrail is kept)."""
    pools = [_pool(asked, group, unit[[j]]) for j, group in enumerate(asked.groups)]
    return _valued(asked, pools, np.zeros(len(pools), np.int64))


def undominated(values: Floats) -> NDArray[np.bool_]:
    """(n,) whether no other row of (n, K) is at least as large in every column and larger in one."""
    no_less = (values[:, None] >= values).all(axis=2)  # [i, j]: i is at least j everywhere
    return np.asarray(~(no_less & (values[:, None] > values).any(axis=2)).any(axis=0))


def lattice(objectives: int) -> Floats:
    """(T, K) trade-offs spread evenly over the simplex, T at most `LATTICE`, none below `EDGE`."""
    steps = max(h for h in range(1, LATTICE) if _compositions(h, objectives) <= LATTICE or h == 1)
    bars = np.array(list(itertools.combinations(range(steps + objectives - 1), objectives - 1)), np.int64)  # in a row
    parts = np.diff(bars, axis=1, prepend=-1, append=steps + objectives - 1) - 1  # steps between two bars
    return np.asarray(EDGE + (1.0 - objectives * EDGE) * parts / steps)


def _compositions(steps: int, objectives: int) -> int:
    """How many points a lattice of so many steps has: C(steps + K - 1, K - 1)."""
    count = 1
    for i in range(1, objectives):
        count = count * (steps + i) // i
    return count


def _pool(asked: Question, group: int, unit: Floats) -> _Pool:
    return _Pool(unit, *asked.posterior.mean_sd(unit, group, asked.hour, policy.AHEAD_H))


def _joined(a: _Pool, b: _Pool) -> _Pool:
    return _Pool(
        np.concatenate((a.unit, b.unit)),
        np.concatenate((a.mean, b.mean), axis=1),
        np.concatenate((a.sd, b.sd), axis=1),
    )


def _trades(asked: Question, pools: list[_Pool]) -> Floats:
    """(T, K) lambda: the lattice, each objective in units of the most that its feasible candidates gain."""
    reach = np.zeros(len(asked.objectives))
    for j, pool in enumerate(pools):
        feasible = p_kept(asked.goal, pool.mean, pool.sd) >= policy.least(len(pools))
        reach += (asked.parts(j) @ pool.mean[:, feasible]).max(axis=1, initial=0.0)
    trades = lattice(len(reach)) / np.maximum(reach, _least(asked))
    return np.asarray(trades / trades.sum(axis=1, keepdims=True))


def _least(asked: Question) -> Floats:
    """(K,) gains of the objectives that are not worth a rollout, each in its own unit."""
    return np.asarray(policy.MIN_GAIN * np.abs(asked.objectives).sum(axis=1))


def _best(asked: Question, j: int, pool: _Pool, trades: Floats) -> NDArray[np.intp]:
    """(T,) the best candidate of group j for each trade-off; 0, the baseline, where none is worth a rollout."""
    found = np.zeros(len(trades), np.intp)
    for t, trade in enumerate(trades):
        coefficient = trade @ asked.parts(j)
        goal = Goal(tuple(coefficient), asked.goal.limits)
        worth = policy.worth(goal, pool.mean, pool.sd, policy.least(len(asked.groups)))
        best = int(np.argmax(worth))
        found[t] = best if worth[best] >= policy.MIN_GAIN * np.abs(coefficient).sum() else 0
    return found


def _point(asked: Question, pools: list[_Pool], chosen: NDArray[np.intp], trade: Floats) -> Point | None:
    """The vector of each group's choice; None where a group keeps a baseline that is not feasible."""
    feasible = [
        p_kept(asked.goal, pool.mean[:, [i]], pool.sd[:, [i]])[0] for pool, i in zip(pools, chosen, strict=True)
    ]
    if min(feasible) < policy.least(len(pools)):
        return None
    unit = np.stack([pool.unit[i] for pool, i in zip(pools, chosen, strict=True)])
    return Point(unit, *_valued(asked, pools, chosen), trade)


def _valued(asked: Question, pools: list[_Pool], chosen: NDArray[np.integer]) -> tuple[Floats, Floats, float]:
    mean, feasible = np.zeros(len(asked.objectives)), 1.0
    for j, (pool, i) in enumerate(zip(pools, chosen, strict=True)):
        mean += asked.parts(j) @ pool.mean[:, i]
        feasible *= float(p_kept(asked.goal, pool.mean[:, [i]], pool.sd[:, [i]])[0])
    unit, groups = np.stack([pool.unit[i] for pool, i in zip(pools, chosen, strict=True)]), np.array(asked.groups)
    sd = [
        asked.posterior.sum_sd(own[:, None] * asked.shares, unit, groups, asked.hour, policy.AHEAD_H)
        for own in asked.objectives
    ]
    return mean, np.array(sd), feasible


def _spread(points: list[Point], least: Floats) -> tuple[Point, ...]:
    """At most `MOST` of the undominated: the best in each objective, then those farthest from the ones taken.

    `least`: (K,) what an objective must differ by for that to count as far.
    """
    if not points:
        return ()
    values = np.stack([point.mean for point in points])
    points = [point for point, kept in zip(points, undominated(values), strict=True) if kept]
    values = np.stack([point.mean for point in points])
    values = values / np.maximum(np.ptp(values, axis=0), least)
    taken = list(dict.fromkeys(int(i) for i in values.argmax(axis=0)))[:MOST]
    while len(taken) < min(MOST, len(points)):
        taken.append(int(rms_distance(values, values[taken]).min(axis=1).argmax()))
    return tuple(sorted((points[i] for i in taken), key=lambda point: -point.mean[0]))
