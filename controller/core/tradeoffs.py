"""What an operator can choose from, as a running study sees it: its front, and where it stands now.

Notation as in `front`.
"""

import hashlib
import math

import msgspec
import numpy as np

from controller.core.belief import Believed, banned, believe_decided, judged_metrics, points, theta_at
from controller.core.experiment import Experiment, Theta, tuned
from controller.core.front import Question, front, valued
from controller.core.goal import tolerant
from controller.core.kernel import Floats
from controller.core.plan import Plan
from controller.core.windows import Cell

DIGITS = 6  # of a coefficient
NOW = "now"


class Offer(msgspec.Struct, frozen=True):
    """A vector and what is expected of it."""

    label: str  # its number and the beginning of its hash: "3.b41f"; "now" for where the study stands
    theta: Theta
    gain: dict[str, float]  # objective -> relative change
    sd: dict[str, float]
    p_feasible: float  # every guardrail is kept in every segment
    objective: dict[str, float]  # that it is the best for: metric -> coefficient, in magnitude adding up to 1


class Tradeoffs(msgspec.Struct, frozen=True):
    """The front after a window."""

    decided_through_ms: int
    offers: tuple[Offer, ...]  # by the first objective's gain
    now: Offer | None  # the vector in a test or held, else the one to be promoted now; None: the baseline


def tradeoffs(
    plan: Plan, experiment: Experiment, cells: dict[tuple[int, int], Cell], rng: np.random.Generator
) -> Tradeoffs:
    """The front of a study. `cells`: its sums that are not sealed, of which those of decided windows count."""
    own, carry, plan = plan, experiment.carry, tuned(plan, experiment.carry)
    believed = believe_decided(plan, experiment, cells)
    objectives = _objectives(own, {plan.metrics[m].name for m in judged_metrics(plan)})
    if not objectives:
        return Tradeoffs(carry.decided_through_ms, (), None)
    asked, offers = _question(plan, believed, objectives), []
    for number, point in enumerate(front(asked, believed.earlier, banned(plan, experiment, believed), rng), 1):
        theta = theta_at(plan, believed.space, believed.groups, point.unit)
        digest = hashlib.sha256(msgspec.json.encode(theta, order="sorted")).hexdigest()
        values = (point.mean, point.sd, point.p_feasible)
        offers.append(_offer(f"{number}.{digest[:4]}", theta, values, objectives, _combined(objectives, point.trade)))
    vector = carry.candidate or carry.pick
    if vector is None:
        return Tradeoffs(carry.decided_through_ms, tuple(offers), None)
    values = valued(asked, points(plan, believed.space, believed.groups, vector.theta))
    now = _offer(NOW, vector.theta, values, objectives, plan.objective)
    return Tradeoffs(carry.decided_through_ms, tuple(offers), now)


def _objectives(plan: Plan, learnt: set[str]) -> dict[str, dict[str, float]]:
    """The objectives by name; of a study that names none, the metrics of its own that exploring learns of.

    Each as a relative change, the way that the study wants it to go: a coefficient would be read as a part of it.
    In the study file's order, whatever objective was chosen meanwhile: offers are numbered by the first.
    """
    wanted = {name: own for name, own in plan.objective.items() if name in learnt}
    named = {name if own > 0.0 else f"-{name}": {name: math.copysign(1.0, own)} for name, own in wanted.items()}
    return plan.objectives or named


def _question(plan: Plan, believed: Believed, objectives: dict[str, dict[str, float]]) -> Question:
    judged = [plan.metrics[m].name for m in judged_metrics(plan)]
    return Question(
        posterior=believed.posterior,
        goal=tolerant(believed.goal),
        objectives=np.array([[own.get(name, 0.0) for name in judged] for own in objectives.values()]),
        groups=believed.groups,
        hour=believed.hour,
        shares=believed.shares,
    )


def _offer(
    label: str,
    theta: Theta,
    values: tuple[Floats, Floats, float],
    objectives: dict[str, dict[str, float]],
    objective: dict[str, float],
) -> Offer:
    mean, sd, feasible = values
    gain, spread = (dict(zip(objectives, map(float, row), strict=True)) for row in (mean, sd))
    return Offer(label, theta, gain, spread, feasible, objective)


def _combined(objectives: dict[str, dict[str, float]], trade: Floats) -> dict[str, float]:
    """The objective that a trade-off stands for."""
    total: dict[str, float] = {}
    for part, own in zip(trade, objectives.values(), strict=True):
        for metric, coefficient in own.items():
            total[metric] = total.get(metric, 0.0) + float(part) * coefficient
    size = sum(abs(coefficient) for coefficient in total.values())
    rounded = {metric: round(coefficient / size, DIGITS) for metric, coefficient in total.items()}
    return {metric: coefficient for metric, coefficient in rounded.items() if coefficient}
