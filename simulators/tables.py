"""Files of rows: what a file is, is told by its first bytes, and CSV by its ending."""

import gzip
from pathlib import Path
from typing import IO, Literal

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.json as pj
import pyarrow.parquet as pq

Kind = Literal["parquet", "arrow", "arrows", "csv", "ndjson"]
_GZIP = b"\x1f\x8b"
_MAGIC: dict[bytes, Kind] = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrows"}


def opened(path: Path) -> IO[bytes]:
    """The file's bytes, unzipped. Raises `OSError`."""
    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP
    return gzip.open(path) if zipped else path.open("rb")  # type: ignore[return-value]  # reads as any binary file


def kind_of(path: Path) -> Kind:
    """What the file holds. Raises `OSError`."""
    with opened(path) as file:
        head = file.read(6)
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    return "csv" if ".csv" in path.suffixes else "ndjson"


def read(path: Path) -> pa.Table:
    """All of its rows. Raises `OSError` or `pa.ArrowException`."""
    kind = kind_of(path)
    with opened(path) as file:
        if kind == "parquet":
            return pq.read_table(file)
        if kind == "arrow":
            return pa.ipc.open_file(file).read_all()
        if kind == "arrows":
            return pa.ipc.open_stream(file).read_all()
        return csv.read_csv(file) if kind == "csv" else pj.read_json(file)
