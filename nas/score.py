"""Apply a trained model to new rows: its own preprocessing, then its network."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
from pyarrow import parquet

from nas.atomic import replaced
from nas.batches import probabilities
from nas.columns import place
from nas.encoding import Coded, Encoding, encode
from nas.readers import Source
from nas.schema import DataError
from nas.train import Run, read_run
from nas.weights import Inputs

ENCODING = "encoding.json"


def write_encoding(folder: Path, encoding: Encoding) -> None:
    """Put a model's preprocessing beside it."""
    with replaced(folder / ENCODING) as part:
        part.write_bytes(msgspec.json.encode(encoding))


def read_model(folder: Path) -> tuple[Run, Encoding]:
    """A run and its preprocessing.

    Raises:
        DataError: the folder holds none.
    """
    if not (folder / ENCODING).exists():
        raise DataError(f"{folder}: holds no trained model; `trimtab nas retrain` makes one")
    encoding = msgspec.json.decode((folder / ENCODING).read_bytes(), type=Encoding)
    inputs = Inputs(
        len(encoding.dense), len(encoding.sparse) + len(encoding.bags), encoding.table_rows, len(encoding.schema.heads)
    )
    return read_run(folder, inputs), encoding


def scored(run: Run, encoding: Encoding, source: Source) -> Iterator[pa.Table]:
    """Probabilities of every row, in order: a table a chunk, a column a head. Labels are not needed.

    Raises:
        DataError: what is wrong with the rows.
    """
    for table in source.chunks(encoding.schema, labels=False):
        coded = encode(table, encoding)
        q = probabilities(run.model, coded).numpy()
        _refuse_none(table, coded, q, encoding)
        yield pa.table({head.name: q[:, j] for j, head in enumerate(encoding.schema.heads)})


def write_scores(run: Run, encoding: Encoding, source: Source, path: Path) -> int:
    """Write the probabilities as Parquet, all of them or nothing; the number of rows."""
    heads = pa.schema([(head.name, pa.float64()) for head in encoding.schema.heads])
    count, part = 0, path.with_name(f"{path.name}.part")
    try:
        with parquet.ParquetWriter(part, heads) as writer:
            for table in scored(run, encoding, source):
                writer.write_table(table)
                count += table.num_rows
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return count


def _refuse_none(
    table: pa.Table, coded: Coded, q: np.ndarray[tuple[int, ...], np.dtype[np.float64]], encoding: Encoding
) -> None:
    """A network's numbers may leave the range of fp32 where a feature lies far outside of what it was trained on."""
    wrong = ~np.isfinite(q).all(axis=1)
    if wrong.any():
        at = int(wrong.argmax())
        far = np.abs(coded.dense[at]) if coded.dense.shape[1] else np.zeros(0)
        name = encoding.dense[int(far.argmax())].field.name if len(far) else ""
        where = place(table, name, at)
        raise DataError(
            f"{where}: the model has no prediction, its numbers leave the range of fp32; farthest out is {name!r}"
        )
