"""Event time: which of a partition's rows are taken, its watermark before each of them, and the stream's."""

from collections.abc import Mapping
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.core.events import Events, joined, take

Clock = Literal["wall", "events"]
EARLIEST = -(2**62)  # stands for "no watermark yet": below every time, and far from overflow
AHEAD_OF_WALL_MS = 5 * 60_000  # a producer's clock may run ahead by this much
AHEAD_OF_EVENTS_MS = 24 * 3_600_000  # a row further above its partition's watermark needs a second one that agrees
MIN_REFUSED = 200  # fewer refused rows in a row may be one bad record


class PartitionState(msgspec.Struct, frozen=True, eq=False):
    """How far one partition has been read."""

    watermark_ms: int | None  # None: no row taken yet
    next_offset: int
    held: Events | None = None  # one row that is far ahead of the events clock, until the next row judges it
    held_row: bytes = b""  # as it came, cut
    refused: int = 0  # rows that were, since one was taken
    reasons: dict[str, int] = {}  # those by reason, in order of their names


Partitions = Mapping[int, PartitionState]


class Admitted(msgspec.Struct, frozen=True, eq=False):
    """One partition's rows that are not in the future."""

    events: Events  # n rows
    before_ms: NDArray[np.int64]  # (n,) the partition's watermark before the row, EARLIEST when it had none
    watermark_ms: int | None  # after the rows
    held: Events | None  # a last row far ahead, kept until the next one tells whether it is to be believed
    future: tuple[tuple[int, int, int], ...]  # (offset, ts_ms, place as in `windows.Refused`) of the rows refused


def admitted(events: Events, held: Events | None, watermark_ms: int | None, now_ms: int, clock: Clock) -> Admitted:
    """Sort out the rows in the future, in offset order; a row `held` from the last batch comes first."""
    own, first = events.offset, 0
    if held is not None:
        events, first = joined([held, events]), 1
    start = EARLIEST if watermark_ms is None else watermark_ms
    good, keep_last = _believed(events, start, now_ms, clock)
    held = None
    future: tuple[tuple[int, int, int], ...] = ()
    if not good.all():
        refused = np.flatnonzero(~good)
        if keep_last:
            held, refused = take(events, refused[-1:]), refused[:-1]
        offset = events.offset[refused]
        place = refused - first - np.searchsorted(own, offset)
        future = tuple(zip(offset.tolist(), events.ts_ms[refused].tolist(), place.tolist(), strict=True))
        events = take(events, good)
    after = max(start, int(events.ts_ms.max())) if len(events.ts_ms) else watermark_ms
    return Admitted(events, _before(events.ts_ms, start), after, held, future)


def stream_ms(partitions: Partitions, last_ms: int | None, left_out: frozenset[int]) -> int | None:
    """The stream's watermark: the lowest of the partitions that are not left out, and never lower than it was.

    None until each of these has had a row.
    """
    marks = [part.watermark_ms for number, part in partitions.items() if number not in left_out]
    known = [mark for mark in marks if mark is not None]
    if not known or len(known) < len(marks):
        return last_ms
    return min(known) if last_ms is None else max(min(known), last_ms)


def only_refused(partitions: Partitions, last_ms: int | None, now_ms: int, length_ms: int, most: int) -> frozenset[int]:
    """Partitions of which nothing but refused rows came for so long that the others wait no longer: two windows.

    A row that is refused tells no time that could be believed. Where the clock stands still, because no row of any
    partition is taken, the rows of two windows tell how long it is.

    `last_ms`: the stream's watermark. `now_ms`: the wall clock, 0 on the events' own. `length_ms`: of a window;
    `most`: rows that the fullest one holds.
    """
    latest = max([now_ms, *(part.watermark_ms for part in partitions.values() if part.watermark_ms is not None)])
    stands = all(part.refused for part in partitions.values())
    found = set()
    for number, part in partitions.items():
        mark = last_ms if part.watermark_ms is None else part.watermark_ms
        long = mark is None or latest - mark > 2 * length_ms or (stands and part.refused > 2 * most)
        if part.refused >= MIN_REFUSED and long:
            found.add(number)
    return frozenset(found)


def _before(ts_ms: NDArray[np.int64], start: int) -> NDArray[np.int64]:
    """(n,) the watermark before each row, `start` before the first."""
    return np.maximum.accumulate(np.append(np.int64(start), ts_ms))[: len(ts_ms)]


def _believed(events: Events, start: int, now_ms: int, clock: Clock) -> tuple[NDArray[np.bool_], bool]:
    """Which rows are not in the future (n,), and whether the last one is still to be judged."""
    ts = events.ts_ms
    if clock == "wall":
        return ts <= now_ms + AHEAD_OF_WALL_MS, False
    good, before = np.ones(len(ts), np.bool_), _before(ts, start)
    ahead = (before != EARLIEST) & (ts - before > AHEAD_OF_EVENTS_MS)
    if not ahead.any():
        return good, False
    return _judged(events, int(np.argmax(ahead)), int(before[np.argmax(ahead)]), good)


def _judged(events: Events, first: int, watermark: int, good: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], bool]:
    """Row by row from the first one that is far ahead: taken when the next row, not a copy, agrees."""
    ts = events.ts_ms.tolist()
    row = first
    while row < len(ts):
        if ts[row] - watermark <= AHEAD_OF_EVENTS_MS:
            watermark = max(watermark, ts[row])
            row += 1
        elif row + 1 == len(ts):
            good[row] = False
            return good, True
        elif _agree(events, ts, row, watermark):
            watermark = max(ts[row], ts[row + 1])
            row += 2
        else:
            good[row] = False
            row += 1
    return good, False


def _agree(events: Events, ts: list[int], row: int, watermark: int) -> bool:
    return (
        ts[row + 1] - watermark > AHEAD_OF_EVENTS_MS
        and abs(ts[row + 1] - ts[row]) <= AHEAD_OF_EVENTS_MS
        and bool((events.id_hash[row + 1] != events.id_hash[row]).any())
    )
