"""The breaker: stops catastrophes within a window, on its partial sums."""

import msgspec

from controller.core import rollout, safety
from controller.core.control import Control, Statistics, deal_changes, deal_sums, issue
from controller.core.decide import moved
from controller.core.plan import Plan
from controller.core.safety import BREAKER_ALPHA, Crossing


def tripped(plan: Plan, control: Control, seen: Statistics) -> tuple[Crossing, ...]:
    """Arms of the current deal whose margin is surely below the plan's `breaker_change`."""
    deal = control.deals[control.carry.deal]
    cell = deal_sums(control, seen.cells, deal.id)
    if cell is None or len(deal.arms) < 2 or not plan.guardrails:
        return ()
    changes = deal_changes(plan, deal, cell)
    if changes.buckets[0] < safety.MIN_CLUSTERS:
        return ()
    found = safety.crossings(plan.guardrails, plan.metrics, changes, BREAKER_ALPHA, plan.safety.breaker_change)
    return tuple(c for c in found if changes.buckets[c.arm] >= safety.MIN_CLUSTERS)


def stop(plan: Plan, control: Control, found: tuple[Crossing, ...], now_ms: int) -> tuple[Control, bytes]:
    """Give the broken arms' buckets to control at once; a candidate that breaks sends the study back to explore."""
    deal = control.deals[control.carry.deal]
    broken = sorted({c.arm for c in found})
    thetas = tuple(deal.arms[arm].theta for arm in broken)
    worst = found[0]
    reason = (
        f"breaker: {deal.arms[worst.arm].arm} changes {worst.metric} by {worst.change:+.1%} within the window, "
        f"the limit is {worst.limit:+.2%}"
    )
    banned = (*control.carry.banned, *thetas)
    if control.carry.stage == "explore":
        control = msgspec.structs.replace(
            control, carry=msgspec.structs.replace(control.carry, banned=banned, reason=reason)
        )
    else:
        control = moved(control, "explore", reason, now_ms, candidate=None, banned=banned)
    return issue(plan, control, rollout.without(deal, control.carry.deals + 1, broken), now_ms)
