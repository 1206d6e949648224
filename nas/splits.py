"""Which part of the data a row belongs to: by time, by group, by its features, or by a seeded draw."""

from collections.abc import Iterable
from typing import Literal

import msgspec
import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray
from pyarrow import compute

from nas.columns import numbers, of_lists, place, texts
from nas.ranges import at_least, expect
from nas.schema import DataError, Schema

TRAIN, VALID, TEST = 0, 1, 2
PARTS = ("train", "valid", "test")
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Split(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How rows are told apart.

    `time`: the newest rows are the test, those before them the validation. `group`: a request stays whole.
    `distinct`: rows with equal features stay together, so that none is learned by heart. `rows`: each row on its own.
    With `folds`, the test is fold number `fold` and the validation the next one; else `valid` and `test` are shares.
    """

    by: Literal["time", "group", "distinct", "rows"] = "rows"
    valid: float = 0.1
    test: float = 0.1
    folds: int = 0
    fold: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for key, share in (("valid", self.valid), ("test", self.test)):
            expect(f"split.{key}", share, 0 < share < 1, "a share, above 0 and below 1")
        together = self.valid + self.test
        expect("split: valid and test", f"{together:g} together", together < 1, "some rows left to train on")
        if self.folds:
            expect("split.folds", self.folds, self.by != "time", "none where the split is by time")
            at_least("split", self, folds=3)
            expect("split.fold", self.fold, 0 <= self.fold < self.folds, f"one of 0 .. {self.folds - 1}")


class Cuts(msgspec.Struct, frozen=True):
    """Times at which validation and test begin."""

    valid: float
    test: float


def time_cuts(times: Iterable[NDArray[np.float64]], split: Split) -> Cuts:
    """Cuts such that the newest `test` of the rows, and the `valid` before them, are held out. One pass."""
    everything = np.concatenate(list(times))
    at = np.quantile(everything, [1 - split.valid - split.test, 1 - split.test], method="higher")
    return Cuts(float(at[0]), float(at[1]))


def part_of(table: pa.Table, first_row: int, schema: Schema, split: Split, cuts: Cuts | None) -> NDArray[np.uint8]:
    """(n,) TRAIN, VALID or TEST of each row; `first_row` is the table's place in the data.

    Raises:
        DataError: the split needs a column that the schema does not name.
    """
    if split.by == "time":
        if cuts is None or schema.time is None:
            raise DataError("split by time: the schema names no time column")
        time = numbers(table, schema.time, schema)
        return ((time >= cuts.valid).astype(np.uint8) + (time >= cuts.test)).astype(np.uint8)
    u = _keys(table, first_row, schema, split) / 2.0**64
    if split.folds:
        fold = np.minimum((u * split.folds).astype(int), split.folds - 1)
        valid = (split.fold + 1) % split.folds
        return np.where(fold == split.fold, TEST, np.where(fold == valid, VALID, TRAIN)).astype(np.uint8)
    return np.where(u < split.test, TEST, np.where(u < split.test + split.valid, VALID, TRAIN)).astype(np.uint8)


def _keys(table: pa.Table, first_row: int, schema: Schema, split: Split) -> NDArray[np.uint64]:
    if split.by == "rows":
        return mixed(np.arange(first_row, first_row + table.num_rows, dtype=np.uint64), split.seed)
    if split.by == "group":
        return mixed(requests(table, schema), split.seed)
    key = np.zeros(table.num_rows, np.uint64)
    for field in schema.fields:
        key = mixed(key ^ hashed(table[field.name]), split.seed)
    return key


def requests(table: pa.Table, schema: Schema) -> NDArray[np.uint64]:
    """(n,) hashes that rows of one request share.

    Raises:
        DataError: no column says of which request a row is, or it says nothing of a row.
    """
    if schema.request is None:
        raise DataError("split by group: the schema names no request column")
    named = texts(_joined(table[schema.request]), (*schema.missing, ""))
    if named.null_count:
        at = int(np.asarray(named.is_null()).argmax())
        raise DataError(
            f"{place(table, schema.request, at)}: nothing says of which request the row is, and all such "
            "rows would be one; give each a request of its own, or leave them out"
        )
    return hashed(table[schema.request])


def hashed(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    """(n,) 64-bit hashes of a column's values as texts; each distinct value is hashed once."""
    distinct = compute.cast(_joined(column), pa.string()).combine_chunks().dictionary_encode(null_encoding="encode")
    table = np.array(
        [xxhash.xxh64_intdigest(str(value).encode()) for value in distinct.dictionary.to_pylist()], np.uint64
    )
    return np.asarray(table[np.asarray(distinct.indices)])


def _joined(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of values; of lists, each as one text."""
    lists = of_lists(column.type)
    return compute.binary_join(compute.cast(column, pa.list_(pa.string())), "\x1f") if lists else column


def mixed(keys: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Well-spread 64-bit numbers from keys and a seed (splitmix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = keys + _GOLDEN * np.uint64((seed + 1) % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))
