"""Engagement events: from record bytes to checked columns.

JSON is read row by row in `json_rows`, Arrow arrives as columns; both end in the same checks and hashes here, so
that the same rows give the same `Events` either way. Every row is accepted, or rejected alone under one of `REASONS`.

Notation: n rows, C components (the study's, in `EventPlan.components` order), R of them brought by events.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.core import column_rows, json_rows
from controller.core.column_rows import Columns
from controller.core.rows import (
    MAX_RECORD,
    MAX_TEXT,
    MAX_TIME_MS,
    MAX_TOLD,
    MAX_TOLD_IN_ALL,
    MAX_VALUE,
    Layout,
    Table,
    Text,
)
from controller.unit_hash import buckets_of, xxh64_spans

FIXED_POINT = 1_000_000  # components are added up as integers in units of 1e-6
MAX_REJECTED = 64 * 2**10  # bytes of a rejected row that are kept

REASONS = {
    "malformed": "not one JSON object (or lines of them), or not a readable Arrow stream",
    "not_utf8": "JSON that is not UTF-8",
    "too_large": f"a record above {MAX_RECORD >> 20} MiB, or an id, unit or arm above {MAX_TEXT} characters",
    "no_id": "no id, or an empty one",
    "no_ts_ms": "no ts_ms",
    "no_version": "no version, which is 0 where no table served the event",
    "no_arm": "no arm, or an empty one, though a table served the event (version above 0)",
    "no_values": "no values",
    "wrong_type": "a field that is there with another type than the contract's",
    "bad_timestamp": f"ts_ms outside 0..{MAX_TIME_MS}",
    "out_of_range": f"version below 0 or not 64 bits, bucket outside the study's, or |value| > {MAX_VALUE:g}",
    "non_finite": "a value that is NaN or infinite",
    "negative": "a value below 0 of a component that is never negative",
    "no_unit": "neither unit nor bucket",
    "bucket_mismatch": "the bucket is not the bucket of the unit",
}

_FAULTS = ("", *REASONS)  # a row's fault is an index into it, 0 = none

# Two seeds that share no structure: the 128 bits of an id are two hashes of it.
_ID_SEEDS = (0, 0x8F1BBCDC6ED9EBA1)


class Component(msgspec.Struct, frozen=True):
    """An additive quantity of an event.

    `negative`: whether values below zero are legal. `cap`: a value beyond it, on either side of zero, counts as the
    cap (winsorising: one event cannot carry a bucket). `of`: no quantity that events bring, but the sum of what that
    component counts in its events at the cap; it tells by how much the cap can bias a change.
    """

    name: str
    negative: bool = False
    cap: float | None = None
    of: str = ""


class EventPlan(msgspec.Struct, frozen=True):
    """What of the study the decoder needs."""

    components: tuple[Component, ...]
    segments: tuple[str, ...]
    salt: str
    buckets: int

    @property
    def brought(self) -> tuple[Component, ...]:
        """The components that events bring, R of them."""
        return tuple(component for component in self.components if not component.of)


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
    """A row that is not counted. `reason` is a key of `REASONS`; `data` its bytes, at most `MAX_REJECTED`.

    `rows`: of a record that has more than `MAX_TOLD` refused ones, or one behind `MAX_TOLD_IN_ALL` of them, how many
    more there are for this reason; no `data`.
    """

    offset: int
    reason: str
    data: bytes
    rows: int = 1


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
    fault = np.zeros(len(parsed.record), np.int8)  # a row's index into _FAULTS
    events = _events(parsed.table, at[parsed.record], plan, fault)
    rejected = [Rejected(offsets[record], reason, row[:MAX_REJECTED]) for record, reason, row in parsed.refused]
    rejected += [Rejected(offsets[record], reason, b"", rows) for (record, reason), rows in parsed.untold.items()]
    bad, untold = _told(fault, at[parsed.record])
    for row in bad.tolist():
        record = int(parsed.record[row])
        line = row - int(np.searchsorted(parsed.record, record))
        data = parsed.lines[record][line] if record in parsed.lines else record_values[record]
        rejected.append(Rejected(offsets[record], _FAULTS[fault[row]], data[:MAX_REJECTED]))
    return Decoded(events, in_order([*rejected, *untold]), parsed.unknown)


def rows_at(record_value: bytes, places: Sequence[int], plan: EventPlan) -> list[bytes]:
    """Rows of a JSON record, cut, by their places among those that `decode` lets pass."""
    if b"\n" not in record_value:  # its one row
        return [record_value[:MAX_REJECTED] for _ in places]
    parsed = json_rows.parse([record_value], _layout(plan))
    fault = np.zeros(len(parsed.record), np.int8)
    _events(parsed.table, parsed.record, plan, fault)
    lines = parsed.lines.get(0, [record_value])
    passed = np.flatnonzero(fault == 0)
    return [lines[passed[place]][:MAX_REJECTED] for place in places]


def passed(columns: Columns, plan: EventPlan) -> NDArray[np.intp]:
    """Positions of the rows that `from_columns` lets pass."""
    layout = _layout(plan)
    fault = _column_faults(columns, layout)
    _events(column_rows.table(columns, layout, fault == 0), columns.offset, plan, fault)
    return np.flatnonzero(fault == 0)


def from_columns(columns: Columns, plan: EventPlan) -> Decoded:
    """Check rows that came as columns: the same rows as JSON give the same events, but that null means absent here."""
    layout = _layout(plan)
    fault = _column_faults(columns, layout)
    good = fault == 0
    unknown = {name: int(np.count_nonzero(rows & good)) for name, rows in columns.unknown.items()}
    table = column_rows.table(columns, layout, good)
    events = _events(table, columns.offset, plan, fault)
    one_by_one, untold = _told(fault, columns.offset)
    bad = one_by_one.tolist()
    rejected = [
        Rejected(int(columns.offset[row]), _FAULTS[fault[row]], data[:MAX_REJECTED])
        for row, data in zip(bad, columns.show(bad) if bad else [], strict=True)
    ]
    return Decoded(events, in_order([*rejected, *untold]), {name: rows for name, rows in unknown.items() if rows})


def _column_faults(columns: Columns, layout: Layout) -> NDArray[np.int8]:
    fault = np.zeros(columns.rows, np.int8)
    for rows, reason in column_rows.faults(columns, layout):
        _mark(fault, rows, reason)
    return fault


def _told(fault: NDArray[np.int8], offset: NDArray[np.int64]) -> tuple[NDArray[np.intp], list[Rejected]]:
    """Of rows (n,), their records in order, the bad ones that are told one by one, and the others counted."""
    bad = np.flatnonzero(fault)
    if len(bad) <= MAX_TOLD:
        return bad, []
    _, first, record = np.unique(offset[bad], return_index=True, return_inverse=True)
    place = np.arange(len(bad))
    beyond = (place >= MAX_TOLD_IN_ALL) | (place - first[record] >= MAX_TOLD)
    more = Counter(zip(offset[bad[beyond]].tolist(), fault[bad[beyond]].tolist(), strict=True))
    return bad[~beyond], [Rejected(at, _FAULTS[reason], b"", rows) for (at, reason), rows in more.items()]


def told(rejected: Iterable[Rejected]) -> Iterator[Rejected]:
    """Those told one by one that may be, and how many others there are."""
    of_record: Counter[int] = Counter()
    more: Counter[tuple[int, str]] = Counter()
    left = MAX_TOLD_IN_ALL
    for row in rejected:
        if row.rows > 1 or not left or of_record[row.offset] >= MAX_TOLD:
            more[row.offset, row.reason] += row.rows
        else:
            left -= 1
            of_record[row.offset] += 1
            yield row
    yield from (Rejected(offset, reason, b"", rows) for (offset, reason), rows in more.items())


def in_order(rejected: Iterable[Rejected]) -> tuple[Rejected, ...]:
    """By their records, those of one as they come."""
    return tuple(sorted(rejected, key=lambda row: row.offset))


def concat(parts: Sequence[Events]) -> Events:
    """All rows of the parts by their records, those of one as they come. Raises `ValueError` without any part."""
    if len(parts) == 1:
        return parts[0]
    whole = joined(parts)
    if (np.diff(whole.offset) < 0).any():
        whole = take(whole, np.argsort(whole.offset, kind="stable"))
    return _frozen(whole)


def joined(parts: Sequence[Events]) -> Events:
    """The rows of all parts, one after the other. Raises `ValueError` without any part."""
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
    return Events(**columns, arm=np.concatenate(arms), arm_names=names)


def take(events: Events, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Events:
    """The rows at these positions."""
    columns = {column: getattr(events, column)[rows] for column in Events.__struct_fields__ if column != "arm_names"}
    return Events(**columns, arm_names=events.arm_names)


def _layout(plan: EventPlan) -> Layout:
    return Layout(
        tuple(component.name for component in plan.brought),
        tuple(-MAX_VALUE if component.negative else 0.0 for component in plan.brought),
        plan.segments,
        plan.buckets,
    )


def _events(table: Table, offset: NDArray[np.int64], plan: EventPlan, fault: NDArray[np.int8]) -> Events:
    """Check fields against each other, hash, and keep the rows without a fault; adds to `fault`."""
    has_unit, has_bucket = table.units.lengths > 0, table.bucket >= 0
    unit_hash = _hashes(table.units, 0, plan.salt.encode())
    unit_hash[~has_unit] = 0
    hashed = buckets_of(unit_hash, plan.buckets)
    unnamed = np.array([name == "" for name in table.arm_names] or [True])
    _mark(fault, (table.version > 0) & unnamed[table.arm], "no_arm")
    _mark(fault, ~has_unit & ~has_bucket, "no_unit")
    _mark(fault, has_unit & has_bucket & (hashed != table.bucket), "bucket_mismatch")
    events = Events(
        offset=offset,
        ts_ms=table.ts_ms,
        id_hash=np.stack([_hashes(table.ids, seed) for seed in _ID_SEEDS], axis=1),
        bucket=np.where(has_unit, hashed, table.bucket.astype(np.int32)),
        unit_hash=unit_hash,
        has_unit=has_unit,
        segment=table.segment,
        version=table.version,
        arm=table.arm,
        arm_names=table.arm_names,
        values=_capped(fixed_point(table.values), plan),
    )
    if fault.any():
        events = take(events, fault == 0)
    return _frozen(_with_used_names(events))


def _mark(fault: NDArray[np.int8], rows: NDArray[np.bool_], reason: str) -> None:
    """Give rows a reason unless they have one."""
    if rows.any():
        fault[rows & (fault == 0)] = _FAULTS.index(reason)


def fixed_point(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The nearest integer of the IEEE product v x 1e6, ties away from zero.

    Not `floor(p + 0.5)`: that sum is itself rounded, below one half and above 2**52.
    """
    product = values * FIXED_POINT
    whole = np.trunc(product)
    away = np.abs(product - whole) >= 0.5
    return (whole + np.copysign(away, product)).astype(np.int64)


def _capped(values: NDArray[np.int64], plan: EventPlan) -> NDArray[np.int64]:
    """Fixed-point values (n, R) as components (n, C): none beyond its cap, and beside it what is at the cap."""
    if len(plan.brought) == len(plan.components):
        return values
    caps = np.array([MAX_VALUE if component.cap is None else component.cap for component in plan.brought])
    cap = fixed_point(caps)
    kept = np.clip(values, -cap, cap)
    at_cap = np.where(np.abs(values) > cap, kept, 0)
    place = {component.name: r for r, component in enumerate(plan.brought)}
    return np.stack([at_cap[:, place[c.of]] if c.of else kept[:, place[c.name]] for c in plan.components], axis=1)


def capped_rows(events: Events, plan: EventPlan) -> dict[str, int]:
    """How many of the rows had a value beyond the cap of a component, by its name."""
    found = {c.of: int(np.count_nonzero(events.values[:, i])) for i, c in enumerate(plan.components) if c.of}
    return {name: rows for name, rows in found.items() if rows}


def _hashes(texts: Text, seed: int, prefix: bytes = b"") -> NDArray[np.uint64]:
    return xxh64_spans(texts.data, texts.starts, texts.lengths, seed, prefix)


def _with_used_names(events: Events) -> Events:
    """Only the names of arms that a row has, in order: the same rows give the same record, however they arrived."""
    used = np.bincount(events.arm, minlength=len(events.arm_names)).tolist()
    names = tuple(sorted({name for name, rows in zip(events.arm_names, used, strict=True) if rows}))
    code = {name: index for index, name in enumerate(names)}
    codes = np.array([code.get(name, 0) for name in events.arm_names] or [0], np.int32)
    return msgspec.structs.replace(events, arm=codes[events.arm], arm_names=names)


def _frozen(events: Events) -> Events:
    for column in Events.__struct_fields__:
        array = getattr(events, column)
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    return events
