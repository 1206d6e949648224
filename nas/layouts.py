"""Schemas of files that many people have: Criteo, Avazu, KDD-12 (track 2), and ranking logs."""

from typing import Literal, get_args

import pyarrow as pa

from nas.columns import of_lists
from nas.schema import DataError, Field, Head, Kind, Schema

Layout = Literal["csv", "tsv", "parquet", "ranking-log", "libsvm", "criteo", "avazu", "kdd12"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
CRITEO = ("label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27)))
AVAZU = (
    "id", "click", "hour", "C1", "banner_pos", "site_id", "site_domain", "site_category",
    "app_id", "app_domain", "app_category",
    "device_id", "device_ip", "device_model", "device_type", "device_conn_type", *(f"C{i}" for i in range(14, 22)),
)  # fmt: skip
KDD12 = (
    "click", "impression", "url", "ad", "advertiser", "depth", "position", "query", "keyword", "title", "description",
    "user",
)  # fmt: skip
INPUTS = ("user_", "item_", "context_")  # prefixes of features in a ranking log
HASHED = 200_000  # rows of a field with many values


def criteo() -> Schema:
    """13 counts, 26 hashed categories, one click; tab-separated, without a header."""
    dense = tuple(Field(name=name, kind="dense", transform="log") for name in CRITEO[1:14])
    sparse = tuple(Field(name=name, kind="categorical", min_count=10) for name in CRITEO[14:])
    return Schema(fields=dense + sparse, heads=(Head(name="click", label="label"),))


def avazu() -> Schema:
    """22 categories, one click, in order of `hour` (YYMMDDHH)."""
    fields = tuple(Field(name=name, kind="categorical", min_count=5) for name in AVAZU[3:])
    return Schema(fields=fields, heads=(Head(name="click", label="click"),), time="hour")


def kdd12() -> Schema:
    """A search session's ad; a line with clicks and impressions counts as two weighted rows."""
    fields = tuple(
        Field(name=name, kind="categorical", buckets=0 if name in ("depth", "position") else HASHED)
        for name in KDD12[2:]
    )
    return Schema(fields=fields, heads=(Head(name="click", label="label"),), weight="weight")


def ranking_log(columns: pa.Schema, heads: tuple[str, ...] = ()) -> Schema:
    """A ranking log (docs/simulators.md): every `user_*`, `item_*`, `context_*` is an input, every `label_*` a head.

    Numbers are dense, texts and truth values categorical, lists multi-valued; `pred_*` is never an input.

    Raises:
        DataError: there is no input or no label.
    """
    fields = tuple(
        Field(name=column.name, kind=_kind(column.type)) for column in columns if column.name.startswith(INPUTS)
    )
    labels = tuple(name for name in columns.names if name.startswith("label_"))
    wanted = heads or tuple(name.removeprefix("label_") for name in labels)
    unknown = [name for name in wanted if f"label_{name}" not in labels]
    if not fields or not labels or unknown:
        what = (
            f"no label_{unknown[0]}" if unknown else "no column user_*, item_*, context_*" if labels else "no label_*"
        )
        raise DataError(f"not a ranking log: {what}; it has {', '.join(columns.names)}")
    return Schema(
        fields=fields,
        heads=tuple(Head(name=name, label=f"label_{name}", truth=_present(f"true_{name}", columns)) for name in wanted),
        time="ts_ms",
        request="request",
    )


def _kind(dtype: pa.DataType) -> Kind:
    if of_lists(dtype):
        return "multi"
    return "dense" if pa.types.is_floating(dtype) or pa.types.is_integer(dtype) else "categorical"


def _present(name: str, columns: pa.Schema) -> str | None:
    return name if name in columns.names else None
