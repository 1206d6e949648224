"""A model's metrics on a part of the data: per head, the training objective, and the value it captures."""

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import nn

from nas.batches import probabilities
from nas.metrics import HeadMetrics, head_metrics
from nas.rows import Rows
from nas.schema import Schema
from nas.value import ValueModel, value_captured, value_gauc

Floats = NDArray[np.float64]
TOP = 5  # rows of a request that value captured looks at


class Metrics(msgspec.Struct, frozen=True):
    """`loss`: the mean over heads of loss weight times logloss. Values are None without a value model."""

    loss: float
    heads: tuple[HeadMetrics, ...]
    value_captured: float | None = None  # mean over requests; where true probabilities are known
    value_gauc: float | None = None


def evaluate(
    model: nn.Module, rows: Rows, schema: Schema, weights: tuple[float, ...], value: ValueModel | None = None
) -> tuple[Metrics, Floats]:
    """Metrics, and the (n, k) predictions they are of: even odds where a model's are none.

    A training may leave the range of fp32. What it leaves behind then has losses that are bad, and numbers.
    """
    q = probabilities(model, rows.features).numpy()
    q = np.where(np.isnan(q), 0.5, q)
    return metrics_of(q, rows, schema, weights, value), q


def metrics_of(
    q: Floats, rows: Rows, schema: Schema, weights: tuple[float, ...], value: ValueModel | None = None
) -> Metrics:
    """Metrics of (n, k) predictions."""
    y, p, weight = (np.asarray(part, np.float64) for part in (rows.labels, rows.truth, rows.weight))
    heads = tuple(head_metrics(head.name, q[:, j], y[:, j], p[:, j], weight) for j, head in enumerate(schema.heads))
    loss = float(np.mean([w * head.logloss for w, head in zip(weights, heads, strict=True)]))
    if value is None or schema.request is None:
        return Metrics(loss, heads)
    request, predicted = np.asarray(rows.request), value.of(q)
    y, p = (np.where(np.asarray(value.weights) != 0, part, 0.0) for part in (y, p))  # other heads' are not asked for
    captured = None
    if not np.isnan(p).any():
        shares = value_captured(predicted, value.of(p), request, TOP)
        captured = float(shares.mean()) if len(shares) else None
    whole = ~np.isnan(y).any(axis=1)
    gauc = value_gauc(predicted[whole], value.of(y[whole]), request[whole]) if value.form == "linear" else None
    return Metrics(loss, heads, captured, gauc)
