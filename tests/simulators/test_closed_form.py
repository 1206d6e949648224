"""Every world's closed form against brute force: its events, a global search, and what nothing does."""

import msgspec
import numpy as np
import pytest
from scipy.optimize import differential_evolution

from controller.assignment import ALL, Arm
from controller.core import rollout
from controller.core.evidence import deal_changes
from controller.core.experiment import baseline
from controller.core.rollout import Deal
from controller.core.space import Space
from simulators.catalog import SCENARIOS
from simulators.closed_loop import START_MS
from simulators.drawn import drawn
from simulators.events import Served, exposures, population
from simulators.optimum import best_feasible
from simulators.scenarios import Scenario
from simulators.study import study_of
from simulators.sums import arrivals, audience
from simulators.truth import optimum, truth
from simulators.worlds import (
    HOUR_MS,
    Floats,
    World,
    component_levels,
    gain,
    margins,
    segment_names,
    true_change,
)

RUNS = 60
WORLDS = {**SCENARIOS, **{f"drawn-{n}": drawn(n) for n in (2, 14, 21, 24)}}
EVERY = pytest.mark.parametrize("scenario", list(WORLDS.values()), ids=list(WORLDS))
GROUPS = 50  # of buckets, for the standard errors


def moved(world: World, seed: int) -> Floats:
    """A vector some way from the baseline, in every coordinate."""
    space = Space(world.weights)
    step = np.random.default_rng(seed).uniform(-0.3, 0.3, space.d)
    return np.asarray(space.to_theta(np.clip(space.baseline_unit + step, 0.0, 1.0)))


def brought(world: World, theta: Floats, hour: int) -> Floats:
    """What an hour of events comes to (S, groups of buckets, Q), by brute force."""
    people = population(world, 7, "closed form:")
    table = Served(1, ("only",), np.zeros(world.buckets, np.int16), ({ALL: theta},))
    rows = exposures(world, people, table, START_MS + hour * HOUR_MS, START_MS + (hour + 1) * HOUR_MS)
    sums = np.zeros((len(segment_names(world)), GROUPS, len(world.quantities)))
    np.add.at(sums, (rows.segment, people.bucket[rows.unit] % GROUPS), rows.values)
    return sums


@EVERY
def test_events_follow_the_closed_form_by_segment_and_metric(scenario: Scenario) -> None:
    """Both vectors on all buckets of one hour: traits cancel."""
    hour = 45
    world = msgspec.structs.replace(scenario.at(hour), events_per_hour=120_000.0, units=50_000)
    theta = moved(world, seed=1)
    base, changed = brought(world, world.baseline, hour), brought(world, theta, hour)
    for s, segment in enumerate(segment_names(world)):
        level, error = _ratio(changed[s], base[s])
        stray = np.abs(level - component_levels(world, theta, segment))
        assert (stray <= 4.2 * error + 1e-12).all(), segment
    share = base[..., 0].sum(axis=1) / base[..., 0].sum()
    assert share == pytest.approx(np.array(list(world.segments.values()) or [1.0]), abs=0.02)
    both = np.stack([base.sum(axis=0), changed.sum(axis=0)])  # (2, groups, Q)
    buckets = np.ones((2, GROUPS))
    sums = {"buckets": buckets} | {q.name: both[..., i] for i, q in enumerate(world.quantities)}
    for metric, expected in zip(world.metrics, true_change(world, theta), strict=True):
        found, off = _jackknifed(sums[metric.numerator], sums[metric.denominator])
        assert abs(found - expected) <= 4.2 * off + 1e-12, metric.name
        assert off < 0.06, metric.name


def _ratio(changed: Floats, base: Floats) -> tuple[Floats, Floats]:
    """Of totals over groups (groups, Q), with the standard error by the jackknife."""
    value = changed.sum(axis=0) / base.sum(axis=0)
    left_out = (changed.sum(axis=0) - changed) / (base.sum(axis=0) - base)
    return value, np.sqrt((GROUPS - 1) * ((left_out - left_out.mean(axis=0)) ** 2).mean(axis=0))


def _jackknifed(top: Floats, bottom: Floats) -> tuple[float, float]:
    def change(t: Floats, b: Floats) -> Floats:
        return np.asarray((t[1] / b[1]) / (t[0] / b[0]) - 1.0)

    whole = change(top.sum(axis=1), bottom.sum(axis=1))
    left_out = change(top.sum(axis=1)[:, None] - top, bottom.sum(axis=1)[:, None] - bottom)
    return float(whole), float(np.sqrt((GROUPS - 1) * ((left_out - left_out.mean()) ** 2).mean()))


def searched(world: World) -> tuple[float, Floats]:
    """The best gain under the guardrails by a search that knows nothing of gradients, one vector a segment."""
    space, names = Space(world.weights), segment_names(world)

    def thetas(u: Floats) -> dict[str, Floats]:
        blocks = np.split(u.T, len(names), axis=-1)
        return {ALL: world.baseline} | {name: space.to_theta(block) for name, block in zip(names, blocks, strict=True)}

    def cost(u: Floats) -> Floats:
        change = true_change(world, thetas(u))
        broken = np.minimum(margins(world, change), 0.0).sum(axis=-1)
        return np.asarray(-gain(world, change) - 20.0 * broken)

    d = space.d * len(names)
    found = differential_evolution(
        cost, [(0.0, 1.0)] * d, vectorized=True, updating="deferred", rng=0, popsize=8, tol=1e-8, polish=False,
        maxiter=250 if d <= 8 else 60, x0=np.tile(space.baseline_unit, len(names)),
    )  # fmt: skip
    change = true_change(world, thetas(found.x[:, None]))[0]
    return float(gain(world, change)), margins(world, change)


@EVERY
def test_the_best_feasible_vector_is_what_a_global_search_finds(scenario: Scenario) -> None:
    world = scenario.world
    best = best_feasible(world)
    reached, room = searched(world)
    assert margins(world, true_change(world, best.theta)).min(initial=0.0) >= 0.0
    assert reached <= best.gain + 1e-4 or room.min() < 0  # the search may be a hair outside
    if Space(world.weights).d * len(segment_names(world)) <= 8:
        assert reached == pytest.approx(best.gain, rel=0.02, abs=2e-4)


@pytest.mark.parametrize(
    ("name", "hour"), [("drift", 30), ("jump", 35), ("jump", 36), ("surfaces", 35), ("surfaces", 36)]
)
def test_the_best_of_an_hour_is_what_a_search_of_that_day_finds(name: str, hour: int) -> None:
    scenario = SCENARIOS[name]
    world, space = scenario.world, Space(scenario.world.weights)
    best = optimum(scenario, hour, common=True)

    def cost(u: Floats) -> Floats:
        change = truth(scenario, hour, [{ALL: tuple(theta)} for theta in space.to_theta(u.T)])
        return np.asarray(-gain(world, change) - 20.0 * np.minimum(margins(world, change), 0.0).sum(axis=-1))

    found = differential_evolution(
        cost, [(0.0, 1.0)] * space.d, vectorized=True, updating="deferred", rng=0, popsize=8, maxiter=60, polish=False
    )
    assert -found.fun == pytest.approx(best.gain, rel=0.01)


def test_a_jump_moves_the_best_vector_and_what_it_is_worth() -> None:
    jump = SCENARIOS["jump"]
    before, after = (optimum(jump, hour, common=True) for hour in (35, 36))
    assert gain(jump.world, truth(jump, 36, [before.theta])[0]) < 0.5 * after.gain


@EVERY
def test_the_same_vector_on_every_arm_is_significant_as_often_as_it_should_be(scenario: Scenario) -> None:
    """A/A: 95 % intervals of every arm and metric over three hours, many deals; each run is one cluster."""
    world = msgspec.structs.replace(scenario.world, units=50_000)
    plan = study_of(world).plan
    control = baseline(plan)
    people = audience(world, 11, plan.salt)
    weights, components = (tuple(part.name for part in parts) for parts in (plan.weights, plan.components))
    rates = []
    for run in range(RUNS):
        rng = np.random.default_rng((run, 5))
        arms = (control, *(Arm(f"e{k}", "explore", control.theta) for k in range(world.explore_arms)))
        deal = Deal(1, "explore", arms, rollout.shuffled(plan.buckets, world.explore_arms, 0.5, rng))
        mine = msgspec.structs.replace(people, seed=1_000 + run)
        cells = [
            arrivals(scenario.at(h), mine, deal, weights, components, START_MS + h * HOUR_MS, late=scenario.late)[-1]
            for h in (run % 40, run % 40 + 1)
        ]
        total = msgspec.structs.replace(cells[0], sums=sum(c.sums for c in cells), events=sum(c.events for c in cells))
        found = deal_changes(plan, deal, total)
        change, variance = found.change[:, 0], np.diagonal(found.covariance[:, 0], axis1=1, axis2=2)
        known = np.isfinite(variance) & (variance > 0)
        rates.append(float((np.abs(change)[known] > 1.96 * np.sqrt(variance[known])).mean()))
    assert np.mean(rates) <= 0.05 + 3.0 * np.std(rates) / np.sqrt(RUNS)
    assert np.mean(rates) > 0.01
