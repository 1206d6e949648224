"""A published table made ready for look-ups, and whether a client can serve it.

Notation: W weights in the client's own order, A arms, S segment columns (column 0 is `all`), R = A x S rows.
"""

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.assignment import ALL, CONTROL, Assignment, Form

_NEVER = 2**63 - 1  # the `valid_until_ms` of a table that does not expire

Weights = NDArray[np.float64]


class Table(msgspec.Struct, frozen=True, eq=False):
    """A table made ready for look-ups. Before the first one is read: the baseline, with no buckets."""

    source: Assignment | None
    version: int
    epoch: int
    valid_until_ms: int
    salt: bytes
    size: int  # B
    arm_of: tuple[int, ...]  # (B,)
    arm_array: NDArray[np.int16]  # (B,)
    arms: tuple[str, ...]
    fallback: int  # index into arms
    columns: dict[str | None, int]  # segment -> column; those that are not here have column 0
    rows: tuple[Weights, ...]  # R views of `weights`: arm * len(columns) + column
    weights: Weights  # (R, W)


def baseline_table(baseline: Mapping[str, float]) -> Table:
    """What serves before a table was read: no version, no buckets, already expired."""
    weights = _frozen(np.array([list(baseline.values())], np.float64))
    none = np.zeros(0, np.int16)
    return Table(None, 0, 0, -1, b"", 0, (), none, (CONTROL,), 0, {ALL: 0}, tuple(weights), weights)


def compile_table(table: Assignment, study: str, form: Form, baseline: Mapping[str, float]) -> Table:
    """Raises `ValueError` when a client of this study, form and these weights cannot serve the table."""
    _check_servable(table, study, form, baseline)
    segments = [ALL, *sorted({segment for arm in table.arms for segment in arm.theta} - {ALL})]
    rows = [
        {**baseline, **dict(zip(table.weights, arm.theta.get(segment, arm.theta[ALL]), strict=True))}
        for arm in table.arms
        for segment in segments
    ]
    weights = _frozen(np.array([list(row.values()) for row in rows], np.float64))
    arms = tuple(arm.arm for arm in table.arms)
    return Table(
        source=table,
        version=table.version,
        epoch=table.epoch,
        valid_until_ms=_NEVER if table.valid_until_ms is None else table.valid_until_ms,
        salt=table.unit_hash.salt.encode(),
        size=table.unit_hash.buckets,
        arm_of=table.buckets,
        arm_array=np.array(table.buckets, np.int16),
        arms=arms,
        fallback=arms.index(table.fallback),
        columns={segment: column for column, segment in enumerate(segments)},
        rows=tuple(weights),
        weights=weights,
    )


def _check_servable(table: Assignment, study: str, form: Form, baseline: Mapping[str, float]) -> None:
    if table.study != study:
        raise ValueError(f"expected the study {study!r}, found {table.study!r} - at `$.study`")
    if table.form != form:
        raise ValueError(f"this client scores with the form {form!r}, found {table.form!r} - at `$.form`")
    if unknown := set(table.weights) - set(baseline):
        raise ValueError(
            f"weights without a baseline here: {sorted(unknown)}, known: {list(baseline)} - at `$.weights`"
        )
    if table.version <= 0 or not table.buckets:
        raise ValueError(f"expected a version above 0 and some buckets, found {table.version} - at `$.version`")


def _frozen(array: NDArray[np.float64]) -> NDArray[np.float64]:
    array.flags.writeable = False
    return array
