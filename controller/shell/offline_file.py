"""Predictions made before the study, as a CSV file: a column for each weight, then `metric`, `change` and `se`.

    p_like,metric,change,se
    2.5,watch,0.013,0.004
    2.5,ctr,-0.001,0.002

`change` is relative to the baseline (0.013 is +1.3 %), `se` its standard error. A weight without a column stands at its
baseline; a vector may miss metrics, and may lie outside the bounds.
"""

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from controller.core.estimate import MAX_CHANGE
from controller.core.offline import MAX_VECTORS, Prediction
from controller.core.space import Weight
from controller.shell.toml_records import Mistake, names, show

_KEY = "offline.path"
_COLUMNS = ("metric", "change", "se")
_MAX_ROWS = 100_000  # of a file that is read at all


def read_predictions(
    path: Path, weights: tuple[Weight, ...], metrics: tuple[str, ...]
) -> tuple[tuple[Prediction, ...], list[Mistake]]:
    """The file's rows in its order, or what is wrong with them, by line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            mistakes = list(_header(list(reader.fieldnames or ()), weights))
            if mistakes:
                return (), mistakes
            read = [
                _row(row, reader.line_num, weights, metrics) for row, _ in zip(reader, range(_MAX_ROWS), strict=False)
            ]
    except FileNotFoundError:
        return (), [Mistake(_KEY, f"no such file: {path}", "a CSV file; relative paths start at the study file")]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return (), [Mistake(_KEY, f"{path}: {error}", "a CSV file in UTF-8 that can be read")]
    rows = [row for row in read if isinstance(row, Prediction)]
    mistakes = [row for row in read if isinstance(row, Mistake)]
    return tuple(rows), mistakes or list(_together(rows))


def _header(columns: list[str], weights: tuple[Weight, ...]) -> Iterator[Mistake]:
    known = (*(weight.name for weight in weights), *_COLUMNS)
    for name in _COLUMNS:
        if name not in columns:
            yield Mistake(f"{_KEY}, line 1", f"no column {name!r}", "a header with metric, change, se and weights")
    for name in columns:
        if name not in known:
            yield Mistake(f"{_KEY}, line 1", f"a column {name!r}", names(known, name))
        elif columns.count(name) > 1:
            yield Mistake(f"{_KEY}, line 1", f"the column {name!r} twice", "each column once")


def _row(
    row: Mapping[str | None, str | None], line: int, weights: tuple[Weight, ...], metrics: tuple[str, ...]
) -> Prediction | Mistake:
    place = f"{_KEY}, line {line}"
    if None in row or None in row.values():
        return Mistake(place, "another number of fields than the header has", "one field a column")
    if row["metric"] not in metrics:
        return Mistake(f"{place}, metric", show(row["metric"]), names(metrics, str(row["metric"])))
    theta = []
    for weight in weights:
        value = _number(row.get(weight.name, str(weight.baseline)))
        if value is None or (weight.scale == "log" and value <= 0) or (weight.fixed and value != weight.baseline):
            accepted = f"{weight.baseline}: it is fixed" if weight.fixed else "a number"
            accepted += ", above 0 as its scale is a logarithm" if weight.scale == "log" and not weight.fixed else ""
            return Mistake(f"{place}, {weight.name}", show(row[weight.name]), accepted)
        theta.append(value)
    change, se = _number(row["change"]), _number(row["se"])
    if change is None or not -1.0 <= change <= MAX_CHANGE:
        return Mistake(f"{place}, change", show(row["change"]), "a relative change: 0.01 is +1 %; at least -1")
    if se is None or not 0.0 < se <= MAX_CHANGE:
        return Mistake(f"{place}, se", show(row["se"]), "a standard error above 0, as a relative change")
    return Prediction(tuple(theta), str(row["metric"]), change, se)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _together(rows: list[Prediction]) -> Iterator[Mistake]:
    vectors = len({row.theta for row in rows})
    if not rows:
        yield Mistake(_KEY, "a header without rows", "at least one prediction")
    if vectors > MAX_VECTORS:
        yield Mistake(
            _KEY, f"{vectors} weight vectors", f"at most {MAX_VECTORS}: spread over the space, more near the baseline"
        )
    if len({(row.theta, row.metric) for row in rows}) < len(rows):
        yield Mistake(_KEY, "a vector with the same metric twice", "one row for a vector and a metric")
