"""Small files with a known structure, for tests."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from nas.prepare import Sources, prepare
from nas.readers import Source
from nas.rows import Parts
from nas.schema import Field, Head, Schema
from nas.splits import Split

FIELDS = (
    Field(name="age", kind="dense"),
    Field(name="income", kind="dense", transform="log"),
    Field(name="city", kind="categorical"),
    Field(name="device", kind="categorical"),
    Field(name="tags", kind="multi", longest=3),
)
HEADS = (Head(name="click", label="click", truth="true_click"), Head(name="like", label="like", truth="true_like"))
SCHEMA = Schema(fields=FIELDS, heads=HEADS, time="ts_ms", request="request")
PER_REQUEST = 10


def world(rows: int = 3000, seed: int = 0) -> pa.Table:
    """Clicks depend on an interaction of city and device and on age; likes are rarer and depend on tags."""
    rng = np.random.default_rng(seed)
    age, income = rng.normal(40, 10, rows), rng.lognormal(8, 1, rows)
    city, device = rng.integers(0, 6, rows), rng.integers(0, 4, rows)
    tags = [rng.choice(5, rng.integers(0, 4), replace=False) for _ in range(rows)]
    pull = np.random.default_rng(99).normal(0, 1.2, (6, 4))
    click = 1 / (1 + np.exp(-(pull[city, device] + (age - 40) / 15)))
    like = 1 / (1 + np.exp(-(-2.5 + np.array([2.0 * (2 in t) - (4 in t) for t in tags]) + 0.5 * pull[city, device])))
    return pa.table(
        {
            "age": age,
            "income": income,
            "city": [f"c{i}" for i in city],
            "device": [f"d{i}" for i in device],
            "tags": ["|".join(f"t{i}" for i in t) for t in tags],
            "click": (rng.random(rows) < click).astype(float),
            "like": (rng.random(rows) < like).astype(float),
            "true_click": click,
            "true_like": like,
            "ts_ms": np.arange(rows) * 1000,
            "request": [f"r{i // PER_REQUEST}" for i in range(rows)],
        }
    )


def parquet_file(folder: Path, table: pa.Table, name: str = "log.parquet") -> Source:
    """A table as a Parquet file of small row groups."""
    parquet.write_table(table, folder / name, row_group_size=700)
    return Source("parquet", (str(folder / name),))


def parts(folder: Path, rows: int = 3000, split: Split | None = None, schema: Schema = SCHEMA) -> Parts:
    """The world, prepared."""
    source = parquet_file(folder, world(rows))
    return prepare(Sources(whole=source), schema, split or Split(by="group", valid=0.2, test=0.2), folder / "prepared")
