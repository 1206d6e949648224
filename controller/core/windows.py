"""Event time: watermarks, tumbling windows, dedupe, and sums per window, version and bucket.

Notation: B buckets, C components, G1 = 1 + number of the study's segments (slot 0 holds
the events without a segment of the study).
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.core.events import Events


class WindowPlan(msgspec.Struct, frozen=True):
    """Durations in ms. A window [end - length, end) is settled at end + grace, sealed at end + lateness."""

    length_ms: int
    grace_ms: int
    lateness_ms: int
    dedupe_ms: int
    validity_ms: int  # how long a table that is not renewed may be served


class PartBatch(msgspec.Struct, frozen=True, eq=False):
    """What one poll brought of one partition, decoded."""

    partition: int
    events: Events
    rejected: dict[str, int]  # reason -> rows that the decoder refused
    next_offset: int  # where the next poll starts
    bytes_in: int = 0


class Batch(msgspec.Struct, frozen=True, eq=False):
    """One poll. `idle` partitions do not hold the watermark back; `backlog`: more is waiting than a window's worth."""

    parts: tuple[PartBatch, ...]
    idle: frozenset[int] = frozenset()
    backlog: bool = False


class Cell(msgspec.Struct, frozen=True, eq=False):
    """Sums of the accepted events of one window that were served under one version; arrays are read-only."""

    sums: NDArray[np.int64]  # (G1, B, C) fixed point
    events: NDArray[np.int64]  # (G1, B) accepted events
