"""What arms do to live traffic, as people read it: relative changes with 95 % intervals, margins to guardrails.

Notation: M metrics, A arms (control first), B buckets, G groups (0 = all traffic, k = segment k).
"""

import math
from typing import Literal

import msgspec
import numpy as np

from controller.core.estimate import LEAST_TOLD, Served, by_past, combined_se, relative_changes, usable
from controller.core.evidence import deal_sums, served, trial_sums
from controller.core.experiment import Experiment
from controller.core.plan import Plan
from controller.core.rollout import Deal
from controller.core.windows import Cell

Z95 = 1.959963984540054  # half of a 95 % interval, in standard errors

Kept = Literal["kept", "unsure", "broken"]


class Effect(msgspec.Struct, frozen=True):
    """A relative change against control and its 95 % interval; null where it cannot be measured."""

    change: float | None
    low: float | None
    high: float | None


UNKNOWN = Effect(None, None, None)


class MetricEffect(msgspec.Struct, frozen=True):
    """What was done to one metric."""

    metric: str
    effect: Effect


class Margin(msgspec.Struct, frozen=True):
    """A guardrail beside the change that it limits. `margin` is negative where the limit is passed.

    `kept` where the whole interval lies inside the limit, `broken` where all of it lies beyond.
    """

    metric: str
    side: Literal["min", "max"]
    limit: float
    effect: Effect
    margin: float | None
    state: Kept


class ArmEffects(msgspec.Struct, frozen=True):
    """What one arm, or several taken as one, did: the objective, every metric, every guardrail."""

    gain: Effect
    metrics: tuple[MetricEffect, ...]
    margins: tuple[Margin, ...]


class Measured(msgspec.Struct, frozen=True):
    """The newest word on live traffic: the candidate's test, or all exploring arms taken as one."""

    what: Literal["candidate", "exploring"]
    arm: str  # the candidate's name; "" for exploring
    events: int  # that it rests on, control's included
    deals: int
    effects: ArmEffects


def effect(change: float, se: float) -> Effect:
    """A change with its 95 % interval."""
    if not (math.isfinite(change) and math.isfinite(se)):
        return UNKNOWN
    return Effect(change, change - Z95 * se, change + Z95 * se)


def margins(plan: Plan, changes: dict[str, Effect]) -> tuple[Margin, ...]:
    """Every guardrail beside its metric's change."""
    return tuple(_margin(rail.metric, rail.sign, rail.limit, changes[rail.metric]) for rail in plan.guardrails)


def _margin(metric: str, sign: int, limit: float, found: Effect) -> Margin:
    side: Literal["min", "max"] = "min" if sign > 0 else "max"
    if found.change is None or found.low is None or found.high is None:
        return Margin(metric, side, limit, found, None, "unsure")
    ends = sorted((sign * (found.low - limit), sign * (found.high - limit)))
    state: Kept = "kept" if ends[0] >= 0 else "broken" if ends[1] < 0 else "unsure"
    return Margin(metric, side, limit, found, sign * (found.change - limit), state)


def arm_effects(plan: Plan, deal: Served, group: int = 0, *, usable_alone: bool = False) -> tuple[ArmEffects, ...]:
    """(A-1) what every arm did in a group, from a deal's sums. The objective is over all traffic only.

    `usable_alone`: only what the belief would take: in a mean over deals by precision few events look too low.
    """
    names = plan.component_names
    coefficients = np.array([plan.objective.get(metric.name, 0.0) for metric in plan.metrics])
    aimed = coefficients != 0.0
    terms = tuple(metric for metric, counts in zip(plan.metrics, aimed, strict=True) if counts)
    own = found = relative_changes(plan.metrics, names, deal)
    gain_se = combined_se(coefficients[aimed], terms, names, deal)
    if usable_alone:
        found = by_past(own, plan.metrics, names, deal)
        known = usable(found, group)[:, None, None]
        found = msgspec.structs.replace(found, change=np.where(known, found.change, np.nan))
    vague = ~(found.control_relative_se[:, group] <= LEAST_TOLD)[:, None, None]  # of a control with hardly an event
    found = msgspec.structs.replace(found, change=np.where(vague, np.nan, found.change))
    se = np.sqrt(np.maximum(np.diagonal(found.covariance[:, group], axis1=1, axis2=2), 0.0))  # (M, A-1)
    before, after = (changes.control_relative_se[aimed, group] for changes in (own, found))
    if not np.array_equal(before, after, equal_nan=True):  # of few events: what metrics have in common is not known
        gain_se = np.sqrt(coefficients[aimed] ** 2 @ se[aimed] ** 2)
    with np.errstate(invalid="ignore"):  # what cannot be measured may be infinite on both sides
        gain = coefficients[aimed] @ found.change[aimed, group]
    told = []
    for a in range(deal.arms - 1):
        by_metric = {
            metric.name: effect(float(found.change[m, group, a]), float(se[m, a]))
            for m, metric in enumerate(plan.metrics)
        }
        whole = effect(float(gain[a]), float(gain_se[a])) if group == 0 else UNKNOWN
        listed = tuple(MetricEffect(name, one) for name, one in by_metric.items())
        told.append(ArmEffects(whole, listed, margins(plan, by_metric)))
    return tuple(told)


def measured(plan: Plan, experiment: Experiment, cells: dict[tuple[int, int], Cell]) -> Measured | None:
    """The candidate's test where there is one with traffic, else the exploring traffic of the deals still open."""
    test = own_test(experiment, cells)
    if test is None:
        return _exploring(plan, experiment, cells)
    trial, cell = test
    found = arm_effects(plan, served(trial, cell))
    return Measured("candidate", trial.names[1], int(cell.events.sum()), 1, found[0])


def own_test(experiment: Experiment, cells: dict[tuple[int, int], Cell]) -> tuple[Deal, Cell] | None:
    """The candidate's test and its sums; None before its first event, while the trial still holds another's."""
    trial, cell, candidate = experiment.trial, trial_sums(experiment, cells), experiment.carry.candidate
    if trial is None or cell is None or candidate is None or candidate.arm not in trial.names:
        return None
    return trial, cell


def _exploring(plan: Plan, experiment: Experiment, cells: dict[tuple[int, int], Cell]) -> Measured | None:
    """All exploring arms of a deal as one arm against control, averaged over deals by precision."""
    rows, events = [], 0
    for id_, deal in sorted(experiment.deals.items()):
        cell = deal_sums(experiment, cells, id_)
        if cell is not None and deal.stage == "explore" and len(deal.arms) > 1:
            as_one = Served(cell.sums, np.minimum(deal.buckets.astype(np.int64), 1), 2, deal.history)
            rows.append(arm_effects(plan, as_one, usable_alone=True)[0])
            events += int(cell.events.sum())
    if not rows:
        return None
    by_metric = {metric.name: pooled([row.metrics[m].effect for row in rows]) for m, metric in enumerate(plan.metrics)}
    listed = tuple(MetricEffect(name, one) for name, one in by_metric.items())
    together = ArmEffects(pooled([row.gain for row in rows]), listed, margins(plan, by_metric))
    return Measured("exploring", "", events, len(rows), together)


def pooled(effects: list[Effect]) -> Effect:
    """Independent changes averaged by their precision."""
    known = [(e.change, (e.high - e.change) / Z95) for e in effects if e.change is not None and e.high is not None]
    weighted = [(1.0 / se**2, y) for y, se in known if se > 0.0]
    if not weighted:
        return UNKNOWN
    precision = sum(weight for weight, _ in weighted)
    return effect(sum(weight * y for weight, y in weighted) / precision, 1.0 / math.sqrt(precision))
