"""Recorded events, replayed: in the order of their times, at any speed.

A file may be NDJSON, Parquet, an Arrow file or an Arrow stream, each also gzipped. Lines of NDJSON travel as they are,
also those that are no events: they go where the line before them went, at its time. A file that does not begin with
any event is refused before a line of it is sent.
"""

import heapq
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from controller.core.json_faults import REFUSED
from simulators.sinks import Sink
from simulators.tables import kind_of, opened

CHUNK = 4_096  # events sent at once
TICK_MS = 250  # of real time, between looks at the clock
LOOK = 1_000  # lines at a file's beginning, of which one must be an event
_SLICE = 65_536  # rows of columns in memory
_BOM = b"\xef\xbb\xbf"


class NotReplayable(Exception):
    """A file cannot be read, or holds no events; the message names it."""


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """An event of a file: its time (of the one before, when it has none), the unit that its partition follows from."""

    ts_ms: int
    unit: str
    line: bytes
    readable: bool = True


class Replayed(msgspec.Struct, frozen=True):
    """How far a replay has come."""

    events: int
    unreadable: int
    through_ms: int  # time of the newest event sent


class _Head(msgspec.Struct):
    ts_ms: int
    unit: str | None = None
    bucket: int | None = None


class _Event(msgspec.Struct):
    id: msgspec.Raw
    ts_ms: int
    values: msgspec.Raw


_HEAD = msgspec.json.Decoder(_Head)
_EVENT = msgspec.json.Decoder(_Event)


def events(path: Path) -> Iterator[Recorded]:
    """The events of a file, in its order. Raises `NotReplayable`, before the first one where there is none."""
    try:
        found = _recorded(path)
        first = list(islice(found, LOOK))
        if first and not any(_is_event(line) for line in first):
            of = f"its first {LOOK:,} lines" if len(first) == LOOK else "its lines"
            raise NotReplayable(
                f"{path}: none of {of} is an event: a JSON object with {', '.join(_Event.__struct_fields__)}"
            )
        yield from chain(first, found)
    except OSError as error:
        raise NotReplayable(f"{path}: {error.strerror or error}") from error
    except (pa.ArrowException, EOFError, zlib.error) as error:
        raise NotReplayable(f"{path}: {error}") from error


def _recorded(path: Path) -> Iterator[Recorded]:
    kind = kind_of(path)
    with opened(path) as file:
        if kind in ("ndjson", "csv"):
            yield from _lines(file)
        else:
            batches = _batches(path, file, kind)
            yield from _lines(line for batch in batches for line in _json(batch))


def merged(paths: Sequence[Path]) -> Iterator[Recorded]:
    """The events of several files by their times, each file's in its own order."""
    if len(paths) == 1:
        return events(paths[0])
    return heapq.merge(*(events(path) for path in paths), key=lambda event: event.ts_ms)


def replay(
    found: Iterable[Recorded],
    sink: Sink,
    speed: float | None,
    watch: Callable[[Replayed], None],
    *,
    shift_to_ms: int | None = None,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Replayed:
    """Send events to the partitions of their units, `speed` seconds of theirs a second (None: as fast as can be).

    With `shift_to_ms` all times are moved by as much as puts the first event there. Raises `SinkFailed`.
    """
    state, first = Replayed(0, 0, 0), 0
    began_s = monotonic()
    for chunk in _chunks(found, None if speed is None else int(TICK_MS * speed)):
        first = first or next((event.ts_ms for event in chunk if event.ts_ms), 0)  # 0 until one could be read
        shift = 0 if shift_to_ms is None else shift_to_ms - first
        if speed is not None:
            sleep(max(0.0, (chunk[-1].ts_ms - first) / 1000 / speed - (monotonic() - began_s)))
        _send(chunk, sink, shift)
        state = Replayed(
            state.events + len(chunk),
            state.unreadable + sum(not event.readable for event in chunk),
            max(state.through_ms, chunk[-1].ts_ms + shift),
        )
        watch(state)
    return state


def _chunks(found: Iterable[Recorded], span_ms: int | None) -> Iterator[list[Recorded]]:
    """CHUNK events or fewer, and no more than a span of their time."""
    chunk: list[Recorded] = []
    for event in found:
        if chunk and (len(chunk) >= CHUNK or (span_ms is not None and event.ts_ms >= chunk[0].ts_ms + span_ms)):
            yield chunk
            chunk = []
        chunk.append(event)
    if chunk:
        yield chunk


def _send(chunk: Sequence[Recorded], sink: Sink, shift: int) -> None:
    parts: dict[int, list[bytes]] = {}
    for event in chunk:
        partition = xxhash.xxh64_intdigest(event.unit.encode()) % sink.partitions
        parts.setdefault(partition, []).append(_shifted(event.line, shift) if shift else event.line)
    for partition, lines in parts.items():
        sink.send(partition, lines)
    sink.flush()


def _shifted(line: bytes, shift: int) -> bytes:
    try:
        event = msgspec.json.decode(line)
        event["ts_ms"] += shift
    except (*REFUSED, TypeError, KeyError):
        return line
    return msgspec.json.encode(event)


def _lines(lines: Iterable[bytes]) -> Iterator[Recorded]:
    last, unit = 0, ""
    for number, line in enumerate(lines):
        text = (line if number else line.removeprefix(_BOM)).rstrip(b"\r\n")
        if not text:
            continue
        try:
            head = _HEAD.decode(text)
        except REFUSED:
            yield Recorded(last, unit, text, False)
            continue
        last, unit = head.ts_ms, str(head.bucket) if head.unit is None else head.unit
        yield Recorded(last, unit, text)


def _is_event(found: Recorded) -> bool:
    try:
        _EVENT.decode(found.line)
    except REFUSED:
        return False
    return True


def _batches(path: Path, file: object, kind: str) -> Iterator[pa.RecordBatch]:
    if kind == "parquet":
        parquet = pq.ParquetFile(file)
        _need_columns(path, parquet.schema_arrow.names)
        yield from parquet.iter_batches(_SLICE)
    elif kind == "arrows":
        stream = pa.ipc.open_stream(file)
        _need_columns(path, stream.schema.names)
        yield from stream
    else:
        reader = pa.ipc.open_file(file)
        _need_columns(path, reader.schema.names)
        for i in range(reader.num_record_batches):
            yield reader.get_batch(i)


def _need_columns(path: Path, found: Sequence[str]) -> None:
    missing = [name for name in _Event.__struct_fields__ if name not in found]
    if missing:
        shown = ", ".join(found[:12]) + (", ..." if len(found) > 12 else "")
        raise NotReplayable(f"{path}: holds no events: no column {', '.join(missing)}; it has {shown}")


def _json(batch: pa.RecordBatch) -> Iterator[bytes]:
    """Rows as JSON events; what is absent there is left out."""
    encode = msgspec.json.Encoder().encode
    for begin in range(0, batch.num_rows, _SLICE):
        for row in batch.slice(begin, _SLICE).to_pylist():
            values = row.get("values")
            if isinstance(values, dict):
                row["values"] = {name: value for name, value in values.items() if value is not None}
            yield encode({name: value for name, value in row.items() if value is not None})
