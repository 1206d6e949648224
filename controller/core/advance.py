"""When a stage has shown enough to be followed by the next one."""

import math

import msgspec
import numpy as np
from scipy.special import ndtri

from controller.core import policy, trend, worst
from controller.core.belief import Believed, points
from controller.core.durations import written
from controller.core.estimate import combined_se
from controller.core.evidence import deal_changes, served, trial_sums
from controller.core.experiment import Carry, Experiment, Statistics, Theta, Vector, banning, carrying, moved
from controller.core.goal import TOLERANCE, tolerant
from controller.core.plan import Plan
from controller.core.rollout import Deal
from controller.core.trend import Step
from controller.core.windows import Cell
from controller.core.worst import Looks

GATE_BETTER = 0.95  # P(gain > 0) that a vector needs to leave exploration
TRUSTED_FEASIBLE = 0.6  # P(every guardrail kept) after the test, whose own sample must lie inside them beside
GATE_REGRET = 0.1  # exploration may end early once the expected remaining gain is this small a part of the pick's


def advanced(plan: Plan, experiment: Experiment, seen: Statistics, believed: Believed) -> Experiment:
    """Move to the stage that the evidence of the windows through `seen.end_ms` allows."""
    at_ms = seen.end_ms
    if experiment.carry.recheck:
        experiment = _judged_again(plan, carrying(experiment, recheck=False), at_ms, believed)
    match experiment.carry.stage:
        case "explore":
            return _leave_explore(plan, experiment, at_ms, believed)
        case "confirm":
            return _judge_confirm(plan, experiment, at_ms, believed)
        case "ramp":
            return _climb(plan, experiment, seen)
        case _:
            return experiment


def _judged_again(plan: Plan, experiment: Experiment, at_ms: int, believed: Believed) -> Experiment:
    """The candidate under guardrails that an operator has changed: back to explore where they are probably broken."""
    candidate = experiment.carry.candidate
    failed = None if candidate is None else improbable(plan, candidate.theta, believed)
    if candidate is None or failed is None:
        return experiment
    reason = f"the study file changed: {candidate.arm} does not suit the new guardrails: {failed}"
    return moved(experiment, "explore", reason, at_ms, candidate=None)


def exposed_ms(plan: Plan, carry: Carry) -> int:
    """How long the stage's vectors have carried traffic."""
    return carry.exposed_windows * plan.window.length_ms


def _leave_explore(plan: Plan, experiment: Experiment, at_ms: int, believed: Believed) -> Experiment:
    carry, pick = experiment.carry, experiment.carry.pick
    explored_ms = exposed_ms(plan, carry)
    if explored_ms < plan.rollout.explore_min_ms:
        return experiment
    unwatched = [rail.metric for rail in plan.guardrails if rail.metric in believed.unmeasured]
    if unwatched:
        return moved(experiment, "paused", _unwatched(unwatched, plan.rollout.explore_min_ms), at_ms)
    if pick is None or believed.unmeasured:  # what no deal could measure, no test can prove
        return experiment
    sure = pick.p_better >= GATE_BETTER  # and it keeps every guardrail by `policy.MIN_FEASIBLE`, else it were no pick
    exhausted = pick.regret <= GATE_REGRET * pick.gain_mean or explored_ms >= plan.rollout.explore_max_ms
    if not (sure and exhausted):
        return experiment
    vector = Vector(f"c{carry.arms + 1}", pick.theta)
    reason = f"{vector.arm}: expected gain {pick.gain_mean:+.2%}, P(feasible) {pick.p_feasible:.0%}; now on fresh data"
    return moved(experiment, "confirm", reason, at_ms, candidate=vector, arms=carry.arms + 1)


def _unwatched(metrics: list[str], explored_ms: int) -> str:
    """Why nothing more is dealt: what vectors do to a guardrail was never seen, and never may be."""
    named = ", ".join(dict.fromkeys(metrics))
    return (
        f"no deal in {written(explored_ms)} of exploring could measure {named}, a guardrail: "
        "its arms have too few events or buckets; guard a metric of more frequent events, or bring the study more "
        "traffic, and resume"
    )


def _judge_confirm(plan: Plan, experiment: Experiment, at_ms: int, believed: Believed) -> Experiment:
    """The claim: a sample of fixed length after the gate, judged once, when its last window is sealed."""
    carry = experiment.carry
    if carry.awaiting_approval or carry.candidate is None:
        return experiment
    if carry.claim_through_ms is None:
        complete = exposed_ms(plan, carry) >= plan.rollout.confirm_ms
        reason = "the sample is complete: waiting until it is sealed"
        return carrying(experiment, claim_through_ms=at_ms, reason=reason) if complete else experiment
    if experiment.sample is None or experiment.trial is None:
        return experiment
    claim = _claimed(plan, experiment.trial, experiment.sample, experiment.looks.through(carry.claim_through_ms))
    unproven = _unproven(plan, claim)
    failed = unproven or _beyond(plan, claim) or improbable(plan, carry.candidate.theta, believed)
    if failed:
        # Near a limit the belief has learnt from the test what there is to know, and the best vector is near it too.
        banned = banning(carry, carry.candidate.theta) if unproven else carry.banned
        return moved(experiment, "explore", f"not confirmed: {failed}", at_ms, candidate=None, banned=banned)
    experiment = _noted(experiment, experiment.trial, claim.gain, claim.se)
    doubtful = _implausible(plan, claim)
    if plan.rollout.require_approval or doubtful:
        reason = f"confirmed: waiting for an operator's approval{doubtful or ''}"
        return carrying(experiment, awaiting_approval=True, reason=reason)
    return moved(experiment, "ramp", f"confirmed on fresh data: {claim.said}", at_ms)


class _Claim(msgspec.Struct, frozen=True):
    """What a confirm sample says, without the one bad hour that it may hold."""

    gain: float
    se: float
    change: dict[str, float]  # every metric's
    said: str


def _claimed(plan: Plan, deal: Deal, sample: Cell, looks: Looks) -> _Claim:
    gain, se = measured_gain(plan, deal, sample)
    y = deal_changes(plan, deal, sample).change[:, 0, 0]
    names = [metric.name for metric in plan.metrics]
    hour = worst.bad(looks, [m for m, name in enumerate(names) if name in plan.tested])
    said = f"gain {gain:+.2%} +- {se:.2%}"
    if hour is not None:
        y = worst.without(y, looks, hour)
        lost = max(worst.share(looks, hour)[names.index(name)] for name in plan.objective)
        gain = sum(plan.objective[name] * float(y[m]) for m, name in enumerate(names) if name in plan.objective)
        se /= math.sqrt(max(1.0 - lost, worst.LEAST_REST))
        said = (
            f"gain {gain:+.2%} +- {se:.2%} without a window like no other, which ends at {hour.end_ms} ({said} with it)"
        )
    return _Claim(gain, se, dict(zip(names, y.tolist(), strict=True)), said)


def _unproven(plan: Plan, claim: _Claim) -> str | None:
    """Why the confirm sample does not show a gain, or None when it does."""
    asked = {"the objective": claim.gain} | {rail.metric: claim.change[rail.metric] for rail in plan.guardrails}
    unknown = next((name for name, change in asked.items() if not np.isfinite(change)), None)
    if unknown is not None:
        return f"{unknown} cannot be measured: a denominator is zero, or control's level not above it"
    if not claim.gain + float(ndtri(plan.rollout.confirm_alpha)) * claim.se > 0:
        return f"{claim.said} is not surely above zero"
    return None


def _beyond(plan: Plan, claim: _Claim) -> str | None:
    """Which guardrail the confirm sample lies beyond, or None."""
    for rail in plan.guardrails:
        y = claim.change[rail.metric]
        if not rail.sign * (y - rail.limit) > -TOLERANCE * abs(rail.limit):
            return f"{rail.metric} changes by {y:+.2%}, the limit is {rail.limit:+.2%}"
    return None


def _implausible(plan: Plan, claim: _Claim) -> str | None:
    """Which metric of a claim that holds changes by more than weights can do, or None.

    Twyman's law: a figure that looks too good is usually an error of measurement (Kohavi, Tang and Xu 2020,
    "Trustworthy online controlled experiments", chapter 3).
    """
    most = plan.safety.implausible_change
    found = [f"{name} by {y:+.0%}" for name, y in claim.change.items() if name in plan.tested and abs(y) > most]
    if not found:
        return None
    limit = f"a change above {most:.0%} (safety.implausible_change) is more often an error in an arm's telemetry"
    return f", for it changes {', '.join(found)}: {limit} than a gain; approve it once that is ruled out, else reject"


def measured_gain(plan: Plan, deal: Deal, cell: Cell) -> tuple[float, float]:
    """The objective of the deal's first vector, from these sums alone, and its standard error."""
    objective = np.array([plan.objective.get(metric.name, 0.0) for metric in plan.metrics])
    counted = objective != 0.0
    change = deal_changes(plan, deal, cell).change[counted, 0, 0]
    metrics = tuple(metric for metric in plan.metrics if plan.objective.get(metric.name, 0.0))
    se = combined_se(objective[counted], metrics, plan.component_names, served(deal, cell))
    return float(objective[counted] @ change), float(se[0])


def improbable(plan: Plan, theta: Theta, believed: Believed) -> str | None:
    """Why the posterior, which has all evidence, does not trust the vector with the guardrails; or None."""
    unit, goal = points(plan, believed.space, believed.groups, theta), tolerant(believed.goal)
    violated = [
        policy.p_violation(believed.posterior, goal, unit[[k]], group, believed.hour)[0]
        for k, group in enumerate(believed.groups)
    ]
    p = math.prod(1.0 - float(v) for v in violated)
    trusted = p >= TRUSTED_FEASIBLE
    return None if trusted else f"P(every guardrail is kept) is {p:.0%}, {TRUSTED_FEASIBLE:.0%} is asked for"


def _climb(plan: Plan, experiment: Experiment, seen: Statistics) -> Experiment:
    """The next share, where the gain does not fall as the share grows; else back, for more traffic would be worse."""
    carry, at_ms, cell = experiment.carry, seen.end_ms, trial_sums(experiment, seen.cells)
    if exposed_ms(plan, carry) < plan.rollout.ramp_step_ms:
        return experiment
    if carry.candidate is not None and experiment.trial is not None and cell is not None:
        experiment = _noted(experiment, experiment.trial, *measured_gain(plan, experiment.trial, cell))
        fall = trend.falling(experiment.carry.shares, looks=len(plan.rollout.ramp_shares))
        if fall:
            banned = banning(carry, carry.candidate.theta)
            return moved(experiment, "explore", fall, at_ms, candidate=None, banned=banned)
    if carry.ramp_step + 1 >= len(plan.rollout.ramp_shares):
        return moved(experiment, "hold", "ramped up: holding", at_ms)
    share = plan.rollout.ramp_shares[carry.ramp_step + 1]
    return carrying(experiment, ramp_step=carry.ramp_step + 1, exposed_windows=0, reason=f"ramp to {share:.0%}")


def _noted(experiment: Experiment, trial: Deal, gain: float, se: float) -> Experiment:
    """The state that knows what the candidate gained at the trial's share."""
    if not (math.isfinite(gain) and math.isfinite(se)):  # what is no number cannot be recorded
        return experiment
    step = Step(float(np.mean(trial.buckets == 1)), gain, se)
    return carrying(experiment, shares=(*experiment.carry.shares, step))
