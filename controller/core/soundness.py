"""Whether the experiment itself is sound: the A/A test before it, and what one deal leaves behind for the next."""

import math
from collections.abc import Iterator

import msgspec
import numpy as np

from controller.assignment import Arm
from controller.core import aa, carryover, rollout
from controller.core.aa import Noise
from controller.core.estimate import Served
from controller.core.evidence import deal_sums, served, unsealed_deal_sums
from controller.core.experiment import Experiment, Statistics, baseline, carrying, moved
from controller.core.plan import Plan
from controller.core.rollout import Deal


def verified(plan: Plan, experiment: Experiment, seen: Statistics) -> Experiment:
    """In the stage `verify`: paused where arms that are served alike differ, explore once it has lasted long enough."""
    deals = list(_alike(plan, experiment, seen))
    windows = max(plan.rollout.verify_ms // plan.window.length_ms, 1)
    broken = aa.difference(plan.metrics, plan.component_names, deals, windows)
    if broken is not None:
        return moved(experiment, "paused", broken, seen.end_ms)
    if deals:
        experiment = carrying(experiment, noise=_noise(plan, deals))
    if experiment.carry.exposed_windows * plan.window.length_ms < plan.rollout.verify_ms:
        return experiment
    return moved(experiment, "explore", f"A/A: no arm differs; {told(experiment.carry.noise)}", seen.end_ms)


def _alike(plan: Plan, experiment: Experiment, seen: Statistics) -> Iterator[Served]:
    """The stage's deals in windows that are not sealed; what was before it was resumed had a fault."""
    since = experiment.carry.stage_since_ms + plan.window.length_ms
    cells = {key: cell for key, cell in seen.cells.items() if key[0] >= since}
    for id_, deal in sorted(experiment.deals.items()):
        cell = unsealed_deal_sums(experiment, cells, id_)
        if deal.stage == "verify" and len(deal.arms) == plan.traffic.explore_arms + 1 and cell is not None:
            yield served(deal, cell)


def alike(plan: Plan, experiment: Experiment, rng: np.random.Generator) -> tuple[Experiment, Deal]:
    """A deal as in explore, whose arms all serve the baseline."""
    carry, traffic = experiment.carry, plan.traffic
    base = baseline(plan)
    arms = [Arm(f"a{carry.arms + k + 1}", "verify", base.theta) for k in range(traffic.explore_arms)]
    buckets = rollout.shuffled(plan.buckets, len(arms), traffic.explore_share, rng)
    deal = Deal(carry.deals + 1, "verify", (base, *arms), buckets, experiment.history)
    return carrying(experiment, arms=carry.arms + len(arms)), deal


def _noise(plan: Plan, deals: list[Served]) -> tuple[Noise, ...]:
    windows = plan.rollout.confirm_ms / plan.window.length_ms
    shares = plan.traffic.confirm_share, 1.0 - plan.traffic.max_share_at_risk
    found = aa.noise(plan.metrics, plan.component_names, deals, shares, windows)
    # What is no number cannot be recorded.
    return tuple(n for n in found if math.isfinite(n.arm_se) and math.isfinite(n.test_se))


def told(noise: tuple[Noise, ...]) -> str:
    """For people: how well each metric can be measured."""
    each = ", ".join(f"{n.metric} {n.arm_se:.2%} / {n.test_se:.2%}" for n in noise)
    return f"s.e. of an arm in a window / of the confirm test: {each or 'nothing could be measured'}"


def followed_on(plan: Plan, experiment: Experiment, seen: Statistics, deal: Deal) -> Experiment:
    """The state that knows what the deal before left in the buckets of this one; each pair is looked at once.

    What surely carries over is said with every decision from then on, and vectors stay for longer; it stops nothing,
    for no number of it is wrong, only smaller or larger than what holding a vector for long will show.
    """
    before, known = experiment.deals.get(deal.id - 1), experiment.carry.carryover
    if before is None or len(before.arms) < 2 or known.deal >= deal.id:
        return experiment
    was, now = deal_sums(experiment, seen.cells, before.id), deal_sums(experiment, seen.cells, deal.id)
    if was is None or now is None:
        return experiment
    known = carryover.learned(known, plan.metrics, plan.component_names, served(before, was), served(deal, now))
    return carrying(
        experiment,
        carryover=msgspec.structs.replace(known, deal=deal.id),
        notice=carryover.found(known, plan.metrics) or "",
    )
