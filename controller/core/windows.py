"""Tumbling windows of event time: dedupe, and sums per window, version and bucket.

Notation: n rows of a batch, B buckets, C components, G1 = 1 + number of the study's segments
(slot 0 holds the events without a segment of the study). `before_ms` is a row's partition's
watermark just before the row: every rule about time looks at it alone, so how a partition is
cut into batches, and how partitions interleave, cannot change a bit.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.core import dedupe, distinct, sums
from controller.core.clock import Admitted, Clock, PartitionState, admitted, only_refused, stream_ms
from controller.core.dedupe import Index, codes
from controller.core.distinct import Seen
from controller.core.events import EventPlan, Events, joined
from controller.core.runs import frozen

Tables = dict[int, tuple[tuple[str, ...], NDArray[np.int16]]]  # version -> (arm names, (B,) bucket -> arm index)
Result = Literal[
    "accepted", "duplicate", "expired", "fallback", "unknown_version", "misattributed", "overflow", "future"
]
RESULTS: tuple[Result, ...] = get_args(Result)
ACCEPTED, DUPLICATE, EXPIRED, FALLBACK, UNKNOWN_VERSION, MISATTRIBUTED, OVERFLOW, FUTURE = range(len(RESULTS))


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
    last: bytes = b""  # the last row as it came, cut: on the events clock it may be held


class Batch(msgspec.Struct, frozen=True, eq=False):
    """One poll. `idle` partitions do not hold the watermark back."""

    parts: tuple[PartBatch, ...]
    idle: frozenset[int] = frozenset()
    backlog: bool = False  # more is waiting than a window's worth


class Cell(msgspec.Struct, frozen=True, eq=False):
    """Sums of the accepted events of one window that were served under one version; arrays are read-only."""

    sums: NDArray[np.int64]  # (G1, B, C) fixed point
    events: NDArray[np.int64]  # (G1, B) accepted events
    magnitude: int = 0  # sum of |value| over events and components: at most sums.LIMIT, so nothing wraps


class Quality(msgspec.Struct, frozen=True):
    """Rows of one window, by what became of them."""

    accepted: int = 0
    misattributed: int = 0
    fallback: int = 0
    unknown_version: int = 0


class WindowsState(msgspec.Struct, frozen=True, eq=False):
    """All that is remembered. Never changed in place; what a batch does not touch keeps its identity."""

    partitions: dict[int, PartitionState]
    cells: dict[tuple[int, int], Cell]  # (window end, version)
    quality: dict[int, Quality]  # by window end
    units: dict[int, Seen]  # window end -> the units with an accepted event
    ids: Index  # of the events taken
    counted_through_ms: int | None = None  # end of the last window whose units were asked for and let go of
    sealed_through_ms: int | None = None  # end of the last sealed window
    watermark_ms: int | None = None  # of the stream; never falls
    log: str = ""  # id of the topic that the partitions' offsets are of; "" where none was told


class Refused(msgspec.Struct, frozen=True):
    """A row that only the state could refuse. `row`: as it came, of one that an earlier poll brought."""

    partition: int
    offset: int
    ts_ms: int
    reason: Literal["future", "overflow"]
    place: int = 0  # which one of its record's rows that the decoder let pass, from 0; below 0 with `row`
    row: bytes = b""


class Ingested(msgspec.Struct, frozen=True):
    """What became of one batch."""

    counts: dict[Result, int]  # every result, also those that are 0
    refused: tuple[Refused, ...]
    touched: tuple[int, ...]  # window ends that got accepted rows, ascending
    amended: tuple[int, ...]  # those of them that the stream's watermark had already settled


class Sealed(msgspec.Struct, frozen=True, eq=False):
    """A window that cannot change any more."""

    end_ms: int
    cells: dict[int, Cell]  # by version
    quality: Quality
    offsets: dict[int, int]  # partition -> next offset, when it was sealed


class _Taken(NamedTuple):
    """What came of a partition's rows, and its state before them."""

    partition: int
    rows: Admitted
    known: PartitionState


class _Rows(msgspec.Struct, frozen=True, eq=False):
    """A batch's rows side by side, with what is known of each."""

    events: Events
    before_ms: NDArray[np.int64]  # (n,)
    end_ms: NDArray[np.int64]  # (n,) end of the row's window
    ends: list[int]  # the distinct window ends
    window: NDArray[np.intp]  # (n,) position in `ends`
    result: NDArray[np.uint8]  # (n,) position in RESULTS: ACCEPTED until a rule has spoken, the first one counts


def initial() -> WindowsState:
    """Nothing seen yet."""
    return WindowsState({}, {}, {}, {}, Index())


def ingest(
    plan: WindowPlan,
    events: EventPlan,
    state: WindowsState,
    batch: Batch,
    tables: Tables,
    now_ms: int,
    clock: Clock,
    ended_ms: Mapping[int, int] | None = None,
) -> tuple[WindowsState, Ingested]:
    """Take in one poll.

    `ended_ms`: version -> time from which on no window can begin that it served; only of those that were replaced.

    A row is put to the rules in this order, the first that speaks counts: future, expired, duplicate,
    fallback, unknown_version, misattributed, overflow. Every row but one in the future moves its
    partition's watermark.
    """
    partitions = dict(state.partitions)
    taken: list[_Taken] = []
    for part in batch.parts:
        known = partitions.get(part.partition, PartitionState(None, part.next_offset))
        arrived = admitted(part.events, known.held, known.watermark_ms, now_ms, clock)
        row = b"" if arrived.held is None else part.last if len(part.events.offset) else known.held_row
        refused, reasons = 0, dict[str, int]()
        if not len(arrived.before_ms):
            refused = known.refused + sum(part.rejected.values()) + len(arrived.future)
            reasons = by_reason(known.reasons, part.rejected, {"future": len(arrived.future)})
        partitions[part.partition] = PartitionState(
            arrived.watermark_ms, part.next_offset, arrived.held, row, refused, reasons
        )
        taken.append(_Taken(part.partition, arrived, known))
    state = msgspec.structs.replace(state, partitions=partitions)
    rows = _rows(plan, [part.rows for part in taken if len(part.rows.before_ms)])
    after = state if rows is None else _taken_in(plan, events, state, rows, tables, ended_ms or {})
    ingested = _ingested(plan, state, taken, rows)
    left_out = batch.idle if batch.backlog else batch.idle | refusing(plan, after, now_ms if clock == "wall" else 0)
    mark = stream_ms(partitions, state.watermark_ms, left_out)
    return msgspec.structs.replace(after, watermark_ms=mark), ingested


def _taken_in(
    plan: WindowPlan,
    events: EventPlan,
    state: WindowsState,
    rows: _Rows,
    tables: Tables,
    ended_ms: Mapping[int, int],
) -> WindowsState:
    _expire(plan, state, rows)
    ids = _deduplicate(plan, state.ids, rows)
    _attribute(tables, rows, {v: at + plan.length_ms for v, at in ended_ms.items()})
    cells = _added_up(events, state.cells, rows)
    units = _met(events, state, rows)
    quality = _quality(state.quality, rows)
    return msgspec.structs.replace(state, ids=ids, cells=cells, units=units, quality=quality)


def _rows(plan: WindowPlan, parts: list[Admitted]) -> _Rows | None:
    if not parts:
        return None
    events = joined([part.events for part in parts])
    before = parts[0].before_ms if len(parts) == 1 else np.concatenate([part.before_ms for part in parts])
    start = events.ts_ms // plan.length_ms
    starts, window = codes(start)
    ends = [(start + 1) * plan.length_ms for start in starts]
    end = np.array(ends, np.int64)[window]
    return _Rows(events, before, end, ends, window, np.zeros(len(end), np.uint8))


def _expire(plan: WindowPlan, state: WindowsState, rows: _Rows) -> None:
    expired = rows.before_ms >= rows.end_ms + plan.lateness_ms
    if state.sealed_through_ms is not None:
        expired |= rows.end_ms <= state.sealed_through_ms
    rows.result[expired] = EXPIRED


def _deduplicate(plan: WindowPlan, ids: Index, rows: _Rows) -> Index:
    key, before, end = rows.events.id_hash, rows.before_ms, rows.end_ms
    if not rows.result.any():
        repeat, ids = dedupe.deduplicated(ids, key, before, end, _horizon(plan))
        rows.result[repeat] = DUPLICATE
        return ids
    live = np.flatnonzero(rows.result == ACCEPTED)
    repeat, ids = dedupe.deduplicated(ids, key[live], before[live], end[live], _horizon(plan))
    rows.result[live[repeat]] = DUPLICATE
    return ids


def _attribute(tables: Tables, rows: _Rows, last_ms: Mapping[int, int]) -> None:
    """By the row alone: a version that the state still knows must not count where one that it has forgotten would not.

    `last_ms`: version -> ends of windows from there on are beyond it.
    """
    versions, code = codes(rows.events.version)
    strange = np.array([version not in tables for version in versions], np.bool_)[code]
    left = rows.result == ACCEPTED
    rows.result[left & strange] = UNKNOWN_VERSION
    rows.result[left & (rows.events.version == 0)] = FALLBACK
    for k, version in enumerate(versions):  # strange ones may be as many as rows
        if version in tables:
            served = np.flatnonzero((code == k) & (rows.result == ACCEPTED))
            names, dealt = tables[version]
            arm = np.array([names.index(a) if a in names else -1 for a in rows.events.arm_names], np.int16)
            wrong = arm[rows.events.arm[served]] != dealt[rows.events.bucket[served]]
            rows.result[served[wrong]] = MISATTRIBUTED
            if version in last_ms:
                rows.result[served[rows.end_ms[served] >= last_ms[version]]] = UNKNOWN_VERSION


def _added_up(events: EventPlan, cells: dict[tuple[int, int], Cell], rows: _Rows) -> dict[tuple[int, int], Cell]:
    """The cells with the accepted rows in them; rows that could make a sum wrap become OVERFLOW."""
    cells = dict(cells)
    accepted = np.flatnonzero(rows.result == ACCEPTED)
    versions, code = codes(rows.events.version[accepted])
    place, cell_of = codes(rows.window[accepted] * len(versions) + code)
    order = np.argsort(cell_of, kind="stable") if len(place) > 1 else None
    stops = np.cumsum(np.bincount(cell_of, minlength=len(place)))
    for k, pair in enumerate(place):
        key = (rows.ends[pair // len(versions)], versions[pair % len(versions)])
        at = accepted if order is None else accepted[order[stops[k - 1] if k else 0 : stops[k]]]
        cell = cells.get(key)
        cells[key] = _grown(events, _empty(events) if cell is None else cell, rows, at)
    return cells


def _grown(events: EventPlan, cell: Cell, rows: _Rows, at: NDArray[np.intp]) -> Cell:
    """The cell with the rows at these positions added."""
    values = rows.events.values[at] if len(at) < len(rows.result) else rows.events.values
    size = sums.magnitude(values)
    if cell.magnitude + size > sums.LIMIT:
        fits = sums.within(sums.LIMIT - cell.magnitude, values)
        rows.result[at[~fits]] = OVERFLOW
        at, values = at[fits], values[fits]
        size = sums.magnitude(values)
    group = rows.events.segment[at].astype(np.intp) * events.buckets + rows.events.bucket[at]
    groups = cell.events.size
    added = sums.by_group(group, values, groups).reshape(cell.sums.shape)
    counts = np.bincount(group, minlength=groups).reshape(cell.events.shape)
    return Cell(frozen(cell.sums + added), frozen(cell.events + counts), cell.magnitude + size)


def _empty(events: EventPlan) -> Cell:
    shape = (len(events.segments) + 1, events.buckets)
    return Cell(np.zeros((*shape, len(events.components)), np.int64), np.zeros(shape, np.int64))


def _met(events: EventPlan, state: WindowsState, rows: _Rows) -> dict[int, Seen]:
    """The units of each window that is still asked for them, with those of the accepted rows."""
    bucket, unit_hash, window = rows.events.bucket, rows.events.unit_hash, rows.window
    here = (rows.result == ACCEPTED) & rows.events.has_unit
    if not here.all():
        bucket, unit_hash, window = bucket[here], unit_hash[here], window[here]
    units = dict(state.units)
    for k, end in enumerate(rows.ends):
        at = slice(None) if len(rows.ends) == 1 else np.flatnonzero(window == k)
        if len(bucket[at]) and (state.counted_through_ms is None or end > state.counted_through_ms):
            units[end] = distinct.met(units.get(end) or distinct.nobody(events.buckets), bucket[at], unit_hash[at])
    return units


def without_units(state: WindowsState, through_ms: int) -> WindowsState:
    """Let go of the units of the windows that end by then: what was asked of them is decided."""
    if state.counted_through_ms is not None and through_ms <= state.counted_through_ms:
        return state
    units = {end: seen for end, seen in state.units.items() if end > through_ms}
    return msgspec.structs.replace(state, units=units, counted_through_ms=through_ms)


def _quality(quality: dict[int, Quality], rows: _Rows) -> dict[int, Quality]:
    counts = np.bincount(rows.window * len(RESULTS) + rows.result, minlength=len(rows.ends) * len(RESULTS))
    quality = dict(quality)
    for end, row in zip(rows.ends, counts.reshape(-1, len(RESULTS)).tolist(), strict=True):
        new = (row[ACCEPTED], row[MISATTRIBUTED], row[FALLBACK], row[UNKNOWN_VERSION])
        if any(new):
            known = quality.get(end, Quality())
            quality[end] = Quality(*(a + b for a, b in zip(msgspec.structs.astuple(known), new, strict=True)))
    return quality


def _ingested(plan: WindowPlan, state: WindowsState, taken: list[_Taken], rows: _Rows | None) -> Ingested:
    """`state` is the one before the batch, but for its partitions."""
    future = [_refused(part, "future", *row) for part in taken for row in part.rows.future]
    if rows is None:
        counts: dict[Result, int] = dict.fromkeys(RESULTS, 0)
        return Ingested(counts | {"future": len(future)}, tuple(future), (), ())
    totals = np.bincount(rows.result, minlength=len(RESULTS)).tolist()
    totals[FUTURE] = len(future)
    overflow = [_refused(part, "overflow", *row) for part, at in _overflown(taken, rows) for row in _places(part, at)]
    hit = np.bincount(rows.window[rows.result == ACCEPTED], minlength=len(rows.ends))
    touched = tuple(sorted(end for end, count in zip(rows.ends, hit.tolist(), strict=True) if count))
    mark = state.watermark_ms
    amended = tuple(end for end in touched if mark is not None and end + plan.grace_ms <= mark)
    return Ingested(dict(zip(RESULTS, totals, strict=True)), (*future, *overflow), touched, amended)


def _refused(part: _Taken, reason: Literal["future", "overflow"], offset: int, ts_ms: int, place: int) -> Refused:
    return Refused(part.partition, offset, ts_ms, reason, place, part.known.held_row if place < 0 else b"")


def _overflown(taken: list[_Taken], rows: _Rows) -> Iterator[tuple[_Taken, list[int]]]:
    """Positions of a partition's rows that were refused for their sums."""
    begin = 0
    for part in taken:
        end = begin + len(part.rows.before_ms)
        yield part, np.flatnonzero(rows.result[begin:end] == OVERFLOW).tolist()
        begin = end


def _places(part: _Taken, at: list[int]) -> Iterator[tuple[int, int, int]]:
    """Offset, ts_ms and place of the rows at these positions of those that were not in the future."""
    offset, ts_ms, known = part.rows.events.offset, part.rows.events.ts_ms, part.known.held
    first = 0 if known is None or len(offset) == 0 or offset[0] != known.offset[0] else 1  # it was held, and believed
    future: dict[int, list[int]] = {}
    for there, _, place in part.rows.future:
        future.setdefault(there, []).append(place)
    for row in at:
        here = int(offset[row])
        place = row - first - int(np.searchsorted(offset[first:], here)) if row >= first else -1
        for before in future.get(here, ()):
            place += before <= place
        yield here, int(ts_ms[row]), place


def refusing(plan: WindowPlan, state: WindowsState, now_ms: int) -> frozenset[int]:
    """Partitions that no window waits for (`clock.only_refused`). `now_ms`: the wall clock, 0 on the events' own."""
    most = max((quality.accepted for quality in state.quality.values()), default=0)
    return only_refused(state.partitions, state.watermark_ms, now_ms, plan.length_ms, most)


def by_reason(*counts: Mapping[str, int]) -> dict[str, int]:
    """Refused rows by reason, added up; in order of their names, so that the same rows give the same record."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return {reason: rows for reason, rows in sorted(total.items()) if rows}


def forgiven(state: WindowsState) -> WindowsState:
    """The state that holds no refused row against any partition."""
    parts = {number: msgspec.structs.replace(part, refused=0, reasons={}) for number, part in state.partitions.items()}
    return msgspec.structs.replace(state, partitions=parts)


def seal(plan: WindowPlan, state: WindowsState, idle: frozenset[int]) -> tuple[WindowsState, tuple[Sealed, ...]]:
    """Take the windows out that the stream's watermark has passed by the lateness, oldest first."""
    mark = stream_ms(state.partitions, state.watermark_ms, idle)
    state = msgspec.structs.replace(state, watermark_ms=mark, ids=_forgotten(plan, state))
    if mark is None:
        return state, ()
    through = (mark - plan.lateness_ms) // plan.length_ms * plan.length_ms
    if state.sealed_through_ms is not None and through <= state.sealed_through_ms:
        return state, ()
    offsets = {partition: part.next_offset for partition, part in sorted(state.partitions.items())}
    ends = sorted(end for end in state.quality if end <= through)
    sealed = tuple(
        Sealed(end, {v: cell for (e, v), cell in state.cells.items() if e == end}, state.quality[end], offsets)
        for end in ends
    )
    return _without(state, through), sealed


def _without(state: WindowsState, through: int) -> WindowsState:
    return msgspec.structs.replace(
        state,
        cells={key: cell for key, cell in state.cells.items() if key[0] > through},
        quality={end: quality for end, quality in state.quality.items() if end > through},
        units={end: seen for end, seen in state.units.items() if end > through},
        ids=dedupe.expire(state.ids, through),
        sealed_through_ms=through,
    )


def _forgotten(plan: WindowPlan, state: WindowsState) -> Index:
    """The ids, without windows for which every partition, also an idle one, is past the dedupe horizon."""
    marks = [part.watermark_ms for part in state.partitions.values()]
    known = [mark for mark in marks if mark is not None]
    if not known or len(known) < len(marks):
        return state.ids
    return dedupe.expire(state.ids, (min(known) - _horizon(plan)) // plan.length_ms * plan.length_ms)


def _horizon(plan: WindowPlan) -> int:
    return min(plan.dedupe_ms, plan.lateness_ms)
