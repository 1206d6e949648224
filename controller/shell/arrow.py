"""Arrow IPC streams to plain columns, for records with the header `content-type: application/vnd.apache.arrow.stream`.

Buffers are taken over without a copy where their layout is the core's. Integers of any width, texts of any string type,
also dictionary-encoded, and numbers of any width as components are accepted; a column of another type makes its rows
`wrong_type`, one that is not there makes them `no_ts_ms` or the like, columns beyond the contract's are not looked at.

Notation: n rows of a record batch, C components.
"""

import json
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from controller.core import events
from controller.core.column_rows import Columns, Names, Rows
from controller.core.events import Decoded, EventPlan, Events, Rejected
from controller.core.rows import MAX_RECORD, MAX_TEXT, MAX_UNKNOWN, OTHERS, Text

MAX_ROWS = 2**22  # of a record
MAX_UNPACKED = 4 * MAX_RECORD  # bytes of a record's buffers: compressed zeros can stand for a thousand times as many

_SLICE = 65_536  # rows
_Batch = tuple[int, pa.RecordBatch]  # with its record's offset
_ZSTD, _LZ4 = b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"  # what every buffer compressed by them holds


class Undecodable(ValueError):
    """The record is not an Arrow IPC stream that can be trusted; `reason` is a key of `REASONS`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def decode(record: bytes, offset: int, plan: EventPlan) -> Decoded:
    """Read one record; one that is no readable stream is rejected as one row. Never raises on what it holds."""
    return decode_many([record], [offset], plan)


def decode_many(records: Sequence[bytes], offsets: Sequence[int], plan: EventPlan) -> Decoded:
    """Read records in offset order as `decode` does; small ones of one schema are checked together, which is faster."""
    kept: list[Events] = []
    unknown: Counter[str] = Counter()

    def rejected() -> Iterator[Rejected]:
        for batches, unreadable in _portions(records, offsets):
            yield from unreadable
            for part in columns(batches, plan):
                decoded = events.from_columns(part, plan)
                kept.append(decoded.events)
                unknown.update(decoded.unknown_components)
                yield from decoded.rejected

    refused = events.in_order(events.told(rejected()))
    rows = events.concat(kept or [events.decode([], [], plan).events])
    return Decoded(rows, refused, dict(unknown))


def _portions(records: Sequence[bytes], offsets: Sequence[int]) -> Iterator[tuple[list[_Batch], list[Rejected]]]:
    """Batches, and records that hold none, in offset order: no more at once than what one record may hold, and one."""
    batches: list[_Batch] = []
    unreadable: list[Rejected] = []
    size = 0
    for record, offset in zip(records, offsets, strict=True):
        try:
            found = read(record)
        except Undecodable as error:
            unreadable.append(Rejected(offset, error.reason, record[: events.MAX_REJECTED]))
            continue
        batches += [(offset, batch) for batch in found]
        size += sum(batch.get_total_buffer_size() for batch in found)
        if size >= MAX_UNPACKED:
            yield batches, unreadable
            batches, unreadable, size = [], [], 0
    yield batches, unreadable


def rows_at(record: bytes, places: Sequence[int], plan: EventPlan) -> list[bytes]:
    """Rows of a record as JSON, cut, by their places among those that `decode` lets pass."""
    shown: dict[int, bytes] = {}
    begin = 0
    for part in columns([(0, batch) for batch in read(record)], plan):
        passed = events.passed(part, plan)
        here = [place for place in places if begin <= place < begin + len(passed)]
        rows = [int(passed[place - begin]) for place in here]
        shown.update(zip(here, part.show(rows) if rows else [], strict=True))
        begin += len(passed)
    return [shown[place][: events.MAX_REJECTED] for place in places]


def read(record: bytes) -> list[pa.RecordBatch]:
    """The batches of a stream, safe to work with, at least one row in all. Raises `Undecodable`."""
    if len(record) > MAX_RECORD:
        raise Undecodable("too_large", f"found {len(record)} bytes, at most {MAX_RECORD} are accepted")
    try:
        size = _unpacked(record)
        if size > MAX_UNPACKED:
            raise Undecodable("too_large", f"found {size} bytes once unpacked, at most {MAX_UNPACKED} are accepted")
        with pa.ipc.open_stream(record) as stream:
            _check_names(stream.schema)
            batches = [_trusted(batch) for batch in stream]
    except Undecodable:
        raise
    except (pa.ArrowException, OSError, MemoryError, ValueError, IndexError, struct.error) as error:
        raise Undecodable("malformed", str(error)) from error
    rows = sum(batch.num_rows for batch in batches)
    if rows > min(MAX_ROWS, size):  # a batch without buffers can claim any number
        raise Undecodable("too_large", f"found {rows} rows in {size} bytes, at most {MAX_ROWS} are accepted")
    if not rows:
        raise Undecodable("malformed", "found a stream without rows")
    return batches


def columns(batches: Sequence[_Batch], plan: EventPlan) -> Iterator[Columns]:
    """Columns of batches that `read` gave, each with its record's offset; batches of one schema together."""
    by_schema: dict[pa.Schema, list[_Batch]] = {}
    for part in batches:
        by_schema.setdefault(part[1].schema, []).append(part)
    for alike in by_schema.values():
        for offset, batch in _joined(alike):
            for begin in range(0, batch.num_rows, step := _step(batch)):
                yield _columns(batch.slice(begin, step), offset[begin : begin + step], plan)


def _joined(run: list[_Batch]) -> list[tuple[NDArray[np.int64], pa.RecordBatch]]:
    """Batches of one schema as one, where Arrow can: dictionaries of small indices may not fit into one."""
    parts = [(np.full(batch.num_rows, offset, np.int64), batch) for offset, batch in run]
    if len(parts) == 1:
        return parts
    try:
        table = pa.Table.from_batches([batch for _, batch in run]).combine_chunks()
    except pa.ArrowException:
        return parts
    whole = table.to_batches()
    return [(np.concatenate([offset for offset, _ in parts]), whole[0])] if len(whole) == 1 else parts


def _step(batch: pa.RecordBatch) -> int:
    """Rows at a time, so that columns stay near the cache, unless a large dictionary would be read for every part."""
    return max([_SLICE, *(len(column.dictionary) for column in batch.columns if pa.types.is_dictionary(column.type))])


def _columns(batch: pa.RecordBatch, offset: NDArray[np.int64], plan: EventPlan) -> Columns:
    """Split the fields that can be read from those of another type; the latter count as absent and are marked."""
    n = batch.num_rows
    by_name = dict(zip(batch.schema.names, batch.columns, strict=True))
    found = {name: by_name.get(name, pa.nulls(n)) for name in _READABLE}
    wrong = {name: _there(column) for name, column in found.items() if not _READABLE[name](column.type)}
    column = {name: pa.nulls(n) if name in wrong else column for name, column in found.items()}
    return Columns(
        offset=offset,
        rows=n,
        id=_text(column["id"]),
        unit=_text(column["unit"]),
        arm=_names(column["arm"]),
        segment=_names(column["segment"]),
        ts_ms=_integers(column["ts_ms"], beyond=-1, absent=0),
        version=_integers(column["version"], beyond=-1, absent=0),
        bucket=_integers(column["bucket"], beyond=-2, absent=-1),
        absent={name: ~_there(found[name]) for name in ("ts_ms", "version", "values") if found[name].null_count},
        wrong=wrong,
        show=partial(_show, found),
        **_components(column["values"], plan),
    )


def _unpacked(record: bytes) -> int:
    """Bytes of a record's buffers once they are decompressed; at least as many as it has.

    Arrow decompresses all of a batch as it reads it, columns that nobody asked for too. Every compressed buffer begins
    with its size (Arrow's "Columnar format", "Buffer compression"), which is read here from its place in the message's
    metadata, a flatbuffer that Arrow has verified. Raises `struct.error` and `IndexError` where it leads nowhere.
    """
    if _ZSTD not in record and _LZ4 not in record:
        return len(record)
    return len(record) + sum(map(_claimed, pa.ipc.MessageReader.open_stream(record)))


def _claimed(message: pa.ipc.Message) -> int:
    """What the buffers of a message say that they are once decompressed; 0 where they are not compressed."""
    meta, body = message.metadata, message.body
    if body is None or message.type not in ("record batch", "dictionary"):
        return 0
    root = _fields(meta, *struct.unpack_from("<I", meta))
    header = _fields(meta, _target(meta, root[2]))
    batch = _fields(meta, _target(meta, header[1])) if message.type == "dictionary" else header
    if len(batch) < 4 or not batch[3]:
        return 0
    vector = _target(meta, batch[2])
    (count,) = struct.unpack_from("<I", meta, vector)
    places = struct.unpack_from(f"<{2 * count}q", meta, vector + 4)
    claims = [struct.unpack_from("<q", body, at)[0] for at, size in zip(places[::2], places[1::2], strict=True) if size]
    return sum(max(claim, 0) for claim in claims)  # -1: this one is not


def _fields(meta: pa.Buffer, table: int) -> list[int]:
    """Where the fields of a flatbuffer's table lie, by number; 0 for one that is not there."""
    (back,) = struct.unpack_from("<i", meta, table)
    (size,) = struct.unpack_from("<H", meta, table - back)
    return [table + at if at else 0 for at in struct.unpack_from(f"<{size // 2 - 2}H", meta, table - back + 4)]


def _target(meta: pa.Buffer, at: int) -> int:
    """Where an offset in a flatbuffer leads."""
    return int(at + struct.unpack_from("<I", meta, at)[0])


def _is_integer(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_null(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(_is_integer(kind) or pa.types.is_floating(kind))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return kind in _TEXTS


def _is_values(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind) or pa.types.is_null(kind))


_BYTES = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}
_TEXTS = (pa.null(), *_BYTES.keys(), *_BYTES.values())
_READABLE: dict[str, Callable[[Any], bool]] = {
    "id": _is_text,
    "ts_ms": _is_integer,
    "unit": _is_text,
    "segment": _is_text,
    "version": _is_integer,
    "arm": _is_text,
    "bucket": _is_integer,
    "values": _is_values,
}


def _trusted(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A batch whose offsets and indices are known to lie inside its buffers: Arrow does not look when it reads.

    Texts that are not UTF-8 become bytes, and are found row by row later. Raises `pa.ArrowInvalid`.
    """
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        found = dict(zip(batch.schema.names, batch.columns, strict=True))
        columns = {name: _as_bytes(column) for name, column in found.items() if name in _READABLE}
        batch = pa.RecordBatch.from_arrays(list(columns.values()), list(columns))
        batch.validate(full=True)
    return batch


def _as_bytes(column: pa.Array) -> pa.Array:
    """The same buffers under the type that allows any bytes."""
    if pa.types.is_dictionary(column.type):
        return pa.DictionaryArray.from_arrays(column.indices, _as_bytes(column.dictionary))
    return column.cast(_BYTES.get(column.type, column.type))


def _there(column: pa.Array) -> Rows:
    rows: Rows = column.is_valid().to_numpy(zero_copy_only=False)
    return rows


def _text(column: pa.Array) -> Text:
    """Spans of n strings; those of a dictionary lie where the dictionary has them."""
    if pa.types.is_null(column.type):
        return Text(np.zeros(0, np.uint8), np.zeros(len(column), np.int64), np.zeros(len(column), np.int64))
    if pa.types.is_dictionary(column.type):
        words, code = _text(column.dictionary), _codes(column)
        starts, lengths = (np.append(side, 0)[code] for side in (words.starts, words.lengths))
        return Text(words.data, starts, lengths)
    if column.type in (pa.string_view(), pa.binary_view()):
        column = _as_bytes(column).cast(pa.binary())
    _, offsets, data = column.buffers()
    width = np.int64 if column.type in (pa.large_string(), pa.large_binary()) else np.int32
    n = len(column)
    skipped = column.offset * np.dtype(width).itemsize
    bounds = np.frombuffer(offsets, width, n + 1, skipped) if n else np.zeros(1, width)
    starts = bounds.astype(np.int64) - int(bounds[0])
    lengths = np.diff(starts)
    if column.null_count:
        lengths *= _there(column)
    return Text(np.frombuffer(data or b"", np.uint8)[int(bounds[0]) : int(bounds[-1])], starts[:-1], lengths)


def _names(column: pa.Array) -> Names:
    if pa.types.is_null(column.type):
        return Names(np.zeros(len(column), np.int32), (b"",))
    coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    names = _as_bytes(coded.dictionary).to_pylist()
    return Names(_codes(coded), (*(name or b"" for name in names), b""))


def _codes(column: pa.DictionaryArray) -> NDArray[np.int32]:
    """Indices into the dictionary; that of a null is one beyond it."""
    codes = column.indices.cast(pa.int32())
    return _filled(codes, len(column.dictionary)).astype(np.int32, copy=False)


def _integers(column: pa.Array, beyond: int, absent: int) -> NDArray[np.int64]:
    """As 64 bits: `absent` for a null, `beyond` for what no event may have: less than 0, or no 64 bits."""
    numbers = _filled(column if not pa.types.is_null(column.type) else column.cast(pa.int64()), 0)
    top = np.iinfo(np.int64).max
    if numbers.size and (numbers.min() < 0 or numbers.max() > top):
        numbers = np.where((numbers < 0) | (numbers > top), beyond, numbers.astype(np.int64))
    numbers = numbers.astype(np.int64, copy=False)
    return numbers if not (absent and column.null_count) else np.where(_there(column), numbers, absent)


def _filled(column: pa.Array, value: int) -> NDArray[Any]:
    numbers: NDArray[Any] = (column.fill_null(value) if column.null_count else column).to_numpy(zero_copy_only=False)
    return numbers


def _components(column: pa.Array, plan: EventPlan) -> dict[str, Any]:
    """The fields of `Columns` that come from the struct of components."""
    n = len(column)
    names = _child_names(column.type)
    children = dict(zip(names, column.flatten() if names else [], strict=True))
    values = np.zeros((n, len(plan.brought)))
    wrong: dict[str, Rows] = {}
    for index, component in enumerate(plan.brought):
        child = children.pop(component.name, None)
        if child is not None and not _is_number(child.type):
            wrong[component.name] = _there(child)
        elif child is not None:
            values[:, index] = _filled(child.cast(pa.float64(), safe=False), 0)
    return {"values": values, "wrong_values": wrong, "unknown": _unknown(children)}


def _check_names(schema: pa.Schema) -> None:
    """Raises `UnicodeDecodeError` where a name that will be looked at is not UTF-8."""
    for name, kind in zip(schema.names, schema.types, strict=True):
        if name in _READABLE:
            _child_names(kind)


def _child_names(kind: pa.DataType) -> list[str]:
    """Names of a struct's fields. Raises `UnicodeDecodeError`."""
    return [kind.field(index).name for index in range(kind.num_fields)] if pa.types.is_struct(kind) else []


def _unknown(children: dict[str, pa.Array]) -> dict[str, Rows]:
    unknown: dict[str, Rows] = {}
    for name, child in children.items():
        counted = len(unknown) < MAX_UNKNOWN and len(name) <= MAX_TEXT
        key = name if counted else OTHERS
        unknown[key] = unknown[key] | _there(child) if key in unknown else _there(child)
    return unknown


def _show(columns: dict[str, pa.Array], rows: Sequence[int]) -> list[bytes]:
    """Rows as JSON, for people; a text that is not UTF-8 with replacement characters."""
    there = {name: column for name, column in columns.items() if column.null_count < len(column)}
    try:
        shown = [{name: column[row].as_py() for name, column in there.items()} for row in rows]
    except (pa.ArrowException, ValueError, TypeError, ArithmeticError, LookupError, NotImplementedError):
        return [b""] * len(rows)  # a value of a foreign type that Python cannot hold
    return [json.dumps(row, default=_readable).encode() for row in shown]


def _readable(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else repr(value)
