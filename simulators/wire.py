"""Rows of traffic in the two forms that the controller reads: JSON events, and decoded columns."""

from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.core.events import _ID_SEEDS as ID_SEEDS
from controller.core.events import EventPlan, Events, fixed_point
from controller.unit_hash import xxh64_many
from simulators.events import ID_BYTES, Population, Rows, taken
from simulators.worlds import World


def json_events(world: World, people: Population, rows: Rows) -> list[bytes]:
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
        columns.append(np.array(list(world.segments))[people.segment[rows.unit]].tolist())
    return list(map(msgspec.json.Encoder().encode, map(event, *columns)))


def _numbers(world: World, rows: Rows, q: int) -> list[Any]:
    column = rows.values[:, q]
    numbers: list[Any] = (column if world.quantities[q].law == "amount" else column.astype(np.int64)).tolist()
    return numbers


@lru_cache
def _types(names: tuple[str, ...], segments: bool) -> tuple[type[msgspec.Struct], type[msgspec.Struct]]:
    values = msgspec.defstruct("Values", [(name, float) for name in names], gc=False)
    fields = [("id", str), ("ts_ms", int), ("unit", str), ("version", int), ("arm", str), ("values", values)]
    return msgspec.defstruct("Event", [*fields, *([("segment", str)] if segments else [])], gc=False), values


def decoded(world: World, people: Population, rows: Rows, plan: EventPlan, first_offset: int = 0) -> Events:
    """Every row as the decoder would read it from its JSON, one row a record from `first_offset` on."""
    n = len(rows)
    of_segment = np.array([_position(plan.segments, name) for name in world.segments] or [0], np.int16)
    names = tuple(sorted(set(np.array(rows.names)[np.unique(rows.arm)].tolist())))
    code = np.array([names.index(name) if name in names else 0 for name in rows.names] or [0], np.int32)
    events = Events(
        offset=np.arange(first_offset, first_offset + n, dtype=np.int64),
        ts_ms=rows.ts_ms,
        id_hash=_id_hashes(rows.ids),
        bucket=people.bucket[rows.unit],
        unit_hash=people.unit_hash[rows.unit],
        has_unit=np.ones(n, np.bool_),
        segment=of_segment[people.segment[rows.unit]],
        version=rows.version,
        arm=code[rows.arm],
        arm_names=names,
        values=fixed_point(_components(world, rows, plan)),
    )
    for column in Events.__struct_fields__:
        if column != "arm_names":
            getattr(events, column).flags.writeable = False
    return events


def by_partition(people: Population, rows: Rows, partitions: int) -> list[Rows]:
    """The rows of every partition, in their order."""
    partition = people.partition[rows.unit]
    order = np.argsort(partition, kind="stable")
    bounds = np.searchsorted(partition[order], np.arange(partitions + 1))
    return [taken(rows, order[bounds[p] : bounds[p + 1]]) for p in range(partitions)]


def _components(world: World, rows: Rows, plan: EventPlan) -> NDArray[np.float64]:
    """The study's components (n, C); those that the world does not have are 0."""
    position = {quantity.name: q for q, quantity in enumerate(world.quantities)}
    values = np.zeros((len(rows), len(plan.components)))
    for c, component in enumerate(plan.components):
        if component.name in position:
            values[:, c] = rows.values[:, position[component.name]]
    return values


def _position(segments: tuple[str, ...], name: str) -> int:
    return segments.index(name) + 1 if name in segments else 0


def _id_hashes(ids: NDArray[np.bytes_]) -> NDArray[np.uint64]:
    data, ends = np.ascontiguousarray(ids).view(np.uint8), np.arange(len(ids) + 1, dtype=np.int64) * ID_BYTES
    return np.stack([xxh64_many(data, ends, seed) for seed in ID_SEEDS], axis=1)
