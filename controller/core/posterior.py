"""What the study believes: for every metric an exact Gaussian process over weights x group x time.

| symbol | shape | meaning |
|---|---|---|
| M, n, k, d | | metrics, observed rows (an arm of a deal in a group), new points, free weights |
| y, E | (M, n), (M, n, n) | relative changes against control; their covariance, block diagonal by deal |
| K, L, w | (n, n), (n, n), (n,) | prior covariance (`kernel`); K + E = L L', L lower triangular; w = L^-1 y |
| V | (n, k) | L^-1 K(rows, new) |

At new points the mean is V'w and the covariance K(new, new) - V'V (Rasmussen and Williams 2006,
"Gaussian processes for machine learning", algorithm 2.1).
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from controller.core.kernel import Floats, Hyper, Jump, Places, kept, kernel, to_baseline
from controller.core.learn import Problem, best, median, pack, unpack

NUGGET = 1e-8  # variance (a change of 0.01 %) added to E: deals without noise stay factorable
DRAW_JITTER = 1e-9  # of s^2, added to a covariance that is drawn from; near-identical points need it
FIT_ROWS = 300  # a fit costs rows^3; beyond this it uses whole deals spread evenly over the study
COLD_STEPS, WARM_STEPS = 30, 8  # iterations of a fit without and with hyperparameters to start from


class Observations(msgspec.Struct, frozen=True, eq=False):
    """Rows that the posterior is conditioned on: deals one after the other, their noise independent."""

    unit: Floats  # (n, d)
    group: NDArray[np.int64]  # (n,) 0 = all traffic, k = segment k
    hour: Floats  # (n,)
    change: Floats  # (M, n)
    noise: Floats  # (M, n, n)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.unit)


class Posterior(msgspec.Struct, frozen=True, eq=False):
    """The processes of all metrics, given the observations."""

    baseline: Floats  # (d,) u0
    hypers: tuple[Hyper, ...]  # M
    seen: Places  # n
    lower: tuple[Floats, ...]  # M of (n, n): L
    whitened: tuple[Floats, ...]  # M of (n,): w

    @property
    def rows(self) -> int:
        """How many rows it has seen."""
        return len(self.seen.unit)

    def mean(self, unit: Floats, group: int | NDArray[np.int64], hour: float) -> Floats:
        """Mean, (M, k), at (k, d) points: O(n k), where the standard deviation costs O(n^2 k)."""
        new, mean = _places(unit, group, hour), np.empty((len(self.hypers), len(unit)))
        for m, hyper in enumerate(self.hypers):
            weights = solve_triangular(self.lower[m], self.whitened[m], trans="T", lower=True, check_finite=False)
            mean[m] = kernel(hyper, self.baseline, new, self.seen) @ weights
        return mean

    def only(self, metrics: list[int]) -> "Posterior":
        """The processes of some of the metrics, in that order."""
        return Posterior(
            self.baseline,
            tuple(self.hypers[m] for m in metrics),
            self.seen,
            tuple(self.lower[m] for m in metrics),
            tuple(self.whitened[m] for m in metrics),
        )

    def mean_sd(self, unit: Floats, group: int | NDArray[np.int64], hour: float) -> tuple[Floats, Floats]:
        """Mean and standard deviation, (M, k) each, of the true change at (k, d) points."""
        new = _places(unit, group, hour)
        mean, sd = np.empty((2, len(self.hypers), len(unit)))
        for m, hyper in enumerate(self.hypers):
            mean[m], V = self.project(m, new)
            prior = hyper.scale**2 * (1.0 - to_baseline(hyper, self.baseline, new.unit) ** 2)
            sd[m] = np.sqrt(np.maximum(prior - np.einsum("nk,nk->k", V, V), 0.0))
        return mean, sd

    def draw(
        self, unit: Floats, group: int | NDArray[np.int64], hour: float, rng: np.random.Generator, draws: int
    ) -> Floats:
        """Joint samples, (draws, M, k), of the true changes at (k, d) points; metrics are independent."""
        new = _places(unit, group, hour)
        samples = rng.standard_normal((draws, len(self.hypers), len(unit)))
        for m, hyper in enumerate(self.hypers):
            mean, V = self.project(m, new)
            covariance = kernel(hyper, self.baseline, new, new) - V.T @ V
            samples[:, m] = mean + samples[:, m] @ _root(covariance, hyper.scale**2).T
        return samples

    def project(self, m: int, new: Places) -> tuple[Floats, Floats]:
        """Mean (k,) and V (n, k) of metric m."""
        cross = kernel(self.hypers[m], self.baseline, self.seen, new)
        V = solve_triangular(self.lower[m], cross, lower=True, check_finite=False)
        return V.T @ self.whitened[m], V


def fit(observations: Observations, baseline: Floats, previous: tuple[Hyper, ...] | None = None) -> tuple[Hyper, ...]:
    """Hyperparameters (M) at a local maximum of each metric's posterior density.

    Starts from `previous` where that has the study's shape, and is then never worse than it on these
    observations (beyond `FIT_ROWS`: on those that `thin` keeps).
    """
    rows = thin(observations, FIT_ROWS)
    begin = start(baseline, len(observations.change), previous)
    steps = WARM_STEPS if begin == previous else COLD_STEPS
    problems = [problem(rows, baseline, m, old.jumps) for m, old in enumerate(begin)]
    found = [best(data, pack(old), steps) for data, old in zip(problems, begin, strict=True)]
    return tuple(msgspec.structs.replace(new, jumps=old.jumps) for new, old in zip(found, begin, strict=True))


def start(baseline: Floats, metrics: int, previous: tuple[Hyper, ...] | None) -> tuple[Hyper, ...]:
    """`previous` where it has the study's shape, else the prior."""
    fits = (
        previous is not None and len(previous) == metrics and {len(h.lengthscale) for h in previous} <= {len(baseline)}
    )
    return previous if previous is not None and fits else prior(len(baseline), metrics)


def prior(d: int, metrics: int) -> tuple[Hyper, ...]:
    """Hyperparameters before any observation."""
    return (unpack(median(d)),) * metrics


def condition(observations: Observations, baseline: Floats, hypers: tuple[Hyper, ...]) -> Posterior:
    """The posterior given all observations. Raises `LinAlgError` when noise is no covariance."""
    d, metrics = len(baseline), len(hypers)
    nowhere = Places(np.empty((0, d)), np.empty(0, dtype=np.int64), np.empty(0))
    nothing = (np.empty((0, 0)),) * metrics
    return extend(Posterior(baseline, hypers, nowhere, nothing, (np.empty(0),) * metrics), observations)


def extend(posterior: Posterior, observations: Observations) -> Posterior:
    """Condition further on new deals: L grows by rows, so two steps give what one gives."""
    seen, new = posterior.seen, Places(observations.unit, observations.group, observations.hour)
    lower, whitened = [], []
    for m, hyper in enumerate(posterior.hypers):
        mean, V = posterior.project(m, new)
        covariance = kernel(hyper, posterior.baseline, new, new) + observations.noise[m] - V.T @ V
        covariance[np.diag_indices(len(covariance))] += NUGGET
        corner = cholesky(covariance, lower=True, check_finite=False) if len(covariance) else covariance
        rest = solve_triangular(corner, observations.change[m] - mean, lower=True, check_finite=False)
        lower.append(np.block([[posterior.lower[m], np.zeros_like(V)], [V.T, corner]]))
        whitened.append(np.concatenate((posterior.whitened[m], rest)))
    unit = np.concatenate((seen.unit, new.unit))
    group = np.concatenate((seen.group, new.group))
    places = Places(unit, group, np.concatenate((seen.hour, new.hour)))
    return Posterior(posterior.baseline, posterior.hypers, places, tuple(lower), tuple(whitened))


def join(deals: Sequence[Observations]) -> Observations:
    """Deals one after the other; noise becomes block diagonal. At least one deal."""
    rows = [deal.rows for deal in deals]
    ends = np.cumsum(rows)
    noise = np.zeros((len(deals[0].change), ends[-1], ends[-1]))
    for deal, start, end in zip(deals, ends - rows, ends, strict=True):
        noise[:, start:end, start:end] = deal.noise
    return Observations(
        np.concatenate([deal.unit for deal in deals]),
        np.concatenate([deal.group for deal in deals]),
        np.concatenate([deal.hour for deal in deals]),
        np.concatenate([deal.change for deal in deals], axis=1),
        noise,
    )


def select(observations: Observations, rows: NDArray[np.integer]) -> Observations:
    """Some of the rows (indices), with the noise they have among themselves."""
    o = observations
    noise = o.noise[:, rows[:, None], rows]
    return Observations(o.unit[rows], o.group[rows], o.hour[rows], o.change[:, rows], noise)


def thin(observations: Observations, rows: int) -> Observations:
    """At most about `rows` rows: whole deals, spread evenly over the study, the newest among them."""
    if observations.rows <= rows:
        return observations
    hours = np.unique(observations.hour)
    count = max(1, len(hours) * rows // observations.rows)
    kept = hours[np.linspace(len(hours) - 1, 0, count).round().astype(np.int64)]
    return select(observations, np.flatnonzero(np.isin(observations.hour, kept))[-rows:])


def problem(observations: Observations, baseline: Floats, m: int, jumps: tuple[Jump, ...] = ()) -> Problem:
    """The rows of metric m, prepared for `objective`."""
    o = observations
    same = (o.group[:, None] == o.group).astype(np.float64)
    noise = o.noise[m] + NUGGET * np.eye(o.rows)
    lag = np.abs(o.hour[:, None] - o.hour)
    return Problem(o.unit - baseline, same, lag, kept(jumps, o.hour, o.hour), o.change[m], noise)


def _places(unit: Floats, group: int | NDArray[np.int64], hour: float) -> Places:
    return Places(unit, np.broadcast_to(np.asarray(group, dtype=np.int64), len(unit)), np.full(len(unit), hour))


def _root(covariance: Floats, scale: float) -> Floats:
    """A lower-triangular root; the jitter rises until rounding no longer makes the matrix indefinite."""
    jitter = DRAW_JITTER * scale
    diagonal = np.diag_indices(len(covariance))
    for _ in range(6):
        covariance[diagonal] += jitter
        try:
            return np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
        except np.linalg.LinAlgError:
            jitter *= 10.0
    raise np.linalg.LinAlgError(f"posterior covariance of {len(covariance)} points is not positive definite")
