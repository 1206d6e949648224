"""Files become a stream of Arrow tables, a few thousand rows at a time: memory does not grow with the file."""

import csv as text_csv
import gzip
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TextIO

import msgspec
import numpy as np
import pyarrow as pa
from pyarrow import compute, csv, parquet

from nas.columns import FILE, ROW, of_lists
from nas.layouts import CRITEO, KDD12, Layout
from nas.schema import DataError, Schema

CHUNK_ROWS = 50_000
BLOCK_BYTES = 8 << 20  # of a text file that are parsed at once
INDICES, LABEL, QID = "indices", "label", "qid"  # columns of a libsvm file
TABS: tuple[Layout, ...] = ("tsv", "criteo", "kdd12")  # columns stand between tabs, which know no quotes
QUOTED = r'^"([^"]|"")*"$'
UNLABELLED = {"criteo": CRITEO[1:], "kdd12": KDD12[2:]}  # of rows that are only scored: their own test files' columns


class Source(msgspec.Struct, frozen=True):
    """Files of one layout, in order.

    `header`: the columns' names where the files have none; `truth`: files with the same keys in the same order, whose
    columns of true probabilities are put beside.
    """

    layout: Layout
    files: tuple[str, ...]
    header: tuple[str, ...] = ()
    truth: tuple[str, ...] = ()

    def chunks(self, schema: Schema, labels: bool = True) -> Iterator[pa.Table]:
        """Tables with the schema's columns, as they stand in the files.

        Raises:
            DataError: a file is missing or cannot be read as its layout, or it lacks a column.
        """
        for path in (*self.files, *self.truth):
            if not Path(path).exists():
                raise DataError(f"{path}: there is no such file")
        read = _beside(self, schema, labels) if self.truth else self._read(self.files, schema, labels)
        yield from read

    def _read(self, files: Sequence[str], schema: Schema, labels: bool) -> Iterator[pa.Table]:
        for path in map(Path, files):
            with _readable(path, self.layout):
                yield from _chunks_of(self, path, schema, labels)


def columns(source: Source) -> tuple[str, ...]:
    """All columns that its files have; a libsvm file's are not known before its last line.

    Raises:
        DataError: a file cannot be read as its layout.
    """
    found: dict[str, None] = {}
    for path in map(Path, source.files):
        with _readable(path, source.layout):
            parquets = source.layout in ("parquet", "ranking-log")
            names = parquet.read_schema(path).names if parquets else _fixed(source)
            found |= dict.fromkeys(names or _header(path, source.layout, _first_line(path)[0]))
    return tuple(found)


def _fixed(source: Source) -> tuple[str, ...]:
    """The columns of files that do not name them."""
    return {"criteo": CRITEO, "kdd12": KDD12}.get(source.layout, source.header)


@contextmanager
def _readable(path: Path, layout: Layout) -> Iterator[None]:
    """What cannot be read is named by its file."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, text_csv.Error) as error:
        text = layout not in ("parquet", "ranking-log") and isinstance(error, UnicodeDecodeError | pa.ArrowException)
        with suppress(OSError, EOFError, zlib.error, text_csv.Error):  # what is broken otherwise is told as it came
            if text and (found := _misencoded(path, layout) or _unclosed(path, layout)):
                raise DataError(found) from error
        raise DataError(f"{path}: not readable as {layout}: {error}") from error


def _misencoded(path: Path, layout: Layout) -> str:
    """Where a file holds the first byte that is no UTF-8, if any."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                before = line[: error.start].decode()
                cells = before.split("\t") if layout in TABS else next(text_csv.reader([before]))
                column = "" if layout == "libsvm" else f", column {max(1, len(cells))}"
                return f"{path}, line {number}{column}: found the byte {line[error.start]:#x}; expected text in UTF-8"
    return ""


def _unclosed(path: Path, layout: Layout) -> str:
    """Where a file holds the first quote that begins a value and has none on its line that ends it, if any."""
    if layout in (*TABS, "libsvm"):
        return ""
    with _opened(path) as lines:
        for number, line in enumerate(lines, 1):
            read = text_csv.reader([line.rstrip("\r\n"), ""])
            cells = next(read) if '"' in line else []
            if read.line_num > 1:
                return (
                    f"{path}, line {number}, column {len(cells)}: found a quote that nothing closes on its line; "
                    "expected a second one, or none (no value holds an end of line)"
                )
    return ""


def _lines(path: Path) -> int:
    """How many there are that hold something."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        return sum(1 for line in lines if line.rstrip(b"\r\n"))


def _chunks_of(source: Source, path: Path, schema: Schema, labels: bool) -> Iterator[pa.Table]:
    wanted = schema.columns(labels)
    if source.layout in ("parquet", "ranking-log"):
        return _of_kinds(path, schema, _parquet(path, wanted))
    if source.layout == "libsvm":
        _require(path, wanted, (LABEL, INDICES, QID, *(field.name for field in schema.of("dense"))))
        return _numbered(path, _libsvm(path, schema, labels))
    fixed = _fixed(source)
    if source.layout == "kdd12" and labels:
        return map(_two_rows, _numbered(path, _delimited(path, source.layout, fixed, [*KDD12])))
    if source.layout in UNLABELLED and not labels and _width(path) < len(fixed):
        fixed = UNLABELLED[source.layout]
    return _numbered(path, _delimited(path, source.layout, fixed, wanted))


def _require(path: Path, wanted: Iterable[str], found: Sequence[str]) -> None:
    lacking = [name for name in wanted if name not in found]
    if lacking:
        raise DataError(f"{path}: there is no column {lacking[0]!r}; the file has {', '.join(found)}")


def _numbered(path: Path, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The tables with each row's number in the file, and its name."""
    first = 1
    for table in tables:
        rows = pa.array(np.arange(first, first + table.num_rows))
        yield table.append_column(ROW, rows).replace_schema_metadata({FILE: str(path)})
        first += table.num_rows


def _of_kinds(path: Path, schema: Schema, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The tables, if every column is of a type that its field's kind may have."""
    inputs = {field.name for field in schema.fields}
    for table in tables:
        for column in table.schema:
            lists = column.name == schema.request and of_lists(column.type)
            if column.name not in inputs and pa.types.is_nested(column.type) and not lists:
                raise DataError(f"{path}: column {column.name!r}: found {column.type}; expected values")
        for field in schema.fields:
            kind = table[field.name].type
            if of_lists(kind) and field.kind != "multi":
                raise DataError(f'{path}: column {field.name!r} holds lists, so its field is of kind "multi"')
            if pa.types.is_nested(kind.value_type if of_lists(kind) else kind):
                raise DataError(f"{path}: column {field.name!r}: found {kind}; expected values or lists of values")
        yield table


def _parquet(path: Path, wanted: Sequence[str]) -> Iterator[pa.Table]:
    file = parquet.ParquetFile(path)
    _require(path, wanted, file.schema_arrow.names)
    batches = file.iter_batches(CHUNK_ROWS, columns=list(wanted))
    return _numbered(path, (pa.Table.from_batches([batch]) for batch in batches))


def _delimited(path: Path, layout: Layout, names: Sequence[str], wanted: Sequence[str]) -> Iterator[pa.Table]:
    """Every column as text: what a column means is decided in one place, for all layouts (`encoding`).

    Between tabs a quote is a character like any other: were it the beginning of a text that may hold ends of lines, a
    stray one would make a single row of all lines up to the next one. What writers of tsv quote as a whole is unquoted.
    Between commas it is such a beginning, so there a file is refused in the end if its rows are fewer than its lines.
    """
    rows = 0
    first, before = ("", -1) if names else _first_line(path)
    head = tuple(names) or _header(path, layout, first)
    _require(path, wanted, head)
    with csv.open_csv(
        path,
        read_options=csv.ReadOptions(column_names=list(head), skip_rows=before + 1, block_size=BLOCK_BYTES),
        parse_options=csv.ParseOptions(
            delimiter="\t" if layout in TABS else ",", quote_char=False if layout in TABS else '"'
        ),
        convert_options=csv.ConvertOptions(
            include_columns=list(wanted), column_types=dict.fromkeys(wanted, pa.string()), strings_can_be_null=False
        ),
    ) as reader:
        for batch in reader:
            table = pa.Table.from_batches([batch])
            rows += table.num_rows
            if layout == "tsv":
                table = pa.table([_unquoted(column) for column in table.columns], table.column_names)
            for start in range(0, table.num_rows, CHUNK_ROWS):
                yield table.slice(start, CHUNK_ROWS)
    if layout not in TABS and rows < _lines(path) - (not names) and (found := _unclosed(path, layout)):
        raise DataError(found)


def _unquoted(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts without the quotes around them, those within single again; others as they are."""
    whole = compute.match_substring_regex(column, QUOTED)
    if not compute.any(whole).as_py():
        return column
    inner = compute.replace_substring(compute.utf8_slice_codeunits(column, 1, -1), '""', '"')
    return compute.if_else(whole, inner, column)


def _header(path: Path, layout: Layout, line: str) -> tuple[str, ...]:
    if not line:
        raise DataError(f"{path}: the file is empty")
    if layout in TABS:
        found = _unquoted(pa.chunked_array([line.split("\t")])).to_pylist()
    else:
        found = next(text_csv.reader([line]))
    names = tuple(name.strip() for name in found)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{path}: the header names {twice[0]!r} twice")
    return names


def _first_line(path: Path) -> tuple[str, int]:
    """The first line that holds something, and how many are before it; nothing where none does."""
    with _opened(path) as lines:
        return next(((line.rstrip("\r\n"), before) for before, line in enumerate(lines) if line.strip()), ("", 0))


def _width(path: Path) -> int:
    """Columns of a file whose columns stand between tabs."""
    return _first_line(path)[0].count("\t") + 1


def _opened(path: Path) -> TextIO:
    """A file of text; a mark of byte order at its beginning is no part of it."""
    return gzip.open(path, "rt", encoding="utf-8-sig") if path.suffix == ".gz" else path.open(encoding="utf-8-sig")


def _libsvm(path: Path, schema: Schema, labels: bool) -> Iterator[pa.Table]:
    """Lines `label index:value ...`; libfm's are the same. The column `qid` is what stands behind `qid:`, if anything.

    A dense field is named by its index; the column `indices` lists a line's other indices whose value is not 0. Where
    labels are not asked for a line may have none, or nothing at all: it has a score like every other.
    """
    dense = [field.name for field in schema.of("dense") if field.name != QID]
    with _opened(path) as lines:
        numbered = enumerate(lines, 1)
        rows = ((number, said) for number, line in numbered if (said := line.split("#")[0].split()) or not labels)
        while chunk := [*islice(rows, CHUNK_ROWS)]:
            yield _libsvm_table(path, chunk, dense, labels)


def _libsvm_table(path: Path, chunk: Sequence[tuple[int, list[str]]], dense: Sequence[str], labels: bool) -> pa.Table:
    columns: dict[str, list[object]] = {name: [] for name in (LABEL, INDICES, QID, *dense)}
    for number, said in chunk:
        label, *pairs = said or [""]
        if ":" in label:
            if labels:
                raise DataError(f"{path}, line {number}: found {label!r} where a label belongs")
            label, pairs = "", [label, *pairs]
        values = dict(pair.rpartition(":")[::2] for pair in pairs)
        if "" in values:
            wrong = next(pair for pair in pairs if not pair.rpartition(":")[0])
            raise DataError(f"{path}, line {number}: found {wrong!r} where index:value belongs")
        columns[LABEL].append({"-1": "0", "+1": "1"}.get(label, label))
        columns[QID].append(values.pop(QID, None))
        for name in dense:
            columns[name].append(values.pop(name, "0"))
        columns[INDICES].append([index for index, value in values.items() if _weight(path, number, index, value)])
    types = {LABEL: pa.string(), INDICES: pa.list_(pa.string()), QID: pa.string(), **dict.fromkeys(dense, pa.string())}
    return pa.table({name: pa.array(values, types[name]) for name, values in columns.items()})


def _weight(path: Path, number: int, index: str, value: str) -> float:
    try:
        weight = float(value)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise DataError(
            f"{path}, line {number}: found {f'{index}:{value}'!r}; expected a finite number behind the colon"
        )
    return weight


def _two_rows(table: pa.Table) -> pa.Table:
    """A line of `impression` and `click` counts: one row for the clicks, one for the rest, weighted by their number."""
    clicks, shown = (compute.cast(table[name], pa.float64()) for name in ("click", "impression"))
    parts = []
    for label, weight in (("1", clicks), ("0", compute.subtract(shown, clicks))):
        part = table.append_column("label", pa.array([label] * table.num_rows, pa.string())).append_column(
            "weight", weight
        )
        parts.append(part.filter(compute.greater(weight, 0.0)))
    return pa.concat_tables(parts)


def _beside(source: Source, schema: Schema, labels: bool) -> Iterator[pa.Table]:
    """The log's chunks with the true probabilities of the files that hold the same keys, checked row by row."""
    keys = ("request", "item")
    truths = [head.truth for head in schema.heads if head.truth]
    with_keys = [*dict.fromkeys((*schema.columns(labels), *keys))]
    logs = _all_of(source.files, [name for name in with_keys if name not in truths], schema)
    known = _all_of(source.truth, [*keys, *truths])
    for log, truth in _side_by_side(logs, known):
        if log is None or truth is None or any(not log[key].equals(truth[key]) for key in keys):
            raise DataError(f"{source.truth[0]}: its rows are not those of {source.files[0]}: {', '.join(keys)} differ")
        logged = {name: log[name] for name in log.column_names}
        yield pa.table({**logged, **{name: truth[name] for name in truths}}, metadata=log.schema.metadata)


def _all_of(paths: Sequence[str], wanted: Sequence[str], schema: Schema | None = None) -> Iterator[pa.Table]:
    """The chunks of Parquet files, one file after the other; of types that a schema's fields may have, where given."""
    for path in map(Path, paths):
        try:
            tables = _parquet(path, wanted)
            yield from tables if schema is None else _of_kinds(path, schema, tables)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: not readable as Parquet: {error}") from error


def _side_by_side(
    first: Iterator[pa.Table], second: Iterator[pa.Table]
) -> Iterator[tuple[pa.Table | None, pa.Table | None]]:
    """Chunks of two streams cut to the same rows, wherever their files end; None where one of them has ended."""
    one, other = next(first, None), next(second, None)
    while one is not None and other is not None:
        rows = min(one.num_rows, other.num_rows)
        yield one.slice(0, rows), other.slice(0, rows)
        one = one.slice(rows) if one.num_rows > rows else next(first, None)
        other = other.slice(rows) if other.num_rows > rows else next(second, None)
    if one is not None or other is not None:
        yield one, other
