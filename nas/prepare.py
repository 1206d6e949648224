"""Files become a prepared folder: encoded train, valid and test rows, and the encoding that training rows gave.

Two passes over the files: one learns vocabularies and transforms from training rows, one encodes. A folder whose
digest of sources, schema and split is the same is used again. One process at a time prepares or opens a folder.
"""

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from nas.atomic import replaced
from nas.columns import labels, numbers, place, probabilities
from nas.encoding import Encoding, encode, learned, present
from nas.locks import alone, in_use, used
from nas.readers import Source
from nas.rows import Parts, Rows, Writer, mapped
from nas.schema import DataError, Schema
from nas.splits import PARTS, TRAIN, Cuts, Split, part_of, requests, time_cuts

FORMAT = 4  # of prepared folders: with the fourth, qid of a libsvm line is none of its indices
_ENCODING, _BEGUN, _DONE = "encoding.json", "preparing", "prepared.json"
Say = Callable[[str], None]


class Sources(msgspec.Struct, frozen=True):
    """One source to be split, or three that are split already."""

    whole: Source | None = None
    train: Source | None = None
    valid: Source | None = None
    test: Source | None = None

    def given(self) -> tuple[tuple[int, Source], ...]:
        """Each given source with its part; -1 for a source to be split."""
        parts = tuple((number, getattr(self, name)) for number, name in enumerate(PARTS) if getattr(self, name))
        return parts if self.whole is None else ((-1, self.whole),)


def prepare(
    sources: Sources, schema: Schema, split: Split, folder: Path, say: Say = lambda _: None, tell: Say = lambda _: None,
    using: ExitStack | None = None,
) -> Parts:  # fmt: skip
    """Prepare a data set, or open it when `folder` holds it already, or will once another process has prepared it.

    `say` hears how far it is, `tell` what whoever asked must know. Until `using` is closed, nobody else prepares others
    in the place of these rows.

    Raises:
        DataError: what is wrong with the data, by file, column and row; or the folder holds something else, or others
            that somebody uses.
    """
    wanted = _fingerprint(sources, schema, split)
    done = folder / _DONE
    with _alone(folder, tell):
        if not (done.exists() and msgspec.json.decode(done.read_bytes())["fingerprint"] == wanted):
            _cleared(folder, sources)
            _prepare(sources, schema, split, folder, wanted, say, tell)
        if using is not None:
            using.enter_context(used(folder))
        return opened(folder)


@contextmanager
def _alone(folder: Path, tell: Say) -> Iterator[None]:
    """Hold the lock beside a folder. Where nothing can be written there is none: what was prepared can be opened."""
    if not folder.parent.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(folder.parent, os.W_OK):
        yield
        return
    path = folder.with_name(f"{folder.name}.lock")
    with suppress(FileExistsError):
        path.touch(0o666, exist_ok=False)
    with alone(path, f"prepares {folder}", tell):
        yield


def _cleared(folder: Path, sources: Sources) -> None:
    """A folder without the rows that were prepared before; nothing else is ever removed."""
    for path in (path for _, source in sources.given() for path in (*source.files, *source.truth)):
        if folder.resolve() in Path(path).resolve().parents:
            raise DataError(f"{path}: lies in {folder}, which prepared rows take the place of; name another --out")
    ours = (folder / _BEGUN).exists() or (folder / _DONE).exists()
    if folder.exists() and not ours and any(folder.iterdir()):
        raise DataError(f"{folder}: holds something else than prepared rows, which would go there; name another --out")
    if folder.exists() and in_use(folder):
        raise DataError(
            f"{folder}: another command uses the rows there, which are of other files, fields, heads or another split "
            "than this design names now; wait for its end, or name another --out"
        )
    folder.mkdir(exist_ok=True)
    (folder / _BEGUN).touch()
    (folder / _DONE).unlink(missing_ok=True)
    for part in PARTS:  # who has them mapped keeps them: what is written now are other files
        if (folder / part).exists():
            shutil.rmtree(folder / part)


def opened(folder: Path) -> Parts:
    """A folder that was prepared."""
    encoding = msgspec.json.decode((folder / _ENCODING).read_bytes(), type=Encoding)
    digest = msgspec.json.decode((folder / _DONE).read_bytes())["digest"]
    train, valid, test = (mapped(folder / part) for part in PARTS)
    return Parts(train, valid, test, encoding, digest)


def _prepare(
    sources: Sources, schema: Schema, split: Split, folder: Path, fingerprint: str, say: Say, tell: Say
) -> None:
    cuts = _cuts(sources, schema, split)
    say("reading training rows for vocabularies and transforms")
    encoding = learned(_training(sources, schema, split, cuts), schema)
    writers, cut = [Writer(folder / part) for part in PARTS], Cut(schema)
    for table, first, part in _parted(sources, schema, split, cuts):
        say(f"encoded {first + table.num_rows:,} rows")
        rows = coded_rows(table, encoding, first)
        cut.see(table)
        observed = ~np.isnan(rows.labels).all(axis=1)
        known = observed | ~np.isnan(rows.truth).all(axis=1)  # what was not shown still tells what could be captured
        for number, writer in enumerate(writers):
            kept = observed if number == TRAIN else known
            writer.write(rows.take(np.flatnonzero((part == number) & kept)))
    for line in cut.told():
        tell(line)
    digests = [writer.close() for writer in writers]
    _refuse_empty(writers, schema, folder)
    raw = msgspec.json.encode(encoding)
    (folder / _ENCODING).write_bytes(raw)
    digest = hashlib.sha256("".join(digests).encode() + raw).hexdigest()
    with replaced(folder / _DONE) as done:
        done.write_bytes(msgspec.json.encode({"fingerprint": fingerprint, "digest": digest}))


class Cut:
    """Counts the rows of whose values a multi-valued field keeps the first `longest` alone."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.rows = 0
        self.cut, self.most = Counter[str](), Counter[str]()

    def see(self, table: pa.Table) -> None:
        """Count one chunk."""
        self.rows += table.num_rows
        for field in self.schema.of("multi"):
            owner, _ = present(table, field, self.schema)
            lengths = np.bincount(owner, minlength=1)
            self.cut[field.name] += int((lengths > field.longest).sum())
            self.most[field.name] = max(self.most[field.name], int(lengths.max()))

    def told(self) -> list[str]:
        """A line for each field that is cut."""
        return [
            f"{field.name}: {self.cut[field.name]:,} of {self.rows:,} rows hold more than {field.longest} values, up "
            f"to {self.most[field.name]:,}; the first are kept, more with a larger `longest` of its [[fields]]"
            for field in self.schema.of("multi")
            if self.cut[field.name]
        ]


def coded_rows(table: pa.Table, encoding: Encoding, first_row: int) -> Rows:
    """A chunk, with its labels, as numbers; where the schema names no request, each row, by its number, is one.

    Raises:
        DataError: a label that is neither 0 nor 1, a weight below 0, something that is no number.
    """
    schema, n = encoding.schema, table.num_rows
    observed = [labels(table, head, schema) for head in schema.heads]
    true = [probabilities(table, head, schema) if head.truth else np.full(n, np.nan) for head in schema.heads]
    weight = numbers(table, schema.weight, schema) if schema.weight else np.ones(n)
    if not (weight >= 0).all():
        at = int((~(weight >= 0)).argmax())
        raise DataError(f"{place(table, schema.weight or '', at)}: found {weight[at]:g}; expected 0 or more")
    return Rows(
        encode(table, encoding),
        np.stack(observed, axis=1).astype(np.float32),
        np.stack(true, axis=1).astype(np.float32),
        weight.astype(np.float32),
        requests(table, schema) if schema.request else np.arange(first_row, first_row + n, dtype=np.uint64),
        numbers(table, schema.time, schema) if schema.time else np.zeros(n),
    )


def _cuts(sources: Sources, schema: Schema, split: Split) -> Cuts | None:
    if sources.whole is None or split.by != "time":
        return None
    if schema.time is None:
        raise DataError("split by time: the schema names no time column")
    name = schema.time
    times = []
    for table in sources.whole.chunks(schema):
        times.append(numbers(table, name, schema))
        none = np.isnan(times[-1])
        if none.any():
            where = place(table, name, int(none.argmax()))
            raise DataError(f"{where}: a row has no time, so it is in no part of a split by time")
    if not sum(map(len, times)):
        raise DataError(f"{sources.whole.files[0]}: there are no rows")
    return time_cuts(times, split)


def _parted(
    sources: Sources, schema: Schema, split: Split, cuts: Cuts | None
) -> Iterator[tuple[pa.Table, int, np.typing.NDArray[np.uint8]]]:
    """Chunks with their first row's number and the part of each row."""
    for number, source in sources.given():
        first = 0
        for table in source.chunks(schema):
            part = (
                np.full(table.num_rows, number, np.uint8) if number >= 0 else part_of(table, first, schema, split, cuts)
            )
            yield table, first, part
            first += table.num_rows


def _training(sources: Sources, schema: Schema, split: Split, cuts: Cuts | None) -> Iterator[pa.Table]:
    """What networks are trained on: of rows without any label nothing is to be learned."""
    for table, _, part in _parted(sources, schema, split, cuts):
        observed = ~np.isnan([labels(table, head, schema) for head in schema.heads]).all(axis=0)
        yield table.filter(pa.array((part == TRAIN) & observed))


def _refuse_empty(writers: list[Writer], schema: Schema, folder: Path) -> None:
    for name, writer in zip(PARTS, writers, strict=True):
        if not writer.count:
            raise DataError(f"the {name} part is empty: no row with an observed label falls in it; change the split")
    valid = mapped(folder / "valid")
    judged = np.asarray(valid.labels)[np.asarray(valid.weight) > 0]
    for j, head in enumerate(schema.heads):
        if np.isnan(judged[:, j]).all():
            counted = f" of a {schema.weight!r} above 0" if schema.weight else ""
            raise DataError(f"head {head.name!r}: no validation row{counted} has a {head.label!r}; change the split")
    train = mapped(folder / "train")
    observed = np.asarray(train.labels)[np.asarray(train.weight) > 0]
    for j, head in enumerate(schema.heads):
        for value in (0, 1):
            if not (observed[:, j] == value).any():
                wanted = f"{head.positive!r} (positive)" if value and head.positive is not None else value
                raise DataError(
                    f"head {head.name!r}: no training row's {head.label!r} is {wanted}; there is nothing to learn"
                )


def _fingerprint(sources: Sources, schema: Schema, split: Split) -> str:
    """Of the request and of the files' sizes and times of change; a file is the same however its path is written."""
    resolved = [(number, _resolved(source)) for number, source in sources.given()]
    files = [path for _, source in resolved for path in (*source.files, *source.truth)]
    stats = [(path, Path(path).stat().st_size, Path(path).stat().st_mtime_ns) for path in files if Path(path).exists()]
    return hashlib.sha256(msgspec.json.encode((FORMAT, resolved, schema, split, stats))).hexdigest()


def _resolved(source: Source) -> Source:
    files, truth = (tuple(str(Path(path).resolve()) for path in paths) for paths in (source.files, source.truth))
    return msgspec.structs.replace(source, files=files, truth=truth)
