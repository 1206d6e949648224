"""A small stream for the tests of event time: rows as plain tuples, and the columns that the core wants."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from controller.core.events import Component, EventPlan, Events
from controller.core.windows import Cell, PartBatch, Tables, WindowPlan

HOUR = 3_600_000
DAY = 24 * HOUR
PLAN = WindowPlan(length_ms=HOUR, grace_ms=HOUR // 12, lateness_ms=3 * HOUR, dedupe_ms=3 * HOUR, validity_ms=4 * HOUR)
EVENTS = EventPlan((Component("views"), Component("delta", negative=True)), ("new", "old"), "salt", 5)
ARMS = ("control", "e1", "e2")
TABLES: Tables = {
    7: (ARMS, np.array([0, 1, 2, 0, 1], np.int16)),
    8: (("control", "e2"), np.array([0, 1, 0, 1, 0], np.int16)),
}


class Row(NamedTuple):
    """One event; `key` stands for its id."""

    key: int
    ts_ms: int
    unit: int = 0
    segment: int = 0
    version: int = 7
    arm: str = "control"
    values: tuple[int, ...] = (1, -1)
    has_unit: bool = True


def id_words(key: int) -> tuple[int, int]:
    """128 bits for a key; keys that differ by a multiple of 1000 share their high word."""
    return (key % 1000 * 0x9E3779B97F4A7C15 % 2**64, (key // 1000) << 40 | 12345)


def unit_hash(unit: int) -> int:
    return unit * 0x9E3779B97F4A7C15 % 2**64


def bucket(unit: int) -> int:
    return unit_hash(unit) % EVENTS.buckets


def right(key: int, ts_ms: int, unit: int = 0, **other: object) -> Row:
    """A row of version 7 with its bucket's arm."""
    names, dealt = TABLES[7]
    return Row(key, ts_ms, unit, arm=names[dealt[bucket(unit)]], **other)  # type: ignore[arg-type]  # by name


def columns(rows: Sequence[Row], first_offset: int = 0) -> Events:
    """The rows as the decoder hands them on, one offset a row."""
    names = tuple(dict.fromkeys(row.arm for row in rows))
    n = len(rows)
    return Events(
        offset=np.arange(first_offset, first_offset + n, dtype=np.int64),
        ts_ms=np.array([row.ts_ms for row in rows], np.int64),
        id_hash=np.array([id_words(row.key) for row in rows], np.uint64).reshape(n, 2),
        bucket=np.array([bucket(row.unit) for row in rows], np.int32),
        unit_hash=np.array([unit_hash(row.unit) for row in rows], np.uint64),
        has_unit=np.array([row.has_unit for row in rows], np.bool_),
        segment=np.array([row.segment for row in rows], np.int16),
        version=np.array([row.version for row in rows], np.int64),
        arm=np.array([names.index(row.arm) for row in rows], np.int32),
        arm_names=names,
        values=np.array([row.values for row in rows], np.int64).reshape(n, len(EVENTS.components)),
    )


def part(partition: int, rows: Sequence[Row], first_offset: int = 0) -> PartBatch:
    return PartBatch(partition, columns(rows, first_offset), {}, first_offset + len(rows))


def dense(cell: Cell) -> dict[tuple[int, int, int], int]:
    """A cell as the naive recount keeps it: (segment, bucket, component or -1 for the count) -> sum, zeros left out."""
    table = np.concatenate([cell.sums, cell.events[..., None]], axis=2)
    last = table.shape[2] - 1
    return {(g, b, -1 if c == last else c): int(table[g, b, c]) for g, b, c in np.argwhere(table).tolist()}
