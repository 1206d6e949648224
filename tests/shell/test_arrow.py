"""Arrow streams: the same rows as JSON give the same events, and a bad row or stream harms nothing else."""

import json
import math
import struct
from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core import events
from controller.core.events import Component, Decoded, Events
from controller.core.rows import MAX_TOLD
from controller.shell import arrow
from tests.corpus import PLAN, encoded, event

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "ts_ms": pa.int64(),
        "unit": pa.string(),
        "segment": pa.string(),
        "version": pa.int64(),
        "arm": pa.string(),
        "bucket": pa.int64(),
        "values": pa.struct({name: pa.float64() for name in ("impressions", "clicks", "delta", "likes")}),
    }
)


def table(rows: Sequence[dict[str, Any]], schema: pa.Schema = SCHEMA) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema)


def stream(rows: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue().to_pybytes())


def with_column(name: str, column: pa.Array, rows: int = 3) -> bytes:
    """Good events, one column replaced."""
    whole = table([event(index) for index in range(rows)])
    return stream(whole.set_column(whole.schema.get_field_index(name), name, column))


def bomb(name: str, codec: str) -> bytes:
    """A few KB that a column, or the dictionary of one, makes 65 MiB of."""
    long = pa.array(["x" * (65 << 20)])
    whole = table([event(0)])
    column = long.dictionary_encode() if name == "arm" else long
    if name not in whole.schema.names:
        return stream(whole.append_column(name, column), compression=codec)
    return stream(whole.set_column(whole.schema.get_field_index(name), name, column), compression=codec)


def as_json(rows: Sequence[dict[str, Any]]) -> Decoded:
    return events.decode([b"\n".join(encoded(row) for row in rows)], [7], PLAN)


def as_arrow(record: bytes) -> Decoded:
    return arrow.decode(record, 7, PLAN)


def reasons(decoded: Decoded) -> list[str]:
    return [row.reason for row in decoded.rejected]


def same(left: Events, right: Events) -> bool:
    pairs = [(getattr(left, name), getattr(right, name)) for name in Events.__struct_fields__]
    return all(a == b if isinstance(a, tuple) else a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)


TEXT = st.sampled_from(["", "a", "u1", "é", "new", "returning", "x" * 256, "x" * 257, "é" * 257, "z" * 2000]) | st.text(
    max_size=4
)
INTEGER = st.sampled_from([0, 1, 999, 1000, -1, 2**62, -(2**62)]) | st.integers(0, 2**53)
NUMBER = st.sampled_from([0.0, -0.0, 1.0, -1.0, 9e9, -9e9, 9.1e9]) | st.floats(allow_nan=False, allow_infinity=False)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "id": st.none() | TEXT,
        "ts_ms": st.none() | INTEGER,
        "unit": st.none() | TEXT,
        "segment": st.none() | TEXT,
        "version": st.none() | INTEGER,
        "arm": st.none() | TEXT,
        "bucket": st.none() | INTEGER,
        "values": st.none() | st.dictionaries(st.sampled_from(["impressions", "clicks", "delta", "likes"]), NUMBER),
    },
)


@settings(max_examples=200)
@given(st.lists(CHANGES, min_size=1, max_size=8))
def test_the_same_rows_as_json_give_the_same_events_and_reasons(changes: list[dict[str, Any]]) -> None:
    rows = [event(index) | change for index, change in enumerate(changes)]
    left, right = as_json(rows), as_arrow(stream(table(rows)))
    assert same(left.events, right.events)
    assert sorted(reasons(left)) == sorted(reasons(right))
    assert left.unknown_components == right.unknown_components


def test_values_are_capped_as_in_json() -> None:
    components = (Component("over", of="delta"), Component("clicks"), Component("delta", negative=True, cap=2.0))
    plan = msgspec.structs.replace(PLAN, components=components)
    rows = [event(index) | {"values": {"clicks": 3, "delta": delta}} for index, delta in enumerate((-5.0, 1.0, 2.5))]
    left = events.decode([b"\n".join(encoded(row) for row in rows)], [7], plan)
    right = arrow.decode(stream(table(rows)), 7, plan)
    assert same(left.events, right.events)
    assert right.events.values[:, 0].tolist() == [-2_000_000, 0, 2_000_000]


@pytest.mark.parametrize("rows", [1, 9, 70_000])
def test_batches_of_any_size_give_the_same_events(rows: int) -> None:
    made = [event(index) for index in range(rows)]
    whole = table(made)
    assert same(as_arrow(stream(whole)).events, as_json(made).events)
    assert same(
        as_arrow(stream(pa.concat_tables([whole[: rows // 3], whole[rows // 3 :]]))).events, as_json(made).events
    )


@pytest.mark.parametrize(
    "kind",
    [
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.uint32(), pa.large_string()),
    ],
)
@pytest.mark.parametrize("name", ["id", "unit", "segment", "arm"])
def test_texts_of_any_layout_are_read(name: str, kind: pa.DataType) -> None:
    texts = [event(index)[name] for index in range(3)]
    column = pa.array(texts, pa.string()).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(texts)
    decoded = as_arrow(with_column(name, column.cast(kind)))
    assert decoded.rejected == ()
    assert same(decoded.events, as_json([event(index) for index in range(3)]).events)


@pytest.mark.parametrize("kind", [pa.int32(), pa.uint32(), pa.uint64(), pa.int64()])
@pytest.mark.parametrize("name", ["version", "bucket"])
def test_integers_of_any_width_are_read(name: str, kind: pa.DataType) -> None:
    rows = [event(index) | {"unit": None, name: 5 + index} for index in range(3)]
    rows = [{"bucket": 1} | row for row in rows]
    fields = {field.name: kind if field.name == name else field.type for field in SCHEMA}
    assert same(as_arrow(stream(table(rows, pa.schema(fields)))).events, as_json(rows).events)


@pytest.mark.parametrize("kind", [pa.float32(), pa.int8(), pa.uint64(), pa.null()])
def test_components_of_any_width_are_read(kind: pa.DataType) -> None:
    values = pa.StructArray.from_arrays(
        [pa.array([1, 2, 3]).cast(kind) if kind != pa.null() else pa.nulls(3)], ["clicks"]
    )
    expected = [0, 0, 0] if kind == pa.null() else [1_000_000, 2_000_000, 3_000_000]
    assert as_arrow(with_column("values", values)).events.values[:, 1].tolist() == expected


@pytest.mark.parametrize("options", [{"compression": "lz4"}, {"compression": "zstd"}, {"use_legacy_format": True}])
def test_streams_of_any_kind_are_read(options: dict[str, Any]) -> None:
    made = [event(index) for index in range(20)]
    assert same(as_arrow(stream(table(made), **options)).events, as_json(made).events)


@pytest.mark.parametrize(
    ("name", "column", "reason"),
    [
        ("id", pa.array([1, 2, 3]), "wrong_type"),
        ("ts_ms", pa.array([1.0, 2.0, 3.0]), "wrong_type"),
        ("ts_ms", pa.array([2**63, 2**63, 2**64 - 1], pa.uint64()), "bad_timestamp"),
        ("version", pa.array([2**63] * 3, pa.uint64()), "out_of_range"),
        ("version", pa.array(["1"] * 3), "wrong_type"),
        ("arm", pa.array([1, 2, 3]), "wrong_type"),
        ("arm", pa.nulls(3), "no_arm"),
        ("unit", pa.array([[1], [2], [3]]), "wrong_type"),
        ("unit", pa.nulls(3), "no_unit"),
        ("segment", pa.array([True, False, True]), "wrong_type"),
        ("bucket", pa.array([1000, -1, -2]), "out_of_range"),
        ("bucket", pa.array([0.5, 0.5, 0.5]), "wrong_type"),
        ("values", pa.array([1.0, 2.0, 3.0]), "wrong_type"),
        ("values", pa.nulls(3), "no_values"),
        ("values", pa.array([{"clicks": "1"}] * 3), "wrong_type"),
        ("values", pa.array([{"clicks": True}] * 3), "wrong_type"),
        ("values", pa.array([{"clicks": math.nan}] * 3), "non_finite"),
        ("values", pa.array([{"clicks": -math.inf}] * 3), "non_finite"),
        ("values", pa.array([{"clicks": -1}] * 3), "negative"),
        ("values", pa.array([{"delta": -1e10}] * 3), "out_of_range"),
    ],
)
def test_a_bad_column_has_its_reason(name: str, column: pa.Array, reason: str) -> None:
    decoded = as_arrow(with_column(name, column))
    assert (len(decoded.events.offset), reasons(decoded)) == (0, [reason] * 3)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("id", "no_id"),
        ("ts_ms", "no_ts_ms"),
        ("version", "no_version"),
        ("arm", "no_arm"),
        ("values", "no_values"),
        ("unit", "no_unit"),
    ],
)
def test_a_column_that_is_not_there_is_missed_by_every_row(name: str, reason: str) -> None:
    rows = table([event(0), event(1)]).drop_columns([name])
    assert reasons(as_arrow(stream(rows))) == [reason] * 2


@pytest.mark.parametrize("name", ["segment", "bucket"])
def test_a_column_that_no_event_needs_may_be_left_out(name: str) -> None:
    rows = table([event(0), event(1)]).drop_columns([name]).append_column("extra", pa.array([[1], None]))
    assert len(as_arrow(stream(rows)).events.offset) == 2


def test_a_null_is_an_absent_component_and_a_bad_row_is_shown_alone() -> None:
    rows = [event(index) for index in range(4)]
    rows[1]["values"] = {"clicks": None, "delta": 2.0}
    rows[2]["values"]["clicks"] = math.inf
    decoded = as_arrow(stream(table(rows)))
    assert decoded.events.ts_ms.tolist() == [rows[index]["ts_ms"] for index in (0, 1, 3)]
    assert decoded.events.values[1].tolist() == [0, 0, 2_000_000]
    (bad,) = decoded.rejected
    assert (bad.offset, bad.reason) == (7, "non_finite")
    assert json.loads(bad.data)["id"] == rows[2]["id"]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)
@pytest.mark.parametrize("name", ["id", "unit", "segment", "arm"])
def test_a_text_that_is_not_utf8_is_rejected_alone(name: str, kind: pa.DataType) -> None:
    texts = [event(index)[name] for index in range(3)]
    texts[1] = "@@@@"
    column = pa.array(texts).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(texts).cast(kind)
    decoded = as_arrow(with_column(name, column).replace(b"@@@@", b"ab\xff\xc3"))
    assert reasons(decoded) == ["not_utf8"]
    assert decoded.events.ts_ms.tolist() == [event(0)["ts_ms"], event(2)["ts_ms"]]


def test_neighbours_that_only_together_are_utf8_are_not() -> None:
    texts = ["a@", "@b", "c"]
    decoded = as_arrow(with_column("id", pa.array(texts)).replace(b"a@@b", "aéb".encode()))
    assert reasons(decoded) == ["not_utf8", "not_utf8"]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"", "malformed"),
        (b"{}", "malformed"),
        (stream(table([])), "malformed"),
        (stream(table([event(0)]))[:-200], "malformed"),
        (b"\x00" * (2**24 + 1), "too_large"),
        (stream(pa.table({"id": pa.nulls(1000)})), "too_large"),  # rows without a byte
        *((bomb(column, codec), "too_large") for column in ("id", "more", "arm") for codec in ("lz4", "zstd")),
    ],
)
def test_a_stream_that_cannot_be_read_is_one_rejection(record: bytes, reason: str) -> None:
    decoded = as_arrow(record)
    assert (len(decoded.events.offset), reasons(decoded)) == (0, [reason])
    assert decoded.rejected[0].data == record[: events.MAX_REJECTED]


def _streams() -> list[bytes]:
    rows = table([event(index) for index in range(5)])
    layouts = [rows]
    for name in ("id", "segment", "arm"):
        at = rows.schema.get_field_index(name)
        layouts.append(rows.set_column(at, name, rows.column(name).dictionary_encode()))
        layouts.append(rows.set_column(at, name, rows.column(name).cast(pa.string_view())))
    return [*(stream(layout) for layout in layouts), stream(rows, compression="lz4")]


@pytest.mark.parametrize("error", [IndexError, struct.error])
def test_metadata_that_cannot_be_followed_is_one_rejection(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(_: pa.ipc.Message) -> int:
        raise error

    monkeypatch.setattr(arrow, "_claimed", lost)
    assert reasons(as_arrow(stream(table([event(0)]), compression="zstd"))) == ["malformed"]


@pytest.mark.parametrize("seed", range(4))
def test_no_flipped_bits_raise_or_lose_a_row(seed: int) -> None:
    rng, made = Random(seed), _streams()
    for _ in range(250):
        record = bytearray(rng.choice(made))
        for _ in range(rng.choice((1, 1, 2, 8))):
            record[rng.randrange(len(record))] ^= 1 << rng.randrange(8)
        decoded = as_arrow(bytes(record))
        assert set(reasons(decoded)) <= set(events.REASONS)
        assert len(decoded.events.offset) + len(decoded.rejected) >= 1


def test_many_records_at_once_are_what_each_is_alone() -> None:
    rows = [[event(10 * record + index) for index in range(4)] for record in range(12)]
    rows[3][1]["ts_ms"] = -1
    records = [stream(table(part)) for part in rows]
    records[5] = b"nonsense"
    records[7] = with_column("arm", pa.array(["b", "a", "b"]).dictionary_encode())
    records[8] = with_column("arm", pa.array(["c", "a", "d"]).dictionary_encode())
    whole = arrow.decode_many(records, range(12), PLAN)
    alone = [arrow.decode(record, offset, PLAN) for offset, record in enumerate(records)]
    assert same(whole.events, events.concat([part.events for part in alone]))
    assert whole.rejected == tuple(row for part in alone for row in part.rejected)
    assert [row.offset for row in whole.rejected] == [3, 5]


def test_dictionaries_that_do_not_fit_into_one_are_kept_apart() -> None:
    records = []
    for record in range(4):
        rows = [event(index) | {"arm": f"arm{record * 60 + index}"} for index in range(60)]
        arms = pa.array([row["arm"] for row in rows]).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string()))
        whole = table(rows)
        records.append(stream(whole.set_column(whole.schema.get_field_index("arm"), "arm", arms)))
    decoded = arrow.decode_many(records, range(4), PLAN)
    assert len(set(decoded.events.arm_names)) == 240
    assert decoded.events.offset.tolist() == sorted(list(range(4)) * 60)
    assert decoded.events.arm_names[decoded.events.arm[61]] == "arm61"


def test_unknown_components_are_counted_where_they_are_not_null() -> None:
    rows = [event(index) for index in range(6)]
    rows[0]["values"]["likes"] = 3.0
    rows[1]["values"]["likes"] = None
    assert as_arrow(stream(table(rows))).unknown_components == {"likes": 1}


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_what_is_compressed_may_have_its_size(codec: str) -> None:
    rows = table([event(index) for index in range(20_000)])
    record = stream(rows, compression=codec)
    assert len(record) < len(stream(rows)) / 3
    assert same(as_arrow(record).events, as_arrow(stream(rows)).events)


def test_records_of_several_schemas_keep_their_order() -> None:
    wide, narrow = table([event(0), event(1)]), table([event(2)]).drop_columns(["bucket"])
    records = [stream(wide), stream(narrow), stream(wide), stream(narrow)]
    decoded = arrow.decode_many(records, range(4), PLAN)
    assert decoded.events.offset.tolist() == [0, 0, 1, 2, 2, 3]
    alone = [arrow.decode(record, offset, PLAN).events for offset, record in enumerate(records)]
    assert same(decoded.events, events.concat(alone))


def test_very_many_refused_rows_of_a_record_are_counted_not_told() -> None:
    rows = table([event(index) | {"ts_ms": -1 if index % 2 else None} for index in range(3000)] + [event(3000)])
    decoded = as_arrow(stream(rows))
    told, counted = decoded.rejected[:MAX_TOLD], decoded.rejected[MAX_TOLD:]
    assert all(row.data and row.rows == 1 for row in told)
    assert [(row.reason, row.rows, row.data) for row in counted] == [
        ("no_ts_ms", 1000, b""),
        ("bad_timestamp", 1000, b""),
    ]
    assert len(decoded.events.offset) == 1


def test_of_a_record_of_many_slices_no_more_are_told() -> None:
    decoded = as_arrow(stream(pa.table({"of no event": np.zeros(200_000, np.int8)}), compression="zstd"))
    assert len(decoded.rejected) == MAX_TOLD + 1
    assert sum(row.rows for row in decoded.rejected) == 200_000


def test_many_records_take_no_more_memory_than_three_that_are_as_large_as_they_may_be() -> None:
    long = stream(table([event(0)]).append_column("note", pa.array(["x" * (20 << 20)])), compression="zstd")
    pool, usual = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        decoded = arrow.decode_many([long] * 20, range(20), PLAN)
    finally:
        pa.set_memory_pool(usual)
    assert len(decoded.events.offset) == 20
    assert pool.max_memory() < 3 * arrow.MAX_UNPACKED


def test_rows_of_a_record_are_found_by_their_place_among_those_that_pass() -> None:
    rows = [event(k) for k in range(70_000)]
    rows[1] = event(1) | {"id": None}
    rows[2] = event(2) | {"unit": None}
    found = arrow.rows_at(stream(table(rows)), [69_997, 0, 1], PLAN)
    assert [json.loads(row)["id"] for row in found] == [rows[k]["id"] for k in (69_999, 0, 3)]
