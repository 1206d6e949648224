"""JSON records to plain columns: one object a record, or newline-separated objects.

The common case takes one call of msgspec a row, into a record type made for the study, whose types hold every check
that one field alone can be put to. Whatever that call refuses is looked at again, slowly: several lines, a component
that the study does not use, or a bad row, which gets its reason. Rows are read in blocks, so that a block's objects
stay in the processor's cache (half the time of a batch read at once). No record is ever joined to another.

Notation: n rows, C components.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import repeat
from operator import attrgetter
from typing import Annotated, Any, NamedTuple, cast

import msgspec
import numpy as np
from msgspec import Meta, Raw, defstruct, field
from numpy.typing import NDArray

from controller.core.json_faults import REFUSED, Fields, is_json, is_utf8, why_refused
from controller.core.rows import (
    MAX_RECORD,
    MAX_TEXT,
    MAX_TIME_MS,
    MAX_TOLD,
    MAX_TOLD_IN_ALL,
    MAX_UNKNOWN,
    MAX_VALUE,
    MAX_VERSION,
    OTHERS,
    Layout,
    Table,
    Text,
)

_BLOCK = 1024  # rows: about half a MB of objects
_MAX_EXTRAS = 16  # unknown names that a row type knows: every set of them makes a type
_BLANK = b" \t\r"


class Refusal(NamedTuple):
    """A row that was refused: the index of its record, why, and its bytes."""

    record: int
    reason: str
    row: bytes


class Parsed(NamedTuple):
    """All rows of a batch of records."""

    table: Table
    record: NDArray[np.int64]  # (n,) index of the record that held the row
    lines: dict[int, list[bytes]]  # records of several lines: the lines of their rows in the table
    refused: list[Refusal]  # at most `MAX_TOLD` of a record, `MAX_TOLD_IN_ALL` of all
    untold: dict[tuple[int, str], int]  # (record, reason) -> rows refused beyond these
    unknown: dict[str, int]  # component names that the study does not use -> rows


def parse(values: Sequence[bytes], layout: Layout) -> Parsed:
    """Read all records; never raises on what they hold."""
    reader = _Reader(values, layout)
    blocks = list(reader.blocks()) or [_columns([], layout, reader.arms)]
    joined = [np.concatenate(column) for column in zip(*(block[2:] for block in blocks), strict=True)]
    ts_ms, version, bucket, segment, arm, components = joined
    ids, units = (_joined([block[side] for block in blocks]) for side in (0, 1))
    record = np.repeat(np.arange(len(values), dtype=np.int64), reader.counts)
    names = tuple(reader.arms)
    table = Table(ids, units, ts_ms, version, bucket, segment, arm, names, components)
    return Parsed(table, record, reader.lines, reader.refused, reader.untold, reader.unknown)


class _Reader:
    """One pass over a batch. `extras`: unknown component names met so far, which the row type then knows."""

    def __init__(self, values: Sequence[bytes], layout: Layout) -> None:
        self.values = values
        self.sound: list[bytes] = []
        self.layout = layout
        self.counts = np.ones(len(values), np.int64)
        self.arms: dict[str, int] = {}
        self.lines: dict[int, list[bytes]] = {}
        self.refused: list[Refusal] = []
        self.untold: dict[tuple[int, str], int] = {}
        self.unknown: dict[str, int] = {}
        self.extras: tuple[str, ...] = ()

    def blocks(self) -> Iterator[tuple[Any, ...]]:
        begin = 0
        while begin < len(self.values):
            part = self._sound(begin)
            extras = self.extras
            rows, begin = self._read(part, begin)
            for index, name in enumerate(extras):
                self._count_unknown(name, sum(getattr(row.values, f"x{index}") is not None for row in rows))
            yield _columns(rows, self.layout, self.arms)

    def _sound(self, begin: int) -> list[bytes]:
        """The next records, with nothing in place of those too large or not UTF-8, so that they are refused."""
        if begin + _BLOCK > len(self.sound) < len(self.values):
            part = self.values[len(self.sound) : len(self.sound) + _BLOCK]
            joined = b"".join(part)  # only to ask two questions of all records at once
            if len(joined) > MAX_RECORD or not joined.isascii():
                part = [record if len(record) <= MAX_RECORD and is_utf8(record) else b"" for record in part]
            self.sound += part
        return self.sound[begin : begin + _BLOCK]

    def _read(self, part: Sequence[bytes], begin: int) -> tuple[list[Any], int]:
        """Rows of a block of records, and where the next block begins."""
        read = _row_decoder(self.layout, self.extras).decode
        rows: list[Any] = []
        keep = rows.append
        for at, record in enumerate(part, begin):
            try:
                keep(read(record))
            except REFUSED:
                known = len(self.extras)
                self._read_again(at, self.values[at], rows)
                if len(self.extras) > known or len(rows) >= _BLOCK:  # go on with a row type that knows the new names
                    return rows, at + 1
        return rows, begin + len(part)

    def _read_again(self, at: int, record: bytes, rows: list[Any]) -> None:
        """A record that is not one plain event: several lines, an unknown component, or refused."""
        kept = len(rows)
        if len(record) > MAX_RECORD:
            self._refuse(at, "too_large", record)
        elif b"\n" in record and not is_json(record):
            self._read_lines(at, record, rows)
        else:
            self._read_row(at, record, rows)
        self.counts[at] = len(rows) - kept

    def _read_lines(self, at: int, record: bytes, rows: list[Any]) -> None:
        read = _row_decoder(self.layout, self.extras).decode
        lines = [line for line in record.split(b"\n") if line.strip(_BLANK)]
        accepted = self.lines[at] = []
        ascii_only = record.isascii()
        if not lines:
            self._refuse(at, "malformed", record)
        for line in lines:
            try:
                rows.append(read(line if ascii_only or is_utf8(line) else b""))
            except REFUSED:
                if not self._read_row(at, line, rows):
                    continue
            accepted.append(line)

    def _read_row(self, at: int, row: bytes, rows: list[Any]) -> bool:
        """Read a row without the components that the study does not use, or refuse it."""
        try:
            row.decode()
            fields = msgspec.json.decode(row, type=Fields)
            found = msgspec.json.decode(fields.values, type=dict[str, Raw])
            known = {name: raw for name, raw in found.items() if name in self.layout.components}
            fields.values = Raw(msgspec.json.encode(known))
            rows.append(_row_decoder(self.layout, self.extras).decode(msgspec.json.encode(fields)))
        except REFUSED:
            self._refuse(at, why_refused(row, self.layout), row)
            return False
        self._learn(sorted(found.keys() - known.keys()))
        return True

    def _refuse(self, at: int, reason: str, row: bytes) -> None:
        told = len(self.refused)
        if told >= MAX_TOLD_IN_ALL or (told >= MAX_TOLD and self.refused[-MAX_TOLD].record == at):
            self.untold[at, reason] = self.untold.get((at, reason), 0) + 1
        else:
            self.refused.append(Refusal(at, reason, row))

    def _learn(self, names: list[str]) -> None:
        for name in names:
            self._count_unknown(name, 1)
        fresh = [name for name in names if name not in self.extras and _can_name_field(name)]
        self.extras = tuple(sorted([*self.extras, *fresh][:_MAX_EXTRAS]))

    def _count_unknown(self, name: str, rows: int) -> None:
        counted = len(name) <= MAX_TEXT and (name in self.unknown or len(self.unknown) < MAX_UNKNOWN)
        key = name if counted else OTHERS
        if rows:
            self.unknown[key] = self.unknown.get(key, 0) + rows


@lru_cache(maxsize=64)
def _row_decoder(layout: Layout, extras: tuple[str, ...]) -> msgspec.json.Decoder[Any]:
    """A decoder for events of a study; components are c0, c1 ..., the unknown names that it puts up with x0, x1 ..."""
    known = [
        (f"c{index}", Annotated[float, Meta(ge=lowest, le=MAX_VALUE)], field(default=0.0, name=name))
        for index, (name, lowest) in enumerate(zip(layout.components, layout.lowest, strict=True))
    ]
    unknown = [(f"x{index}", Raw, field(default=None, name=name)) for index, name in enumerate(extras)]
    values = defstruct("Values", [*known, *unknown], gc=False, forbid_unknown_fields=True)
    text = Annotated[str, Meta(max_length=MAX_TEXT)] | None
    row = defstruct(
        "Row",
        [
            ("id", Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]),  # fields in the contract's order are
            ("ts_ms", Annotated[int, Meta(ge=0, le=MAX_TIME_MS)]),  # found fastest
            ("unit", text, ""),
            ("segment", str | None, ""),  # however long: a name that is not the study's is none
            ("version", Annotated[int, Meta(ge=0, le=MAX_VERSION)]),
            ("arm", text, ""),
            ("values", values),
            ("bucket", Annotated[int, Meta(ge=0, lt=layout.buckets)] | None, None),
        ],
        gc=False,
        kw_only=True,
    )
    return msgspec.json.Decoder(row)


def _columns(rows: list[Any], layout: Layout, arms: dict[str, int]) -> tuple[Any, ...]:
    """A block's columns; `arms` numbers the names that any block has met."""
    n = len(rows)
    values = [row.values for row in rows]
    components = np.empty((n, len(layout.components)))
    for index in range(len(layout.components)):
        components[:, index] = np.fromiter(map(attrgetter(f"c{index}"), values), np.float64, n)
    return (
        _text([row.id for row in rows]),
        _text([row.unit for row in rows]),
        np.fromiter([row.ts_ms for row in rows], np.int64, n),
        np.fromiter([row.version for row in rows], np.int64, n),
        _buckets([row.bucket for row in rows]),
        np.fromiter(map(_segment_codes(layout).get, [row.segment for row in rows], repeat(0)), np.int16, n),
        _arm_codes([row.arm for row in rows], arms),
        components,
    )


def _buckets(buckets: list[int | None]) -> NDArray[np.int64]:
    if buckets.count(None) == len(buckets):
        return np.full(len(buckets), -1, np.int64)
    return np.array([-1 if bucket is None else bucket for bucket in buckets], np.int64)


def _segment_codes(layout: Layout) -> dict[str | None, int]:
    return {name: code for code, name in enumerate(layout.segments, 1)}


def _arm_codes(names: list[str | None], arms: dict[str, int]) -> NDArray[np.int32]:
    codes = {name: arms.setdefault(name or "", len(arms)) for name in dict.fromkeys(names)}
    return np.fromiter(map(codes.__getitem__, names), np.int32, len(names))


def _text(strings: list[str | None]) -> Text:
    """Lay strings end to end, a NUL after each: to look for the NULs is faster than to ask every string's length."""
    try:
        joined = "\0".join(cast(list[str], strings)) + "\0"
    except TypeError:  # to look for a None first would cost as much as the rest
        return _text([string or "" for string in strings])
    data = np.frombuffer(joined.encode(), np.uint8)
    ends = np.flatnonzero(data == 0)
    if len(ends) != len(strings):
        return _packed(cast(list[str], strings))
    starts = np.zeros(len(ends), np.int64)
    starts[1:] = ends[:-1] + 1
    return Text(data, starts, ends - starts)


def _joined(blocks: list[Text]) -> Text:
    sizes = np.cumsum([0, *(len(block.data) for block in blocks)]).tolist()
    return Text(
        np.concatenate([block.data for block in blocks]),
        np.concatenate([block.starts + begin for block, begin in zip(blocks, sizes, strict=False)]),
        np.concatenate([block.lengths for block in blocks]),
    )


def _packed(texts: list[str]) -> Text:
    encoded = [text.encode() for text in texts]
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    return Text(np.frombuffer(b"".join(encoded), np.uint8), np.cumsum(lengths) - lengths, lengths)


def _can_name_field(name: str) -> bool:
    """Whether msgspec takes it for a field's name."""
    return len(name) <= MAX_TEXT and name.isprintable() and not set(name) & set('"\\')
