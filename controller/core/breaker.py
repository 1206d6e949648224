"""The breaker: stops catastrophes within a window, on its partial sums.

The belief learns from a catastrophe and deals no such vector again. If the next ones break too, it is not vectors that
are wrong, or the study is too bold for what it may touch; going on would only expose more people. So it pauses.
"""

import msgspec
import numpy as np

from controller.core import rollout, safety
from controller.core.estimate import MIN_BUCKETS, influences
from controller.core.evidence import deal_changes, served, unsealed_deal_sums
from controller.core.experiment import Experiment, Statistics, banning, carrying, issue, moved
from controller.core.plan import Plan
from controller.core.rollout import OTHERS, Deal
from controller.core.safety import BREAKER_ALPHA, Crossing
from controller.core.windows import Cell

MOST_BREAKS = 4  # windows with a trip: in the first one nothing is known yet, by the fourth the belief should know
FORGIVEN = 24  # windows without one, after which it is counted anew: a day of sound deals


def tripped(plan: Plan, experiment: Experiment, seen: Statistics) -> tuple[Crossing, ...]:
    """Arms of the current deal whose margin is surely below the plan's `breaker_change`.

    Judged by the newest window and the one before: what a deal did for weeks must not hide what it does now.
    """
    deal = experiment.deals[experiment.carry.deal]
    recent = {key: cell for key, cell in seen.cells.items() if key[0] >= seen.end_ms - plan.window.length_ms}
    cell = unsealed_deal_sums(experiment, recent, deal.id)
    if cell is None or len(deal.arms) < 2 or not plan.guardrails:
        return ()
    found = _crossings(plan, deal, cell)
    return tuple(c for c in found if _stands(plan, deal, cell, c))


def _crossings(plan: Plan, deal: Deal, cell: Cell) -> tuple[Crossing, ...]:
    changes = deal_changes(plan, deal, cell)
    if changes.buckets[0] < MIN_BUCKETS:
        return ()
    # From an infeasible baseline a catastrophe is a fall below the baseline, not below a limit far above it.
    borne = tuple(rail.borne for rail in plan.guardrails)
    found = safety.crossings(borne, plan.metrics, changes, BREAKER_ALPHA, plan.safety.breaker_change)
    return tuple(c for c in found if changes.buckets[c.arm] >= MIN_BUCKETS)


def _stands(plan: Plan, deal: Deal, cell: Cell, crossing: Crossing) -> bool:
    """Whether an arm breaks a limit also without the one of its buckets that speaks most for it.

    Where amounts have heavy tails one event can be most of an arm, and no variance between forty buckets tells.
    """
    metric = next(metric for metric in plan.metrics if metric.name == crossing.metric)
    error = influences((metric,), plan.component_names, served(deal, cell))[0]
    speaks = np.where(deal.buckets == crossing.arm, error * np.sign(crossing.change), -np.inf)
    buckets = deal.buckets.copy()
    buckets[np.argmax(speaks)] = OTHERS
    rest = _crossings(plan, msgspec.structs.replace(deal, buckets=buckets), cell)
    return any((c.arm, c.metric, c.limit) == (crossing.arm, crossing.metric, crossing.limit) for c in rest)


def stop(
    plan: Plan, experiment: Experiment, found: tuple[Crossing, ...], end_ms: int, now_ms: int
) -> tuple[Experiment, bytes]:
    """Give the broken arms' buckets to control at once; a candidate that breaks sends the study back to explore.

    `end_ms`: the window that it tripped in. On a deal of `verify`, and in the fourth window, the study pauses.
    """
    deal, worst = experiment.deals[experiment.carry.deal], found[0]
    broken = sorted({c.arm for c in found})
    what = f"{deal.arms[worst.arm].arm} changes {worst.metric} by {worst.change:+.1%} within the window"
    # Every arm serves the baseline: no vector is at fault. After a choice such a deal goes on in confirm for a window.
    if deal.stage == "verify":
        return _paused(plan, experiment, f"A/A: {what}", now_ms)
    reason = f"breaker: {what}, the limit is {worst.limit:+.2%}"
    banned = banning(experiment.carry, *(deal.arms[arm].theta for arm in broken))
    experiment = _counted(plan, carrying(experiment, banned=banned), end_ms)
    # By its weights: what was only chosen is not served yet under its own name, but an exploring arm may serve it.
    candidate = experiment.carry.candidate
    at_fault = candidate is not None and any(deal.arms[arm].theta == candidate.theta for arm in broken)
    if experiment.carry.breaks >= MOST_BREAKS:
        why = (
            f"{reason}, after others in {MOST_BREAKS - 1} windows before: look whether the arms' events are counted as "
            "control's are; if they are, narrow the bounds of the weights or lower safety.risk; then resume"
        )
        # A resumed study must not go on with the vector that broke.
        experiment = carrying(experiment, breaks=0, candidate=None if at_fault else candidate)
        return _paused(plan, experiment, why, now_ms)
    if at_fault:
        experiment = moved(experiment, "explore", reason, now_ms, candidate=None)
    else:
        experiment = carrying(experiment, reason=reason)
    return issue(plan, experiment, rollout.without(deal, experiment.carry.deals + 1, broken), now_ms)


def _counted(plan: Plan, experiment: Experiment, end_ms: int) -> Experiment:
    """The state with the window counted, once."""
    carry = experiment.carry
    if carry.breaks and end_ms == carry.broke_ms:
        return experiment
    goes_on = end_ms - carry.broke_ms < FORGIVEN * plan.window.length_ms
    return carrying(experiment, breaks=carry.breaks + 1 if goes_on else 1, broke_ms=end_ms)


def _paused(plan: Plan, experiment: Experiment, reason: str, now_ms: int) -> tuple[Experiment, bytes]:
    deal = experiment.deals[experiment.carry.deal]
    experiment = moved(experiment, "paused", reason, now_ms)
    return issue(plan, experiment, rollout.without(deal, experiment.carry.deals + 1, range(1, len(deal.arms))), now_ms)
