"""What the ledger holds of a step: entries, and the sums that a decision saw as differences to the entry before.

Sums are integers, so adding up the differences gives back the very bits.
"""

import hashlib
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.core import codec
from controller.core.decide import Decision
from controller.core.experiment import Carry, Statistics
from controller.core.rollout import Deal
from controller.core.safety import Crossing
from controller.core.windows import Cell, Quality

Cells = dict[tuple[int, int], Cell]  # (window end, version) -> sums


class Record(msgspec.Struct, frozen=True):
    """An entry to append to the ledger. `body`: JSON; `data`: arrays, or None."""

    at_ms: int
    kind: str
    body: dict[str, Any]
    data: bytes | None = None


class _Difference(msgspec.Struct, frozen=True, eq=False):
    end_ms: int
    version: int
    sums: NDArray[np.int64]  # (G1, B, C)
    events: NDArray[np.int64]  # (G1, B)


class _Seen(msgspec.Struct, frozen=True, eq=False, omit_defaults=True):
    end_ms: int
    cells: tuple[_Difference, ...]
    units: NDArray[np.int64]  # (B,)
    quality: Quality
    rejected: int
    arrived: int
    reasons: dict[str, int] = {}


def pack(seen: Statistics, recorded: Cells) -> tuple[bytes, Cells]:
    """What `seen` adds to the sums recorded so far, as bytes; and the sums recorded then."""
    changed = {key: cell for key, cell in sorted(seen.cells.items()) if not _same(recorded.get(key), cell)}
    differences = tuple(_difference(key, cell, recorded.get(key)) for key, cell in changed.items())
    about = (seen.units, seen.quality, seen.rejected, seen.arrived, seen.reasons)
    return codec.encode(_Seen(seen.end_ms, differences, *about)), recorded | changed


def unpack(data: bytes, recorded: Cells) -> tuple[Statistics, Cells]:
    """Undo `pack`: the statistics up to its window, and all sums recorded then. Raises `ValueError` on other bytes."""
    seen = codec.decode(data, _Seen)
    recorded = recorded | {(d.end_ms, d.version): _sum(recorded.get((d.end_ms, d.version)), d) for d in seen.cells}
    cells = {key: cell for key, cell in recorded.items() if key[0] <= seen.end_ms}
    about = (seen.units, seen.quality, seen.rejected, seen.arrived, seen.reasons)
    return Statistics(seen.end_ms, cells, *about), recorded


def row_counts(data: bytes) -> tuple[Quality, int, int]:
    """Of packed statistics: the window's rows, and those refused and all that came since the decision before."""
    seen = codec.decode(data, _Seen)
    return seen.quality, seen.rejected, seen.arrived


def without(recorded: Cells, end_ms: int) -> Cells:
    """The recorded sums without a window that was sealed."""
    return {key: cell for key, cell in recorded.items() if key[0] != end_ms}


def digest(cells: Cells) -> str:
    """SHA-256 over windows, versions and sums (little-endian int64), in order."""
    hasher = hashlib.sha256()
    for (end, version), cell in sorted(cells.items()):
        hasher.update(np.array([end, version], "<i8").tobytes())
        hasher.update(cell.sums.astype("<i8").tobytes() + cell.events.astype("<i8").tobytes())
    return hasher.hexdigest()


def carried(carry: Carry) -> dict[str, Any]:
    """`carry` as the very JSON values that are read back."""
    body: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(carry))
    return body


def decided(decision: Decision, carry: Carry, now_ms: int, act: bool, data: bytes) -> Record:
    """The entry of a decision."""
    body = {
        "window_end_ms": decision.end_ms,
        "act": act,
        "outcome": decision.outcome,
        "why": decision.why,
        "table": None if decision.table is None else decision.table.decode(),
        "carry": carried(carry),
    }
    return Record(now_ms, "decided", body, data)


def facts(before: Carry, after: Carry, tripped: tuple[Crossing, ...], deal: Deal, now_ms: int) -> tuple[Record, ...]:
    """What people look for in the ledger beside a decision: a guardrail that tripped, a stage that changed."""
    found = []
    for crossing in tripped:
        body = msgspec.to_builtins(crossing) | {"arm": deal.arms[crossing.arm].arm}
        found.append(Record(now_ms, "guardrail_tripped", body))
    if before.stage != after.stage:
        body = {"from": before.stage, "to": after.stage, "why": after.reason}
        found.append(Record(now_ms, "stage_changed", body))
    return tuple(found)


def _same(before: Cell | None, cell: Cell) -> bool:
    """By value: a state that was restored holds copies, and must lead to the same entries."""
    if before is None or before is cell:
        return before is cell
    return np.array_equal(before.sums, cell.sums) and np.array_equal(before.events, cell.events)


def _difference(key: tuple[int, int], cell: Cell, before: Cell | None) -> _Difference:
    if before is None:
        return _Difference(*key, cell.sums, cell.events)
    return _Difference(*key, cell.sums - before.sums, cell.events - before.events)


def _sum(before: Cell | None, difference: _Difference) -> Cell:
    if before is None:
        return Cell(difference.sums, difference.events)
    return Cell(before.sums + difference.sums, before.events + difference.events)
