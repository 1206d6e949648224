"""What JSON rows and Arrow columns have in common: the limits of an event, and the columns that both become.

Notation: n rows, C components.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_VALUE = 9e9  # |value| <= this, so that a fixed-point value is below 2**53
MAX_TEXT = 256  # characters of an id, a unit, an arm
MAX_TIME_MS = 253_402_300_799_999  # the last ms of the year 9999
MAX_VERSION = 2**63 - 1
MAX_RECORD = 16 * 2**20  # bytes
MAX_TOLD = 1000  # refused rows of a record that are told one by one; a few bytes can hold very many
MAX_TOLD_IN_ALL = 10_000  # the same of all records that are read at once
MAX_UNKNOWN = 100  # component names that are counted by name
OTHERS = "(other)"  # what names beyond them are counted under


class Layout(NamedTuple):
    """What of the study an object is read by."""

    components: tuple[str, ...]
    lowest: tuple[float, ...]  # smallest legal value of each component
    segments: tuple[str, ...]
    buckets: int


class Text(NamedTuple):
    """n strings in one buffer of UTF-8: string i is `data[starts[i] : starts[i] + lengths[i]]`; empty = absent."""

    data: NDArray[np.uint8]
    starts: NDArray[np.int64]  # (n,)
    lengths: NDArray[np.int64]  # (n,)


class Table(NamedTuple):
    """Columns of n rows whose fields were checked one by one, not yet against each other."""

    ids: Text
    units: Text
    ts_ms: NDArray[np.int64]  # (n,)
    version: NDArray[np.int64]  # (n,)
    bucket: NDArray[np.int64]  # (n,) -1 = absent
    segment: NDArray[np.int16]  # (n,) 0 = none or not the study's
    arm: NDArray[np.int32]  # (n,) index into arm_names
    arm_names: tuple[str, ...]  # "" stands for an absent arm
    values: NDArray[np.float64]  # (n, C)
