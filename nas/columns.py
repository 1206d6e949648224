"""A column of a chunk as numbers, labels or texts, or an error that names the column, the row and what was found."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute

from nas.schema import DataError, Head, Schema

Floats = NDArray[np.float64]
ROW, FILE = "row in its file", b"file"  # a column, and a key of a table's metadata, that say where rows come from
LARGEST = 1e30  # of a number: beyond it sums of squares leave the range of a float


def place(table: pa.Table, name: str, at: int) -> str:
    """Where a value of a chunk stands: "log.csv, row 7, column 'age'"."""
    return f"{_file(table, ', ')}row {table[ROW][at].as_py()}, column {name!r}"


def _file(table: pa.Table, then: str) -> str:
    """The file that rows come from, and a text after it; nothing where none is told."""
    file = (table.schema.metadata or {}).get(FILE, b"").decode()
    return f"{file}{then}" if file else ""


def of_lists(kind: pa.DataType) -> bool:
    """Whether a column of this type holds lists, of any of Arrow's forms."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _of_texts(kind: pa.DataType) -> bool:
    """Whether a column of this type holds texts, also where each distinct one is stored once."""
    if pa.types.is_dictionary(kind):
        return _of_texts(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def texts(column: pa.ChunkedArray, missing: tuple[str, ...]) -> pa.Array:
    """The column as texts without blanks around them; null where missing."""
    trimmed = compute.utf8_trim_whitespace(compute.cast(column, pa.string())).combine_chunks()
    return compute.if_else(
        compute.is_in(trimmed, pa.array(missing, pa.string())), pa.scalar(None, pa.string()), trimmed
    )


def numbers(table: pa.Table, name: str, schema: Schema) -> Floats:
    """(n,) float64, NaN where missing.

    Raises:
        DataError: something is no number, infinite, or beyond `LARGEST`.
    """
    column = table[name]
    if _of_texts(column.type):
        column = texts(column, schema.missing)
    whole = pa.types.is_integer(column.type)  # nanoseconds since 1970 have more digits than a float: they are rounded
    try:
        floats = compute.cast(column, pa.float64(), safe=not whole)
        values = np.asarray(floats.to_numpy(zero_copy_only=False), np.float64)
    except TypeError:
        values = np.asarray(floats.to_numpy(), np.float64)
    except pa.ArrowException as error:
        at, found = _no_number(column)
        if at is None:
            found = f"found {column.type}; expected numbers"
            raise DataError(f"{_file(table, ': ')}column {name!r}: {found}") from error
        accepted = "a number, or what data.missing lists"
        raise DataError(f"{place(table, name, at)}: found {found!r}; expected {accepted}") from error
    wrong = np.abs(values) > LARGEST
    if wrong.any():
        at = int(wrong.argmax())
        found = "infinite" if np.isinf(values[at]) else f"found {values[at]:g}"
        raise DataError(f"{place(table, name, at)}: {found}; expected a number, at most {LARGEST:g}")
    return values


def _no_number(column: pa.Array | pa.ChunkedArray) -> tuple[int | None, str]:
    """The first text that is no number, and its place."""
    if not pa.types.is_string(column.type):
        return None, ""
    for at, text in enumerate(column.to_pylist()):
        try:
            compute.cast(pa.scalar(text, pa.string()), pa.float64())
        except pa.ArrowException:
            return at, str(text)
    return None, ""


def labels(table: pa.Table, head: Head, schema: Schema) -> Floats:
    """(n,) 0, 1, or NaN where the label was not observed.

    Raises:
        DataError: another value.
    """
    if head.positive is not None:
        found = texts(table[head.label], schema.missing)
        return np.asarray(
            compute.cast(compute.equal(found, head.positive), pa.float64()).to_numpy(zero_copy_only=False)
        )
    try:
        values = numbers(table, head.label, schema)
    except DataError as error:
        raise DataError(
            f"{error}; as a label 0, 1 or nothing; a text is one where `positive` of the head names it"
        ) from error
    wrong = ~(np.isnan(values) | (values == 0) | (values == 1))
    if wrong.any():
        at = int(wrong.argmax())
        raise DataError(f"{place(table, head.label, at)}: found {values[at]:g}; as a label expected 0, 1 or nothing")
    return values


def probabilities(table: pa.Table, head: Head, schema: Schema) -> Floats:
    """(n,) true probabilities of a head; NaN where unknown.

    Raises:
        DataError: a value outside [0, 1].
    """
    assert head.truth is not None
    values = numbers(table, head.truth, schema)
    wrong = (values < 0) | (values > 1)
    if wrong.any():
        at = int(wrong.argmax())
        raise DataError(f"{place(table, head.truth, at)}: found {values[at]:g}; expected a probability")
    return values
