"""Worlds over time: a new ranking model, the week, surfaces, amounts that come late, hours that mean nothing."""

import msgspec
import numpy as np
import pytest

from controller.assignment import ALL
from controller.core.space import Space
from simulators.catalog import SCENARIOS, WORLDS
from simulators.closed_loop import START_MS
from simulators.events import Delivery, Population, Rows, Served, exposures, population
from simulators.faults import faulty, parse
from simulators.handmade import JUMP_HOUR, QUICK
from simulators.scenarios import over_time
from simulators.sums import arrived_share
from simulators.traffic import Traffic
from simulators.truth import optimum, truth
from simulators.worlds import (
    HOUR_MS,
    World,
    component_levels,
    gain,
    margins,
    recalibrated,
    segment_names,
    traffic,
    true_change,
    weekday_of,
)

DAY_MS = 24 * HOUR_MS
SATURDAY_MS = START_MS + 4 * DAY_MS


@pytest.mark.parametrize("world", list(WORLDS.values()), ids=list(WORLDS))
def test_a_recalibrated_world_answers_as_the_old_one_under_scaled_weights(world: World) -> None:
    scale = {weight.name: 1.3 ** (-1) ** i for i, weight in enumerate(world.weights)}
    factor = np.array(list(scale.values()))
    theta = Space(world.weights).to_theta(np.random.default_rng(0).random((50, Space(world.weights).d)))
    old, base = (1.0 + true_change(world, vector * factor) for vector in (theta, world.baseline))
    new = recalibrated(world, scale)
    assert true_change(new, theta) == pytest.approx(old / base - 1.0, rel=1e-9, abs=1e-12)
    assert np.abs(true_change(new, new.baseline)).max() < 1e-12
    assert recalibrated(world, {}) == world
    for segment in segment_names(world):  # what everyone is served by after the swap is in the rates
        level = component_levels(world, world.baseline * factor, segment)
        rates = component_levels(new, new.baseline, segment)
        chain = np.ones(len(world.quantities))
        for q, quantity in enumerate(world.quantities):
            own = new.quantities[q].rate / quantity.rate
            chain[q] = own * (
                chain[world.index(quantity.of)] if quantity.of else new.events_per_hour / world.events_per_hour
            )
        assert chain * rates == pytest.approx(level, rel=1e-9)


def test_a_swap_moves_the_best_vector_at_its_hour() -> None:
    scenario = faulty(SCENARIOS["three"], [parse("swap:at=30,scale=3", WORLDS["three"])])
    before, after = (optimum(scenario, hour, common=True) for hour in (29, 30))
    assert before.gain == optimum(SCENARIOS["three"], 29, common=True).gain
    change = truth(scenario, 30, [before.theta])[0]
    assert gain(scenario.world, change) < 0
    assert margins(scenario.world, change).min() < 0
    assert gain(scenario.world, truth(scenario, 30, [after.theta])[0]) == pytest.approx(after.gain)
    assert truth(scenario, 31, [after.theta], seen=29) == pytest.approx(truth(SCENARIOS["three"], 31, [after.theta]))


def test_the_week_has_more_traffic_and_longer_watches_at_its_end() -> None:
    world = WORLDS["weekend"]
    assert weekday_of(np.array([START_MS, SATURDAY_MS, SATURDAY_MS + 2 * DAY_MS])).tolist() == [1, 5, 0]
    minutes = np.arange(START_MS, START_MS + 7 * DAY_MS, 60_000)
    assert traffic(world, minutes).mean() == pytest.approx(1.0)
    assert traffic(world, minutes[4 * 1440 : 5 * 1440]).mean() == pytest.approx(1.12)
    people = population(world, 0, "w:")
    tuesday, saturday = (_day(world, people, begin) for begin in (START_MS, SATURDAY_MS))
    assert len(saturday) / len(tuesday) == pytest.approx(1.12 / 0.93, abs=0.03)
    watch, clicks = world.index("watch_s"), world.index("clicks")
    each = [rows.values[:, watch].sum() / rows.values[:, clicks].sum() for rows in (tuesday, saturday)]
    assert each[1] / each[0] == pytest.approx(1.12, abs=0.02)


def _day(world: World, people: Population, begin_ms: int) -> Rows:
    return exposures(world, people, everyone(world), begin_ms, begin_ms + DAY_MS)


def everyone(world: World) -> Served:
    return Served(1, ("control",), np.zeros(world.buckets, np.int16), ({ALL: world.baseline},))


def test_surfaces_are_of_events_and_their_mix_shifts() -> None:
    scenario = SCENARIOS["surfaces"]
    people = population(scenario.world, 0, "s:")
    made = Traffic(scenario, people, 1, START_MS)
    rows = made.until(None, START_MS + (JUMP_HOUR - 2) * HOUR_MS, START_MS + (JUMP_HOUR + 2) * HOUR_MS, beat=False)
    late = rows.ts_ms >= START_MS + JUMP_HOUR * HOUR_MS
    assert (rows.segment[~late] == 0).mean() == pytest.approx(0.75, abs=0.01)
    assert (rows.segment[late] == 0).mean() == pytest.approx(0.35, abs=0.015)
    seen = [set(rows.segment[rows.unit == unit].tolist()) for unit in np.unique(rows.unit)[:2_000]]
    assert {0, 1} in seen  # one person, two surfaces
    base = optimum(scenario, 0, common=False)
    assert base.gain > optimum(scenario, 0, common=True).gain + 0.005  # they want different weights


def test_late_amounts_follow_their_exposures_as_the_sums_do() -> None:
    scenario = SCENARIOS["late"]
    assert scenario.late is not None
    world = msgspec.structs.replace(scenario.world, volume_swing=1.0)
    people, q = population(world, 0, "l:"), world.index("watch_s")
    rows = exposures(world, people, everyone(world), START_MS, START_MS + HOUR_MS, late=scenario.late)
    plain = exposures(world, people, everyone(world), START_MS, START_MS + HOUR_MS)
    assert rows.values[:, q].sum() == pytest.approx(plain.values[:, q].sum(), rel=0.01)
    assert np.array_equal(rows.values[: len(plain), :q], plain.values[:, :q])
    assert not rows.values[: len(plain), q].any()
    assert not rows.values[len(plain) :, :q].any()
    assert len(np.unique(rows.ids)) == len(rows)
    age_h = (rows.arrival_ms - (START_MS + HOUR_MS)) / HOUR_MS
    assert age_h.max() < 6.0
    for age in (0, 1, 3):
        expected = np.mean(
            [(1 + side * 0.6) * arrived_share(age, np.array(2.0 * (1 + side * 0.6))) for side in (1, -1)]
        )
        assert rows.values[age_h < age, q].sum() / rows.values[:, q].sum() == pytest.approx(expected, abs=0.02)


def test_more_late_events_than_ids_are_refused() -> None:
    scenario = SCENARIOS["late"]
    world = msgspec.structs.replace(scenario.world, volume_swing=1.0, events_per_hour=1_100_000.0)
    with pytest.raises(ValueError, match="use shorter spans"):
        exposures(world, population(world, 0, "l:"), everyone(world), START_MS, START_MS + HOUR_MS, late=scenario.late)


def test_in_a_bad_hour_buckets_and_arms_go_wild() -> None:
    scenario = SCENARIOS["badhour"]
    people = population(scenario.world, 0, "b:")
    made = Traffic(scenario, people, 1, START_MS)
    rows = made.until(None, START_MS + 19 * HOUR_MS, START_MS + 21 * HOUR_MS, beat=False)
    spread = []
    for hour in (19, 20):
        now = (rows.ts_ms - START_MS) // HOUR_MS == hour
        clicks, shown = (
            np.bincount(people.bucket[rows.unit[now]], weights=rows.values[now, q], minlength=1000) for q in (1, 0)
        )
        spread.append(np.std(np.log(clicks / shown)))
    assert spread[1] > 3 * spread[0]


def test_a_still_world_is_the_same_traffic_however_it_is_asked_for() -> None:
    people = population(QUICK, 0, "quick:", 2)
    made = Traffic(over_time(QUICK), people, 2, START_MS, delivery=Delivery())
    rows = [made.until(None, START_MS + h * HOUR_MS, START_MS + (h + 1) * HOUR_MS, beat=True) for h in range(3)]
    rest = made.rest()
    assert rest is not None
    assert made.rest() is None
    sent = sum(map(len, rows)) + len(rest)
    whole = [
        exposures(QUICK, people, everyone(QUICK), START_MS + h * HOUR_MS, START_MS + (h + 1) * HOUR_MS, Delivery())
        for h in range(3)
    ]
    assert sent == sum(map(len, whole)) + 3 * 2  # and a beat on each partition
    assert made.complete
