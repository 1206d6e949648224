"""The breaker: stops catastrophes within a window, on its partial sums."""

import msgspec

from controller.core import rollout, safety
from controller.core.control import Control, Statistics, banning, carrying, issue, moved
from controller.core.evidence import deal_changes, deal_sums
from controller.core.plan import Plan
from controller.core.safety import BREAKER_ALPHA, Crossing


def tripped(plan: Plan, control: Control, seen: Statistics) -> tuple[Crossing, ...]:
    """Arms of the current deal whose margin is surely below the plan's `breaker_change`.

    Judged by the newest window and the one before: what a deal did for weeks must not hide what it does now.
    """
    deal = control.deals[control.carry.deal]
    recent = {key: cell for key, cell in seen.cells.items() if key[0] >= seen.end_ms - plan.window.length_ms}
    cell = deal_sums(msgspec.structs.replace(control, totals={}), recent, deal.id)
    if cell is None or len(deal.arms) < 2 or not plan.guardrails:
        return ()
    changes = deal_changes(plan, deal, cell)
    if changes.buckets[0] < safety.MIN_CLUSTERS:
        return ()
    # From an infeasible baseline a catastrophe is a fall below the baseline, not below a limit far above it.
    borne = tuple(rail.borne for rail in plan.guardrails)
    found = safety.crossings(borne, plan.metrics, changes, BREAKER_ALPHA, plan.safety.breaker_change)
    return tuple(c for c in found if changes.buckets[c.arm] >= safety.MIN_CLUSTERS)


def stop(plan: Plan, control: Control, found: tuple[Crossing, ...], now_ms: int) -> tuple[Control, bytes]:
    """Give the broken arms' buckets to control at once; a candidate that breaks sends the study back to explore."""
    deal, worst = control.deals[control.carry.deal], found[0]
    broken = sorted({c.arm for c in found})
    if control.carry.stage == "verify":  # every arm serves the baseline: no vector is at fault
        reason = f"A/A: {deal.arms[worst.arm].arm} changes {worst.metric} by {worst.change:+.1%} within the window"
        control = moved(control, "paused", reason, now_ms)
        return issue(plan, control, rollout.without(deal, control.carry.deals + 1, range(1, len(deal.arms))), now_ms)
    banned = banning(control.carry, *(deal.arms[arm].theta for arm in broken))
    reason = (
        f"breaker: {deal.arms[worst.arm].arm} changes {worst.metric} by {worst.change:+.1%} within the window, "
        f"the limit is {worst.limit:+.2%}"
    )
    if control.carry.stage == "explore" or (deal.trial and 1 not in broken):  # the candidate is not among them
        control = carrying(control, banned=banned, reason=reason)
    else:
        control = moved(control, "explore", reason, now_ms, candidate=None, banned=banned)
    return issue(plan, control, rollout.without(deal, control.carry.deals + 1, broken), now_ms)
