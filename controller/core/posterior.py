"""What the study believes: for every metric an exact Gaussian process over weights x group x time.

| symbol | shape | meaning |
|---|---|---|
| M, P | | metrics; processes, of which one, or the product of some, is a metric (`parts`) |
| n, k, d | | observed rows (an arm of a deal in a group), new points, free weights |
| y, E | (P, n), (P, n, n) | relative changes against control; their covariance, block diagonal by deal |
| K, L, w | (n, n), (n, n), (n,) | prior covariance (`kernel`); K + E = L L', L lower triangular; w = L^-1 y |
| V | (n, k) | L^-1 K(rows, new) |

At new points a process has the mean V'w and the covariance K(new, new) - V'V (Rasmussen and Williams 2006,
"Gaussian processes for machine learning", algorithm 2.1). A metric is the product of its factors, 1 + f each, less 1;
their processes are independent.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from controller.core.kernel import EVEN, Floats, Hyper, Jump, Places, fading, kept, kernel, to_baseline, turning
from controller.core.learn import RESPONSE, Problem, Scale, best, expected, pack, risen, unpack

NUGGET = 1e-8  # variance (a change of 0.01 %) added to E: deals without noise stay factorable
DRAW_JITTER = 1e-9  # of s^2, added to a covariance that is drawn from; near-identical points need it
FIT_ROWS = 300  # a fit costs rows^3; beyond this it uses whole deals spread evenly over the study
COLD_STEPS, WARM_STEPS = 30, 8  # iterations of a fit without and with hyperparameters to start from


class Observations(msgspec.Struct, frozen=True, eq=False):
    """Rows that the posterior is conditioned on: deals one after the other, their noise independent."""

    unit: Floats  # (n, d)
    group: NDArray[np.int64]  # (n,) 0 = all traffic, k = segment k
    hour: Floats  # (n,)
    change: Floats  # (P, n)
    noise: Floats  # (P, n, n)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.unit)


class Posterior(msgspec.Struct, frozen=True, eq=False):
    """The processes of all metrics, given the observations."""

    baseline: Floats  # (d,) u0
    hypers: tuple[Hyper, ...]  # P
    seen: Places  # n
    lower: tuple[Floats, ...]  # P of (n, n): L
    whitened: tuple[Floats, ...]  # P of (n,): w
    factors: tuple[tuple[int, ...], ...]  # M: the processes whose product each metric is
    traffic: tuple[float, ...] = EVEN  # of a span that is asked about, by its parts (`kernel.Places`)

    @property
    def rows(self) -> int:
        """How many rows it has seen."""
        return len(self.seen.unit)

    def mean(self, unit: Floats, group: int | NDArray[np.int64], hour: float, span_h: float = 0.0) -> Floats:
        """Mean, (M, k), at (k, d) points: O(n k), where the standard deviation costs O(n^2 k).

        `span_h`: what is meant is the mean over so many hours from `hour` on, weighted by `traffic`.
        """
        new, mean = self.places(unit, group, hour, span_h), np.empty((len(self.hypers), len(unit)))
        for m, hyper in enumerate(self.hypers):
            weights = solve_triangular(self.lower[m], self.whitened[m], trans="T", lower=True, check_finite=False)
            mean[m] = kernel(hyper, self.baseline, new, self.seen) @ weights
        return self.product(mean)

    def places(self, unit: Floats, group: int | NDArray[np.int64], hour: float, span_h: float) -> Places:
        """(k, d) points at one time, or in the mean over one span."""
        groups = np.broadcast_to(np.asarray(group, dtype=np.int64), len(unit))
        return Places(unit, groups, np.full(len(unit), hour), span_h, self.traffic)

    def only(self, metrics: list[int]) -> "Posterior":
        """The same belief of some of the metrics, in that order."""
        needed = sorted({p for m in metrics for p in self.factors[m]})
        return msgspec.structs.replace(
            self,
            hypers=tuple(self.hypers[p] for p in needed),
            lower=tuple(self.lower[p] for p in needed),
            whitened=tuple(self.whitened[p] for p in needed),
            factors=tuple(tuple(needed.index(p) for p in self.factors[m]) for m in metrics),
        )

    def mean_sd(
        self, unit: Floats, group: int | NDArray[np.int64], hour: float, span_h: float = 0.0
    ) -> tuple[Floats, Floats]:
        """Mean and standard deviation, (M, k) each, of the true change at (k, d) points; `span_h` as in `mean`."""
        return self.marginals(self.told(unit, group, hour, span_h))

    def told(self, unit: Floats, group: int | NDArray[np.int64], hour: float, span_h: float = 0.0) -> "Told":
        """What the rows say of (k, d) points, for `marginals` and `further`; `span_h` as in `mean`."""
        new = self.places(unit, group, hour, span_h)
        mean, projected = np.empty((len(self.hypers), len(unit))), []
        for m in range(len(self.hypers)):
            mean[m], V = self.project(m, new)
            projected.append(V)
        return Told(new, mean, tuple(projected))

    def marginals(self, told: "Told") -> tuple[Floats, Floats]:
        """Mean and standard deviation, (M, k) each, of the true change at the points."""
        new, sd = told.places, np.empty_like(told.mean)
        for m, (hyper, V) in enumerate(zip(self.hypers, told.projected, strict=True)):
            prior = hyper.scale**2 * (1.0 - to_baseline(hyper, self.baseline, new.unit) ** 2) * _itself(hyper, new)
            sd[m] = np.sqrt(np.maximum(prior - np.einsum("nk,nk->k", V, V), 0.0))
        return self.product(told.mean), self._product_sd(told.mean, sd)

    def sum_sd(
        self, weights: Floats, unit: Floats, groups: NDArray[np.int64], hour: float, span_h: float = 0.0
    ) -> float:
        """Standard deviation of the sum of weights (M, k) x changes at (k, d) points, each of its group (k,).

        To first order, with what the points have in common, and metrics that share a process; `span_h` as in `mean`.
        """
        told = self.told(unit, groups, hour, span_h)
        new, mean = told.places, told.mean
        slope = np.zeros_like(mean)  # of the sum, by each process at each point
        for own, factors, changed in zip(weights, self.factors, 1.0 + self.product(mean), strict=True):
            slope[list(factors)] += own * changed / (1.0 + mean[list(factors)])
        variance = 0.0
        for p, hyper in enumerate(self.hypers):
            V = told.projected[p]
            variance += float(slope[p] @ (kernel(hyper, self.baseline, new, new) - V.T @ V) @ slope[p])
        return float(np.sqrt(max(variance, 0.0)))

    def draw(
        self,
        unit: Floats,
        group: int,
        hour: float,
        rng: np.random.Generator,
        draws: int,
        span_h: float = 0.0,
    ) -> Floats:
        """Joint samples, (draws, M, k), of the true changes at (k, d) points; `span_h` as in `mean`."""
        return further(paths(self, draws), self.told(unit, group, hour, span_h), rng)[1]

    def product(self, f: Floats) -> Floats:
        """(..., M, k) changes of the metrics from those of the processes, (..., P, k)."""
        changes = np.empty((*f.shape[:-2], len(self.factors), f.shape[-1]))
        for m, own in enumerate(self.factors):
            changes[..., m, :] = np.prod(1.0 + f[..., list(own), :], axis=-2) - 1.0
        return changes

    def _product_sd(self, mean: Floats, sd: Floats) -> Floats:
        """(M, k) standard deviations of the products, to first order."""
        relative, found = (sd / (1.0 + mean)) ** 2, np.empty((len(self.factors), mean.shape[1]))
        for m, own in enumerate(self.factors):
            found[m] = np.abs(np.prod(1.0 + mean[list(own)], axis=0)) * np.sqrt(relative[list(own)].sum(axis=0))
        return found

    def project(self, m: int, new: Places) -> tuple[Floats, Floats]:
        """Mean (k,) and V (n, k) of process m."""
        cross = kernel(self.hypers[m], self.baseline, new, self.seen).T  # by columns, so that it is solved in place
        V = solve_triangular(self.lower[m], cross, lower=True, overwrite_b=True, check_finite=False)
        return V.T @ self.whitened[m], V


class Told(msgspec.Struct, frozen=True, eq=False):
    """What the rows say of k points."""

    places: Places
    mean: Floats  # (P, k)
    projected: tuple[Floats, ...]  # P of (n, k): V

    def only(self, points: NDArray[np.intp]) -> "Told":
        """The same of some of the points (indices)."""
        p = self.places
        places = Places(p.unit[points], p.group[points], p.hour[points], p.span_h, p.traffic)
        return Told(places, self.mean[:, points], tuple(V[:, points] for V in self.projected))

    def joined(self, more: "Told") -> "Told":
        """The same of other points too, which are asked about over the same span."""
        a, b = self.places, more.places
        places = Places(
            np.concatenate((a.unit, b.unit)),
            np.concatenate((a.group, b.group)),
            np.concatenate((a.hour, b.hour)),
            b.span_h,
            b.traffic,
        )
        projected = tuple(np.concatenate(both, axis=1) for both in zip(self.projected, more.projected, strict=True))
        return Told(places, np.concatenate((self.mean, more.mean), axis=1), projected)


class Paths(msgspec.Struct, frozen=True, eq=False):
    """Joint draws of all processes, made at some points so far; `further` goes on with the same draws at others."""

    posterior: Posterior
    told: Told  # of the k points where they are known
    innovations: Floats  # (draws, P, k) standard normal
    roots: tuple[Floats, ...]  # P of (k, k), lower triangular, of the covariance there


def paths(posterior: Posterior, draws: int) -> Paths:
    """Draws that are known nowhere yet."""
    processes = len(posterior.hypers)
    nowhere = posterior.told(np.empty((0, len(posterior.baseline))), 0, 0.0)
    return Paths(posterior, nowhere, np.empty((draws, processes, 0)), (np.empty((0, 0)),) * processes)


def further(known: Paths, told: Told, rng: np.random.Generator) -> tuple[Paths, Floats]:
    """The draws with k' points more, and the metrics' changes there, (draws, M, k').

    The root of the covariance grows by rows, so what was drawn before stays, and all of it is one joint draw.
    """
    posterior, draws = known.posterior, len(known.innovations)
    old, new = known.told.places, told.places
    fresh = rng.standard_normal((draws, len(posterior.hypers), len(new.unit)))
    f, roots = np.empty_like(fresh), []
    for m, hyper in enumerate(posterior.hypers):
        V, before, root = told.projected[m], known.told.projected[m], known.roots[m]
        across = kernel(hyper, posterior.baseline, old, new) - before.T @ V
        B = solve_triangular(root, across, lower=True, check_finite=False) if len(root) else across
        own = _root(kernel(hyper, posterior.baseline, new, new) - V.T @ V - B.T @ B, hyper.scale**2)
        f[:, m] = told.mean[m] + known.innovations[:, m] @ B + fresh[:, m] @ own.T
        roots.append(np.block([[root, np.zeros_like(B)], [B.T, own]]))
    innovations = np.concatenate((known.innovations, fresh), axis=2)
    return Paths(posterior, known.told.joined(told), innovations, tuple(roots)), posterior.product(f)


def fit(
    observations: Observations,
    baseline: Floats,
    previous: tuple[Hyper, ...] | None = None,
    scales: tuple[Scale, ...] | None = None,
    due: Sequence[bool] | None = None,
) -> tuple[Hyper, ...]:
    """Hyperparameters (P) at a local maximum of each process's posterior density.

    Starts from `previous` where that has the study's shape, and is then never worse than it on these
    observations (beyond `FIT_ROWS`: on those that `thin` keeps). `scales`: priors of s, by default all `RESPONSE`.
    `due`: the processes to fit, by default all; the others keep what they start from.
    """
    rows = thin(observations, FIT_ROWS)
    scales = (RESPONSE,) * len(observations.change) if scales is None else scales
    found = list(start(baseline, scales, previous))
    steps = WARM_STEPS if tuple(found) == previous else COLD_STEPS
    for m in np.flatnonzero(np.ones(len(scales)) if due is None else due):
        data = problem(rows, baseline, int(m), scales[m], found[m].jumps)
        found[m] = msgspec.structs.replace(best(data, pack(found[m]), steps), jumps=found[m].jumps)
    return tuple(found)


def unfitted(
    observations: Observations,
    baseline: Floats,
    begin: tuple[Hyper, ...],
    scales: tuple[Scale, ...],
    few: dict[int, NDArray[np.intp]],
) -> tuple[Hyper, ...]:
    """`begin` (P); but of processes that have too few rows for a fit the prior, s larger where these say so.

    `few`: of each such process the rows (indices) that say anything of it. Raises `LinAlgError` as `condition`.
    """
    found = list(begin)
    for m, rows in few.items():
        data = problem(select(observations, rows), baseline, m, scales[m], begin[m].jumps)
        found[m] = msgspec.structs.replace(risen(data), jumps=begin[m].jumps)
    return tuple(found)


def start(baseline: Floats, scales: tuple[Scale, ...], previous: tuple[Hyper, ...] | None) -> tuple[Hyper, ...]:
    """`previous` where it has the study's shape, else the prior."""
    fits = (
        previous is not None
        and len(previous) == len(scales)
        and {len(h.lengthscale) for h in previous} <= {len(baseline)}
    )
    return previous if previous is not None and fits else prior(len(baseline), scales)


def prior(d: int, scales: tuple[Scale, ...]) -> tuple[Hyper, ...]:
    """Hyperparameters before any observation: the prior's medians, but for s the root of its mean square."""
    return tuple(unpack(expected(d, scale)) for scale in scales)


def condition(
    observations: Observations,
    baseline: Floats,
    hypers: tuple[Hyper, ...],
    factors: tuple[tuple[int, ...], ...] | None = None,
) -> Posterior:
    """The posterior given all observations; `factors`: by default each process is a metric.

    Raises `LinAlgError` when noise is no covariance.
    """
    d, processes = len(baseline), len(hypers)
    nowhere = Places(np.empty((0, d)), np.empty(0, dtype=np.int64), np.empty(0))
    nothing, unsaid = (np.empty((0, 0)),) * processes, (np.empty(0),) * processes
    whole = tuple((p,) for p in range(processes)) if factors is None else factors
    return extend(Posterior(baseline, hypers, nowhere, nothing, unsaid, whole), observations)


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
    return msgspec.structs.replace(posterior, seen=places, lower=tuple(lower), whitened=tuple(whitened))


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


def problem(
    observations: Observations, baseline: Floats, m: int, scale: Scale = RESPONSE, jumps: tuple[Jump, ...] = ()
) -> Problem:
    """The rows of process m, prepared for `objective`."""
    o = observations
    (hour, group), cell = np.unique(np.stack((o.hour, o.group)), axis=1, return_inverse=True)
    same = (group[:, None] == group).astype(np.float64)
    lag = np.abs(hour[:, None] - hour)
    noise = o.noise[m] + NUGGET * np.eye(o.rows)
    lasting = kept(jumps, hour, hour)
    return Problem(o.unit - baseline, cell.ravel(), same, lag, 1.0 - turning(lag), lasting, o.change[m], noise, scale)


def _itself(hyper: Hyper, new: Places) -> float:
    """T of places, which share their hour and span, with themselves: below 1 for the mean over a span."""
    if not len(new.unit):
        return 1.0
    one = Places(new.unit[:1], new.group[:1], new.hour[:1], new.span_h, new.traffic)
    return float(fading(hyper, one, one)[0, 0])


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
