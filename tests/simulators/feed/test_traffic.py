"""A feed's events: the contract, the same bytes from any number of processes, a state that does not grow."""

import msgspec
import numpy as np
import pytest

from controller.assignment import Arm
from controller.core.events import FIXED_POINT, decode
from controller.core.evidence import deal_changes
from controller.core.experiment import baseline
from controller.core.rollout import Deal, shuffled
from controller.core.windows import Cell
from simulators.events import Delivery, Rows
from simulators.feed.crowd import Crowd, Processes, feed_population
from simulators.feed.product import COMPONENTS
from simulators.feed.shipped import FEEDS
from simulators.feed.traffic import DELAY_S
from simulators.kinds import over_time, source
from simulators.scenarios import Swap
from simulators.study import study_of
from simulators.wire import json_events
from simulators.worlds import HOUR_MS
from tests.simulators.feed.small import BOUNDS, GREEDY, SMALL, serving

NAMES = [component.name for component in COMPONENTS]
SALT = "small:"


def hours(crowd: Crowd, number: int, *thetas: np.ndarray) -> list[Rows]:
    table = serving(*(thetas or (SMALL.baseline, GREEDY)))
    return [crowd.exposures(table, BOUNDS[0] + h * HOUR_MS, BOUNDS[1] + h * HOUR_MS) for h in range(number)]


def same(first: Rows, second: Rows) -> bool:
    columns = (name for name in Rows.__struct_fields__ if name != "names")
    return all(getattr(first, c).tobytes() == getattr(second, c).tobytes() for c in columns)


def test_the_same_seed_is_the_same_to_the_byte_on_any_number_of_processes() -> None:
    people = feed_population(SMALL, 3, SALT, 2)
    alone = hours(Crowd(SMALL, people, Delivery()), 3)
    with Processes(SMALL, 3, SALT, 3) as workers:
        shared = hours(Crowd(SMALL, people, Delivery(), workers), 3)
    assert all(map(same, alone, shared))
    other = hours(Crowd(SMALL, feed_population(SMALL, 4, SALT, 2), Delivery()), 1)
    assert not same(alone[0], other[0])


def test_events_are_what_the_controller_reads() -> None:
    people = feed_population(SMALL, 0, SALT, 2)
    rows = hours(Crowd(SMALL, people), 1)[0]
    plan = study_of(SMALL).plan
    found = decode(json_events(SMALL, people, rows), range(len(rows)), plan.events)
    assert len(found.events.ts_ms) == len(rows)
    assert not found.rejected
    assert len(set(rows.ids.tolist())) == len(rows)


def test_what_is_told_of_pages_adds_up() -> None:
    rows = hours(Crowd(SMALL, feed_population(SMALL, 0, SALT)), 4)
    total = dict(zip(NAMES, np.sum([each.values.sum(axis=0) for each in rows], axis=0), strict=True))
    pages = sum(int((each.values[:, 0] > 0).sum()) for each in rows)
    assert total["impressions"] / pages == pytest.approx(5.7, abs=0.15)
    assert total["clicks"] / total["impressions"] == pytest.approx(0.46, abs=0.03)
    assert 0 < total["returned"] < total["visits"] < pages
    assert pages / 4 == pytest.approx(SMALL.events_per_hour * 24 * 0.017, rel=0.35)  # before dawn


def test_later_signals_carry_the_time_of_their_page() -> None:
    rows = hours(Crowd(SMALL, feed_population(SMALL, 0, SALT)), 2)[1]
    later = rows.values[:, 0] == 0
    assert later.any()
    assert np.all(rows.arrival_ms[later] > rows.ts_ms[later])
    assert np.all(rows.arrival_ms[~later] == rows.ts_ms[~later])
    slow = [NAMES.index(f"{signal}s") for signal in DELAY_S]
    assert not rows.values[~later][:, slow].any()
    assert np.all(rows.values[later].sum(axis=1) == rows.values[later][:, slow].sum(axis=1))
    likes = later & (rows.values[:, NAMES.index("likes")] > 0)
    delay_s = (rows.arrival_ms - rows.ts_ms)[likes] / 1000
    assert np.median(delay_s) == pytest.approx(DELAY_S["like"][0], rel=0.35)


def test_a_heartbeat_is_a_page_of_its_partition_that_nobody_remembers() -> None:
    people = feed_population(SMALL, 0, SALT, 3)
    crowd, plain = Crowd(SMALL, people), Crowd(SMALL, people)
    table = serving(SMALL.baseline)
    crowd.exposures(table, *BOUNDS), plain.exposures(table, *BOUNDS)
    beats = crowd.heartbeats(table, BOUNDS[1], 3)
    assert people.partition[beats.unit].tolist() == [0, 1, 2]
    assert np.all(beats.ts_ms == BOUNDS[1])
    next_hour = (BOUNDS[1], BOUNDS[1] + HOUR_MS)
    assert same(crowd.exposures(table, *next_hour), plain.exposures(table, *next_hour))


def test_a_swapped_ranker_is_the_same_as_weights_that_undo_it() -> None:
    people = feed_population(SMALL, 0, SALT)
    swapped = msgspec.structs.replace(over_time(SMALL), swap=Swap(0, 2.0))
    feed = swapped.at(0)
    undone = serving(SMALL.baseline / np.array(feed.rescaled))  # type: ignore[union-attr]
    one = source(swapped, people, None).exposures(feed, undone, *BOUNDS, wild=False)
    two = source(over_time(SMALL), people, None).exposures(SMALL, serving(SMALL.baseline), *BOUNDS, wild=False)
    assert same(one, two)


@pytest.mark.parametrize("name", FEEDS)
def test_the_same_vector_on_every_arm_is_significant_as_often_as_it_should_be(name: str) -> None:
    """A/A: 95 % intervals of every arm and metric, over many deals of the buckets of six hours' events."""
    feed = msgspec.structs.replace(FEEDS[name], events_per_hour=12_000.0)
    plan, people = study_of(feed).plan, feed_population(feed, 5, SALT)
    table, crowd = serving(feed.baseline), Crowd(feed, people)
    columns = [NAMES.index(component.name) for component in plan.components]
    sums, events = np.zeros((feed.buckets, len(columns))), np.zeros(feed.buckets, np.int64)
    for hour in range(8, 14):
        rows = crowd.exposures(table, BOUNDS[0] + hour * HOUR_MS, BOUNDS[1] + hour * HOUR_MS)
        bucket = people.bucket[rows.unit]
        events += np.bincount(bucket, minlength=feed.buckets)
        for c, column in enumerate(columns):
            sums[:, c] += np.bincount(bucket, rows.values[:, column], minlength=feed.buckets)
    cell = Cell(np.round(sums * FIXED_POINT).astype(np.int64)[None], events[None])
    rates, control = [], baseline(plan)
    for run in range(200):
        arms = (control, *(Arm(f"e{k}", "explore", control.theta) for k in range(feed.explore_arms)))
        dealt = shuffled(plan.buckets, feed.explore_arms, 0.5, np.random.default_rng((run, 5)))
        found = deal_changes(plan, Deal(1, "explore", arms, dealt), cell)
        change, variance = found.change[:, 0], np.diagonal(found.covariance[:, 0], axis1=1, axis2=2)
        known = np.isfinite(variance) & (variance > 0)
        rates.append(float((np.abs(change)[known] > 1.96 * np.sqrt(variance[known])).mean()))
    assert 0.01 < np.mean(rates) <= 0.05 + 3.0 * np.std(rates) / np.sqrt(len(rates))
