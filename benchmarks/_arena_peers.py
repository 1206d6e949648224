"""Peers that need nothing but numpy, each by the protocol of the arena."""

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular

from benchmarks._arena_protocol import UNKNOWN_SD, Brief, History, cautious_best, objective, room
from controller.core.goal import margins
from simulators.worlds import Floats

BOX = 0.25  # half the side of the box around the baseline that vectors are drawn from


def boxed(brief: Brief, points: int, rng: np.random.Generator) -> Floats:
    """(points, d) uniform in the box, cut at the cube."""
    return np.clip(brief.baseline + BOX * rng.uniform(-1.0, 1.0, (points, brief.d)), 0.0, 1.0)


class Random:
    """New vectors at random, uniform in a box around the baseline, in every deal."""

    def __init__(self, brief: Brief) -> None:
        self.brief, self.rng = brief, np.random.default_rng((brief.seed, 1))

    def propose(self, history: History) -> Floats:
        """(arms, d) new points of the box."""
        return boxed(self.brief, self.brief.arms, self.rng)

    def recommend(self, history: History) -> Floats | None:
        """The best measured."""
        return cautious_best(self.brief.goal, history)


class Static:
    """Fifty vectors that were drawn once; deals take them in turn, so that each gathers evidence."""

    VECTORS = 50

    def __init__(self, brief: Brief) -> None:
        self.brief, self.turn = brief, 0
        self.vectors = boxed(brief, self.VECTORS, np.random.default_rng((brief.seed, 2)))

    def propose(self, history: History) -> Floats:
        """(arms, d) the next of the fifty."""
        which = (self.turn * self.brief.arms + np.arange(self.brief.arms)) % len(self.vectors)
        self.turn += 1
        return np.asarray(self.vectors[which])

    def recommend(self, history: History) -> Floats | None:
        """The best measured."""
        return cautious_best(self.brief.goal, history)


class Coordinates:
    """Tuning by hand: one weight at a time up and down from the best so far; a round without a gain halves the step."""

    STEP, LEAST = 0.2, 0.05  # in sides of the cube
    SURE = 1.0  # standard errors that a move must gain by, and keep its guardrails by

    def __init__(self, brief: Brief) -> None:
        self.brief, self.step, self.at = brief, self.STEP, 0
        self.here, self.in_vain = brief.baseline, 0  # steps tried since the last gain

    def propose(self, history: History) -> Floats:
        """(arms, d): the point itself, and steps along the next weights."""
        if history.newest:
            self._move(history)
        unit = np.tile(self.here, (self.brief.arms, 1))
        for k in range(1, self.brief.arms):
            coordinate, sign = (self.at // 2) % self.brief.d, 1 - 2 * (self.at % 2)
            unit[k, coordinate] = np.clip(unit[k, coordinate] + sign * self.step, 0.0, 1.0)
            self.at += 1
        return unit

    def recommend(self, history: History) -> Floats | None:
        """Where it stands."""
        return self.here if (self.here != self.brief.baseline).any() else None

    def _move(self, history: History) -> None:
        last = slice(len(history.unit) - history.newest, None)
        trial = History(history.unit[last], history.change[last], history.sd[last], history.hour[last])
        (gain, gain_sd), (margin, margin_sd) = objective(self.brief.goal, trial), room(self.brief.goal, trial)
        worth = gain - gain[0] - self.SURE * np.hypot(gain_sd, gain_sd[0])
        worth[(margin - self.SURE * margin_sd < 0).any(axis=1) | ~np.isfinite(worth)] = -np.inf
        best = int(np.argmax(worth))
        self.in_vain += len(worth) - 1
        if best and worth[best] > 0:
            self.here, self.in_vain = trial.unit[best], 0
        elif self.in_vain >= 2 * self.brief.d:
            self.step, self.in_vain = max(self.step / 2, self.LEAST), 0


class HyperZeroLike:
    """After public descriptions of HyperZero (Cai et al. 2025, arXiv 2501.18126); not its authors' code.

    What is described: hourly metric deltas against control, one Gaussian process per metric, Thompson sampling under
    constraints, many arms in parallel. What is ours: a squared-exponential kernel of fixed lengthscale, scales from
    the data, a random net of candidates, the pick by posterior mean.
    """

    LENGTHSCALE = 0.35  # times sqrt(d), in sides of the unit cube
    NET = 300
    NEWEST = 300  # rows that the processes see

    def __init__(self, brief: Brief) -> None:
        self.brief, self.rng = brief, np.random.default_rng((brief.seed, 3))

    def propose(self, history: History) -> Floats:
        """(arms, d): for each arm one joint draw and the best candidate in it, which no arm before took."""
        known = self._known(history)
        if not len(known.unit):
            return boxed(self.brief, self.brief.arms, self.rng)
        net = self._net(known)
        draws = self._draws(known, net, self.brief.arms)  # (arms, M, k)
        chosen: list[int] = []
        for f in draws:
            order = self._order(f)
            chosen.append(next(int(i) for i in order if int(i) not in chosen))
        return np.asarray(net[chosen])

    def recommend(self, history: History) -> Floats | None:
        """The tried vector whose posterior mean is best, inside the guardrails."""
        known = self._known(history)
        if not len(known.unit):
            return None
        mean = self._posterior(known, known.unit)[0]
        best = int(self._order(mean)[0])
        kept = (margins(self.brief.goal, mean)[:, best] >= 0).all()
        return known.unit[best] if kept and np.array(self.brief.goal.objective) @ mean[:, best] > 0 else None

    def _known(self, history: History) -> History:
        pooled = history.pooled()
        return History(*(getattr(pooled, name)[-self.NEWEST :] for name in ("unit", "change", "sd", "hour")))

    def _net(self, known: History) -> Floats:
        """Candidates: everywhere, in the box, and near vectors that were tried."""
        anchors = known.unit[self._order(known.change.T)[:5]]
        near = anchors[self.rng.integers(len(anchors), size=self.NET)]
        near = near + 0.1 * self.rng.standard_normal(near.shape)
        return np.clip(np.concatenate((boxed(self.brief, self.NET // 2, self.rng), near)), 0.0, 1.0)

    def _order(self, f: Floats) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        """Indices of candidates with changes (M, k): the feasible by gain, then by how little they violate."""
        violation = np.maximum(-margins(self.brief.goal, f), 0.0).sum(axis=0)
        return np.asarray(np.lexsort((-(np.array(self.brief.goal.objective) @ f), violation)))

    def _draws(self, known: History, net: Floats, draws: int) -> Floats:
        mean, covariance = self._posterior(known, net)
        jitter = 1e-9 * np.eye(len(net))
        roots = [np.linalg.cholesky(c + max(1e-12, float(np.trace(c))) * jitter) for c in covariance]
        noise = self.rng.standard_normal((draws, len(mean), len(net)))
        return np.stack([mean[m] + noise[:, m] @ roots[m].T for m in range(len(mean))], axis=1)

    def _posterior(self, known: History, net: Floats) -> tuple[Floats, list[Floats]]:
        """Means (M, k) and covariances, M of (k, k), of every metric's process."""
        mean, covariance = [], []
        for y, sd in zip(known.change.T, known.sd.T, strict=True):
            told = sd < UNKNOWN_SD  # of other rows nothing is known yet, and so nothing of how much the metric moves
            scale = max(float((y[told] ** 2 - sd[told] ** 2).sum()) / max(int(told.sum()), 1), 1e-4)
            K = scale * self._kernel(known.unit, known.unit) + np.diag(sd**2 + 1e-9)
            cross, L = scale * self._kernel(known.unit, net), cholesky(K, lower=True)
            V = solve_triangular(L, cross, lower=True)
            mean.append(cross.T @ cho_solve((L, True), y))
            covariance.append(scale * self._kernel(net, net) - V.T @ V)
        return np.array(mean), covariance

    def _kernel(self, a: Floats, b: Floats) -> Floats:
        squared = ((a[:, None] - b) ** 2).sum(axis=-1) / (self.LENGTHSCALE**2 * self.brief.d)
        return np.asarray(np.exp(-squared / 2))
