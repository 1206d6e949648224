"""A partition's clock: which of its rows are taken, and what its watermark was before each of them."""

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.core.events import Events

Clock = Literal["wall", "events"]
EARLIEST = -(2**62)  # stands for "no watermark yet": below every time, and far from overflow
AHEAD_OF_WALL_MS = 5 * 60_000  # a producer's clock may run ahead by this much
AHEAD_OF_EVENTS_MS = 24 * 3_600_000  # a row further above its partition's watermark needs a second one that agrees


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
    take, keep_last = _believed(events, start, now_ms, clock)
    held = None
    future: tuple[tuple[int, int, int], ...] = ()
    if not take.all():
        refused = np.flatnonzero(~take)
        if keep_last:
            held, refused = rows(events, refused[-1:]), refused[:-1]
        offset = events.offset[refused]
        place = refused - first - np.searchsorted(own, offset)
        future = tuple(zip(offset.tolist(), events.ts_ms[refused].tolist(), place.tolist(), strict=True))
        events = rows(events, np.flatnonzero(take))
    running = np.maximum(np.maximum.accumulate(events.ts_ms), start) if len(events.ts_ms) else events.ts_ms
    before = np.concatenate([np.array([start], np.int64), running])[: len(running)]
    return Admitted(events, before, int(running[-1]) if len(running) else watermark_ms, held, future)


def rows(events: Events, at: NDArray[np.intp]) -> Events:
    """The rows at these positions."""
    columns = {name: getattr(events, name)[at] for name in COLUMNS}
    return Events(arm_names=events.arm_names, **columns)


def joined(parts: Sequence[Events]) -> Events:
    """The rows of all parts, one after the other, over one list of arm names."""
    if len(parts) == 1:
        return parts[0]
    names: dict[str, int] = {}
    arms = []
    for part in parts:
        index = np.array([names.setdefault(name, len(names)) for name in part.arm_names], np.int32)
        arms.append(index[part.arm] if len(part.arm) else part.arm)
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS if name != "arm"}
    return Events(arm=np.concatenate(arms), arm_names=tuple(names), **columns)


COLUMNS = tuple(field for field in Events.__struct_fields__ if field != "arm_names")


def _believed(events: Events, start: int, now_ms: int, clock: Clock) -> tuple[NDArray[np.bool_], bool]:
    """Which rows are not in the future (n,), and whether the last one is still to be judged."""
    ts = events.ts_ms
    if clock == "wall":
        return ts <= now_ms + AHEAD_OF_WALL_MS, False
    take = np.ones(len(ts), np.bool_)
    running = np.maximum(np.maximum.accumulate(ts), start) if len(ts) else ts
    before = np.concatenate([np.array([start], np.int64), running])[: len(ts)]
    ahead = (before != EARLIEST) & (ts - before > AHEAD_OF_EVENTS_MS)
    if not ahead.any():
        return take, False
    return _judged(events, int(np.argmax(ahead)), int(before[np.argmax(ahead)]), take)


def _judged(events: Events, first: int, watermark: int, take: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], bool]:
    """Row by row from the first one that is far ahead: taken when the next row, not a copy, agrees."""
    ts = events.ts_ms.tolist()
    row = first
    while row < len(ts):
        if ts[row] - watermark <= AHEAD_OF_EVENTS_MS:
            watermark = max(watermark, ts[row])
            row += 1
        elif row + 1 == len(ts):
            take[row] = False
            return take, True
        elif _agree(events, ts, row, watermark):
            watermark = max(ts[row], ts[row + 1])
            row += 2
        else:
            take[row] = False
            row += 1
    return take, False


def _agree(events: Events, ts: list[int], row: int, watermark: int) -> bool:
    return (
        ts[row + 1] - watermark > AHEAD_OF_EVENTS_MS
        and abs(ts[row + 1] - ts[row]) <= AHEAD_OF_EVENTS_MS
        and bool((events.id_hash[row + 1] != events.id_hash[row]).any())
    )
