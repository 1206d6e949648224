"""Both forms carry the same rows: what the decoder reads from the JSON is what the columns say."""

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from controller.assignment import ALL
from controller.core.events import Component, EventPlan, Events, decode
from simulators.events import Delivery, Served, exposures, joined, population
from simulators.handmade import FEED, TENURE
from simulators.wire import by_partition, decoded, json_events
from simulators.worlds import HOUR_MS, World

START_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS


def plan_of(world: World, names: Sequence[str], segments: tuple[str, ...] = ()) -> EventPlan:
    return EventPlan(tuple(Component(name) for name in names), segments, f"{world.name}:", world.buckets)


def table(world: World, version: int, *arms: str) -> Served:
    arm_of = np.arange(world.buckets, dtype=np.int16) % len(arms)
    return Served(version, arms, arm_of, tuple({ALL: world.baseline} for _ in arms))


@pytest.mark.parametrize(
    ("world", "names", "segments"),
    [
        (FEED, ["impressions", "clicks", "watch_s", "shares", "hides"], ()),
        (FEED, ["watch_s", "clicks"], ()),
        (FEED, ["clicks", "never_sent"], ()),
        (TENURE, ["impressions", "clicks", "watch_s"], ("returning", "new")),
        (TENURE, ["clicks"], ("new",)),
    ],
)
def test_json_and_columns_hold_the_same_rows(world: World, names: list[str], segments: tuple[str, ...]) -> None:
    people, plan = population(world, 0, f"{world.name}:"), plan_of(world, names, segments)
    rows = joined(
        exposures(world, people, table(world, 3, "control", "e2", "e1"), START_MS, START_MS + 600_000, Delivery()),
        exposures(world, people, table(world, 4, "control", "c4"), START_MS + 600_000, START_MS + 900_000),
    )
    lines = json_events(world, people, rows)
    read = decode(lines, range(100, 100 + len(lines)), plan)
    columns = decoded(world, people, rows, plan, first_offset=100).events
    assert not read.rejected
    for name in set(Events.__struct_fields__) - {"arm", "arm_names"}:
        assert np.array_equal(getattr(read.events, name), getattr(columns, name)), name
    ours, theirs = (np.array(events.arm_names)[events.arm] for events in (columns, read.events))
    assert np.array_equal(ours, theirs)
    assert read.events.segment.max() == len(segments)


def test_an_event_is_the_contracts() -> None:
    people = population(TENURE, 0, "tenure:")
    rows = exposures(TENURE, people, table(TENURE, 12_000_417, "control"), START_MS, START_MS + 600_000)
    event = msgspec.json.decode(json_events(TENURE, people, rows)[0])
    assert list(event) == ["id", "ts_ms", "unit", "version", "arm", "values", "segment"]
    assert event["unit"][0] == "u"
    assert int(event["unit"][1:]) < TENURE.units
    assert event["segment"] in TENURE.segments
    assert event["values"].keys() == {"impressions", "clicks", "watch_s"}


def test_copies_of_an_event_travel_in_one_partition_in_order() -> None:
    people = population(FEED, 0, "feed:", partitions=4)
    law = Delivery(duplicate_share=0.2)
    rows = exposures(FEED, people, table(FEED, 1, "control"), START_MS, START_MS + HOUR_MS, law)
    parts = by_partition(people, rows, 4)
    assert sum(map(len, parts)) == len(rows)
    ids = [set(part.ids.tolist()) for part in parts]
    assert len(set.union(*ids)) == sum(map(len, ids)) < len(rows)
    assert min(map(len, parts)) > len(rows) / 6
