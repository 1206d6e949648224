"""One decision: what a settled window says, which stage follows, which table is published.

Notation: A arms, G' groups with weights of their own (one, or each segment), M metrics, d free weights.
"""

import math

import msgspec
import numpy as np
from scipy import stats

from controller.assignment import Arm, Stage
from controller.core import policy, rollout, safety
from controller.core.belief import Believed, believe, points, theta_at
from controller.core.control import (
    HOUR_MS,
    Carry,
    Choice,
    Control,
    Evidence,
    Statistics,
    Vector,
    baseline,
    deal_changes,
    issue,
    live_evidence,
)
from controller.core.estimate import Changes
from controller.core.plan import Plan
from controller.core.rollout import FROZEN, Deal

GATE_BETTER = 0.95  # P(gain > 0) that a vector needs to leave exploration
GATE_FEASIBLE = 0.8  # P(every guardrail kept), likewise
GATE_REGRET = 0.25  # exploration may end early once the expected remaining gain is this small a part of the pick's


class Decision(msgspec.Struct, frozen=True, eq=False):
    """What was decided on one window, for the ledger and for people."""

    end_ms: int
    outcome: str  # dealt | kept | no_data | backlog | frozen
    why: str
    table: bytes | None  # None: nothing is published (an older window of a backlog)
    changes: Changes | None  # of the deal that was live in the window, over all it has lasted
    deal: Deal  # that deal
    tripped: tuple[safety.Crossing, ...] = ()


def decide(
    plan: Plan, control: Control, seen: Statistics, now_ms: int, rng: np.random.Generator, act: bool
) -> tuple[Control, Decision]:
    """Decide on the window that ends at `seen.end_ms`.

    Args:
        act: False for the older windows of a backlog: their evidence counts, but only the newest publishes and
            only on what was published in it may a stage advance.
    """
    deal = control.deals[control.carry.deal]
    control = _observe(plan, control, seen, deal)
    control, live = live_evidence(plan, control, seen.cells)
    changes = next((e.changes for e in live if e.deal == deal.id), None)
    events = sum((cell.events.sum() for (end, _), cell in seen.cells.items() if end == seen.end_ms), start=0)

    def done(
        control: Control, outcome: str, deal_next: Deal, tripped: tuple[safety.Crossing, ...] = ()
    ) -> tuple[Control, Decision]:
        table = None
        if act:
            control, table = issue(plan, control, deal_next, now_ms)
        return control, Decision(seen.end_ms, outcome, control.carry.reason, table, changes, deal, tripped)

    if control.carry.stage in FROZEN:
        return done(control, "frozen", _all_control(plan, control))
    fault = _fault(plan, control, seen, deal)
    control = _remember_units(control, seen)
    if fault:
        control = moved(control, "paused", fault, seen.end_ms)
        return done(control, "frozen", _all_control(plan, control))
    if not act:
        return done(control, "backlog", deal)
    if not events:
        return done(control, "no_data", deal)

    tripped = _tripped(plan, control, deal, changes)
    if tripped:
        control = _stop(control, deal, tripped, seen.end_ms)
    believed = believe(plan, control, live, (seen.end_ms - (control.carry.started_ms or 0)) / HOUR_MS)
    control = _pick(plan, control, believed, rng)
    control = _advance(plan, control, seen.end_ms, believed, deal)
    control, following = _deal(plan, control, believed, deal, rng)
    return done(control, "kept" if following.id == deal.id else "dealt", following, tripped)


def moved(control: Control, stage: Stage, reason: str, at_ms: int, **changes: object) -> Control:
    """The state in another stage; raises `IllegalMove` when it may not follow."""
    carry = control.carry
    rollout.check_move(carry.stage, stage)
    before = carry.before if carry.stage in FROZEN else carry.stage
    fresh: dict[str, object] = {
        "claim_through_ms": None,
        "awaiting_approval": False,
        "exposed_windows": 0,
        "ramp_step": 0,
    }
    fresh |= {"stage": stage, "stage_since_ms": at_ms, "before": before, "reason": reason}
    return _with(control, **(fresh | changes))


def _with(control: Control, **changes: object) -> Control:
    return msgspec.structs.replace(control, carry=msgspec.structs.replace(control.carry, **changes))


def _all_control(plan: Plan, control: Control) -> Deal:
    """The current deal where it is all control already, else a new one."""
    deal = control.deals[control.carry.deal]
    if len(deal.arms) == 1:
        return deal
    return rollout.all_control(control.carry.deals + 1, control.carry.stage, baseline(plan), plan.buckets)


def _observe(plan: Plan, control: Control, seen: Statistics, deal: Deal) -> Control:
    carry = control.carry
    events = np.zeros(plan.buckets, np.int64)
    for (end, version), cell in seen.cells.items():
        if end == seen.end_ms and control.versions.get(version) == deal.id:
            events += cell.events.sum(axis=0)
    per_arm = np.bincount(deal.buckets, weights=events, minlength=len(deal.arms))
    started = seen.end_ms - plan.window.length_ms if carry.started_ms is None else carry.started_ms
    return _with(
        control,
        started_ms=started,
        decided_through_ms=seen.end_ms,
        exposed_windows=carry.exposed_windows + int(np.all(per_arm > 0)),
    )


def _remember_units(control: Control, seen: Statistics) -> Control:
    return msgspec.structs.replace(control, units=control.units + seen.units)


def _fault(plan: Plan, control: Control, seen: Statistics, deal: Deal) -> str | None:
    """Why this window's data cannot be trusted, or None."""
    quality, limits = seen.quality, plan.safety
    attributed = quality.accepted + quality.misattributed
    if safety.excessive(quality.misattributed, attributed, limits.misattributed_share):
        return f"misattribution: {quality.misattributed} of {attributed} events name another arm than their bucket's"
    if safety.excessive(seen.rejected, seen.rejected + attributed + quality.fallback, limits.rejected_share):
        return f"impossible values: {seen.rejected} events were rejected since the last decision"
    mine = [
        cell.events.sum(axis=0)
        for (end, version), cell in seen.cells.items()
        if end == seen.end_ms and control.versions.get(version) == deal.id
    ]
    if mine:
        silent = safety.silent_arm(np.sum(mine, axis=0), deal.buckets, len(deal.arms))
        if silent is not None:
            return f"missing data: arm {deal.arms[silent].arm} has no event in the window, while the others have"
    p = safety.sample_ratio(seen.units, control.units, deal.buckets, len(deal.arms))
    if p < limits.srm_alpha:
        return f"sample ratio mismatch: p = {p:.1g} that the units fell on the arms by their buckets"
    return None


def _tripped(plan: Plan, control: Control, deal: Deal, changes: Changes | None) -> tuple[safety.Crossing, ...]:
    """Guardrails that the candidate's sequence has crossed; exploring arms are judged by the posterior instead."""
    if control.carry.stage == "explore" or deal.stage == "explore" or changes is None or not plan.guardrails:
        return ()
    alpha = plan.safety.stop_alpha / (2 + len(plan.rollout.ramp_shares))  # confirm, each share, hold: a sequence each
    return safety.crossings(plan.guardrails, plan.metrics, changes, alpha)


def _stop(control: Control, deal: Deal, tripped: tuple[safety.Crossing, ...], at_ms: int) -> Control:
    worst = tripped[0]
    vector = deal.arms[worst.arm]
    reason = (
        f"guardrail: {vector.arm} changes {worst.metric} by {worst.change:+.2%} +- {worst.radius:.2%}, "
        f"the limit is {worst.limit:+.2%}"
    )
    banned = (*control.carry.banned, vector.theta)
    return moved(control, "explore", reason, at_ms, candidate=None, banned=banned)


def _pick(plan: Plan, control: Control, believed: Believed, rng: np.random.Generator) -> Control:
    pick = policy.recommend(
        believed.posterior, believed.goal, believed.groups, believed.hour, candidates=believed.earlier, rng=rng
    )
    choice = None
    if pick is not None:
        theta = theta_at(plan, believed.space, pick.unit)
        choice = Choice(theta, pick.gain_mean, pick.gain_sd, pick.p_feasible, pick.p_better, pick.regret)
    return _with(control, hypers=believed.hypers, pick=choice)


def _advance(plan: Plan, control: Control, at_ms: int, believed: Believed, deal: Deal) -> Control:
    """Move to the stage that the evidence allows."""
    match control.carry.stage:
        case "explore":
            return _leave_explore(plan, control, at_ms, believed)
        case "confirm":
            return _judge_confirm(plan, control, at_ms, believed, deal)
        case "ramp":
            return _climb(plan, control, at_ms)
        case _:
            return control


def _leave_explore(plan: Plan, control: Control, at_ms: int, believed: Believed) -> Control:
    carry, pick = control.carry, control.carry.pick
    explored_ms = at_ms - max(carry.stage_since_ms, carry.started_ms or 0)
    if pick is None or explored_ms < plan.rollout.explore_min_ms:
        return control
    sure = pick.p_better >= GATE_BETTER and pick.p_feasible >= GATE_FEASIBLE
    exhausted = pick.regret <= GATE_REGRET * pick.gain_mean or explored_ms >= plan.rollout.explore_max_ms
    if not (sure and exhausted):
        return control
    vector = Vector(f"c{carry.arms + 1}", pick.theta)
    reason = f"{vector.arm}: expected gain {pick.gain_mean:+.2%}, P(feasible) {pick.p_feasible:.0%}; now on fresh data"
    return moved(control, "confirm", reason, at_ms, candidate=vector, arms=carry.arms + 1)


def _judge_confirm(plan: Plan, control: Control, at_ms: int, believed: Believed, deal: Deal) -> Control:
    """The claim: a sample of fixed length after the gate, from sealed windows only."""
    carry = control.carry
    if carry.claim_through_ms is None:
        if carry.exposed_windows * plan.window.length_ms < plan.rollout.confirm_ms:
            return control
        carry = msgspec.structs.replace(
            carry, claim_through_ms=at_ms, reason="the sample is complete: waiting until it is sealed"
        )
        control = msgspec.structs.replace(control, carry=carry)
    unsealed = carry.sealed_through_ms < (carry.claim_through_ms or 0)
    if carry.awaiting_approval or unsealed or deal.id not in control.totals:
        return control
    failed = _unproven(plan, deal_changes(plan, deal, control.totals[deal.id]), _p_feasible(plan, carry, believed))
    if failed:
        banned = (*carry.banned, carry.candidate.theta) if carry.candidate else carry.banned
        return moved(control, "explore", f"not confirmed: {failed}", at_ms, candidate=None, banned=banned)
    if plan.rollout.require_approval:
        return _with(control, awaiting_approval=True, reason="confirmed: waiting for an operator's approval")
    return moved(control, "ramp", "confirmed on fresh data", at_ms)


def _p_feasible(plan: Plan, carry: Carry, believed: Believed) -> float:
    if carry.candidate is None:
        return 0.0
    unit = points(plan, believed.space, carry.candidate.theta)
    violation = [
        policy.p_violation(believed.posterior, believed.goal, unit[[k]], group, believed.hour)[0]
        for k, group in enumerate(believed.groups)
    ]
    return float(np.prod(1.0 - np.array(violation)))


def _unproven(plan: Plan, changes: Changes, p_feasible: float) -> str | None:
    """Why the confirm sample does not show a gain inside the guardrails, or None when it does."""
    names = [metric.name for metric in plan.metrics]
    y = {name: float(changes.change[m, 0, 0]) for m, name in enumerate(names)}
    sd = {name: math.sqrt(max(float(changes.covariance[m, 0, 0, 0]), 0.0)) for m, name in enumerate(names)}
    z = float(stats.norm.isf(plan.rollout.confirm_alpha))
    gain = sum(c * y[name] for name, c in plan.objective.items())
    # The metrics' errors are dependent in unknown ways: the sum of the s.e. bounds the s.e. of the sum.
    gain_sd = sum(abs(c) * sd[name] for name, c in plan.objective.items())
    if not gain - z * gain_sd > 0:
        return f"gain {gain:+.2%} +- {gain_sd:.2%} is not surely above zero"
    for guardrail in plan.guardrails:
        margin = guardrail.sign * (y[guardrail.metric] - guardrail.limit)
        if not margin > 0:
            return f"{guardrail.metric} changes by {y[guardrail.metric]:+.2%}, the limit is {guardrail.limit:+.2%}"
    if p_feasible < GATE_FEASIBLE:
        return f"P(every guardrail is kept) is {p_feasible:.0%}, {GATE_FEASIBLE:.0%} is asked for"
    return None


def _climb(plan: Plan, control: Control, at_ms: int) -> Control:
    carry = control.carry
    if carry.exposed_windows * plan.window.length_ms < plan.rollout.ramp_step_ms:
        return control
    if carry.ramp_step + 1 < len(plan.rollout.ramp_shares):
        share = plan.rollout.ramp_shares[carry.ramp_step + 1]
        return _with(control, ramp_step=carry.ramp_step + 1, exposed_windows=0, reason=f"ramp to {share:.0%}")
    return moved(control, "hold", "ramped up: holding", at_ms)


def _deal(
    plan: Plan, control: Control, believed: Believed, deal: Deal, rng: np.random.Generator
) -> tuple[Control, Deal]:
    """The deal that the stage wants: the current one where it already is that."""
    stage = control.carry.stage
    if stage == "explore":
        return _explore(plan, control, believed, rng)
    share = {
        "confirm": plan.traffic.max_share_at_risk,
        "ramp": plan.rollout.ramp_shares[control.carry.ramp_step],
        "hold": plan.rollout.ramp_shares[-1],
    }[stage]
    vector = control.carry.candidate
    assert vector is not None  # these stages are entered with a candidate
    arm = Arm(vector.arm, "candidate" if stage == "confirm" else "promoted", vector.theta)
    arm_of = rollout.nested(plan.buckets, share, plan.seed)
    # A ramp that is complete is held with the very deal it ended with.
    same_test = deal.stage == stage or (deal.stage, stage) == ("ramp", "hold")
    if same_test and deal.arms[1:] == (arm,) and np.array_equal(deal.buckets, arm_of):
        return control, deal
    return control, Deal(control.carry.deals + 1, stage, (baseline(plan), arm), arm_of)


def _explore(plan: Plan, control: Control, believed: Believed, rng: np.random.Generator) -> tuple[Control, Deal]:
    carry, traffic = control.carry, plan.traffic
    banned = [points(plan, believed.space, theta) for theta in carry.banned]
    proposal = policy.propose(
        believed.posterior,
        believed.goal,
        believed.groups,
        believed.hour,
        arms=traffic.explore_arms,
        risk=plan.safety.risk,
        previous=believed.earlier,
        banned=np.array(banned).reshape(-1, believed.space.d),
        rng=rng,
    )
    arms = [baseline(plan)]
    for k, unit in enumerate(proposal.unit):
        arms.append(Arm(f"e{carry.arms + k + 1}", "explore", theta_at(plan, believed.space, unit)))
    arm_of = rollout.shuffled(plan.buckets, traffic.explore_arms, traffic.explore_share, rng)
    control = _with(control, arms=carry.arms + len(proposal.unit))
    return control, Deal(carry.deals + 1, "explore", tuple(arms), arm_of)
