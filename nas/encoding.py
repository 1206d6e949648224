"""What training rows say about each field: vocabularies and transforms; and raw columns as the numbers a model takes.

All categorical and multi-valued fields share one embedding table: field by field, `unknown` first, then its values.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray
from pyarrow import compute

from nas.columns import Floats, numbers, of_lists, texts
from nas.schema import Field, Schema

Array = NDArray[Any]

KNOTS = 64  # of a quantile transform
SAMPLE = 100_000  # values that its quantiles are taken from
NOTHING = -1  # pads a multi-valued field
FARTHEST = 1e4  # standard deviations: of fewer than 1e8 training rows none lies further out, so new rows may not either
_SMALLEST_SD = 1e-14  # of the mean: what is less is rounding


class DenseCode(msgspec.Struct, frozen=True):
    """(value after `transform` - mean) / sd; missing is 0."""

    field: Field
    mean: float
    sd: float
    knots: tuple[float, ...] = ()  # of a quantile: evenly many rows lie between two, so what is frequent repeats


class SparseCode(msgspec.Struct, frozen=True):
    """A value's row in the embedding table: `start` is the field's unknown, then `values`, sorted, or hash buckets."""

    field: Field
    start: int
    values: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Rows of the embedding table that belong to the field."""
        return 1 + (self.field.buckets or len(self.values))


class Encoding(msgspec.Struct, frozen=True):
    """Everything that turns raw rows into numbers; stored with every model."""

    schema: Schema
    dense: tuple[DenseCode, ...]
    sparse: tuple[SparseCode, ...]
    bags: tuple[SparseCode, ...]

    @property
    def table_rows(self) -> int:
        """Rows of the embedding table."""
        return sum(code.rows for code in (*self.sparse, *self.bags))


class Coded(msgspec.Struct, frozen=True, eq=False):
    """Features of n rows: dense (n, D) float32, sparse (n, F) int32, bags (n, longest) int32 of multi-valued fields."""

    dense: NDArray[np.float32]
    sparse: NDArray[np.int32]
    bags: tuple[NDArray[np.int32], ...]

    def __len__(self) -> int:
        return len(self.dense)

    def take(self, index: NDArray[np.int64] | slice) -> "Coded":
        """The rows of an index, in memory."""
        return Coded(
            np.array(self.dense[index]), np.array(self.sparse[index]), tuple(np.array(bag[index]) for bag in self.bags)
        )


class Learner:
    """Sees the training rows once, chunk by chunk."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.moments = {field.name: np.zeros(3) for field in schema.of("dense")}
        self.sample: dict[str, Floats] = {field.name: np.zeros(0) for field in schema.of("dense")}
        self.stride = dict.fromkeys(self.sample, 1)
        self.counts: dict[str, Counter[str]] = {f.name: Counter() for f in schema.fields if f.kind != "dense"}

    def see(self, table: pa.Table) -> None:
        """Count one chunk of training rows."""
        for field in self.schema.fields:
            if field.kind == "dense":
                self._see_numbers(field, numbers(table, field.name, self.schema))
            elif not field.buckets:
                self.counts[field.name].update(_rows_of_values(table, field, self.schema))

    def _see_numbers(self, field: Field, values: Floats) -> None:
        known = values[~np.isnan(values)]
        if field.transform == "quantile":
            kept = np.concatenate((self.sample[field.name], known[:: self.stride[field.name]]))
            if len(kept) > 2 * SAMPLE:
                kept, self.stride[field.name] = kept[::2], 2 * self.stride[field.name]
            self.sample[field.name] = kept
        else:
            known = _logged(known) if field.transform == "log" else known
            self.moments[field.name] = _with(self.moments[field.name], known)

    def encoding(self) -> Encoding:
        """What was learned."""
        start, codes = 0, {}
        for field in (*self.schema.of("categorical"), *self.schema.of("multi")):
            kept = sorted(value for value, count in self.counts[field.name].items() if count >= field.min_count)
            codes[field.name] = SparseCode(field, start, tuple(kept))
            start += codes[field.name].rows
        return Encoding(
            self.schema,
            tuple(self._dense_code(field) for field in self.schema.of("dense")),
            tuple(codes[field.name] for field in self.schema.of("categorical")),
            tuple(codes[field.name] for field in self.schema.of("multi")),
        )

    def _dense_code(self, field: Field) -> DenseCode:
        if field.transform == "quantile":
            return _quantile_code(field, self.sample[field.name])
        count, mean, squares = self.moments[field.name]
        return DenseCode(field, float(mean), _spread(float(np.sqrt(squares / max(count, 1))), float(mean)))


def _quantile_code(field: Field, sample: Floats) -> DenseCode:
    knots = np.quantile(sample, np.linspace(0, 1, KNOTS + 1)) if len(sample) else np.zeros(1)
    coded = _ranks(sample, knots) if len(sample) else np.zeros(1)
    mean = float(coded.mean())
    return DenseCode(field, mean, _spread(float(coded.std()), mean), tuple(knots.tolist()))


def _ranks(values: Floats, knots: Floats) -> Floats:
    """In [0, 1]; a knot that repeats, as a frequent value's does, has the mean of its ranks."""
    distinct, index = np.unique(knots, return_inverse=True)
    places = np.linspace(0, 1, len(knots)) if len(knots) > 1 else np.zeros(1)
    return np.interp(values, distinct, np.bincount(index, weights=places) / np.bincount(index))


def _spread(sd: float, mean: float) -> float:
    """A standard deviation to divide by; 1 where the values are all the same."""
    return sd if sd > _SMALLEST_SD * max(1.0, abs(mean)) else 1.0


def _with(moments: Floats, values: Floats) -> Floats:
    """Count, mean and sum of squares around it with more values (Chan, Golub and LeVeque 1983, equation 2.1)."""
    if not len(values):
        return moments
    (count, mean, squares), more, own = moments, len(values), float(values.mean())
    away = own - mean
    whole = count + more
    spread = float(((values - own) ** 2).sum()) + away**2 * count * more / whole
    return np.array([whole, mean + away * more / whole, squares + spread])


def encode(table: pa.Table, encoding: Encoding) -> Coded:
    """The features of a chunk as numbers.

    Raises:
        DataError: a dense field holds something that is no number.
    """
    schema, n = encoding.schema, table.num_rows
    dense = [_standard(numbers(table, code.field.name, schema), code) for code in encoding.dense]
    sparse = [_looked_up(texts(table[code.field.name], schema.missing), code) for code in encoding.sparse]
    return Coded(
        _stacked(dense, n, np.float32),
        _stacked(sparse, n, np.int32),
        tuple(_bag(table, c, schema) for c in encoding.bags),
    )


def _stacked(columns: Sequence[Array], n: int, dtype: type) -> Array:
    return np.stack(columns, axis=1).astype(dtype) if columns else np.zeros((n, 0), dtype)


def _standard(values: Floats, code: DenseCode) -> Floats:
    if code.field.transform == "quantile":
        values = np.where(np.isnan(values), np.nan, _ranks(values, np.array(code.knots)))
    elif code.field.transform == "log":
        values = _logged(values)
    return np.clip(np.nan_to_num((values - code.mean) / code.sd, nan=0.0), -FARTHEST, FARTHEST)


def _logged(values: Floats) -> Floats:
    return np.asarray(np.sign(values) * np.log1p(np.abs(values)))


def _looked_up(values: pa.Array, code: SparseCode) -> NDArray[np.int64]:
    """Rows of the embedding table; what is unknown or missing is the field's first."""
    if code.field.buckets:
        distinct = values.dictionary_encode()
        hashes = [
            xxhash.xxh64_intdigest(text.encode()) % code.field.buckets for text in distinct.dictionary.to_pylist()
        ]
        table = np.array([*(1 + h for h in hashes), 0], np.int64)  # the last one is for null
        return np.asarray(code.start + table[np.asarray(compute.fill_null(distinct.indices, -1))])
    at = compute.fill_null(compute.index_in(values, pa.array(code.values, pa.string()), skip_nulls=True), -1)
    return np.asarray(code.start + 1 + np.asarray(at, np.int64))


def _lists(table: pa.Table, field: Field, schema: Schema) -> pa.ListArray:
    column = table[field.name].combine_chunks()
    if of_lists(column.type):
        return compute.cast(column, pa.list_(pa.string()))
    return compute.split_pattern(compute.fill_null(texts(table[field.name], schema.missing), ""), field.separator)


def present(table: pa.Table, field: Field, schema: Schema) -> tuple[NDArray[np.int64], pa.Array]:
    """The values that a categorical or multi-valued field holds, and the row of each; an empty item is no value."""
    if field.kind == "multi":
        lists = _lists(table, field, schema)
        owner, values = _owners(lists), texts(pa.chunked_array([compute.list_flatten(lists)]), schema.missing)
    else:
        owner, values = np.arange(table.num_rows), texts(table[field.name], schema.missing)
    return owner[np.asarray(values.is_valid())], values.drop_null()


def _bag(table: pa.Table, code: SparseCode, schema: Schema) -> NDArray[np.int32]:
    owner, values = present(table, code.field, schema)
    rows = _looked_up(values, code)
    lengths = np.bincount(owner, minlength=table.num_rows)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    kept = place < code.field.longest
    bag = np.full((table.num_rows, code.field.longest), NOTHING, np.int32)
    bag[owner[kept], place[kept]] = rows[kept]
    return bag


def _rows_of_values(table: pa.Table, field: Field, schema: Schema) -> dict[str, int]:
    """How many rows hold each value; one that a row's list names twice is in one row."""
    owner, values = present(table, field, schema)
    if field.kind == "multi":
        coded = values.dictionary_encode()
        size = max(1, len(coded.dictionary))
        once = np.unique(owner * size + np.asarray(coded.indices, np.int64)) % size
        values = coded.dictionary.take(pa.array(once))
    seen = compute.value_counts(values)
    return dict(zip(seen.field(0).to_pylist(), seen.field(1).to_pylist(), strict=True))


def _owners(lists: pa.ListArray) -> NDArray[np.int64]:
    """The list that each of all items is of."""
    lengths = np.asarray(compute.fill_null(compute.list_value_length(lists), 0), np.int64)
    return np.repeat(np.arange(len(lengths)), lengths)


def learned(chunks: Iterable[pa.Table], schema: Schema) -> Encoding:
    """The encoding of training rows."""
    learner = Learner(schema)
    for table in chunks:
        learner.see(table)
    return learner.encoding()
