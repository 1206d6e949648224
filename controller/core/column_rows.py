"""Columns of an Arrow record to checked columns: every check on one field, over all rows at once.

Notation: n rows, C components. A fault is (rows (n,) bool, reason); the first fault of a row is its reason, and faults
come in the order in which `json_rows` looks at fields, so that a row has the same reason either way.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.core.rows import MAX_TEXT, MAX_TIME_MS, MAX_VALUE, Layout, Table, Text

Rows = NDArray[np.bool_]  # (n,)
Fault = tuple[Rows, str]

_MAX_TEXT_BYTES = 4 * MAX_TEXT  # a character has at most four
_HIGH_BITS = np.uint64(0x8080_8080_8080_8080)


class Names(NamedTuple):
    """A column of few names, in UTF-8: row i is `names[code[i]]`; the empty name is an absent one."""

    code: NDArray[np.int32]  # (n,)
    names: tuple[bytes, ...]


class Columns(msgspec.Struct, frozen=True, eq=False):
    """Rows that came as columns, unchecked. A null is an absent field, and so is an empty text.

    `absent` has the rows without a field that every event needs (ts_ms, version, values), `wrong` the rows where a
    field, `wrong_values` where a component has another type than the contract's; fields without such rows are left out.
    """

    offset: NDArray[np.int64]  # (n,) Kafka offset of the row's record
    rows: int
    id: Text
    unit: Text
    arm: Names
    segment: Names
    ts_ms: NDArray[np.int64]  # (n,)
    version: NDArray[np.int64]  # (n,)
    bucket: NDArray[np.int64]  # (n,) -1 = absent; a bucket below 0 is given as -2
    values: NDArray[np.float64]  # (n, C) 0 = absent
    absent: dict[str, Rows]
    wrong: dict[str, Rows]
    wrong_values: dict[str, Rows]
    unknown: dict[str, Rows]  # components that the study does not use -> rows that have them
    show: Callable[[Sequence[int]], list[bytes]]  # rows as JSON, for people


def faults(columns: Columns, layout: Layout) -> Iterator[Fault]:
    """What is wrong with rows, field by field."""
    yield _not_utf8(columns.id) | _not_utf8(columns.unit), "not_utf8"
    yield _named(columns.arm, _is_not_utf8) | _named(columns.segment, _is_not_utf8), "not_utf8"
    yield from _wrong(columns, "id")
    yield columns.id.lengths == 0, "no_id"
    yield _too_long(columns.id), "too_large"
    yield from _needed(columns, "ts_ms")
    yield (columns.ts_ms < 0) | (columns.ts_ms > MAX_TIME_MS), "bad_timestamp"
    yield from _needed(columns, "version")
    yield columns.version < 0, "out_of_range"
    yield from _wrong(columns, "arm")
    yield _named(columns.arm, _is_too_long), "too_large"
    yield from _wrong(columns, "unit")
    yield _too_long(columns.unit), "too_large"
    yield from _wrong(columns, "segment")
    yield from _wrong(columns, "bucket")
    yield (columns.bucket < -1) | (columns.bucket >= layout.buckets), "out_of_range"
    yield from _needed(columns, "values")
    for index, name in enumerate(layout.components):
        if name in columns.wrong_values:
            yield columns.wrong_values[name], "wrong_type"
        yield from _value_faults(columns.values[:, index], layout.lowest[index])


def table(columns: Columns, layout: Layout, good: Rows) -> Table:
    """The columns of all rows; what a row that is not `good` holds is of no meaning, but harmless."""
    code = {name.encode(): index for index, name in enumerate(layout.segments, 1)}
    segments = np.array([code.get(name, 0) for name in columns.segment.names] or [0], np.int16)
    return Table(
        columns.id._replace(lengths=columns.id.lengths * good),
        columns.unit._replace(lengths=columns.unit.lengths * good),
        columns.ts_ms,
        columns.version,
        np.where(good, columns.bucket, -1),
        segments[columns.segment.code],
        columns.arm.code,
        tuple(name.decode(errors="replace") for name in columns.arm.names),
        np.where(good[:, None], columns.values, 0.0),
    )


def _wrong(columns: Columns, name: str) -> Iterator[Fault]:
    if name in columns.wrong:
        yield columns.wrong[name], "wrong_type"


def _needed(columns: Columns, name: str) -> Iterator[Fault]:
    if name in columns.absent:
        yield columns.absent[name], f"no_{name}"
    yield from _wrong(columns, name)


def _value_faults(values: NDArray[np.float64], lowest: float) -> Iterator[Fault]:
    if values.size and not (lowest <= values.min() and values.max() <= MAX_VALUE):  # a NaN is caught here as well
        yield ~np.isfinite(values), "non_finite"
        yield np.abs(values) > MAX_VALUE, "out_of_range"
        yield values < lowest, "negative"


def _named(column: Names, holds: Callable[[bytes], bool]) -> Rows:
    """Rows whose name has a property."""
    return np.array([holds(name) for name in column.names] or [False], np.bool_)[column.code]


def _is_too_long(name: bytes) -> bool:
    return len(name) > MAX_TEXT and len(name.decode(errors="replace")) > MAX_TEXT


def _is_not_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return True
    return False


def _bytes(text: Text, row: int) -> bytes:
    return text.data[text.starts[row] : text.starts[row] + text.lengths[row]].tobytes()


def _too_long(text: Text) -> Rows:
    """Rows of more than `MAX_TEXT` characters; those of more bytes are looked at one by one."""
    rows = text.lengths > MAX_TEXT
    for row in np.flatnonzero(rows & (text.lengths <= _MAX_TEXT_BYTES)).tolist():
        rows[row] = _is_too_long(_bytes(text, row))
    return rows


def _not_utf8(text: Text) -> Rows:
    """Rows that are not UTF-8: none where all is ASCII, else row by row where one has a byte beyond.

    Texts that are too long in any case are not looked at.
    """
    rows = np.zeros(len(text.starts), np.bool_)
    words = text.data[: text.data.size // 8 * 8].view(np.uint64)
    if not (words & _HIGH_BITS).any() and not (text.data[words.size * 8 :] & 0x80).any():
        return rows
    beyond = np.concatenate((np.zeros(1, np.int64), np.cumsum(text.data >= 0x80)))
    suspects = (beyond[text.starts + text.lengths] > beyond[text.starts]) & (text.lengths <= _MAX_TEXT_BYTES)
    for row in np.flatnonzero(suspects).tolist():
        rows[row] = _is_not_utf8(_bytes(text, row))
    return rows
