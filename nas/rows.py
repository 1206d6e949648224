"""Encoded rows on disk, mapped into memory: a batch is read when it is needed; memory does not grow with the data."""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from nas.encoding import Coded, Encoding
from nas.schema import DataError

Array = NDArray[Any]

BLOCK = 1 << 16  # rows that are shuffled together; blocks are shuffled too
_META = "rows.json"


class Rows(msgspec.Struct, frozen=True, eq=False):
    """n rows of k heads. A label or truth is NaN where unknown; `request` is a hash, `time` as in the data."""

    features: Coded
    labels: NDArray[np.float32]  # (n, k)
    truth: NDArray[np.float32]  # (n, k)
    weight: NDArray[np.float32]  # (n,)
    request: NDArray[np.uint64]  # (n,)
    time: NDArray[np.float64]  # (n,)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.int64] | slice) -> "Rows":
        """The rows of an index, in memory."""
        rest: tuple[Array, ...] = (self.labels, self.truth, self.weight, self.request, self.time)
        return Rows(self.features.take(index), *(np.array(column[index]) for column in rest))

    def observed(self, at_most: int | None = None) -> "Rows":
        """The first rows with a label, in memory: what was not shown tells nothing of a loss."""
        return self.take(np.flatnonzero(~np.isnan(self.labels).all(axis=1))[:at_most])

    def arrays(self) -> dict[str, Array]:
        """Every array under its name."""
        f = self.features
        bags = {f"bag{j}": bag for j, bag in enumerate(f.bags)}
        names = ("labels", "truth", "weight", "request", "time")
        return {"dense": f.dense, "sparse": f.sparse, **bags, **{name: getattr(self, name) for name in names}}


class Parts(msgspec.Struct, frozen=True, eq=False):
    """A data set ready to learn from. `digest` names its bytes and its encoding."""

    train: Rows
    valid: Rows
    test: Rows
    encoding: Encoding
    digest: str


class Writer:
    """Appends chunks of rows to files in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.count = folder, 0
        self.files: dict[str, object] = {}
        self.hash = hashlib.sha256()

    def write(self, rows: Rows) -> None:
        """Append rows."""
        for name, array in rows.arrays().items():
            mode = "ab" if name in self.files else "wb"
            with (self.folder / f"{name}.bin").open(mode) as file:
                file.write(array.tobytes())
            self.files[name] = {"dtype": array.dtype.str, "shape": array.shape[1:]}
            self.hash.update(array.tobytes())
        self.count += len(rows)

    def close(self) -> str:
        """Finish; the digest of what was written."""
        (self.folder / _META).write_bytes(msgspec.json.encode({"rows": self.count, "files": self.files}))
        return self.hash.hexdigest()


def mapped(folder: Path) -> Rows:
    """Rows that were written to a folder.

    Raises:
        DataError: a file is not as long as its rows are.
    """
    meta = msgspec.json.decode((folder / _META).read_bytes())

    def array(name: str) -> Array:
        spec, path = meta["files"][name], folder / f"{name}.bin"
        shape, kind = (meta["rows"], *spec["shape"]), np.dtype(spec["dtype"])
        size, wanted = path.stat().st_size, math.prod(shape) * kind.itemsize
        if size != wanted:
            raise DataError(
                f"{path}: found {size:,} bytes; expected {wanted:,}, for {meta['rows']:,} rows; "
                f"remove {folder.parent}, and it is prepared again"
            )
        return np.memmap(path, kind, "r", shape=shape) if wanted else np.zeros(shape, kind)

    bags = tuple(array(f"bag{j}") for j in range(sum(name.startswith("bag") for name in meta["files"])))
    features = Coded(array("dense"), array("sparse"), bags)
    return Rows(features, *(array(name) for name in ("labels", "truth", "weight", "request", "time")))


def shuffled(rows: int, batch: int, seed: int, epoch: int, skip: int = 0) -> Iterator[NDArray[np.int64]]:
    """Indices of an epoch's batches, the same for the same seed and epoch; the first `skip` rows are left out.

    Blocks of `BLOCK` rows come in a drawn order, and rows in a drawn order within a block: an index in memory is never
    longer than a block. A last batch that is not full is left out, unless it is the only one.
    """
    batch = min(batch, rows)
    carried = np.zeros(0, np.int64)
    left = skip
    starts = np.arange(0, rows, BLOCK)
    for block in np.random.default_rng((seed, epoch)).permutation(len(starts)):
        size = min(BLOCK, rows - starts[block])
        order = np.random.default_rng((seed, epoch, int(block))).permutation(size) + starts[block]
        carried = np.concatenate((carried, order))
        while len(carried) >= batch:
            if left < batch:
                yield np.sort(carried[left:batch])
            left = max(0, left - batch)
            carried = carried[batch:]


def in_order(rows: int, batch: int) -> Iterator[slice]:
    """Slices of all rows, in order."""
    return (slice(start, min(start + batch, rows)) for start in range(0, rows, batch))
