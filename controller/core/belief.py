"""What the evidence says: from deals' relative changes to a posterior that the policy can ask.

Notation: G' groups with weights of their own (one, or each segment), M metrics, d free weights, n rows.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.assignment import ALL
from controller.core import outliers, policy, posterior
from controller.core.control import Control, Evidence, Theta
from controller.core.estimate import Changes, usable
from controller.core.kernel import Hyper
from controller.core.plan import Plan
from controller.core.policy import Goal
from controller.core.posterior import Observations
from controller.core.space import Space

Floats = NDArray[np.float64]

MAX_ROWS = 600  # evidence that the posterior is conditioned on: the newest; bounds the cost of a decision
REPEATED = 24  # earlier vectors that the policy may repeat
NO_INFORMATION = 1e6  # variance of a change that says nothing, so that metrics can share rows


class Believed(msgspec.Struct, frozen=True, eq=False):
    """The posterior with what was needed to ask it."""

    posterior: posterior.Posterior
    hypers: tuple[Hyper, ...]
    space: Space
    goal: Goal
    groups: tuple[int, ...]  # G'
    hour: float
    earlier: Floats  # (k, G', d) vectors that were dealt, newest last


def believe(plan: Plan, control: Control, live: tuple[Evidence, ...], hour: float) -> Believed:
    """Fit the metrics' processes to all evidence and condition them on it.

    `hour`: now, in hours since the study's first window.
    """
    space = Space(plan.weights)
    groups = tuple(range(1, len(plan.segments) + 1)) or (0,)
    # A delayed metric cannot answer to arms that change every hour: it is judged where a deal stays.
    judged = [
        m for m, metric in enumerate(plan.metrics) if metric.response == "immediate" and _matters(plan, metric.name)
    ]
    observations = _rows(plan, space, groups, judged, (*control.evidence, *live))
    base = space.baseline_unit
    observations = outliers.discounted(observations, base, posterior.start(base, len(judged), control.carry.hypers))
    hypers = posterior.fit(observations, base, control.carry.hypers)
    dealt = [points(plan, space, theta) for e in (*control.evidence, *live)[-REPEATED:] for theta in e.thetas]
    return Believed(
        posterior=posterior.condition(observations, base, hypers),
        hypers=hypers,
        space=space,
        goal=policy.goal_of(
            tuple(plan.metrics[m] for m in judged),
            plan.objective,
            tuple(g for g in plan.guardrails if g.metric in {plan.metrics[m].name for m in judged}),
        ),
        groups=groups,
        hour=hour,
        earlier=np.array(dealt[-REPEATED:]).reshape(-1, len(groups), space.d),
    )


def points(plan: Plan, space: Space, theta: Theta) -> Floats:
    """A vector's points in the cube, (G', d)."""
    segments = plan.segments or (ALL,)
    return space.to_unit(np.array([theta.get(segment, theta[ALL]) for segment in segments]))


def theta_at(plan: Plan, space: Space, unit: Floats) -> Theta:
    """The vector at points (G', d); units outside a study's segments are served with the baseline."""
    thetas = [tuple(float(w) for w in theta) for theta in space.to_theta(unit)]
    if not plan.segments:
        return {ALL: thetas[0]}
    return {ALL: tuple(w.baseline for w in plan.weights)} | dict(zip(plan.segments, thetas, strict=True))


def _rows(
    plan: Plan, space: Space, groups: tuple[int, ...], judged: list[int], evidence: tuple[Evidence, ...]
) -> Observations:
    """The newest usable evidence, oldest first."""
    rows: list[Observations] = []
    taken = 0
    for e in reversed(evidence):
        if taken >= MAX_ROWS:
            break
        unit = np.array([points(plan, space, theta) for theta in e.thetas])  # (a, G', d)
        for k, group in enumerate(groups):
            change, covariance, known = _said(e.changes, judged, group)
            if known:
                a = len(unit)
                rows.append(Observations(unit[:, k], np.full(a, group), np.full(a, e.hour), change, covariance))
                taken += a
    return posterior.join(rows[::-1]) if rows else _nothing(len(judged), space.d)


def _nothing(metrics: int, d: int) -> Observations:
    none = np.zeros(0)
    return Observations(
        np.zeros((0, d)), none.astype(np.int64), none, np.zeros((metrics, 0)), np.zeros((metrics, 0, 0))
    )


def _said(changes: Changes, judged: list[int], group: int) -> tuple[Floats, Floats, bool]:
    """The judged metrics' changes (M, a) and covariances; a metric that is too noisy yet says nothing."""
    change, covariance = changes.change[judged, group].copy(), changes.covariance[judged, group].copy()
    known = usable(changes, group)[judged]
    change[~known] = 0.0
    covariance[~known] = NO_INFORMATION * np.eye(change.shape[1])
    return change, covariance, bool(known.any())


def _matters(plan: Plan, metric: str) -> bool:
    return metric in plan.objective or any(guardrail.metric == metric for guardrail in plan.guardrails)
