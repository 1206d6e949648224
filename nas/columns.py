"""A column of a chunk as numbers, labels or texts, or an error that names the column, the row and what was found."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute

from nas.schema import DataError, Head, Schema

Floats = NDArray[np.float64]


def texts(column: pa.ChunkedArray, missing: tuple[str, ...]) -> pa.Array:
    """The column as texts without blanks around them; null where missing."""
    trimmed = compute.utf8_trim_whitespace(compute.cast(column, pa.string())).combine_chunks()
    return compute.if_else(
        compute.is_in(trimmed, pa.array(missing, pa.string())), pa.scalar(None, pa.string()), trimmed
    )


def numbers(table: pa.Table, name: str, schema: Schema, first_row: int) -> Floats:
    """(n,) float64, NaN where missing.

    Raises:
        DataError: something is no finite number.
    """
    column = table[name]
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = texts(column, schema.missing)
    try:
        values = np.asarray(compute.cast(column, pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    except TypeError:
        values = np.asarray(compute.cast(column, pa.float64()).to_numpy(), np.float64)
    except pa.ArrowException as error:
        raise DataError(f"column {name!r}: {error}; expected a number") from error
    if np.isinf(values).any():
        raise DataError(
            f"column {name!r}, row {first_row + int(np.isinf(values).argmax()) + 1}: infinite; expected a number"
        )
    return values


def labels(table: pa.Table, head: Head, schema: Schema, first_row: int) -> Floats:
    """(n,) 0, 1, or NaN where the label was not observed.

    Raises:
        DataError: another value.
    """
    if head.positive is not None:
        found = texts(table[head.label], schema.missing)
        return np.asarray(
            compute.cast(compute.equal(found, head.positive), pa.float64()).to_numpy(zero_copy_only=False)
        )
    values = numbers(table, head.label, schema, first_row)
    wrong = ~(np.isnan(values) | (values == 0) | (values == 1))
    if wrong.any():
        at = int(wrong.argmax())
        raise DataError(
            f"label {head.label!r}, row {first_row + at + 1}: found {values[at]:g}; expected 0, 1 or nothing"
        )
    return values


def probabilities(table: pa.Table, head: Head, schema: Schema, first_row: int) -> Floats:
    """(n,) true probabilities of a head; NaN where unknown.

    Raises:
        DataError: a value outside [0, 1].
    """
    assert head.truth is not None
    values = numbers(table, head.truth, schema, first_row)
    wrong = (values < 0) | (values > 1)
    if wrong.any():
        at = int(wrong.argmax())
        raise DataError(
            f"column {head.truth!r}, row {first_row + at + 1}: found {values[at]:g}; expected a probability"
        )
    return values
