"""A product in lockstep with a daemon, which here is the production step fed by what the product sends."""

from collections.abc import Callable, Iterator, Sequence

import fakeredis
import msgspec
import numpy as np
import pytest

from controller.assignment import Assignment, key
from controller.core import step as core
from controller.core.clock import PartitionState
from controller.core.events import decode
from controller.core.step import Publish
from controller.core.windows import Batch, PartBatch
from controller.serving import Client
from simulators.closed_loop import START_MS
from simulators.events import Delivery
from simulators.handmade import QUICK
from simulators.produce import NoAnswer, Product, Progress, await_table, lockstep, realtime
from simulators.study import study_of
from simulators.worlds import HOUR_MS

PLAN = study_of(QUICK).plan
BASELINE = {weight.name: weight.baseline for weight in QUICK.weights}
PARTITIONS = 3


class Loopback:
    """A sink that hands what was sent to the step at every flush, and its tables to `publish`."""

    partitions = PARTITIONS

    def __init__(self, publish: Callable[[bytes], None]) -> None:
        parts = {p: PartitionState(None, 0) for p in range(PARTITIONS)}
        state = core.start(PLAN)
        state = msgspec.structs.replace(state, windows=msgspec.structs.replace(state.windows, partitions=parts))
        self.state, _, first = core.begin(PLAN, state, 1, 0, {})
        self.records: dict[int, list[bytes]] = {p: [] for p in range(PARTITIONS)}
        self.counts: dict[str, int] = {}
        self._publish, self._read = publish, dict.fromkeys(range(PARTITIONS), 0)
        publish(first.table)

    def send(self, partition: int, records: Sequence[bytes]) -> None:
        self.records[partition] += records

    def flush(self) -> None:
        parts = []
        for p, records in self.records.items():
            offsets = range(self._read[p], len(records))
            read = decode([records[offset] for offset in offsets], offsets, PLAN.events)
            assert not read.rejected
            parts.append(PartBatch(p, read.events, {}, len(records)))
            self._read[p] = len(records)
        self.state, effects, info = core.step(PLAN, self.state, Batch(tuple(parts)), None, core.seeded(0))
        for name, count in info.ingested.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        for effect in effects:
            if isinstance(effect, Publish):
                self._publish(effect.table)

    def close(self) -> None:
        pass


@pytest.fixture
def store() -> fakeredis.FakeRedis:
    return fakeredis.FakeRedis()


@pytest.fixture
def loop(store: fakeredis.FakeRedis) -> Loopback:
    return Loopback(lambda table: _put(store, table))


@pytest.fixture
def tables(store: fakeredis.FakeRedis) -> Iterator[Client]:
    with Client("quick", store, BASELINE, poll_s=0.01) as client:
        yield client


def _put(store: fakeredis.FakeRedis, table: bytes) -> None:
    store.set(key("quick"), table)


def product(sink: Loopback, events_per_record: int = 1) -> Product:
    return Product(PLAN, QUICK, sink, 0, delivery=Delivery(), events_per_record=events_per_record)


@pytest.mark.parametrize("events_per_record", [1, 7])
def test_every_window_is_decided_before_the_next_is_served(
    loop: Loopback, tables: Client, events_per_record: int
) -> None:
    told: list[Progress] = []
    made = product(loop, events_per_record=events_per_record)
    assert lockstep(PLAN, made, tables, None, 5, 10.0, told.append) == START_MS
    assert [progress.table.decided_through_ms for progress in told if progress.table] == [
        START_MS + h * HOUR_MS for h in range(1, 6)
    ]
    assert loop.counts["accepted"] + loop.counts["duplicate"] == made.events
    assert loop.counts["duplicate"] > 0
    lines = [line for records in loop.records.values() for record in records for line in record.split(b"\n")]
    assert len(lines) == made.events
    events = [msgspec.json.decode(line) for line in lines]
    versions = np.array([event["version"] for event in events])
    hours = (np.array([event["ts_ms"] for event in events]) - START_MS) / HOUR_MS
    grace = PLAN.window.grace_ms / HOUR_MS
    for version, first in zip(sorted(set(versions)), [0.0, *(h + grace for h in range(1, 5))], strict=True):
        mine = hours[versions == version]
        assert first <= mine.min()
        assert mine.max() == pytest.approx(int(first) + 1 + grace)  # the heartbeat is the last


def test_a_second_run_goes_on_where_the_first_ended(loop: Loopback, tables: Client) -> None:
    lockstep(PLAN, product(loop), tables, None, 2, 10.0, lambda progress: None)
    sent = {event for records in loop.records.values() for event in records}
    assert lockstep(PLAN, product(loop), tables, None, 2, 10.0, lambda progress: None) == START_MS + 2 * HOUR_MS
    more = [msgspec.json.decode(e) for records in loop.records.values() for e in records if e not in sent]
    assert min(event["ts_ms"] for event in more) >= START_MS + 2 * HOUR_MS + PLAN.window.grace_ms
    assert loop.state.experiment.carry.decided_through_ms == START_MS + 4 * HOUR_MS
    with pytest.raises(NoAnswer, match=f"04:00:00 UTC already: .* must not be below {START_MS + 4 * HOUR_MS}"):
        lockstep(PLAN, product(loop), tables, START_MS, 1, 1.0, lambda progress: None)


def test_without_a_daemon_the_error_says_what_to_start(loop: Loopback) -> None:
    told: list[Progress] = []
    with pytest.raises(NoAnswer, match=r"no table of this study for 0.05 s: start `trimtab run"):
        lockstep(PLAN, product(loop), Held(), None, 1, 0.05, told.append)
    (waiting,) = told
    assert waiting.awaited is not None
    assert waiting.awaited.startswith("a first table of this study in Redis, from `trimtab run")


def test_a_daemon_that_does_not_decide_is_an_error(loop: Loopback, tables: Client) -> None:
    assert tables.wait(0)
    told: list[str] = []
    with pytest.raises(
        NoAnswer, match=r"ends at 1970-01-01 02:00:00 UTC within 0.05 s; its last table is version 1000001.* through "
    ):
        await_table(tables, 7_200_000, 0.05, told.append)
    assert told == ["the daemon's decision on the window that ends at 1970-01-01 02:00:00 UTC (up to 0.05 s)"]


class Held:
    """A table that never changes."""

    table: Assignment | None = None

    def wait(self, after: int = 0, timeout_s: float = 5.0) -> bool:
        return False


def test_real_time_traffic_follows_the_clock_and_falls_back_without_a_table(loop: Loopback) -> None:
    clock = [START_MS]

    def sleep(seconds: float) -> None:
        clock[0] += int(seconds * 1000)

    made = product(loop)
    told: list[Progress] = []
    realtime(made, Held(), START_MS + HOUR_MS, told.append, now_ms=lambda: clock[0], sleep=sleep, tick_ms=15_000)
    assert told[-1].through_ms == START_MS + HOUR_MS
    assert len(told) == HOUR_MS // 15_000
    events = [msgspec.json.decode(record) for records in loop.records.values() for record in records]
    assert len(events) == made.events > 4_000
    assert {(event["version"], event["arm"]) for event in events} == {(0, "control")}
    assert loop.counts["fallback"] + loop.counts["duplicate"] == made.events


def test_in_real_time_too_products_that_share_the_partitions_send_what_one_sends(store: fakeredis.FakeRedis) -> None:
    def sent(*mine: int) -> dict[int, list[bytes]]:
        clock = [START_MS + 100]  # not on the grid of ticks

        def sleep(seconds: float) -> None:
            clock[0] += int(seconds * 1000) + 37 * len(mine)

        sink = Loopback(lambda table: _put(store, table))
        made = Product(PLAN, QUICK, sink, 0, delivery=Delivery(), mine=mine)
        realtime(made, Held(), START_MS + HOUR_MS // 4, lambda progress: None, lambda: clock[0], sleep, 5_000)
        return sink.records

    whole, first, rest = sent(0, 1, 2), sent(0, 2), sent(1)
    assert min(map(len, whole.values())) > 50
    assert first[1] == rest[0] == rest[2] == []
    assert whole == {0: first[0], 1: rest[1], 2: first[2]}
