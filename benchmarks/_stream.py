"""A made stream of engagement events in every form that a record can have, and the study that it belongs to."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from controller.core.events import Component, EventPlan
from controller.core.windows import Tables, WindowPlan
from controller.shell.sources import Fetched, Record
from controller.unit_hash import buckets_of, unit_hashes

HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS
HOURS = 6
NOW_MS = START_MS + (HOURS + 1) * HOUR_MS
PARTITIONS = 4
ARMS = ("control", *(f"e{index}" for index in range(1, 9)))
SEGMENTS = ("new", "returning")
PLAN = WindowPlan(HOUR_MS, HOUR_MS // 12, 6 * HOUR_MS, 6 * HOUR_MS, 4 * HOUR_MS)
EVENTS = EventPlan((Component("impressions"), Component("clicks"), Component("watch_s")), SEGMENTS, "feed:", 1000)
FIRST_VERSION = 12_000_417  # a new one every half hour

Polled = list[Fetched]  # what one poll brought, by partition

_LATE_MS = 600_000  # events arrive out of order by up to this much
_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "ts_ms": pa.int64(),
        "unit": pa.string(),
        "segment": pa.string(),
        "version": pa.int64(),
        "arm": pa.string(),
        "values": pa.struct({"impressions": pa.float64(), "clicks": pa.float64(), "watch_s": pa.float64()}),
    }
)


class Stream(NamedTuple):
    """Events in order of arrival, as columns of plain values, and the tables that served them."""

    columns: dict[str, list[object]]
    lines: list[bytes]  # the same events as JSON, 176 bytes on average
    tables: Tables


def made(count: int, seed: int = 0) -> Stream:
    """`count` events: unique ids, 100,000 units, 1000 buckets, 9 arms, 12 versions in 6 windows of an hour."""
    rng = np.random.default_rng(seed)
    units = [f"u{number}" for number in range(100_000)]
    bucket_of = buckets_of(unit_hashes(units, EVENTS.salt), EVENTS.buckets)
    arrived = np.sort(rng.integers(0, HOURS * HOUR_MS, count))
    ts = START_MS + np.maximum(arrived - rng.integers(0, _LATE_MS, count), 0)
    served = (ts - START_MS) // (HOUR_MS // 2)
    deals = rng.integers(0, len(ARMS), (2 * HOURS, EVENTS.buckets)).astype(np.int16)
    unit = rng.integers(0, len(units), count)
    columns: dict[str, list[object]] = {
        "id": [f"{number:012x}" for number in rng.permutation(count).tolist()],
        "ts_ms": ts.tolist(),
        "unit": [units[index] for index in unit.tolist()],
        "segment": [SEGMENTS[index] for index in rng.integers(0, 2, count).tolist()],
        "version": (FIRST_VERSION + served).tolist(),
        "arm": [ARMS[index] for index in deals[served, bucket_of[unit]].tolist()],
        "clicks": rng.integers(0, 4, count).tolist(),
        "watch_s": (rng.integers(0, 6000, count) / 10).tolist(),
    }
    lines = [_LINE.format(*row).encode() for row in zip(*columns.values(), strict=True)]
    return Stream(columns, lines, _tables(deals))


_LINE = (
    '{{"id": "{}", "ts_ms": {}, "unit": "{}", "segment": "{}", "version": {}, "arm": "{}", '
    '"values": {{"impressions": 10, "clicks": {}, "watch_s": {}}}}}'
)


def _tables(deals: NDArray[np.int16]) -> Tables:
    return {FIRST_VERSION + index: (ARMS, deal) for index, deal in enumerate(deals)}


def polls(stream: Stream, form: str, per_record: int, per_poll: int) -> list[Polled]:
    """The stream as polls of `per_poll` events over all partitions; `form` is `json` or `arrow`."""
    count = len(stream.lines)
    next_offset = [0] * PARTITIONS
    out: list[Polled] = []
    for begin in range(0, count, per_poll):
        polled = []
        for partition in range(PARTITIONS):
            chosen = range(begin + partition, min(begin + per_poll, count), PARTITIONS)
            values = list(
                _values(stream, form, [chosen[i : i + per_record] for i in range(0, len(chosen), per_record)])
            )
            first = next_offset[partition]
            next_offset[partition] += len(values)
            records = [Record(offset, value, form == "arrow") for offset, value in enumerate(values, first)]
            polled.append(Fetched(partition, records, next_offset[partition]))
        out.append(polled)
    return out


def _values(stream: Stream, form: str, groups: list[range]) -> Iterator[bytes]:
    for group in groups:
        if form == "arrow":
            yield _arrow(stream, group)
        else:
            yield b"\n".join([stream.lines[index] for index in group])


def _arrow(stream: Stream, rows: range) -> bytes:
    columns = {name: values[rows.start : rows.stop : rows.step] for name, values in stream.columns.items()}
    clicks, watch_s = (pa.array(columns.pop(name), pa.float64()) for name in ("clicks", "watch_s"))
    impressions = pa.array(np.full(len(rows), 10.0))
    values = pa.StructArray.from_arrays([impressions, clicks, watch_s], fields=list(_SCHEMA.field("values").type))
    arrays = [pa.array(column, _SCHEMA.field(name).type) for name, column in columns.items()]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, _SCHEMA) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays([*arrays, values], schema=_SCHEMA))
    return bytes(sink.getvalue().to_pybytes())
