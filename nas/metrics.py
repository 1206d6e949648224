"""How good predictions are, head by head.

Notation: n rows; y labels (NaN where not observed); q predicted and p true probabilities.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
EDGE = 1e-7  # probabilities are kept this far from 0 and 1
MIN_POSITIVES = 1000  # below so many, an AUC over labels is mostly noise
BINS = 20  # of the calibration error


class HeadMetrics(msgspec.Struct, frozen=True):
    """One head. `kl`: mean divergence of the true probabilities from the predicted; None where they are unknown."""

    head: str
    rows: int
    positives: int
    logloss: float
    auc: float | None
    calibration: float | None  # predicted over observed positives
    calibration_error: float
    kl: float | None


def head_metrics(head: str, q: Floats, y: Floats, p: Floats, weight: Floats) -> HeadMetrics:
    """Metrics over the rows whose label was observed."""
    seen = ~np.isnan(y)
    q, y, p, weight = q[seen], y[seen], p[seen], weight[seen]
    expected = float((weight * y).sum())
    return HeadMetrics(
        head=head,
        rows=len(y),
        positives=int(y.sum()),
        logloss=float(np.average(row_logloss(q, y), weights=weight)) if weight.sum() else float("nan"),
        auc=auc(q, y, weight) if 0 < expected < float(weight.sum()) else None,
        calibration=float((weight * q).sum()) / expected if expected else None,
        calibration_error=calibration_error(q, y, weight),
        kl=None if not weight.sum() or np.isnan(p).any() else float(np.average(row_kl(p, q), weights=weight)),
    )


def row_logloss(q: Floats, y: Floats) -> Floats:
    """(n,) cross-entropies."""
    q = np.clip(q, EDGE, 1 - EDGE)
    return np.asarray(-(y * np.log(q) + (1 - y) * np.log1p(-q)))


def row_kl(p: Floats, q: Floats) -> Floats:
    """(n,) Kullback-Leibler divergences of Bernoulli p from Bernoulli q."""
    p, q = np.clip(p, EDGE, 1 - EDGE), np.clip(q, EDGE, 1 - EDGE)
    return np.asarray(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))


def auc(scores: Floats, y: Floats, weight: Floats | None = None) -> float:
    """The chance that a positive scores above a negative, ties half (Mann-Whitney), both drawn by weight."""
    weight = np.ones(len(y)) if weight is None else weight
    _, place = np.unique(scores, return_inverse=True)
    positive, negative = (np.bincount(place, weights=weight * side) for side in (y, 1.0 - y))
    below = np.cumsum(negative) - negative / 2.0
    return float(positive @ below / (positive.sum() * negative.sum()))


def calibration_error(q: Floats, y: Floats, weight: Floats | None = None) -> float:
    """Mean distance between predicted and observed rates, by weight, over equally filled bins of the prediction."""
    weight = np.ones(len(y)) if weight is None else weight
    if not weight.sum():
        return float("nan")
    bins = np.array_split(np.argsort(q, kind="stable"), min(BINS, len(q)))
    return float(sum(abs(weight[rows] @ (q[rows] - y[rows])) for rows in bins) / weight.sum())
