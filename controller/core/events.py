"""Engagement events: from record bytes to checked columns.

Notation: n rows, C components (the study's, in `EventPlan.components` order).
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

FIXED_POINT = 1_000_000  # components are added up as integers in units of 1e-6
MAX_VALUE = 9e9  # |value| <= this, so that a fixed-point value is below 2**53


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
