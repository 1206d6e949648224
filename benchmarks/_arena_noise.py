"""Whether a scenario's limits can be measured at all."""

import numpy as np

from controller.assignment import Arm
from controller.core import rollout
from controller.core.evidence import deal_changes
from controller.core.experiment import baseline
from controller.core.rollout import Deal
from controller.core.windows import Cell
from simulators.closed_loop import START_MS
from simulators.scenarios import Scenario
from simulators.study import study_of
from simulators.sums import audience, hour_sums
from simulators.worlds import HOUR_MS, Floats, World

ATTAINABLE = 3.0  # standard errors that a limit is to be away from no change
HOURS = 72


def beyond_noise(scenario: Scenario) -> bool:
    """Whether some limit is under 3 attainable standard errors: of 72 h of all explore traffic on one vector."""
    error = dict(zip((metric.name for metric in scenario.world.metrics), attainable(scenario.world), strict=True))
    return any(abs(rail.limit) < ATTAINABLE * error[rail.metric] for rail in scenario.world.guardrails)


def attainable(world: World) -> Floats:
    """(M,) standard errors of the relative changes."""
    plan = study_of(world, 0).plan
    control = baseline(plan)
    arm_of = rollout.shuffled(plan.buckets, 1, plan.traffic.explore_share, np.random.default_rng(0))
    deal = Deal(1, "explore", (control, Arm("same", "explore", control.theta)), arm_of)
    people = audience(world, 0, plan.salt)
    weights, components = (tuple(part.name for part in parts) for parts in (plan.weights, plan.components))
    cells = [hour_sums(world, people, deal, weights, components, START_MS + h * HOUR_MS) for h in range(HOURS)]
    total = Cell(np.sum([cell.sums for cell in cells], axis=0), np.sum([cell.events for cell in cells], axis=0))
    return np.asarray(np.sqrt(deal_changes(plan, deal, total).covariance[:, 0, 0, 0]))
