"""Logs of actions, rewards and propensities from files: CSV, Parquet, Arrow or NDJSON, also gzipped."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from simulators.ope import Floats, Log
from simulators.tables import kind_of, read


class LogError(Exception):
    """A log cannot be used; the message names the file, the column and what was found."""


class Columns(msgspec.Struct, frozen=True):
    """Which columns mean what."""

    reward: str = "reward"
    propensity: str = "propensity"
    action: str = "action"
    context: tuple[str, ...] = ()  # what the target policy may look at; none: it does the same everywhere


def read_logs(paths: Sequence[Path], columns: Columns) -> list[Log]:
    """Logs over the same actions and contexts, numbered alike. Raises `LogError`."""
    tables = [_table(path, columns) for path in paths]
    actions = _codes([_actions(path, table, columns.action) for path, table in zip(paths, tables, strict=True)])
    contexts = _codes([_context(path, table, columns.context) for path, table in zip(paths, tables, strict=True)])
    return [
        Log(
            reward=_numbers(path, table, columns.reward),
            propensity=_propensity(path, table, columns.propensity),
            action=action,
            context=context,
            actions=int(max(part.max() for part in actions)) + 1,
            contexts=int(max(part.max() for part in contexts)) + 1,
        )
        for path, table, action, context in zip(paths, tables, actions, contexts, strict=True)
    ]


def column(path: Path, name: str) -> Floats:
    """One column of probabilities, such as a target policy's. Raises `LogError`."""
    table = _read(path)
    _need(path, table, [name])
    values = _numbers(path, table, name)
    wrong = np.flatnonzero((values < 0.0) | (values > 1.0))
    if len(wrong):
        found = f"found {values[wrong[0]]:g}, a probability is 0 to 1"
        raise LogError(f"{path}: column {name!r}, row {wrong[0] + 1}: {found}")
    return values


def _read(path: Path) -> pa.Table:
    try:
        return read(path)
    except OSError as error:
        raise LogError(f"{path}: {error.strerror}") from error
    except (pa.ArrowException, EOFError, zlib.error) as error:
        if not path.stat().st_size:
            raise LogError(f"{path}: the file is empty") from error
        taken = "; taken for lines of JSON, as its name is not that of a .csv" if kind_of(path) == "ndjson" else ""
        raise LogError(f"{path}: {error}{taken}") from error


def _table(path: Path, columns: Columns) -> pa.Table:
    table = _read(path)
    _need(path, table, [columns.reward, columns.propensity, columns.action, *columns.context])
    if not table.num_rows:
        raise LogError(f"{path}: no rows")
    return table


def _need(path: Path, table: pa.Table, names: Sequence[str]) -> None:
    twice = [name for name in names if table.column_names.count(name) > 1]
    if twice:
        raise LogError(f"{path}: there are several columns {twice[0]!r}")
    missing = [name for name in names if name not in table.column_names]
    if missing:
        shown = ", ".join(table.column_names[:12]) + (", ..." if len(table.column_names) > 12 else "")
        raise LogError(f"{path}: no column {', '.join(map(repr, missing))}; it has {shown}")


def _numbers(path: Path, table: pa.Table, name: str) -> Floats:
    try:
        values = np.asarray(table[name].cast(pa.float64()).to_numpy(), np.float64)
    except pa.ArrowException as error:
        raise LogError(f"{path}: column {name!r}: {error}") from error
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise LogError(f"{path}: column {name!r}, row {wrong[0] + 1}: not a number")
    return values


def _propensity(path: Path, table: pa.Table, name: str) -> Floats:
    values = _numbers(path, table, name)
    wrong = np.flatnonzero((values <= 0.0) | (values > 1.0))
    if len(wrong):
        found = f"found {values[wrong[0]]:g}, a propensity is above 0 and at most 1"
        raise LogError(f"{path}: column {name!r}, row {wrong[0] + 1}: {found}")
    return values


def _texts(path: Path, table: pa.Table, name: str) -> pa.ChunkedArray:
    try:
        return table[name].cast(pa.string())
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise LogError(f"{path}: column {name!r}: {error}; expected texts or numbers") from error


def _actions(path: Path, table: pa.Table, name: str) -> pa.ChunkedArray:
    found = _texts(path, table, name)
    blank = np.flatnonzero(pc.fill_null(pc.equal(pc.utf8_trim_whitespace(found), ""), True).to_numpy())
    if len(blank):
        raise LogError(f"{path}: column {name!r}, row {blank[0] + 1}: no action")
    return found


def _context(path: Path, table: pa.Table, names: Sequence[str]) -> pa.ChunkedArray:
    if not names:
        return pa.chunked_array([pa.array(["0"] * table.num_rows)])
    texts = [_texts(path, table, name) for name in names]
    return pc.binary_join_element_wise(*texts, "\x1f", null_handling="replace")


def _codes(parts: Sequence[pa.ChunkedArray]) -> list[np.ndarray]:
    """Numbers from 0 for the values of all parts together."""
    whole = pa.chunked_array([chunk for part in parts for chunk in part.chunks], pa.string())
    codes = whole.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return np.split(codes, np.cumsum([len(part) for part in parts])[:-1])
