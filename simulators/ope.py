"""Off-policy estimates: what another policy would have earned, from a log with propensities.

| symbol | meaning |
|---|---|
| n, A, C | rows, actions, contexts |
| r (n,) | reward of a row |
| p (n,) | probability with which the logging policy took the row's action, known and above 0 |
| t (n,) | probability with which the target policy would take it |
| w = t / p (n,) | importance weight, of mean 1 |
| q (n,), qt (n,) | predicted reward of the row's action, and of the target policy in the row's context |

Every estimate has the standard error of its influence function and a normal interval: rows are taken as independent,
and weights as bounded enough for a central limit. The effective sample size says whether they are.

Sources: Horvitz and Thompson 1952; Swaminathan and Joachims 2015 (self-normalised); Dudik, Langford and Li 2011
(doubly robust); Kong 1992 (effective sample size); Chernozhukov et al. 2018 (cross-fitting).
"""

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

FEW = 100  # effective rows: below, no interval can be trusted
MISSED = 0.01  # of the target's actions: more of them unseen bias every estimate but a perfect model's
SURE, ROUNDING = 4.0, 1e-6  # standard errors of the mean weight from 1, that chance may explain

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Log(msgspec.Struct, frozen=True, eq=False):
    """A policy's log; actions and contexts are numbered from 0."""

    reward: Floats  # (n,)
    propensity: Floats  # (n,)
    action: Ints  # (n,)
    context: Ints  # (n,)
    actions: int  # A
    contexts: int  # C


class Estimate(msgspec.Struct, frozen=True):
    """A policy's value, its standard error and the interval around it."""

    name: str
    value: float
    se: float
    low: float
    high: float


class Weights(msgspec.Struct, frozen=True):
    """How far the log can speak for the target: `effective` rows of n; the mean weight is 1 if all is well.

    `missed`: how much of what the target does, in the contexts of the log, the log never shows in the same context.
    """

    n: int
    effective: float
    mean: float
    largest: float
    mean_se: float
    missed: float = 0.0

    @property
    def enough(self) -> bool:
        """Whether intervals can be trusted: enough rows count, and no part of the target is unseen."""
        known = abs(self.mean - 1.0) <= SURE * self.mean_se + ROUNDING and self.missed <= MISSED
        return bool(self.effective >= FEW and known)  # NaN is not enough


def ips(r: Floats, w: Floats, level: float = 0.95) -> Estimate:
    """Inverse propensity scoring: mean of w r. Unbiased."""
    return _mean("ips", w * r, level)


def snips(r: Floats, w: Floats, level: float = 0.95) -> Estimate:
    """Self-normalised: sum of w r over the sum of w. Consistent, and inside the range of r."""
    value = float((w * r).sum() / w.sum())
    return _estimate("snips", value, w * (r - value) / w.mean(), level)


def dr(r: Floats, w: Floats, q: Floats, qt: Floats, level: float = 0.95) -> Estimate:
    """Doubly robust: mean of qt + w (r - q). Unbiased whatever q is, given the propensities; better the better q is."""
    return _mean("dr", qt + w * (r - q), level)


def on_policy(r: Floats, level: float = 0.95) -> Estimate:
    """The value of the policy that made the log."""
    return _mean("on_policy", r, level)


def weights(w: Floats, missed: float = 0.0) -> Weights:
    """The weights in a few figures."""
    squares = float((w**2).sum())
    effective = float(w.sum() ** 2) / squares if squares else 0.0
    mean_se = float(w.std(ddof=1)) / len(w) ** 0.5 if len(w) > 1 else 0.0
    return Weights(len(w), effective, float(w.mean()), float(w.max()), mean_se, missed)


def missed(log: Log, target: Floats) -> float:
    """How much of what a policy (C, A) does in the contexts of the log the log never shows in the same context."""
    seen = np.zeros((log.contexts, log.actions), np.bool_)
    seen[log.context, log.action] = True
    return float((target * ~seen).sum(axis=1)[log.context].mean())


def allocation(log: Log) -> Floats:
    """How often the log's policy took each action in each context, (C, A): a policy that does not change with time."""
    counts = np.zeros((log.contexts, log.actions))
    np.add.at(counts, (log.context, log.action), 1.0)
    total = counts.sum(axis=1, keepdims=True)
    return np.where(total > 0, counts / np.maximum(total, 1.0), 1.0 / log.actions)


def uniform(log: Log) -> Floats:
    """Every action alike, (C, A)."""
    return np.full((log.contexts, log.actions), 1.0 / log.actions)


def rewards(log: Log, folds: int = 5, prior: float = 50.0) -> Floats:
    """Predicted reward (n, A) in each row's context, from the rows of the other folds.

    Means by action and context, drawn to the context's mean as if that had been seen `prior` times.
    """
    predicted = np.empty((len(log.reward), log.actions))
    fold = np.arange(len(log.reward)) % folds
    for k in range(folds):
        predicted[fold == k] = _table(log, fold != k, prior)[log.context[fold == k]]
    return predicted


def evaluate(log: Log, target: Floats, level: float = 0.95) -> tuple[list[Estimate], Weights]:
    """All three estimates of a policy (C, A), and what its weights are like."""
    w = target[log.context, log.action] / log.propensity
    predicted = rewards(log)
    q = predicted[np.arange(len(w)), log.action]
    qt = (predicted * target[log.context]).sum(axis=1)
    r = log.reward
    return [ips(r, w, level), snips(r, w, level), dr(r, w, q, qt, level)], weights(w, missed(log, target))


def _table(log: Log, rows: NDArray[np.bool_], prior: float) -> Floats:
    """Mean rewards (C, A) of some rows, shrunk."""
    counts, sums = np.zeros((2, log.contexts, log.actions))
    np.add.at(counts, (log.context[rows], log.action[rows]), 1.0)
    np.add.at(sums, (log.context[rows], log.action[rows]), log.reward[rows])
    overall = log.reward[rows].mean() if rows.any() else 0.0
    mean = (sums.sum(axis=1) + prior * overall) / (counts.sum(axis=1) + prior)
    return np.asarray((sums + prior * mean[:, None]) / (counts + prior))


def _mean(name: str, each: Floats, level: float) -> Estimate:
    return _estimate(name, float(each.mean()), each - each.mean(), level)


def _estimate(name: str, value: float, influence: Floats, level: float) -> Estimate:
    n = len(influence)
    se = float(np.sqrt((influence**2).sum() / (n - 1) / n)) if n > 1 else float("inf")
    half = float(norm.ppf(0.5 + level / 2)) * se
    return Estimate(name, value, se, value - half, value + half)
