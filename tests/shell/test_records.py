import json

import msgspec
import pyarrow as pa
import pytest

from controller.core.estimate import at_cap
from controller.core.events import Component
from controller.shell.records import decode_records
from controller.shell.sources import Record
from tests import corpus
from tests.memory_source import MemorySource
from tests.recount import Ledger, read_ledger, recount
from tests.shell.loop import HOUR_MS, PLAN, START_MS, World, daemon_of
from tests.shell.test_daemon_killed import ledger_sums

EVENTS = PLAN.events


def event(number: int, **changes: object) -> dict[str, object]:
    values = {"impressions": 10.0, "clicks": 2.0, "watch_s": 1.5}
    row: dict[str, object] = {"id": f"e{number}", "ts_ms": START_MS + number, "unit": f"u{number}", "version": 1}
    return row | {"arm": "control", "values": values} | changes


def json_record(offset: int, *rows: dict[str, object]) -> Record:
    return Record(offset, b"\n".join(msgspec.json.encode(row) for row in rows), False)


def arrow_record(offset: int, *rows: dict[str, object]) -> Record:
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(list(rows))
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return Record(offset, sink.getvalue().to_pybytes(), True)


def test_no_records_are_no_events() -> None:
    decoded = decode_records([], EVENTS)
    assert len(decoded.events.ts_ms) == 0
    assert decoded.rejected == ()


def test_mixed_encodings_keep_the_order_of_offsets() -> None:
    records = [
        json_record(3, event(0)),
        arrow_record(4, event(1), event(2)),
        arrow_record(5, event(3)),
        json_record(6, event(4), event(5)),
        json_record(7, event(6)),
    ]
    decoded = decode_records(records, EVENTS)
    assert decoded.rejected == ()
    assert (decoded.events.ts_ms - START_MS).tolist() == list(range(7))
    assert decoded.events.offset.tolist() == [3, 4, 4, 5, 6, 6, 7]
    assert set(decoded.events.arm_names) == {"control"}


def test_what_is_refused_and_unknown_adds_up_over_encodings() -> None:
    more = {"impressions": 1.0, "clicks": 0.0, "watch_s": 0.0, "saves": 1.0}
    records = [
        json_record(0, event(0, values=more), event(1, ts_ms="soon")),
        arrow_record(1, event(2, values=more)),
        Record(2, b"no stream", True),
        json_record(3, event(3, values=more)),
    ]
    decoded = decode_records(records, EVENTS)
    assert [row.offset for row in decoded.rejected] == [0, 2]
    assert decoded.unknown_components == {"saves": 3}
    assert len(decoded.events.ts_ms) == 3


@pytest.mark.parametrize("seed", [0, 1])
def test_a_corpus_of_mutations_never_stops_a_daemon_and_every_row_is_counted_once(world: World, seed: int) -> None:
    rig = daemon_of(world.path, MemorySource(world.topic, max_records=2_000), world.publisher)
    world.rigs.append(rig)
    rig.settle()
    world.product.serve(0.9)
    good = {p: [(record.offset, record.value) for record in log] for p, log in world.topic.logs.items()}
    bad = [value for _, value in corpus.mutated(10_000, seed)]
    for number, value in enumerate(bad):
        world.topic.append(number % 2, value)
    world.product.settle_window()
    for partition, log in world.topic.logs.items():
        good[partition] += [(r.offset, r.value) for r in log if r.offset > good[partition][-1][0] + len(bad) // 2]
    rig.settle()
    world.product.serve_until(world.product.now_ms + PLAN.window.lateness_ms + HOUR_MS)
    for partition, log in world.topic.logs.items():
        good[partition] += [(r.offset, r.value) for r in log if r.offset > good[partition][-1][0]]
    rig.settle()

    rows = sum(rows_in(record.value) for log in world.topic.logs.values() for record in log)
    assert rig.total("events_total") + rig.total("events_rejected_total") == rows
    assert (rig.metric("events_total", result="accepted") or 0) > 3_000
    assert rig.total("events_rejected_total") > 5_000
    counted = recount(read_ledger(world.path), {p: iter(log) for p, log in good.items()})
    assert ledger_sums(world.path) == {key: {k: v for k, v in cell.items() if v} for key, cell in counted.items()}
    assert len(counted) >= 1


def test_capped_sums_equal_a_recount_and_what_was_capped_is_counted(world: World) -> None:
    watch, *others = PLAN.components
    parts = (msgspec.structs.replace(watch, cap=40.0), *others, Component(at_cap(watch.name), of=watch.name))
    plan = msgspec.structs.replace(PLAN, components=parts)
    rig = world.start(plan=plan)
    rig.settle()
    world.product.settle_window()
    world.product.serve_until(world.product.now_ms + plan.window.lateness_ms + HOUR_MS)
    rig.settle()
    counted = recount(read_ledger(world.path), {p: iter(log) for p, log in world.records().items()})
    assert ledger_sums(world.path, plan) == counted
    values = [json.loads(record.value)["values"] for log in world.topic.logs.values() for record in log]
    assert rig.metric("capped_events_total", component="watch_s") == sum(v.get("watch_s", 0) > 40 for v in values) > 100


def test_a_recount_forgets_the_ids_of_a_window_where_it_was_sealed() -> None:
    """A partition that was left out as idle wakes up, and an id comes again with another time."""

    def record(offset: int, hour: int) -> tuple[int, bytes]:
        fields = {"id": "a", "ts_ms": hour * HOUR_MS, "unit": "u", "version": 7, "arm": "e1", "values": {"views": 1.0}}
        return offset, json.dumps(fields).encode()

    window = {"length_ms": HOUR_MS, "dedupe_ms": 3 * HOUR_MS, "lateness_ms": 3 * HOUR_MS, "validity_ms": 3 * HOUR_MS}
    plan = {"window": window, "components": [{"name": "views", "cap": None, "of": ""}]}
    table = {"published_ms": 0, "unit_hash": {"salt": "", "buckets": 1}, "arms": [{"arm": "e1"}], "buckets": [0]}
    log = {1: [record(0, 1), record(1, 3)]}
    for offset, windows in ((1, {2, 4}), (2, {2})):  # the second record is behind the first one's seal, or before it
        ledger = Ledger(plan, {7: table}, [], {2 * HOUR_MS: {1: offset}, 4 * HOUR_MS: {1: 2}})
        assert {end // HOUR_MS for end, _ in recount(ledger, log)} == windows


def rows_in(value: bytes) -> int:
    """Lines that are not blank; an empty record is one refused row."""
    return sum(1 for line in value.split(b"\n") if line.strip(b" \t\r")) or 1
