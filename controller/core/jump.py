"""When the world has changed at once: old deals then say less of the metrics that changed, at once.

| symbol | shape | meaning |
|---|---|---|
| M, n | | metrics; rows, of which the first i are before the hour t and the others after it |
| L, w | (n, n), (n,) | of the posterior without the jump: K + E = L L', L w = y (`posterior`) |
| c | | correlation of what is before t with what is after it (`kernel`): 1 is no jump |

What is before t is as likely under any c. What is after it has, given what is before it, the density

    N(y_2; c L_21 w_1, L_22 L_22' + (1 - c^2) L_21 L_21')                                        (8)

so one factorisation judges all t and c. A jump at t changes a metric with probability `AFFECTED`, to one of `KEPT`; its
Bayes factor is the product over metrics of the mean over c of (8) relative to c = 1. As the mean of such factors over
all hours ever looked at is a test martingale, P(it ever exceeds 1 / `HAZARD` an hour without a jump) is at most
`HAZARD` x hours (Ville's inequality). The correlation that enters the kernel is the mean over what is believed of jumps
and c: a model average (as Brunzema et al. 2025 keep old data at a reduced correlation), so a doubtful jump does little.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.special import logsumexp

from controller.core.kernel import Floats, Hyper, Jump
from controller.core.posterior import Posterior

KEPT = np.array([0.5, 0.0])  # c of a metric that has changed
AFFECTED = 0.3  # P(a metric is changed by a jump)
HAZARD = 1e-4  # P(a jump) in an hour
LOOK_BACK = 12  # deals whose beginning may be a jump's hour; an older jump stays as it is
MAX_AFTER = 240  # rows after a candidate hour: bounds the cost
MAX_JUMPS = 3  # the newest are remembered
DIGITS = 2  # of a correlation: what is decided should not hang on a processor's rounding


def settled(hypers: tuple[Hyper, ...], hours: Floats) -> tuple[Hyper, ...]:
    """The hyperparameters without the jumps that are to be judged again, and without those before all `hours` (n,)."""
    first, last = hours.min(initial=np.inf), min((hour for _, hour, _ in candidates(hours)), default=np.inf)
    return tuple(
        msgspec.structs.replace(h, jumps=tuple(jump for jump in h.jumps if first < jump.hour < last)) for h in hypers
    )


def candidates(hours: Floats) -> list[tuple[int, float, float]]:
    """(rows before, hour, hours between) of every place among rows (n,), oldest first, where a jump is looked for."""
    latest, earliest = np.maximum.accumulate(hours), np.minimum.accumulate(hours[::-1])[::-1]
    starts = 1 + np.flatnonzero(latest[:-1] < earliest[1:])[-LOOK_BACK:]
    near = starts[len(hours) - starts <= MAX_AFTER]
    return [(int(i), float(latest[i - 1] + earliest[i]) / 2.0, float(earliest[i] - latest[i - 1])) for i in near]


def revised(posterior: Posterior) -> tuple[Hyper, ...]:
    """The hyperparameters of a posterior that knows the `settled` jumps only, with the newest jump, if there is one."""
    places = candidates(posterior.seen.hour)
    if not places:
        return posterior.hypers
    density = np.array([[log_density(posterior, m, i) for m in range(len(posterior.hypers))] for i, _, _ in places])
    prior = np.append(np.log1p(-AFFECTED), np.full(len(KEPT), np.log(AFFECTED / len(KEPT))))  # of c = 1 and of KEPT
    hazard = HAZARD * np.array([between for _, _, between in places])
    log_odds = np.log(hazard) + logsumexp(density + prior, axis=2).sum(axis=1)  # (T,) of a jump there to none at all
    best = int(np.argmax(log_odds))
    jumped = 1.0 / (1.0 + np.exp(-min(logsumexp(log_odds), 100.0)))
    share = np.exp(density[best] + prior - logsumexp(density[best] + prior, axis=1, keepdims=True))  # (M, 1 + KEPT)
    kept = 1.0 - jumped * (share[:, 1:] @ (1.0 - KEPT))
    return _with(posterior.hypers, places[best][1], np.round(kept, DIGITS))


def log_density(posterior: Posterior, m: int, i: int) -> Floats:
    """(1 + len(KEPT),) log of (8) for c = 1 (which is 0) and every c of `KEPT`, relative to c = 1, of metric m."""
    L, w = posterior.lower[m], posterior.whitened[m]
    across, own, innovation = L[i:, :i], L[i:, i:], L[i:, i:] @ w[i:]
    mean, lost, left = across @ w[:i], across @ across.T, own @ own.T
    base = np.log(np.diag(own)).sum() + 0.5 * float(w[i:] @ w[i:])
    found = [0.0]
    for c in KEPT:
        root = cholesky(left + (1.0 - c * c) * lost, lower=True, check_finite=False)
        z = solve_triangular(root, innovation + (1.0 - c) * mean, lower=True, check_finite=False)
        found.append(float(base - np.log(np.diag(root)).sum() - 0.5 * z @ z))
    return np.array(found)


def _with(hypers: tuple[Hyper, ...], hour: float, kept: NDArray[np.float64]) -> tuple[Hyper, ...]:
    return tuple(
        msgspec.structs.replace(h, jumps=(*h.jumps, Jump(hour, float(c)))[-MAX_JUMPS:]) if c < 1.0 else h
        for h, c in zip(hypers, kept, strict=True)
    )
