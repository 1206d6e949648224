"""When a stage has shown enough to be followed by the next one."""

import math

import numpy as np
from scipy import stats

from controller.core import policy, trend
from controller.core.belief import Believed, points
from controller.core.control import (
    Carry,
    Control,
    Statistics,
    Vector,
    banning,
    carrying,
    deal_changes,
    moved,
    trial_sums,
)
from controller.core.estimate import combined_se
from controller.core.goal import TOLERANCE, tolerant
from controller.core.plan import Plan
from controller.core.rollout import Deal
from controller.core.trend import Step
from controller.core.windows import Cell

GATE_BETTER = 0.95  # P(gain > 0) that a vector needs to leave exploration
GATE_FEASIBLE = 0.8  # P(every guardrail kept), likewise
TRUSTED_FEASIBLE = 0.6  # the same after the test, whose own sample must lie inside the guardrails beside
GATE_REGRET = 0.25  # exploration may end early once the expected remaining gain is this small a part of the pick's


def advanced(plan: Plan, control: Control, seen: Statistics, believed: Believed) -> Control:
    """Move to the stage that the evidence of the windows through `seen.end_ms` allows."""
    at_ms = seen.end_ms
    if control.carry.recheck:
        control = _judged_again(plan, carrying(control, recheck=False), at_ms, believed)
    match control.carry.stage:
        case "explore":
            return _leave_explore(plan, control, at_ms, believed)
        case "confirm":
            return _judge_confirm(plan, control, at_ms, believed)
        case "ramp":
            return _climb(plan, control, seen)
        case _:
            return control


def _judged_again(plan: Plan, control: Control, at_ms: int, believed: Believed) -> Control:
    """The candidate under guardrails that an operator has changed: back to explore where they are probably broken."""
    candidate = control.carry.candidate
    failed = None if candidate is None else _improbable(plan, candidate, believed)
    if candidate is None or failed is None:
        return control
    reason = f"the study file changed: {candidate.arm} does not suit the new guardrails: {failed}"
    return moved(control, "explore", reason, at_ms, candidate=None)


def exposed_ms(plan: Plan, carry: Carry) -> int:
    """How long the stage's vectors have carried traffic."""
    return carry.exposed_windows * plan.window.length_ms


def _leave_explore(plan: Plan, control: Control, at_ms: int, believed: Believed) -> Control:
    carry, pick = control.carry, control.carry.pick
    explored_ms = exposed_ms(plan, carry)
    # What no deal could measure, no test can prove.
    if pick is None or believed.unmeasured or explored_ms < plan.rollout.explore_min_ms:
        return control
    sure = pick.p_better >= GATE_BETTER and pick.p_feasible >= GATE_FEASIBLE
    exhausted = pick.regret <= GATE_REGRET * pick.gain_mean or explored_ms >= plan.rollout.explore_max_ms
    if not (sure and exhausted):
        return control
    vector = Vector(f"c{carry.arms + 1}", pick.theta)
    reason = f"{vector.arm}: expected gain {pick.gain_mean:+.2%}, P(feasible) {pick.p_feasible:.0%}; now on fresh data"
    return moved(control, "confirm", reason, at_ms, candidate=vector, arms=carry.arms + 1)


def _judge_confirm(plan: Plan, control: Control, at_ms: int, believed: Believed) -> Control:
    """The claim: a sample of fixed length after the gate, judged once, when its last window is sealed."""
    carry = control.carry
    if carry.awaiting_approval or carry.candidate is None:
        return control
    if carry.claim_through_ms is None:
        complete = exposed_ms(plan, carry) >= plan.rollout.confirm_ms
        reason = "the sample is complete: waiting until it is sealed"
        return carrying(control, claim_through_ms=at_ms, reason=reason) if complete else control
    if control.sample is None or control.trial is None:
        return control
    unproven = _unproven(plan, control.trial, control.sample)
    failed = unproven or _beyond(plan, control.trial, control.sample) or _improbable(plan, carry.candidate, believed)
    if failed:
        # Near a limit the belief has learnt from the test what there is to know, and the best vector is near it too.
        banned = banning(carry, carry.candidate.theta) if unproven else carry.banned
        return moved(control, "explore", f"not confirmed: {failed}", at_ms, candidate=None, banned=banned)
    control = _noted(plan, control, control.trial, control.sample)
    if plan.rollout.require_approval:
        return carrying(control, awaiting_approval=True, reason="confirmed: waiting for an operator's approval")
    return moved(control, "ramp", "confirmed on fresh data", at_ms)


def _unproven(plan: Plan, deal: Deal, sample: Cell) -> str | None:
    """Why the confirm sample does not show a gain, or None when it does."""
    gain, gain_sd = measured_gain(plan, deal, sample)
    y = _sampled(plan, deal, sample)
    asked = {"the objective": gain} | {rail.metric: y[rail.metric] for rail in plan.guardrails}
    unknown = next((name for name, change in asked.items() if not np.isfinite(change)), None)
    if unknown is not None:
        return f"{unknown} cannot be measured: a denominator, or control's level, is zero"
    if not gain - float(stats.norm.isf(plan.rollout.confirm_alpha)) * gain_sd > 0:
        return f"gain {gain:+.2%} +- {gain_sd:.2%} is not surely above zero"
    return None


def _beyond(plan: Plan, deal: Deal, sample: Cell) -> str | None:
    """Which guardrail the confirm sample lies beyond, or None."""
    y = _sampled(plan, deal, sample)
    for rail in plan.guardrails:
        if not rail.sign * (y[rail.metric] - rail.limit) > -TOLERANCE * abs(rail.limit):
            return f"{rail.metric} changes by {y[rail.metric]:+.2%}, the limit is {rail.limit:+.2%}"
    return None


def _sampled(plan: Plan, deal: Deal, sample: Cell) -> dict[str, float]:
    """Every metric's relative change of the deal's first vector."""
    names = (metric.name for metric in plan.metrics)
    return dict(zip(names, deal_changes(plan, deal, sample).change[:, 0, 0].tolist(), strict=True))


def measured_gain(plan: Plan, deal: Deal, cell: Cell) -> tuple[float, float]:
    """The objective of the deal's first vector, from these sums alone, and its standard error."""
    objective = np.array([plan.objective.get(metric.name, 0.0) for metric in plan.metrics])
    counted = objective != 0.0
    change = deal_changes(plan, deal, cell).change[counted, 0, 0]
    components = tuple(component.name for component in plan.components)
    metrics = tuple(metric for metric in plan.metrics if plan.objective.get(metric.name, 0.0))
    arm_of = deal.buckets.astype(np.int64)
    se = combined_se(objective[counted], metrics, components, cell.sums, arm_of, len(deal.arms), deal.history)
    return float(objective[counted] @ change), float(se[0])


def _improbable(plan: Plan, candidate: Vector, believed: Believed) -> str | None:
    """Why the posterior, which has all evidence, does not trust the candidate with the guardrails; or None."""
    unit, goal = points(plan, believed.space, believed.groups, candidate.theta), tolerant(believed.goal)
    violated = [
        policy.p_violation(believed.posterior, goal, unit[[k]], group, believed.hour)[0]
        for k, group in enumerate(believed.groups)
    ]
    p = math.prod(1.0 - float(v) for v in violated)
    trusted = p >= TRUSTED_FEASIBLE
    return None if trusted else f"P(every guardrail is kept) is {p:.0%}, {TRUSTED_FEASIBLE:.0%} is asked for"


def _climb(plan: Plan, control: Control, seen: Statistics) -> Control:
    """The next share, where the gain does not fall as the share grows; else back, for more traffic would be worse."""
    carry, at_ms, cell = control.carry, seen.end_ms, trial_sums(control, seen.cells)
    if exposed_ms(plan, carry) < plan.rollout.ramp_step_ms:
        return control
    if carry.candidate is not None and control.trial is not None and cell is not None:
        control = _noted(plan, control, control.trial, cell)
        fall = trend.falling(control.carry.shares, looks=len(plan.rollout.ramp_shares))
        if fall:
            banned = banning(carry, carry.candidate.theta)
            return moved(control, "explore", fall, at_ms, candidate=None, banned=banned)
    if carry.ramp_step + 1 >= len(plan.rollout.ramp_shares):
        return moved(control, "hold", "ramped up: holding", at_ms)
    share = plan.rollout.ramp_shares[carry.ramp_step + 1]
    return carrying(control, ramp_step=carry.ramp_step + 1, exposed_windows=0, reason=f"ramp to {share:.0%}")


def _noted(plan: Plan, control: Control, trial: Deal, cell: Cell) -> Control:
    """The state that knows what the candidate gained at the trial's share."""
    gain, se = measured_gain(plan, trial, cell)
    if not (math.isfinite(gain) and math.isfinite(se)):  # what is no number cannot be recorded
        return control
    step = Step(float(np.mean(trial.buckets == 1)), gain, se)
    return carrying(control, shares=(*control.carry.shares, step))
