"""Decoding JSON: what is accepted and as what, what is refused and why, and that no row harms another."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.core import json_rows
from controller.core import rows as limits
from controller.core.events import (
    MAX_REJECTED,
    REASONS,
    Component,
    Decoded,
    EventPlan,
    Events,
    capped_rows,
    concat,
    decode,
    fixed_point,
    rows_at,
)
from controller.core.rows import MAX_TOLD, MAX_TOLD_IN_ALL
from controller.unit_hash import xxh64
from tests.corpus import MUTATIONS, PLAN, encoded, event, mutated


def one(row: dict[str, Any] | bytes, plan: EventPlan = PLAN) -> Decoded:
    return decode([row if isinstance(row, bytes) else encoded(row)], [7], plan)


def reasons(decoded: Decoded) -> list[str]:
    return [row.reason for row in decoded.rejected]


def same(left: Events, right: Events) -> bool:
    """Whether two records hold the same rows, bit for bit."""
    pairs = [(getattr(left, name), getattr(right, name)) for name in Events.__struct_fields__]
    return all(
        a == b if isinstance(a, tuple) else a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
        for a, b in pairs
    )


def rows_of(record: bytes) -> int:
    """How many rows a record holds, counted apart from the decoder: its lines that are not blank, if not one value."""

    def refuse(literal: str) -> None:
        raise ValueError(literal)

    try:
        json.loads(record.decode(errors="replace"), parse_constant=refuse)
    except (ValueError, RecursionError):
        return max(1, sum(bool(line.strip(b" \t\r")) for line in record.split(b"\n")))
    return 1


def test_an_event_becomes_a_row_of_columns() -> None:
    row = event(5) | {"segment": "returning", "version": 3, "arm": "e3"}
    row["values"] = {"impressions": 10, "delta": -31.5}
    events = decode([encoded(row)], [99], PLAN).events
    hashed = xxh64(b"feed:" + row["unit"].encode())
    assert events.offset.tolist() == [99]
    assert events.ts_ms.tolist() == [row["ts_ms"]]
    assert events.unit_hash.tolist() == [hashed]
    assert events.bucket.tolist() == [hashed % 1000]
    assert events.has_unit.tolist() == [True]
    assert events.segment.tolist() == [2]
    assert events.version.tolist() == [3]
    assert [events.arm_names[code] for code in events.arm] == ["e3"]
    assert events.values.tolist() == [[10_000_000, 0, -31_500_000]]
    assert events.id_hash[0, 0] == xxh64(row["id"].encode())
    assert events.id_hash[0, 1] not in (0, events.id_hash[0, 0])


def test_columns_keep_the_types_of_the_record_and_cannot_be_written() -> None:
    filled, empty = decode([encoded(event(1))], [0], PLAN).events, decode([], [], PLAN).events
    for name in Events.__struct_fields__:
        array = getattr(filled, name)
        if name != "arm_names":
            assert not array.flags.writeable
            assert array.dtype == getattr(empty, name).dtype
            assert array.shape[1:] == getattr(empty, name).shape[1:]
            assert len(getattr(empty, name)) == 0


@pytest.mark.parametrize(
    "nothing", [{"segment": None}, {"segment": ""}, {"segment": "elsewhere"}, {"segment": "é" * 300}]
)
def test_a_segment_that_is_not_the_studys_is_slot_zero(nothing: dict[str, Any]) -> None:
    assert one(event(1) | nothing).events.segment.tolist() == [0]


@pytest.mark.parametrize("absent", [{"unit": None}, {"unit": ""}])
def test_a_product_may_send_a_bucket_and_no_unit(absent: dict[str, Any]) -> None:
    events = one(event(1) | absent | {"bucket": 999}).events
    assert (events.bucket.tolist(), events.has_unit.tolist(), events.unit_hash.tolist()) == ([999], [False], [0])


def test_a_bucket_beside_its_unit_must_be_the_units() -> None:
    row = event(1)
    own = xxh64(b"feed:" + row["unit"].encode()) % 1000
    assert one(row | {"bucket": own}).events.bucket.tolist() == [own]
    assert reasons(one(row | {"bucket": (own + 1) % 1000})) == ["bucket_mismatch"]


@pytest.mark.parametrize("arm", [{}, {"arm": None}, {"arm": ""}, {"arm": "control"}])
def test_an_event_served_without_a_table_needs_no_arm(arm: dict[str, Any]) -> None:
    row = event(1) | {"version": 0}
    del row["arm"]
    events = one(row | arm).events
    assert [events.arm_names[code] for code in events.arm] == [arm.get("arm") or ""]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": None}, "no_id"),
        ({"id": ""}, "no_id"),
        ({"id": 5}, "wrong_type"),
        ({"id": "x" * 257}, "too_large"),
        ({"id": "é" * 257}, "too_large"),
        ({"ts_ms": None}, "no_ts_ms"),
        ({"ts_ms": "1700000000000"}, "wrong_type"),
        ({"ts_ms": 1.5}, "wrong_type"),
        ({"ts_ms": True}, "wrong_type"),
        ({"ts_ms": -1}, "bad_timestamp"),
        ({"ts_ms": limits.MAX_TIME_MS + 1}, "bad_timestamp"),
        ({"ts_ms": 10**300}, "bad_timestamp"),
        ({"ts_ms": 10**4000}, "bad_timestamp"),
        ({"version": None}, "no_version"),
        ({"version": -1}, "out_of_range"),
        ({"version": 2**63}, "out_of_range"),
        ({"version": "3"}, "wrong_type"),
        ({"arm": None}, "no_arm"),
        ({"arm": ""}, "no_arm"),
        ({"arm": 3}, "wrong_type"),
        ({"arm": "a" * 257}, "too_large"),
        ({"unit": 3}, "wrong_type"),
        ({"unit": None}, "no_unit"),
        ({"unit": "u" * 257}, "too_large"),
        ({"segment": ["new"]}, "wrong_type"),
        ({"bucket": -1}, "out_of_range"),
        ({"bucket": 1000}, "out_of_range"),
        ({"bucket": "1"}, "wrong_type"),
        ({"bucket": 1.0}, "wrong_type"),
        ({"values": None}, "no_values"),
        ({"values": []}, "wrong_type"),
        ({"values": 3}, "wrong_type"),
        ({"values": {"clicks": None}}, "wrong_type"),
        ({"values": {"clicks": True}}, "wrong_type"),
        ({"values": {"clicks": "1"}}, "wrong_type"),
        ({"values": {"clicks": -1e-9}}, "negative"),
        ({"values": {"clicks": 9.000001e9}}, "out_of_range"),
        ({"values": {"delta": -9.000001e9}}, "out_of_range"),
        ({"values": {"clicks": 10**40}}, "out_of_range"),
        ({"values": {"clicks": math.nan}}, "non_finite"),
        ({"values": {"clicks": -math.inf}}, "non_finite"),
    ],
)
def test_a_bad_field_has_its_reason(change: dict[str, Any], reason: str) -> None:
    decoded = one(event(1) | change)
    assert (len(decoded.events.offset), reasons(decoded)) == (0, [reason])
    assert decoded.rejected[0].offset == 7


@pytest.mark.parametrize("name", ["id", "ts_ms", "version", "arm", "values"])
def test_a_field_that_every_event_needs_is_missed(name: str) -> None:
    row = event(1)
    del row[name]
    assert reasons(one(row)) == [f"no_{name}"]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"", "malformed"),
        (b"\n \r\n", "malformed"),
        (b"null", "malformed"),
        (b"[{}]", "malformed"),
        (b"{}", "no_id"),
        (b'{"id": "a"', "malformed"),
        (b"\xef\xbb\xbf" + encoded(event(1)), "malformed"),
        (encoded(event(1)) + encoded(event(2)), "malformed"),
        (encoded(event(1)) + b",", "malformed"),
        (b"[" * 100_000, "malformed"),
        (encoded(event(1))[:-1] + b',"x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, "malformed"),
        (encoded(event(1)).replace(b'"id":"', b'"id":"\xff'), "not_utf8"),
        (encoded(event(1))[:-1] + b',"unread":"\xc3"}', "not_utf8"),
        (encoded(event(1)).replace(b'"id":"', b'"id":"\\ud800'), "malformed"),
        (b" " * (limits.MAX_RECORD + 1), "too_large"),
        (encoded(event(1)) + b" " * limits.MAX_RECORD, "too_large"),
    ],
)
def test_what_is_no_object_has_its_reason(record: bytes, reason: str) -> None:
    decoded = one(record)
    assert reasons(decoded) == [reason]
    assert decoded.rejected[0].data == record[:MAX_REJECTED]


@pytest.mark.parametrize("value", [9e9, 0.0, -0.0, 5e-324, 1e-7, 4e-7, 5e-7, 123456.7654321])
def test_limits_are_inside(value: float) -> None:
    row = event(1) | {"ts_ms": limits.MAX_TIME_MS, "version": 2**63 - 1, "id": "é" * 256, "values": {"delta": -value}}
    assert one(row).events.values[0, 2] == _nearest(-value)


def _nearest(value: float) -> int:
    """The nearest integer of the IEEE product, ties away from zero, in exact arithmetic."""
    product = Fraction(value * 1e6)
    return int(abs(product) + Fraction(1, 2)) * (1 if product >= 0 else -1)


@given(st.lists(st.floats(-9e9, 9e9) | st.integers(-(2**53), 2**53).map(lambda ticks: ticks * 0.5e-6), min_size=1))
def test_fixed_point_is_the_nearest_integer_of_the_product(values: list[float]) -> None:
    values = [value for value in values if abs(value) <= 9e9]
    assert fixed_point(np.array(values, np.float64)).tolist() == [_nearest(value) for value in values]


def test_fixed_point_does_not_round_twice() -> None:
    """Above 2**52 the sum of an odd product and one half is a tie, which would be rounded up."""
    products = [2.0**52 + odd for odd in range(1, 60, 2)]
    values = [value for product in products for value in _with_product(product)]
    assert len(values) >= 10
    assert fixed_point(np.array(values)).tolist() == [_nearest(value) for value in values]


def _with_product(product: float) -> list[float]:
    """Values near product / 1e6 whose IEEE product is that one."""
    value = product / 1e6
    near = [value, math.nextafter(value, 0), math.nextafter(value, math.inf)]
    return [value for value in near if value * 1e6 == product][:1]


def test_lines_are_rows_and_blank_ones_are_not() -> None:
    good = [encoded(event(index)) for index in range(3)]
    record = b"\r\n".join([good[0], b"", b'{"id": 5}', good[1], b" \t", b"nonsense", good[2], b""])
    decoded = decode([good[0], record, good[1]], [4, 9, 10], PLAN)
    assert decoded.events.offset.tolist() == [4, 9, 9, 9, 10]
    assert [(row.offset, row.reason) for row in decoded.rejected] == [(9, "wrong_type"), (9, "malformed")]
    assert decoded.rejected[1].data == b"nonsense\r"


def test_a_line_whose_fields_contradict_each_other_is_the_one_that_is_shown() -> None:
    wrong = encoded(event(1) | {"unit": None})
    decoded = one(b"\n".join([b"{", encoded(event(0)), wrong, encoded(event(2))]))
    assert reasons(decoded) == ["malformed", "no_unit"]
    assert decoded.rejected[1].data == wrong
    assert decoded.events.ts_ms.tolist() == [event(0)["ts_ms"], event(2)["ts_ms"]]


def test_an_object_over_several_lines_is_one_row() -> None:
    assert len(one(json.dumps(event(1), indent=2).encode()).events.offset) == 1
    assert reasons(one(json.dumps(event(1) | {"ts_ms": -1}, indent=2).encode())) == ["bad_timestamp"]


def test_of_a_repeated_key_the_last_one_counts() -> None:
    twice = b'{"version":true,' + encoded(event(1) | {"version": 6})[1:]
    assert one(twice).events.version.tolist() == [6]


def test_components_of_others_are_ignored_and_counted() -> None:
    rows = [event(index) for index in range(6000)]
    for index, row in enumerate(rows):
        row["values"] |= {"likes": index, "é\\": "any"} if index % 3 == 0 else {}
    decoded = decode([encoded(row) for row in rows], range(len(rows)), PLAN)
    assert decoded.unknown_components == {"likes": 2000, "é\\": 2000}
    assert decoded.rejected == ()
    plain = decode([encoded(event(index)) for index in range(6000)], range(6000), PLAN)
    assert same(decoded.events, plain.events)


def test_names_of_unknown_components_are_bounded() -> None:
    rows = [event(index) for index in range(300)]
    for index, row in enumerate(rows):
        row["values"][f"name{index}"] = 1
    unknown = decode([encoded(row) for row in rows], range(300), PLAN).unknown_components
    assert len(unknown) == limits.MAX_UNKNOWN + 1
    assert (unknown["name7"], unknown[limits.OTHERS]) == (1, 200)
    assert one(event(1) | {"values": {"n" * 10_000: 1}}).unknown_components == {limits.OTHERS: 1}


def test_component_names_of_any_script_are_read() -> None:
    plan = msgspec.structs.replace(
        PLAN, components=(*PLAN.components[:2], msgspec.structs.replace(PLAN.components[2], name="просмотры é"))
    )
    assert one(event(1) | {"values": {"просмотры é": 2}}, plan).events.values.tolist() == [[0, 0, 2_000_000]]
    escaped = json.dumps(event(1) | {"values": {"просмотры é": 2}}).encode()
    assert one(escaped, plan).events.values.tolist() == [[0, 0, 2_000_000]]


def test_a_value_beyond_its_cap_counts_as_the_cap_and_beside_it() -> None:
    parts = (Component("clicks"), Component("delta", negative=True, cap=1.5), Component("late", of="delta"))
    plan = msgspec.structs.replace(PLAN, components=parts)
    deltas = [0.5, 1.5, 1.5000004, 7.0, -9e9, -1.0]
    rows = [event(index) | {"values": {"clicks": 9e9, "delta": delta}} for index, delta in enumerate(deltas)]
    events = decode([encoded(row) for row in rows], range(6), plan).events
    assert events.values[:, 0].tolist() == [9 * 10**15] * 6
    assert events.values[:, 1].tolist() == [500_000, 1_500_000, 1_500_000, 1_500_000, -1_500_000, -1_000_000]
    assert events.values[:, 2].tolist() == [0, 0, 0, 1_500_000, -1_500_000, 0]
    assert capped_rows(events, plan) == {"delta": 2}
    assert capped_rows(decode([], [], plan).events, plan) == {}


def test_an_event_cannot_bring_what_adds_up_capped_values() -> None:
    plan = msgspec.structs.replace(PLAN, components=(Component("clicks", cap=1.0), Component("late", of="clicks")))
    decoded = one(event(1) | {"values": {"clicks": 1, "late": 5}}, plan)
    assert decoded.events.values.tolist() == [[1_000_000, 0]]
    assert decoded.unknown_components == {"late": 1}


def test_every_reason_is_explained() -> None:
    assert all(meaning for meaning in REASONS.values())
    assert set(reasons(_corpus()[1])) == set(REASONS)


@cache
def _corpus(count: int = 12_000) -> tuple[list[bytes], Decoded]:
    records = [record for _, record in mutated(count)] + [b" " * (limits.MAX_RECORD + 1)]
    return records, decode(records, range(len(records)), PLAN)


def test_every_row_of_the_corpus_is_accepted_or_rejected_under_a_reason() -> None:
    records, decoded = _corpus()
    counted = Counter(decoded.events.offset.tolist())
    for row in decoded.rejected:
        counted[row.offset] += row.rows
    assert counted == {offset: rows_of(record) for offset, record in enumerate(records)}
    assert np.all(np.diff(decoded.events.offset) >= 0)
    assert len(decoded.rejected) > 8000
    assert set(reasons(decoded)) <= set(REASONS)


def test_a_corrupt_record_changes_no_neighbour() -> None:
    good = [encoded(event(index)) for index in range(3000)]
    bad = [record for _, record in mutated(3000, seed=1)]
    mixed = decode([record for pair in zip(good, bad, strict=True) for record in pair], range(6000), PLAN)
    alone = decode(good, range(0, 6000, 2), PLAN)
    kept = np.flatnonzero(mixed.events.offset % 2 == 0)
    assert np.array_equal(mixed.events.id_hash[kept], alone.events.id_hash)
    assert np.array_equal(mixed.events.values[kept], alone.events.values)
    assert np.array_equal(mixed.events.bucket[kept], alone.events.bucket)
    assert not [row for row in mixed.rejected if row.offset % 2 == 0]


@pytest.mark.parametrize("size", [1, 7, 400])
def test_batches_do_not_change_what_a_record_becomes(size: int) -> None:
    records = [record for _, record in mutated(1200, seed=2)]
    whole = decode(records, range(len(records)), PLAN)
    parts = [
        decode(records[begin : begin + size], range(begin, min(begin + size, len(records))), PLAN)
        for begin in range(0, len(records), size)
    ]
    assert same(concat([part.events for part in parts]), whole.events)
    assert tuple(row for part in parts for row in part.rejected) == whole.rejected


@pytest.mark.parametrize("kind", sorted(MUTATIONS))
def test_no_mutation_is_without_an_effect(kind: str) -> None:
    """The corpus is worth its name: every kind makes records that are not the good event."""
    records = [record for made, record in mutated(300, seed=3) if made == kind]
    assert len(records) == 20
    assert any(reasons(one(record)) or one(record).unknown_components for record in records)


@given(st.binary(max_size=60) | st.binary(max_size=40).map(lambda tail: encoded(event(1))[:-1] + tail))
def test_no_bytes_raise(record: bytes) -> None:
    decoded = one(record)
    assert len(decoded.events.offset) + len(decoded.rejected) == rows_of(record)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300)
@given(
    st.dictionaries(st.sampled_from([*event(0), "bucket", "extra"]), JSON, max_size=3),
    st.dictionaries(st.sampled_from(["clicks", "delta", "other"]), JSON),
)
def test_a_row_is_accepted_exactly_when_a_plain_reading_of_the_contract_says_so(
    fields: dict[str, Any], values: dict[str, Any]
) -> None:
    row = event(1) | fields
    if isinstance(row["values"], dict):
        row["values"] = row["values"] | values
    accepted = len(one(row).events.offset) == 1
    assert accepted == _is_good(row)


def _is_good(row: dict[str, Any]) -> bool:
    """Contract 3.1, word by word."""
    try:
        json.dumps(row, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:
        return False  # no JSON has these numbers, no UTF-8 these characters
    texts = [row[name] for name in ("unit", "segment", "arm")]
    bucket, values = row.get("bucket"), row["values"]
    return (
        _is_text(row["id"])
        and row["id"] != ""
        and _is_integer(row["ts_ms"], 0, 253_402_300_799_999)
        and _is_integer(row["version"], 0, 2**63 - 1)
        and all(text is None or _is_text(text) for text in texts)
        and (bool(row["arm"]) or row["version"] == 0)
        and (bucket is None or _is_integer(bucket, 0, 999))
        and (bool(row["unit"]) or bucket is not None)
        and (bucket is None or not row["unit"] or xxh64(b"feed:" + row["unit"].encode()) % 1000 == bucket)
        and isinstance(values, dict)
        and all(
            _is_number(values.get(name, 0), lowest)
            for name, lowest in (("impressions", 0), ("clicks", 0), ("delta", -9e9))
        )
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 256


def _is_integer(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: object, lowest: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and lowest <= value <= 9e9


def test_parts_are_joined_with_their_arms() -> None:
    parts: Sequence[Events] = [one(event(1) | {"arm": arm}).events for arm in ("b", "a", "b")]
    whole = concat([*parts, decode([], [], PLAN).events])
    assert whole.arm_names == ("a", "b")
    assert [whole.arm_names[code] for code in whole.arm] == ["b", "a", "b"]
    assert not whole.arm.flags.writeable


def test_very_many_refused_rows_of_a_record_are_counted_not_told() -> None:
    many, few = [b"x"] * 1500 + [encoded(event(0) | {"version": -1})] * 700 + [encoded(event(1))], [b"x", b"y"]
    decoded = decode([b"\n".join(many), b"\n".join(few)], [3, 4], PLAN)
    assert [row.offset for row in decoded.rejected] == [3] * (MAX_TOLD + 2) + [4, 4]
    rows: Counter[str] = Counter()
    for row in decoded.rejected:
        rows[row.reason] += row.rows
    assert rows == {"malformed": 1502, "out_of_range": 700}
    assert [row.rows for row in decoded.rejected[MAX_TOLD:]] == [500, 700, 1, 1]
    assert decoded.events.offset.tolist() == [3]


def test_very_many_refused_rows_of_many_records_are_counted_not_told() -> None:
    odd = encoded(event(0) | {"arm": ""})
    records = [b"1\n" * MAX_TOLD, b"\n".join([odd] * MAX_TOLD)] * (MAX_TOLD_IN_ALL // MAX_TOLD + 2)
    rejected = decode(records, range(len(records)), PLAN).rejected
    assert sum(row.rows for row in rejected) == len(records) * MAX_TOLD
    for reason in ("malformed", "no_arm"):
        assert sum(bool(row.data) for row in rejected if row.reason == reason) == MAX_TOLD_IN_ALL
        assert [row.rows for row in rejected if row.reason == reason and not row.data] == [MAX_TOLD] * 2


def test_rows_that_contradict_themselves_are_counted_too() -> None:
    wrong = encoded(event(0) | {"bucket": 998})
    decoded = decode([b"\n".join([wrong] * (MAX_TOLD + 5))], [3], PLAN)
    assert [(row.reason, row.rows) for row in decoded.rejected[MAX_TOLD:]] == [("bucket_mismatch", 5)]


def test_rows_of_a_record_are_found_by_their_place_among_those_that_pass() -> None:
    good = [encoded(event(k)) for k in range(3)]
    bad = [b"junk", encoded(event(7) | {"bucket": 9999}), encoded(event(8) | {"unit": None})]
    record = b"\n".join([bad[0], good[0], bad[1], b"", good[1], bad[2], good[2]])
    assert rows_at(record, [2, 0], PLAN) == [good[2], good[0]]
    assert rows_at(good[1], [0], PLAN) == [good[1]]
    long = encoded(event(1) | {"more": "x" * MAX_REJECTED})
    assert rows_at(long, [0], PLAN) == [long[:MAX_REJECTED]]


def test_the_row_of_a_record_of_one_is_found_without_reading_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every event that the clock refuses is asked for: a whole product's, where its clock is wrong."""
    record = encoded(event(0))
    monkeypatch.setattr(json_rows, "parse", None)
    assert rows_at(record, [0], PLAN) == [record]
