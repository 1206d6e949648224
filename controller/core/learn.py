"""Hyperparameters of the posterior: maximum a posteriori, with analytic gradients.

Symbols as in `kernel` and `posterior`. One metric is free in p = (log l, log s, logit omega, log tau, logit rho):

    J(p) = 1/2 y' C^-1 y + 1/2 log |C| - log prior(p),     C = K + E                              (4)
    dJ/dp = sum_ij W_ij dK_ij/dp + prior,                  W = 1/2 (C^-1 - a a'),  a = C^-1 y     (5)

(Rasmussen and Williams 2006, equation 5.9). All priors are normal in p. Lengthscales grow with
sqrt(d) (Hvarfner, Hellsten and Nardi 2024, "Vanilla Bayesian optimization performs great in high
dimensions"), with a shorter median and a tighter spread than theirs: theirs made the belief overconfident.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from controller.core.kernel import DAILY, ROOT3, Floats, Hyper, less_outer, matern_and_slope, squared_distance

LENGTHSCALE = 0.65  # prior median, times sqrt(d)
LENGTHSCALE_SD = 0.7
DRIFT, DRIFT_SD = 0.05, 1.2  # of the variance: a standard deviation of .22 of the response
MEMORY_H, MEMORY_SD = 36.0, 0.7
POOLING, POOLING_SD = 0.8, 1.0
GRID_DIGITS = 2  # of p, which is a logarithm: far finer than what the data tell
BOUND = 3.5  # prior standard deviations that a fit may go


class Scale(msgspec.Struct, frozen=True):
    """Prior of s: a relative change far from the baseline."""

    median: float
    sd: float  # of its logarithm


RESPONSE = Scale(0.12, 0.6)  # at the end of studies of many worlds, made by hand or drawn, s is .05 to .3
EXPOSURES = Scale(0.03, 0.7)  # of how much people are shown (`parts`): hardly moved by weights, and mostly noise


class Problem(msgspec.Struct, frozen=True, eq=False):
    """One metric's rows, and what of them no parameter changes.

    All but distances hangs on the deal and the group of a row: c cells, which many rows share.
    """

    x: Floats  # (n, d) u - u0
    cell: NDArray[np.intp]  # (n,)
    same: Floats  # (c, c) [g = g']
    lag: Floats  # (c, c) |h - h'|
    turned: Floats  # (c, c) 1 - cos(2 pi lag / 24)
    kept: Floats  # (c, c) J
    y: Floats  # (n,)
    noise: Floats  # (n, n) E + nugget
    scale: Scale


def objective(p: Floats, data: Problem) -> tuple[float, Floats]:
    """J (4) up to a constant, and its gradient (5), (d + 4,)."""
    d = data.x.shape[1]
    sd = _spread(d, data.scale)
    offset = (p - median(d, data.scale)) / sd
    if not len(data.y):
        return float(0.5 * offset @ offset), offset / sd
    z, s2, tau = data.x / np.exp(p[:d]), np.exp(2.0 * p[d]), np.exp(p[d + 2])
    omega, rho = 1.0 / (1.0 + np.exp(-p[[d + 1, d + 3]]))
    k, slope = matern_and_slope(squared_distance(z, z))
    k_u0, slope_u0 = matern_and_slope((z * z).sum(axis=1))  # (n,) k(u, u0)
    k0 = less_outer(k, k_u0, k_u0)  # (2)
    r = data.lag / tau  # from here on by cell
    fallen = np.exp(-ROOT3 * r)
    moved = (1.0 - DAILY) * (1.0 - (1.0 + ROOT3 * r) * fallen) + DAILY * data.turned
    lasting = s2 * data.kept
    fade = (1.0 - omega * moved) * lasting
    pooled = rho + (1.0 - rho) * data.same
    shared = (fade * pooled)[data.cell][:, data.cell]  # (n, n)
    inverse, a, half_log_det = inverse_of(k0 * shared + data.noise, data.y)
    W = 0.5 * less_outer(inverse, a, a)
    member = (data.cell[:, None] == np.arange(len(r))).astype(np.float64)
    W0 = member.T @ (W * k0) @ member  # (c, c) sums over the rows of two cells
    WT = W0 * pooled * lasting
    gradient = np.empty(d + 4)
    gradient[:d] = _lengthscale_gradient(z, W * shared, slope, slope_u0, k_u0)
    gradient[d] = 2.0 * (W0 * fade * pooled).sum()
    gradient[d + 1] = -omega * (1.0 - omega) * (WT * moved).sum()
    gradient[d + 2] = 3.0 * (1.0 - DAILY) * omega * (WT * r * r * fallen).sum()
    gradient[d + 3] = rho * (1.0 - rho) * (W0 * fade * (1.0 - data.same)).sum()
    value = 0.5 * float(data.y @ a) + half_log_det + 0.5 * float(offset @ offset)
    return value, gradient + offset / sd


def _lengthscale_gradient(z: Floats, Wl: Floats, slope: Floats, slope_u0: Floats, k_u0: Floats) -> Floats:
    """(d,) sum_ij Wl_ij dk0_ij/dlog l_j, by `matern_and_slope` and (2)."""
    Q = Wl * slope
    pairs = 2.0 * (Q.sum(axis=1) @ (z * z) - (z * (Q @ z)).sum(axis=0))
    anchored: Floats = 2.0 * ((Wl @ k_u0) * slope_u0) @ (z * z)
    return np.asarray(pairs - anchored)


def inverse_of(C: Floats, y: Floats) -> tuple[Floats, Floats, float]:
    """C^-1, C^-1 y and 1/2 log |C|."""
    L, info = lapack.dpotrf(C.T, lower=1)  # symmetric, and in the order of columns: not copied on the way
    if info:
        raise np.linalg.LinAlgError(
            f"the noise of {len(y)} rows is no covariance: leading minor {info} is not positive"
        )
    half_log_det = float(np.log(np.diag(L)).sum())
    lower, _ = lapack.dpotri(L, lower=1, overwrite_c=1)
    inverse = lower + lower.T
    inverse[np.diag_indices(len(y))] *= 0.5
    return inverse, inverse @ y, half_log_det


def best(data: Problem, start: Floats, steps: int) -> Hyper:
    """Where L-BFGS-B leads from a start within `steps` iterations; the start itself when that is better.

    The end is put on a grid of 1 %: where an optimiser stops differs in its last digits between processors, and what
    is decided from there on should not.
    """
    from scipy.optimize import minimize  # a third of a second, which every command would take

    d = data.x.shape[1]
    middle, reach = median(d, data.scale), BOUND * _spread(d, data.scale)
    bounds = list(zip(middle - reach, middle + reach, strict=True))
    options = {"maxiter": steps, "maxfun": 2 * steps}
    end = minimize(objective, start, (data,), "L-BFGS-B", jac=True, bounds=bounds, options=options)
    rounded = np.round(end.x, GRID_DIGITS)
    return unpack(rounded if objective(rounded, data)[0] <= objective(start, data)[0] else start)


def risen(data: Problem) -> Hyper:
    """Hyperparameters of few rows: those before any, but s where it is likelier to be larger.

    The minimum of (4) over s alone, up to `BOUND`, on the grid of `best`. With s as it mostly is, changes of
    three times that would be believed far too surely, or look like a jump.
    """
    from scipy.optimize import minimize_scalar

    d = data.x.shape[1]
    begin = expected(d, data.scale)
    bounds = begin[d], median(d, data.scale)[d] + BOUND * data.scale.sd

    def with_scale(log_s: float) -> Floats:
        return np.concatenate((begin[:d], [log_s], begin[d + 1 :]))

    end = minimize_scalar(lambda log_s: objective(with_scale(log_s), data)[0], bounds=bounds, method="bounded")
    rounded = with_scale(max(np.round(end.x, GRID_DIGITS), begin[d]))
    return unpack(rounded if objective(rounded, data)[0] < objective(begin, data)[0] else begin)


def median(d: int, scale: Scale) -> Floats:
    """The prior's median of p, (d + 4,)."""
    lengthscale = np.full(d, np.log(LENGTHSCALE * np.sqrt(d)))
    return np.append(lengthscale, [np.log(scale.median), _logit(DRIFT), np.log(MEMORY_H), _logit(POOLING)])


def expected(d: int, scale: Scale) -> Floats:
    """p before any row, (d + 4,): what is not known yet varies by the mean of s^2, not by its median."""
    p = median(d, scale)
    p[d] += scale.sd**2
    return p


def _spread(d: int, scale: Scale) -> Floats:
    return np.append(np.full(d, LENGTHSCALE_SD), [scale.sd, DRIFT_SD, MEMORY_SD, POOLING_SD])


def pack(hyper: Hyper) -> Floats:
    """Hyperparameters as p."""
    rest = [np.log(hyper.scale), _logit(hyper.drift), np.log(hyper.memory_h), _logit(hyper.pooling)]
    return np.append(np.log(hyper.lengthscale), rest)


def unpack(p: Floats) -> Hyper:
    """The hyperparameters that p stands for."""
    d = len(p) - 4
    scale, drift, memory, pooling = np.exp(p[d:])
    return Hyper(
        lengthscale=tuple(float(v) for v in np.exp(p[:d])),
        scale=float(scale),
        drift=float(drift / (1.0 + drift)),
        memory_h=float(memory),
        pooling=float(pooling / (1.0 + pooling)),
    )


def _logit(p: float) -> float:
    return float(np.log(p / (1.0 - p)))
