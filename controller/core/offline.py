"""What predictions made before the study, from logs or by a simulator, say of its metrics: a biased, cheaper source.

| symbol | shape | meaning |
|---|---|---|
| k, d | | vectors that were predicted for; free weights |
| y, E | (k,), (k, k) | predicted relative changes of a process; the covariance that the source claims |
| f, s | | the metric's true change (`kernel`), its scale |
| r, q | | how much of a change the source sees; how large its own mistakes are, in units of s |

    y(u) = r f(u, 0) + delta(u) + noise,   delta ~ GP(0, q^2 B),   noise ~ N(0, E)                (9)
    B = s^2 k0 + `ROUGH` diag(s^2 k0)

(Kennedy and O'Hagan 2000, "Predicting the output from a complex computer code when fast approximations are available";
Letham and Bakshy 2019, "Bayesian optimization for policy search via online-offline experimentation"). delta is
nearly as smooth as f and 0 at the baseline. The predictions stand at the study's start, so they fade like any old
evidence. Divided by r, (9) is one more deal, whose noise (q^2 B + E) / r^2 varies together: nothing else need know.

r and q are the posterior means over a grid, given what online evidence foretells of the predictions:

    P(r, q | y) ~ P(r) P(q) N(y; r m, r^2 S + q^2 B + E),   m, S: mean and covariance of f   (10)

A source that is contradicted has small r and large q: it is not listened to any more.
"""

import msgspec
import numpy as np

from controller.core.kernel import Floats, Places, kernel
from controller.core.posterior import NUGGET, Observations, Posterior, extend

SEEN = {0.25: 0.15, 0.5: 0.2, 0.75: 0.25, 1.0: 0.25, 1.5: 0.15}  # r: prior
MISTAKES = {1.0: 0.4, 2.0: 0.4, 4.0: 0.2}  # q: prior; q < 1 costs .2 of the score where a sign is wrong
ROUGH = 0.25  # of delta's variance, from vector to vector: a source may be noisier than it says
MAX_VECTORS = 100  # they stay in the posterior for ever: bounds the cost of a decision


class Prediction(msgspec.Struct, frozen=True):
    """A metric's relative change at a weight vector, as the source has it."""

    theta: tuple[float, ...]  # W
    metric: str
    change: float
    se: float


def informed(posterior: Posterior, predicted: Observations) -> Posterior:
    """The posterior given the predictions too: their `noise` is E, their rows share one group and one hour."""
    o, places = predicted, Places(predicted.unit, predicted.group, predicted.hour)
    change, noise = np.empty_like(o.change), np.empty_like(o.noise)
    for m, hyper in enumerate(posterior.hypers):
        mean, V = posterior.project(m, places)
        K = kernel(hyper, posterior.baseline, places, places)
        B = K + ROUGH * np.diag(np.diag(K))
        r, q = reliability(o.change[m], o.noise[m], mean, K - V.T @ V, B)
        change[m], noise[m] = o.change[m] / r, (q**2 * B + o.noise[m]) / r**2
    return extend(posterior, Observations(o.unit, o.group, o.hour, change, noise))


def reliability(y: Floats, E: Floats, mean: Floats, S: Floats, B: Floats) -> tuple[float, float]:
    """r and q of one metric by (10): r's posterior mean, q's geometric one."""
    grid = [(r, q) for r in SEEN for q in MISTAKES]
    log_posterior = np.empty(len(grid))
    for i, (r, q) in enumerate(grid):
        L = np.linalg.cholesky(r**2 * S + q**2 * B + E + NUGGET * np.eye(len(y)))
        z = np.linalg.solve(L, y - r * mean)
        log_posterior[i] = np.log(SEEN[r] * MISTAKES[q]) - np.log(np.diag(L)).sum() - 0.5 * z @ z
    weight = np.exp(log_posterior - log_posterior.max())
    weight /= weight.sum()
    r, log_q = weight @ np.column_stack(([r for r, _ in grid], np.log([q for _, q in grid])))
    return float(r), float(np.exp(log_q))
