"""The sums that the arena draws are those that the events would have come to."""

import msgspec
import numpy as np
import pytest

from controller.assignment import ALL, Arm
from controller.core import rollout
from controller.core.estimate import Changes
from controller.core.events import FIXED_POINT
from controller.core.evidence import deal_changes
from controller.core.experiment import baseline
from controller.core.plan import Plan
from controller.core.rollout import Deal
from controller.core.windows import Cell
from simulators.catalog import SCENARIOS
from simulators.events import LATENESS_H, Served, exposures, pieces, population
from simulators.handmade import QUICK, TENURE
from simulators.study import study_of
from simulators.sums import Audience, arrivals, audience, hour_sums
from simulators.truth import optimum
from simulators.worlds import HOUR_MS, World, true_change

BEGIN_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS
HOURS = 6
THETA = (1.0, 1.4, -3.5)
OTHER = (1.0, 0.3, -7.0)


def dealt(plan: Plan, seed: int = 5) -> Deal:
    arms = (baseline(plan), Arm("a", "explore", {ALL: THETA}), Arm("b", "explore", {ALL: OTHER}))
    return Deal(1, "explore", arms, rollout.shuffled(plan.buckets, 2, 0.5, np.random.default_rng(seed)))


def names(plan: Plan) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(weight.name for weight in plan.weights), tuple(component.name for component in plan.components)


def drawn(world: World, plan: Plan, deal: Deal, people: Audience, hours: int) -> Cell:
    cells = [hour_sums(world, people, deal, *names(plan), BEGIN_MS + h * HOUR_MS) for h in range(hours)]
    return Cell(np.sum([cell.sums for cell in cells], axis=0), np.sum([cell.events for cell in cells], axis=0))


def counted(world: World, plan: Plan, deal: Deal, seed: int, hours: int) -> Cell:
    """The same by the event: every row added up by hand."""
    people = population(world, seed, plan.salt)
    served = Served(1, deal.names, deal.buckets, tuple(arm.theta for arm in deal.arms))
    slots = len(world.segments) + 1
    sums = np.zeros((slots, world.buckets, len(plan.components)))
    events = np.zeros((slots, world.buckets), np.int64)
    for h in range(hours):
        rows = exposures(world, people, served, BEGIN_MS + h * HOUR_MS, BEGIN_MS + (h + 1) * HOUR_MS)
        slot = people.segment[rows.unit] + 1 if world.segments else np.zeros(len(rows), np.int64)
        at = (slot, people.bucket[rows.unit])
        np.add.at(events, at, 1)
        for c, name in enumerate(names(plan)[1]):
            np.add.at(sums[..., c], at, rows.values[:, world.index(name)])
    return Cell(np.round(sums * FIXED_POINT).astype(np.int64), events)


def changes(world: World, plan: Plan, deal: Deal, cell: Cell) -> Changes:
    return deal_changes(plan, deal, cell)


@pytest.mark.parametrize("world", [QUICK, TENURE], ids=["quick", "tenure"])
def test_levels_and_noise_are_those_of_the_events(world: World) -> None:
    plan = study_of(world).plan
    deal = dealt(plan)
    by_sum = [drawn(world, plan, deal, audience(world, seed, plan.salt), HOURS) for seed in range(4)]
    by_event = [counted(world, plan, deal, seed, HOURS) for seed in range(4)]
    assert sum(int(c.events.sum()) for c in by_sum) == pytest.approx(
        sum(int(c.events.sum()) for c in by_event), rel=0.01
    )
    for one, other in zip(by_sum, by_event, strict=True):
        # the same people in the same buckets: what a bucket gets agrees far beyond chance (whose s.e. is 0.07)
        assert np.corrcoef(one.events.sum(axis=0), other.events.sum(axis=0))[0, 1] > 0.35
    one_total, other_total = (np.sum([c.sums.sum(axis=1) for c in cells], axis=0) for cells in (by_sum, by_event))
    assert np.allclose(one_total, other_total, rtol=0.015)
    made = [[changes(world, plan, deal, cell) for cell in cells] for cells in (by_sum, by_event)]
    for metric in range(len(plan.metrics)):
        error = [np.mean([np.sqrt(c.covariance[metric, 0, 0, 0]) for c in found]) for found in made]
        assert error[0] == pytest.approx(error[1], rel=0.12)


@pytest.mark.parametrize("world", [QUICK, TENURE], ids=["quick", "tenure"])
def test_estimates_lie_around_the_closed_form(world: World) -> None:
    plan = study_of(world).plan
    truth = np.array([true_change(world, THETA), true_change(world, OTHER)]).T  # (M, 2)
    z = []
    for seed in range(30):  # a unit's bucket is the same for every seed: the deal is what makes runs independent
        deal = dealt(plan, seed)
        found = changes(world, plan, deal, drawn(world, plan, deal, audience(world, seed, plan.salt), 2))
        sd = np.sqrt(np.diagonal(found.covariance[:, 0], axis1=1, axis2=2))
        z.append((found.change[:, 0] - truth) / sd)
    assert np.abs(np.mean(z, axis=0)).max() < 3.3 / np.sqrt(30)
    assert 0.75 < np.std(z) < 1.25


def test_an_hour_follows_from_seed_and_hour_alone() -> None:
    plan = study_of(QUICK).plan
    deal, people = dealt(plan), audience(QUICK, 3, plan.salt)
    first, again, other = (hour_sums(QUICK, people, deal, *names(plan), BEGIN_MS + h * HOUR_MS).sums for h in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_a_segment_that_is_served_the_baseline_does_not_change() -> None:
    plan = study_of(TENURE).plan
    only = {ALL: baseline(plan).theta[ALL], "new": THETA}
    deal = msgspec.structs.replace(dealt(plan), arms=(baseline(plan), *(Arm(n, "explore", only) for n in "ab")))
    found = changes(TENURE, plan, deal, drawn(TENURE, plan, deal, audience(TENURE, 1, plan.salt), 24))
    sd = np.sqrt(found.covariance[0, :, 0, 0])
    new = float(true_change(msgspec.structs.replace(TENURE, segments={"new": 1.0}), THETA)[0])
    assert abs(found.change[0, 2, 0]) < 3 * sd[2]  # returning
    assert abs(found.change[0, 1, 0] - new) < 3 * sd[1]
    assert found.change[0, 1, 0] < -2 * sd[1]  # they like less of it


def test_late_amounts_arrive_until_the_lateness_and_the_long_ones_last() -> None:
    scenario = SCENARIOS["late"]
    world, plan = scenario.world, study_of(scenario.world).plan
    assert plan.window.lateness_ms == LATENESS_H * HOUR_MS
    best = Arm("a", "explore", {ALL: optimum(scenario, 0, common=True).theta[ALL]})
    deal = Deal(1, "explore", (baseline(plan), best), rollout.shuffled(plan.buckets, 1, 0.5, np.random.default_rng(1)))
    people = audience(world, 1, plan.salt)
    watch = names(plan)[1].index("watch_s")
    ages = np.array(
        [
            [cell.sums[0, :, watch] for cell in arrivals(world, people, deal, *names(plan), at, late=scenario.late)]
            for at in range(BEGIN_MS, BEGIN_MS + 24 * HOUR_MS, HOUR_MS)
        ]
    )  # (H, ages, B)
    assert ages.shape[1] == LATENESS_H + 1
    assert (np.diff(ages, axis=1) >= 0).all()
    share = ages[..., deal.buckets == 0].sum(axis=(0, 2)) / ages[:, -1:, deal.buckets == 0].sum()
    assert 0.1 < share[0] < 0.4
    assert 0.8 < share[4] < share[-1] == 1.0
    level = np.array([ages[..., deal.buckets == arm].sum(axis=(0, 2)) / (deal.buckets == arm).sum() for arm in (0, 1)])
    lift = level[1] / level[0] - 1
    truth = float(true_change(world, best.theta)[0])
    assert lift[-1] == pytest.approx(truth, abs=0.02)
    assert lift[0] < lift[-1] - 0.4 * truth  # what has come so far is biased towards nothing


def test_what_has_arrived_of_late_amounts_is_as_noisy_as_by_events() -> None:
    late = SCENARIOS["late"].late
    world = msgspec.structs.replace(SCENARIOS["late"].world, events_per_hour=60_000.0)
    plan = study_of(world).plan
    deal = Deal(1, "explore", (baseline(plan),), np.zeros(plan.buckets, np.int16))
    served = Served(1, deal.names, deal.buckets, (baseline(plan).theta,))
    shown, watch = (names(plan)[1].index(name) for name in ("impressions", "watch_s"))
    noise = []  # of watch time by impression, relative, over buckets
    for seed in range(6):
        cells = arrivals(world, audience(world, seed, plan.salt), deal, *names(plan), BEGIN_MS, late=late)
        people = population(world, seed, plan.salt)
        rows = exposures(world, people, served, BEGIN_MS, BEGIN_MS + HOUR_MS, late=late)
        bucket, columns = people.bucket[rows.unit], rows.values.T
        impressions = np.bincount(bucket, columns[world.index("impressions")], world.buckets)
        for age, cell in enumerate(cells):
            here = columns[world.index("watch_s")] * (rows.arrival_ms < BEGIN_MS + (1 + age) * HOUR_MS)
            made = np.bincount(bucket, here, world.buckets) / impressions
            drawn = cell.sums[0, :, watch] / cell.sums[0, :, shown]
            noise.append([np.var(each / each.mean()) for each in (made, drawn)])
    by_events, by_sums = np.mean(np.reshape(noise, (-1, LATENESS_H + 1, 2)), axis=0).T
    assert by_events == pytest.approx(by_sums, rel=0.2)  # a tenth at age 0: a visit's share its minute


def test_a_heavy_tail_has_its_moments() -> None:
    amount = next(q for q in SCENARIOS["heavy"].world.quantities if q.law == "amount")
    assert (amount.tail, amount.cv) == ("lognormal", 6.0)
    number = np.tile([0.0, 1.0, 3.0], 200_000)
    drawn = pieces(amount, number, np.random.default_rng(0))
    assert (drawn[::3] == 0).all()
    assert [drawn[k::3].mean() for k in (1, 2)] == pytest.approx([1.0, 3.0], rel=0.05)
    logs = np.log(drawn[1::3])
    assert logs.std() == pytest.approx(np.sqrt(np.log(1 + 6.0**2)), rel=0.01)


def test_a_wild_hour_is_noise_of_buckets_and_arms() -> None:
    plan = study_of(QUICK).plan
    deal, people = dealt(plan), audience(QUICK, 3, plan.salt)
    shown = []
    for seed in range(40):
        people = msgspec.structs.replace(people, seed=seed)
        [cell] = arrivals(QUICK, people, deal, *names(plan), BEGIN_MS, wild=True)
        shown.append(changes(QUICK, plan, deal, cell).change[1, 0] - true_change(QUICK, [THETA, OTHER])[:, 1])
    ctr = np.array(shown)
    assert np.mean(np.abs(ctr) > 0.15) > 0.3
    assert np.abs(ctr.mean(axis=0)).max() < 3.5 * ctr.std() / np.sqrt(len(ctr)) + 0.05  # the ratio's curvature
