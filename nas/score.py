"""Apply a trained model to new rows: its own preprocessing, then its network."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
from pyarrow import compute, parquet

from nas.atomic import replaced
from nas.batches import probabilities
from nas.columns import place
from nas.encoding import Coded, Encoding, encode, present
from nas.readers import Source
from nas.schema import DataError
from nas.train import RECORD, Run, read_run
from nas.weights import Inputs

ENCODING = "encoding.json"
UNKNOWN = 0.1  # share of a field's values from which on it is told
TOLD = 5  # fields at most


class Unknowns:
    """Counts the values of rows that are scored, and those that a field's vocabulary lacks.

    A field of hash buckets has no vocabulary: it knows every value.
    """

    def __init__(self, encoding: Encoding) -> None:
        self.schema = encoding.schema
        self.codes = [code for code in (*encoding.sparse, *encoding.bags) if not code.field.buckets]
        self.values, self.unknown = Counter[str](), Counter[str]()
        self.example: dict[str, str] = {}

    def see(self, table: pa.Table) -> None:
        """Count one chunk."""
        for code in self.codes:
            name, (_, values) = code.field.name, present(table, code.field, self.schema)
            unknown = values.filter(compute.invert(compute.is_in(values, pa.array(code.values, pa.string()))))
            self.values[name] += len(values)
            self.unknown[name] += len(unknown)
            if len(unknown):
                self.example.setdefault(name, unknown[0].as_py())

    def told(self) -> list[str]:
        """A line for each field of which more than `UNKNOWN` of the values are, the worst first."""
        shares = {name: self.unknown[name] / count for name, count in self.values.items() if count}
        fields = [code.field for code in self.codes if shares.get(code.field.name, 0.0) > UNKNOWN]
        lines = []
        for field in sorted(fields, key=lambda field: -shares[field.name])[:TOLD]:
            held = f"fewer than {field.min_count} training rows" if field.min_count > 1 else "no training row"
            lines.append(
                f"{field.name}: {100 * shares[field.name]:.0f} % of its values are unknown to the model, as {held} "
                f'held them, e.g. "{self.example[field.name]}"'
            )
        return lines


def write_encoding(folder: Path, encoding: Encoding) -> None:
    """Put a model's preprocessing beside it."""
    with replaced(folder / ENCODING) as part:
        part.write_bytes(msgspec.json.encode(encoding))


def read_model(folder: Path) -> tuple[Run, Encoding]:
    """A run and its preprocessing.

    Raises:
        DataError: the folder holds none.
    """
    if not (folder / ENCODING).exists() or not (folder / RECORD).exists():  # prepared rows have an encoding too
        raise DataError(f"{folder}: holds no trained model; `trimtab nas retrain` makes one")
    encoding = msgspec.json.decode((folder / ENCODING).read_bytes(), type=Encoding)
    inputs = Inputs(
        len(encoding.dense), len(encoding.sparse) + len(encoding.bags), encoding.table_rows, len(encoding.schema.heads)
    )
    return read_run(folder, inputs), encoding


def scored(run: Run, encoding: Encoding, source: Source, unknowns: Unknowns) -> Iterator[pa.Table]:
    """Probabilities of every row, in order: a table a chunk, a column a head. Labels are not needed.

    Raises:
        DataError: what is wrong with the rows.
    """
    for table in source.chunks(encoding.schema, labels=False):
        coded = encode(table, encoding)
        unknowns.see(table)
        q = probabilities(run.model, coded).numpy()
        _refuse_none(table, coded, q, encoding)
        yield pa.table({head.name: q[:, j] for j, head in enumerate(encoding.schema.heads)})


def write_scores(
    run: Run, encoding: Encoding, source: Source, path: Path, tell: Callable[[str], None] = lambda _: None
) -> int:
    """Write the probabilities as Parquet, all of them or nothing; the number of rows.

    `tell` hears of fields whose values the model mostly does not know.
    """
    unknowns = Unknowns(encoding)
    heads = pa.schema([(head.name, pa.float64()) for head in encoding.schema.heads])
    count, part = 0, path.with_name(f"{path.name}.part")
    try:
        with parquet.ParquetWriter(part, heads) as writer:
            for table in scored(run, encoding, source, unknowns):
                writer.write_table(table)
                count += table.num_rows
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    for line in unknowns.told():
        tell(line)
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
