"""Rows of traffic in the forms that the controller reads: JSON events, Arrow, and decoded columns."""

from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from controller.core.column_rows import Columns, Names
from controller.core.events import Decoded, EventPlan, from_columns
from controller.core.rows import Text
from simulators.events import Population, Rows, taken
from simulators.kinds import AnyWorld


def json_events(world: AnyWorld, people: Population, rows: Rows) -> list[bytes]:
    """Every row as the contract's JSON object (n,)."""
    event, values = _types(tuple(quantity.name for quantity in world.quantities), bool(world.segments))
    columns = [
        rows.ids.astype("U").tolist(),
        rows.ts_ms.tolist(),
        people.names[rows.unit].astype("U").tolist(),
        rows.version.tolist(),
        np.array(rows.names)[rows.arm].tolist(),
        list(map(values, *(_numbers(world, rows, q) for q in range(len(world.quantities))))),
    ]
    if world.segments:
        columns.append(np.array(list(world.segments))[rows.segment].tolist())
    return list(map(msgspec.json.Encoder().encode, map(event, *columns)))


def _numbers(world: AnyWorld, rows: Rows, q: int) -> list[Any]:
    column = rows.values[:, q]
    numbers: list[Any] = (column if world.quantities[q].law == "amount" else column.astype(np.int64)).tolist()
    return numbers


@lru_cache
def _types(names: tuple[str, ...], segments: bool) -> tuple[type[msgspec.Struct], type[msgspec.Struct]]:
    values = msgspec.defstruct("Values", [(name, float) for name in names], gc=False)
    fields = [("id", str), ("ts_ms", int), ("unit", str), ("version", int), ("arm", str), ("values", values)]
    return msgspec.defstruct("Event", [*fields, *([("segment", str)] if segments else [])], gc=False), values


def arrow_batch(world: AnyWorld, people: Population, rows: Rows) -> pa.RecordBatch:
    """Every row with the contract's columns; `values` is a struct of doubles."""
    arms = pa.array(rows.names, pa.string())
    columns = {
        "id": pa.array(rows.ids.astype("U"), pa.string()),
        "ts_ms": pa.array(rows.ts_ms, pa.int64()),
        "unit": pa.array(people.names[rows.unit].astype("U"), pa.string()),
        "version": pa.array(rows.version, pa.int64()),
        "arm": arms.take(pa.array(rows.arm)),
        "values": pa.StructArray.from_arrays(
            [pa.array(rows.values[:, q], pa.float64()) for q in range(len(world.quantities))],
            [quantity.name for quantity in world.quantities],
        ),
    }
    if world.segments:
        columns["segment"] = pa.array(list(world.segments), pa.string()).take(pa.array(rows.segment))
    return pa.RecordBatch.from_pydict(columns)


def decoded(world: AnyWorld, people: Population, rows: Rows, plan: EventPlan, first_offset: int = 0) -> Decoded:
    """Every row as the controller reads it from columns, one row a record from `first_offset` on."""
    n = len(rows)
    columns = Columns(
        offset=np.arange(first_offset, first_offset + n, dtype=np.int64),
        rows=n,
        id=_text(rows.ids),
        unit=_text(people.names[rows.unit]),
        arm=Names(rows.arm, tuple(name.encode() for name in rows.names)),
        segment=_segments(world, rows),
        ts_ms=rows.ts_ms,
        version=rows.version,
        bucket=np.full(n, -1, np.int64),
        values=_components(world, rows, plan),
        absent={},
        wrong={},
        wrong_values={},
        unknown={},
        show=lambda positions: [b""] * len(positions),
    )
    return from_columns(columns, plan)


def by_partition(people: Population, rows: Rows, partitions: int) -> list[Rows]:
    """The rows of every partition, in their order."""
    partition = people.partition[rows.unit]
    order = np.argsort(partition, kind="stable")
    bounds = np.searchsorted(partition[order], np.arange(partitions + 1))
    return [taken(rows, order[bounds[p] : bounds[p + 1]]) for p in range(partitions)]


def _components(world: AnyWorld, rows: Rows, plan: EventPlan) -> NDArray[np.float64]:
    """The study's components (n, C); those that the world does not have are 0."""
    names = [quantity.name for quantity in world.quantities]
    values = np.zeros((len(rows), len(plan.brought)))
    for c, component in enumerate(plan.brought):
        if component.name in names:
            values[:, c] = rows.values[:, names.index(component.name)]
    return values


def _segments(world: AnyWorld, rows: Rows) -> Names:
    if not world.segments:
        return Names(np.zeros(len(rows), np.int32), (b"",))
    return Names(rows.segment.astype(np.int32), tuple(name.encode() for name in world.segments))


def _text(texts: NDArray[np.bytes_]) -> Text:
    """Fixed-width strings where they lie, without their padding."""
    width = texts.dtype.itemsize
    starts = np.arange(len(texts), dtype=np.int64) * width
    return Text(np.ascontiguousarray(texts).view(np.uint8), starts, np.strings.str_len(texts).astype(np.int64))
