"""Traffic against the closed form, by brute force."""

import msgspec
import numpy as np
import pytest

from controller.assignment import ALL
from simulators.events import (
    Delivery,
    Population,
    Rows,
    Served,
    arrived,
    delivered,
    exposures,
    heartbeats,
    joined,
    population,
    taken,
)
from simulators.handmade import FEED, QUICK, TENURE
from simulators.worlds import HOUR_MS, World, component_levels, hour_of, volume

START_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS


def served(world: World, *others: tuple[float, ...], version: int = 1) -> Served:
    """Control and the other vectors, on equal shares of interleaved buckets."""
    names = ("control", *(f"e{i}" for i in range(1, len(others) + 1)))
    arm_of = np.arange(world.buckets, dtype=np.int16) % len(names)
    return Served(version, names, arm_of, ({ALL: world.baseline}, *({ALL: theta} for theta in others)))


def equal(first: Rows, second: Rows) -> bool:
    return all(np.array_equal(getattr(first, c), getattr(second, c)) for c in Rows.__struct_fields__)


@pytest.fixture(scope="module")
def people() -> Population:
    return population(QUICK, 0, "quick:", partitions=3)


def test_the_same_seed_gives_the_same_events(people: Population) -> None:
    again = population(QUICK, 0, "quick:", partitions=3)
    table = served(QUICK, (1.0, 2.0, -5.0))
    first, second = (exposures(QUICK, p, table, START_MS, START_MS + HOUR_MS, Delivery()) for p in (people, again))
    assert len(first) > 1_000
    assert equal(first, second)
    other = exposures(QUICK, population(QUICK, 1, "quick:"), table, START_MS, START_MS + HOUR_MS, Delivery())
    assert not np.array_equal(first.ts_ms, other.ts_ms)


def test_who_visits_when_does_not_depend_on_what_is_shown(people: Population) -> None:
    spans = [exposures(QUICK, people, served(QUICK, theta), START_MS, START_MS + HOUR_MS) for theta in VECTORS]
    assert np.array_equal(spans[0].ts_ms, spans[1].ts_ms)
    assert np.array_equal(spans[0].unit, spans[1].unit)
    assert not np.array_equal(spans[0].values, spans[1].values)


VECTORS: list[tuple[float, ...]] = [(1.0, 3.0, -5.0), (1.0, 0.2, -5.0)]


def test_rows_echo_their_table_and_stay_inside_their_span(people: Population) -> None:
    table = served(QUICK, (1.0, 2.0, -5.0), version=9)
    rows = exposures(QUICK, people, table, START_MS + 17, START_MS + HOUR_MS + 5)
    assert rows.ts_ms.min() >= START_MS + 17
    assert rows.ts_ms.max() < START_MS + HOUR_MS + 5
    assert (rows.version == 9).all()
    assert np.array_equal(rows.arm, table.arm_of[people.bucket[rows.unit]])


def test_ids_never_repeat_over_spans_and_heartbeats(people: Population) -> None:
    table = served(QUICK)
    spans = [exposures(QUICK, people, table, START_MS + h, START_MS + h + 1_000_000) for h in range(50)]
    beats = heartbeats(QUICK, people, table, START_MS, 3)
    ids = np.concatenate([*(rows.ids for rows in spans), beats.ids])
    assert len(np.unique(ids)) == len(ids)
    assert {len(name) for name in ids.tolist()} == {16}


def test_a_heartbeat_reaches_every_partition(people: Population) -> None:
    beats = heartbeats(QUICK, people, served(QUICK), START_MS, 3)
    assert people.partition[beats.unit].tolist() == [0, 1, 2]
    assert (beats.ts_ms == START_MS).all()
    assert (beats.values[:, 0] >= 1).all()


def test_more_partitions_than_people_is_an_error() -> None:
    few = msgspec.structs.replace(QUICK, units=3)
    with pytest.raises(ValueError, match="3 units: too few for 64 partitions"):
        population(few, 0, "quick:", partitions=64)


@pytest.mark.parametrize("world", [FEED, TENURE], ids=["feed", "tenure"])
def test_components_follow_the_closed_form(world: World) -> None:
    """Both arms on all buckets: traits cancel, what is left is Poisson-like noise."""
    vector = (1.0, 0.5, 8.0, 2.0, -3.0) if world is FEED else (1.0, 1.5, -3.0)
    busy = msgspec.structs.replace(world, events_per_hour=400_000.0)
    people = population(busy, 3, "salt:")
    nobody = np.zeros(world.buckets, np.int16)
    baseline = Served(1, ("control",), nobody, ({ALL: world.baseline},))
    changed = Served(2, ("e1",), nobody, ({ALL: vector},))
    spans = [(START_MS, START_MS + HOUR_MS), (START_MS + 9 * HOUR_MS, START_MS + 10 * HOUR_MS)]
    totals = np.array([[_sums(busy, people, table, span) for span in spans] for table in (baseline, changed)])
    mean, variance = totals.sum(axis=1).transpose(1, 0, 2)  # (2 moments, 2 tables, Q)
    names = list(world.segments) or [ALL]
    shares = [float(np.bincount(people.segment[people.lookup], minlength=len(names))[i]) for i in range(len(names))]
    levels = [component_levels(world, vector, name) for name in names]
    expected = np.average(levels, axis=0, weights=shares)
    error = np.sqrt(variance[1] / mean[1] ** 2 + variance[0] / mean[0] ** 2) * expected
    z = (mean[1] / mean[0] - expected) / error
    assert np.abs(z).max() < 4
    assert error.max() < 0.02


def _sums(world: World, people: Population, table: Served, span: tuple[int, int]) -> tuple[object, object]:
    rows = exposures(world, people, table, *span)
    return rows.values.sum(axis=0), (rows.values**2).sum(axis=0)


def test_volume_follows_its_curve(people: Population) -> None:
    rows = exposures(QUICK, people, served(QUICK), START_MS, START_MS + 24 * HOUR_MS)
    seen = np.bincount((rows.ts_ms - START_MS) // HOUR_MS, minlength=24)
    middle = START_MS + np.arange(24) * HOUR_MS + HOUR_MS // 2
    expected = volume(QUICK, hour_of(middle)) * QUICK.events_per_hour
    assert np.abs(seen / expected - 1).max() < 0.12


def test_traits_stay_with_the_bucket_for_their_share_of_the_variance() -> None:
    world = msgspec.structs.replace(
        QUICK,
        trait_share=0.6,
        quantities=tuple(msgspec.structs.replace(q, spread=0.3) for q in QUICK.quantities),
        events_per_hour=100_000.0,
        volume_swing=1.0,
    )
    people = population(world, 5, "s")
    rows = exposures(world, people, served(world), START_MS, START_MS + 8 * HOUR_MS)
    cell = (rows.ts_ms - START_MS) // HOUR_MS * world.buckets + people.bucket[rows.unit]
    clicks, shown = (np.bincount(cell, weights=rows.values[:, q]).reshape(8, -1) for q in (1, 0))
    log_rate = np.log(clicks / shown)
    lasting = np.cov(log_rate[:4].mean(axis=0), log_rate[4:].mean(axis=0))[0, 1]
    assert lasting == pytest.approx(0.6 * 0.3**2, rel=0.35)
    assert log_rate.var() > lasting * 1.3


def test_some_events_travel_late_and_some_twice(people: Population) -> None:
    busy = msgspec.structs.replace(QUICK, events_per_hour=60_000.0)
    law = Delivery(late_share=0.1, late_mean_ms=60_000, duplicate_share=0.05)
    rows = exposures(busy, people, served(QUICK), START_MS, START_MS + HOUR_MS, law)
    distinct, first = np.unique(rows.ids, return_index=True)
    assert len(rows) / len(distinct) == pytest.approx(1.05, abs=0.01)
    delay = rows.arrival_ms - rows.ts_ms
    assert delay.min() >= 0
    assert (delay[first] > 0).mean() == pytest.approx(0.1, abs=0.03)
    copies = taken(rows, np.isin(np.arange(len(rows)), first, invert=True))
    original = taken(rows, first[np.searchsorted(distinct, copies.ids)])
    assert np.array_equal(copies.values, original.values)
    assert np.array_equal(copies.unit, original.unit)  # so they travel in one partition


def test_what_is_sent_later_travels_from_then_on(people: Population) -> None:
    sent = exposures(QUICK, people, served(QUICK), START_MS, START_MS + HOUR_MS)
    sent = msgspec.structs.replace(sent, arrival_ms=sent.ts_ms + HOUR_MS)
    rows = delivered(sent, Delivery(late_share=0.1, duplicate_share=0.0), np.random.default_rng(0))
    way_ms = rows.arrival_ms - sent.arrival_ms
    assert way_ms.min() == 0
    assert (way_ms > 0).mean() == pytest.approx(0.1, abs=0.01)


def test_what_arrives_and_what_is_still_on_its_way_are_all_there_is(people: Population) -> None:
    table, later = served(QUICK, (1.0, 2.0, -5.0)), served(QUICK, (1.0, 3.0, -5.0), (1.0, 1.0, -2.0), version=2)
    rows = joined(
        exposures(QUICK, people, later, START_MS, START_MS + HOUR_MS, Delivery()),
        exposures(QUICK, people, table, START_MS + HOUR_MS, START_MS + 2 * HOUR_MS, Delivery()),
    )
    due, waiting = arrived(rows, START_MS + HOUR_MS)
    assert due.arrival_ms.max() < START_MS + HOUR_MS <= waiting.arrival_ms.min()
    assert (np.diff(due.arrival_ms) >= 0).all()
    assert sorted([*due.ids.tolist(), *waiting.ids.tolist()]) == sorted(rows.ids.tolist())
    echoed = np.array(rows.names)[rows.arm]
    expected = np.where(
        rows.version == 2,
        np.array(later.names)[later.arm_of[people.bucket[rows.unit]]],
        np.array(table.names)[table.arm_of[people.bucket[rows.unit]]],
    )
    assert np.array_equal(echoed, expected)
