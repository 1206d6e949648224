"""A bad hour must not move the optimum: a deal that the others contradict, alone, is set aside.

| symbol | shape | meaning |
|---|---|---|
| M, D, n, n_b | | metrics; deals; rows; rows of deal b |
| E_b, P | (n_b, n_b), (n, n) | a deal's noise; (K + E)^-1 (`posterior`) |
| r_b, S_b | (n_b,), (n_b, n_b) | what a deal says beyond what all others foretell, and the covariance of that |

Each deal's noise is a scale mixture of normals, E_b / w with w one of `LEVELS` (West 1987, "On scale mixtures of
normal distributions"; a Student-t has a gamma in place of the few levels, and gives up information where nothing is
wrong). With a = P y (Rasmussen and Williams 2006, 5.4.2, by blocks)

    r_b = P_bb^-1 a_b,   S_b = P_bb^-1                                                            (6)
    P(w | y) ~ P(w) N(r_b; 0, S_b + (1/w - 1) E_b)                                                (7)

and P(w < 1 | y) is how bad the deal is. Two bad deals in a row are no bad hour but a change of the world (`jump`):
neither is set aside. A test's one deal lasts for many windows: an hour bad enough to spoil their sum spoils it all.
"""

import numpy as np
from numpy.typing import NDArray

from controller.core.kernel import Floats, Hyper, Places, kernel
from controller.core.learn import inverse_of
from controller.core.posterior import NUGGET, Observations

LEVELS = np.array([1.0, 0.1, 0.01, 0.001])  # w: noise as said, or 3, 10, 30 times as large
PRIOR = np.array([0.97, 0.01, 0.01, 0.01])  # one bad hour in 33
ASIDE = 0.001  # weight of a deal that is surely bad: why it is, and how far that reaches, nobody knows
SUSPECT = 0.5  # badness from which on a deal is set aside before its neighbours are judged again
MIN_DEALS = 3  # fewer say nothing of each other


def discounted(observations: Observations, baseline: Floats, hypers: tuple[Hyper, ...]) -> Observations:
    """The observations, the noise of every lone bad deal so large that it says nothing."""
    deals = rows_of_deals(observations)
    if len(deals) < MIN_DEALS:
        return observations
    told = [precision(observations, baseline, hypers, m) for m in range(len(hypers))]
    bad = np.array([badness(observations, deals, m, *own) for m, own in enumerate(told)])
    aside = np.where((bad > SUSPECT) & _peaks(bad), ASIDE, 1.0)
    without = inflated(observations, deals, aside)
    for m in np.flatnonzero((aside < 1.0).any(axis=1)):  # a bad hour makes its neighbours look bad too
        rows = np.concatenate([rows for rows, weight in zip(deals, aside[m], strict=True) if weight < 1.0])
        own = with_noise(*told[m], rows, (without.noise[m] - observations.noise[m])[np.ix_(rows, rows)])
        bad[m] = badness(without, deals, int(m), *own, aside[m])
    return inflated(observations, deals, 1.0 - _lone(bad) * (1.0 - ASIDE))


def precision(observations: Observations, baseline: Floats, hypers: tuple[Hyper, ...], m: int) -> tuple[Floats, Floats]:
    """P and a = P y of metric m."""
    o = observations
    places = Places(o.unit, o.group, o.hour)
    C = kernel(hypers[m], baseline, places, places) + o.noise[m]
    C[np.diag_indices(o.rows)] += NUGGET
    P, a, _ = inverse_of(C, o.change[m])
    return P, a


def with_noise(P: Floats, a: Floats, rows: NDArray[np.int64], more: Floats) -> tuple[Floats, Floats]:
    """P and a where rows (r,) have the covariance (r, r) more: Woodbury's identity, for a few rows of many."""
    gain = np.linalg.solve(np.eye(len(rows)) + more @ P[np.ix_(rows, rows)], more)
    return P - P[:, rows] @ gain @ P[rows], a - P[:, rows] @ (gain @ a[rows])


def rows_of_deals(observations: Observations) -> list[NDArray[np.int64]]:
    """The rows of each deal, oldest first."""
    hours, deal = np.unique(observations.hour, return_inverse=True)
    return [np.flatnonzero(deal == b) for b in range(len(hours))]


def inflated(observations: Observations, deals: list[NDArray[np.int64]], weights: Floats) -> Observations:
    """The observations with the noise of deals divided by weights (M, D)."""
    if (weights == 1.0).all():
        return observations
    o, root = observations, np.ones(observations.change.shape)
    for b, rows in enumerate(deals):
        root[:, rows] = 1.0 / np.sqrt(weights[:, b, None])
    return Observations(o.unit, o.group, o.hour, o.change, o.noise * root[:, :, None] * root[:, None, :])


def badness(
    observations: Observations,
    deals: list[NDArray[np.int64]],
    m: int,
    P: Floats,
    a: Floats,
    weights: Floats | None = None,
) -> Floats:
    """(D,) P(w < 1 | y) of metric m by (7); the deals' noise is divided by `weights` (D,) already, where given."""
    noise, bad = observations.noise[m], np.empty(len(deals))
    for b, rows in enumerate(deals):
        S = np.asarray(np.linalg.inv(P[np.ix_(rows, rows)]))
        stands = 1.0 if weights is None else 1.0 / float(weights[b])
        bad[b] = 1.0 - _mixture(np.asarray(S @ a[rows]), S, noise[np.ix_(rows, rows)] / stands, stands)[0]
    return bad


def _mixture(r: Floats, S: Floats, own: Floats, inflation: float) -> Floats:
    """P(w | y) over `LEVELS` (7); S holds own x inflation already."""
    covariance = S + (1.0 / LEVELS - inflation)[:, None, None] * own
    half_log_det = 0.5 * np.linalg.slogdet(covariance)[1]
    chi2 = np.linalg.solve(covariance, np.broadcast_to(r[:, None], (len(LEVELS), len(r), 1)))[..., 0] @ r
    log_posterior = np.log(PRIOR) - half_log_det - 0.5 * chi2
    density = np.exp(log_posterior - log_posterior.max())
    return np.asarray(density / density.sum())


def _peaks(bad: Floats) -> NDArray[np.bool_]:
    """(M, D) whether no neighbour of a deal is worse."""
    padded = np.pad(bad, ((0, 0), (1, 1)), constant_values=-np.inf)
    return np.asarray((bad >= padded[:, :-2]) & (bad >= padded[:, 2:]))


def _lone(bad: Floats) -> Floats:
    """(M, D) P(a deal is bad and its neighbours are not)."""
    fine = np.pad(1.0 - bad, ((0, 0), (1, 1)), constant_values=1.0)
    return np.asarray(bad * fine[:, :-2] * fine[:, 2:])
