"""The state as rows of the journal's checkpoint: a commit writes only the rows that a step changed."""

import msgspec

from controller.core import codec
from controller.core.experiment import Experiment
from controller.core.persist import window_changes, window_restore
from controller.core.step import State
from controller.core.windows import Cell

_EXPERIMENT = "control"  # the row's key since the first journals, which this version goes on with
_RECORDED = "recorded/"


class _Small(msgspec.Struct, frozen=True):
    rejected: int
    arrived: int
    looked_ms: int
    reasons: dict[str, int] = {}


class RowChanges(msgspec.Struct, frozen=True):
    """Rows to write and rows to drop."""

    put: dict[str, bytes]
    drop: tuple[str, ...]


def changes(before: State | None, after: State) -> tuple[RowChanges, State]:
    """Rows that turn the checkpoint of `before` (None: an empty one) into that of `after`.

    Returns the state to go on from: equal to `after`, but knowing that its rows are written.
    """
    put, drop, windows = window_changes(None if before is None else before.windows, after.windows)
    old = {} if before is None else before.recorded
    put = dict(put)
    put |= {_key(key): codec.encode(cell) for key, cell in after.recorded.items() if old.get(key) is not cell}
    gone = tuple(_key(key) for key in old.keys() - after.recorded.keys())
    put["step"] = codec.encode(_Small(after.rejected, after.arrived, after.looked_ms, after.reasons))
    if before is None or before.experiment is not after.experiment:
        put[_EXPERIMENT] = codec.encode(after.experiment)
    return RowChanges(put, (*drop, *gone)), msgspec.structs.replace(after, windows=windows)


def restore(rows: dict[str, bytes]) -> State:
    """The state that was written; raises `ValueError` (msgspec's are such) or `KeyError` on rows of another version."""
    small = codec.decode(rows["step"], _Small)
    recorded = {_place(key): codec.decode(value, Cell) for key, value in rows.items() if key.startswith(_RECORDED)}
    return State(
        windows=window_restore(rows),
        experiment=codec.decode(rows[_EXPERIMENT], Experiment),
        recorded=recorded,
        rejected=small.rejected,
        arrived=small.arrived,
        looked_ms=small.looked_ms,
        reasons=small.reasons,
    )


def _key(key: tuple[int, int]) -> str:
    return f"{_RECORDED}{key[0]}/{key[1]}"


def _place(key: str) -> tuple[int, int]:
    _, end, version = key.split("/")
    return int(end), int(version)
