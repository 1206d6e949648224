"""What a controller of the arena is: it sees what its vectors did, and says which to try next.

Notation: n vectors tried so far (arms of deals), d free weights, M metrics, L guardrails.
"""

from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.core.experiment import Evidence
from controller.core.goal import Goal, goal_of, margins
from controller.core.plan import Plan
from controller.core.space import Space
from simulators.worlds import Floats


class Brief(msgspec.Struct, frozen=True, eq=False):
    """The task, as every controller is told it."""

    baseline: Floats  # (d,) in the unit cube
    goal: Goal
    arms: int  # vectors to be tried at a time
    seed: int

    @property
    def d(self) -> int:
        """Free weights."""
        return len(self.baseline)


UNKNOWN_SD = 1.0  # of a change that nothing can be said of yet: most of its data are to come


class History(msgspec.Struct, frozen=True, eq=False):
    """Every vector tried, oldest deal first; relative changes and standard errors are the production estimates."""

    unit: Floats  # (n, d)
    change: Floats  # (n, M) NaN where nothing can be said
    sd: Floats  # (n, M)
    hour: Floats  # (n,)
    newest: int = 0  # how many of the last rows are the last deal's, in the order of its arms

    @property
    def measured(self) -> NDArray[np.bool_]:
        """(n,) whether something can be said of every metric."""
        return np.asarray((np.isfinite(self.change) & (self.sd < UNKNOWN_SD)).all(axis=1))

    def pooled(self) -> "History":
        """One row per distinct vector, in order of first appearance: means by inverse variance."""
        known = np.isfinite(self.change).all(axis=1) & np.isfinite(self.sd).all(axis=1)
        unit, first, which = np.unique(self.unit[known], axis=0, return_index=True, return_inverse=True)
        precision = 1.0 / np.maximum(self.sd[known], 1e-9) ** 2
        member = (which.reshape(-1) == np.arange(len(unit))[:, None]).astype(np.float64)
        total = member @ precision
        order = np.argsort(first)
        change = (member @ (precision * self.change[known])) / total
        return History(unit[order], change[order], 1.0 / np.sqrt(total[order]), self.hour[known][first][order])


class Missing(Exception):
    """A peer cannot run here: what is to be installed."""


class Tuner(Protocol):
    """A controller without an engine of its own: the arena deals its vectors and estimates what they did."""

    def propose(self, history: History) -> Floats:
        """(arms, d) points of the unit cube for the next deal; called once the last deal is over."""
        ...

    def recommend(self, history: History) -> Floats | None:
        """(d,) the vector it would promote now; None: the baseline."""
        ...


def brief_of(plan: Plan) -> Brief:
    """The task of a plan."""
    goal = goal_of(plan.metrics, plan.objective, plan.guardrails)
    return Brief(Space(plan.weights).baseline_unit, goal, plan.traffic.explore_arms, plan.seed)


def history_of(plan: Plan, evidence: tuple[Evidence, ...]) -> History:
    """What a tuner sees of its deals: all traffic, one row per arm."""
    space, metrics = Space(plan.weights), len(plan.metrics)
    rows = [
        (
            space.to_unit(np.array([theta["all"] for theta in e.thetas])),
            e.changes.change[:metrics, 0].T,
            _sd(e, metrics),
            e.hour,
        )
        for e in evidence
    ]
    if not rows:
        none = np.zeros((0, len(plan.metrics)))
        return History(np.zeros((0, space.d)), none, none, np.zeros(0))
    unit, change, sd = (np.concatenate([row[i] for row in rows]) for i in range(3))
    hour = np.concatenate([np.full(len(row[0]), row[3]) for row in rows])
    known = np.isfinite(change) & np.isfinite(sd)
    return History(unit, np.where(known, change, 0.0), np.where(known, sd, UNKNOWN_SD), hour, len(rows[-1][0]))


def _sd(evidence: Evidence, metrics: int) -> Floats:
    covariance = evidence.changes.covariance[:metrics, 0]
    return np.asarray(np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)).T)


def objective(goal: Goal, history: History) -> tuple[Floats, Floats]:
    """Gain (n,) and its standard error, metrics taken as independent."""
    coefficient = np.array(goal.objective)
    return history.change @ coefficient, np.sqrt(history.sd**2 @ coefficient**2)


def room(goal: Goal, history: History) -> tuple[Floats, Floats]:
    """Margins (n, L) under the guardrails and their standard errors."""
    return margins(goal, history.change.T).T, history.sd[:, [limit.metric for limit in goal.limits]]


CAUTION = 1.0  # standard errors off a measured gain and a measured margin, against the luckiest of many


def cautious_best(goal: Goal, history: History) -> Floats | None:
    """The measured vector with the largest cautious gain among those measured to be feasible; None when none gains.

    The pick of every peer that has no model: without the caution each does worse, by the winner's curse.
    """
    pooled = history.pooled()
    if not len(pooled.unit):
        return None
    (gain, gain_sd), (margin, margin_sd) = objective(goal, pooled), room(goal, pooled)
    worth = gain - CAUTION * gain_sd
    worth[(margin - CAUTION * margin_sd < 0).any(axis=1)] = -np.inf
    best = int(np.argmax(worth))
    return pooled.unit[best] if worth[best] > 0 else None
