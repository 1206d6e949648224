"""Engagement events: from record bytes to checked columns.

JSON is read row by row in `json_rows`, Arrow arrives as columns; both end in the same checks and hashes here, so
that the same rows give the same `Events` either way. Every row is accepted, or rejected alone under one of `REASONS`.

Notation: n rows, C components (the study's, in `EventPlan.components` order).
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.core import json_rows
from controller.core.json_rows import MAX_TIME_MS, MAX_VALUE, Layout, Table, Text
from controller.unit_hash import buckets_of, xxh64_spans

FIXED_POINT = 1_000_000  # components are added up as integers in units of 1e-6
MAX_REJECTED = 64 * 2**10  # bytes of a rejected row that are kept

REASONS = {
    "malformed": "not one JSON object (or lines of them), or not a readable Arrow stream",
    "not_utf8": "JSON that is not UTF-8",
    "too_large": f"a record above {json_rows.MAX_RECORD >> 20} MiB, or a text above {json_rows.MAX_TEXT} characters",
    "missing_field": "no id, ts_ms, version or values; or no arm though a table served it (version above 0)",
    "wrong_type": "a field that is there with another type than the contract's",
    "bad_timestamp": f"ts_ms outside 0..{MAX_TIME_MS}",
    "out_of_range": f"version below 0 or not 64 bits, bucket outside the study's, or |value| > {MAX_VALUE:g}",
    "non_finite": "a value that is NaN or infinite",
    "negative": "a value below 0 of a component that is never negative",
    "no_unit": "neither unit nor bucket",
    "bucket_mismatch": "the bucket is not the bucket of the unit",
}

# Two seeds that share no structure: the 128 bits of an id are two hashes of it.
_ID_SEEDS = (0, 0x8F1BBCDC6ED9EBA1)


class Component(msgspec.Struct, frozen=True):
    """An additive quantity of an event. `negative`: whether values below zero are legal."""

    name: str
    negative: bool = False


class EventPlan(msgspec.Struct, frozen=True):
    """What of the study the decoder needs."""

    components: tuple[Component, ...]
    segments: tuple[str, ...]
    salt: str
    buckets: int


class Events(msgspec.Struct, frozen=True, eq=False):
    """Rows that passed every check that one row alone can be put to, in offset order; arrays are read-only."""

    offset: NDArray[np.int64]  # (n,) Kafka offset of the record that held the row; rows of one record share it
    ts_ms: NDArray[np.int64]  # (n,) time of the exposure
    id_hash: NDArray[np.uint64]  # (n, 2) 128-bit hash of the event id
    bucket: NDArray[np.int32]  # (n,)
    unit_hash: NDArray[np.uint64]  # (n,) xxh64(salt + unit); meaningless where has_unit is false
    has_unit: NDArray[np.bool_]  # (n,)
    segment: NDArray[np.int16]  # (n,) 0 = none or not one of the study's, k = EventPlan.segments[k - 1]
    version: NDArray[np.int64]  # (n,) echo of the table that served it; 0 = served without a valid table
    arm: NDArray[np.int32]  # (n,) index into arm_names
    arm_names: tuple[str, ...]
    values: NDArray[np.int64]  # (n, C) fixed point; absent components are 0


class Rejected(msgspec.Struct, frozen=True):
    """A row that is not counted. `reason` is a key of `REASONS`; `data` its bytes, at most `MAX_REJECTED`."""

    offset: int
    reason: str
    data: bytes


class Decoded(msgspec.Struct, frozen=True, eq=False):
    """What records held. `unknown_components`: names the study does not use -> rows that had them."""

    events: Events
    rejected: tuple[Rejected, ...]
    unknown_components: dict[str, int]


def decode(record_values: Sequence[bytes], offsets: Sequence[int], plan: EventPlan) -> Decoded:
    """Read records that each hold one JSON object, or newline-separated ones; `offsets` are their Kafka offsets.

    Blank lines are no rows; a record without any row is rejected as malformed. Never raises on what records hold.
    """
    parsed = json_rows.parse(record_values, _layout(plan))
    at = np.asarray(offsets, np.int64)
    events, faults = _events(parsed.table, at[parsed.record], plan)
    rejected = [Rejected(offsets[record], reason, row[:MAX_REJECTED]) for record, reason, row in parsed.refused]
    first = np.searchsorted(parsed.record, parsed.record) if faults else parsed.record
    for row, reason in faults.items():
        record = int(parsed.record[row])
        lines = parsed.lines.get(record)
        data = lines[row - int(first[row])] if lines else record_values[record]
        rejected.append(Rejected(offsets[record], reason, data[:MAX_REJECTED]))
    rejected.sort(key=lambda row: row.offset)
    return Decoded(events, tuple(rejected), parsed.unknown)


def concat(parts: Sequence[Events]) -> Events:
    """All rows of the parts in their order. Raises `ValueError` without any part."""
    if len(parts) == 1:
        return parts[0]
    names = tuple(sorted({name for part in parts for name in part.arm_names}))
    code = {name: index for index, name in enumerate(names)}
    arms = [np.array([code[name] for name in part.arm_names] or [0], np.int32)[part.arm] for part in parts]
    columns = {
        column: np.concatenate([getattr(part, column) for part in parts])
        for column in Events.__struct_fields__
        if column not in ("arm", "arm_names")
    }
    return _frozen(Events(**columns, arm=np.concatenate(arms), arm_names=names))


def _layout(plan: EventPlan) -> Layout:
    return Layout(
        tuple(component.name for component in plan.components),
        tuple(-MAX_VALUE if component.negative else 0.0 for component in plan.components),
        plan.segments,
        plan.buckets,
    )


def _events(table: Table, offset: NDArray[np.int64], plan: EventPlan) -> tuple[Events, dict[int, str]]:
    """Check fields against each other, hash, and keep the rows without a fault; faults are row -> reason."""
    has_unit = table.units.lengths > 0
    unit_hash = _hashes(table.units, 0, plan.salt.encode())
    unit_hash[~has_unit] = 0
    hashed = buckets_of(unit_hash, plan.buckets)
    has_bucket = table.bucket >= 0
    no_arm = (np.array(table.arm_names or ("",)) == "")[table.arm]
    faulty = {
        "missing_field": no_arm & (table.version > 0),
        "no_unit": ~has_unit & ~has_bucket,
        "bucket_mismatch": has_unit & has_bucket & (hashed != table.bucket),
    }
    faults: dict[int, str] = {}
    for reason, rows in faulty.items():
        for row in np.flatnonzero(rows).tolist():
            faults.setdefault(row, reason)
    names, code = _sorted_names(table)
    events = Events(
        offset=offset,
        ts_ms=table.ts_ms,
        id_hash=np.stack([_hashes(table.ids, seed) for seed in _ID_SEEDS], axis=1),
        bucket=np.where(has_unit, hashed, table.bucket.astype(np.int32)),
        unit_hash=unit_hash,
        has_unit=has_unit,
        segment=table.segment,
        version=table.version,
        arm=code[table.arm],
        arm_names=names,
        values=fixed_point(table.values),
    )
    if faults:
        keep = np.ones(len(offset), np.bool_)
        keep[list(faults)] = False
        events = _take(events, keep)
    return _frozen(events), faults


def fixed_point(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The nearest integer of the IEEE product v x 1e6, ties away from zero.

    Not `floor(p + 0.5)`: that sum is itself rounded, below one half and above 2**52.
    """
    product = values * FIXED_POINT
    whole = np.trunc(product)
    away = np.abs(product - whole) >= 0.5
    return (whole + np.copysign(away, product)).astype(np.int64)


def _hashes(texts: Text, seed: int, prefix: bytes = b"") -> NDArray[np.uint64]:
    return xxh64_spans(texts.data, texts.starts, texts.lengths, seed, prefix)


def _sorted_names(table: Table) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Arm names in order, and the new code of each old one."""
    names = tuple(sorted(table.arm_names))
    code = {name: index for index, name in enumerate(names)}
    return names, np.array([code[name] for name in table.arm_names], np.int32)


def _take(events: Events, rows: NDArray[np.bool_]) -> Events:
    columns = {column: getattr(events, column)[rows] for column in Events.__struct_fields__ if column != "arm_names"}
    return Events(**columns, arm_names=events.arm_names)


def _frozen(events: Events) -> Events:
    for column in Events.__struct_fields__:
        array = getattr(events, column)
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    return events
