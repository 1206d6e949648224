"""What predictions are worth: the value model that folds them into a score, and how training and measuring follow it.

Notation: n rows, k heads; p true and q predicted probabilities (n, k); w weights (k,); pi base rates (k,).
"""

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Form = Literal["linear", "power"]

SMALLEST = 1e-9  # of a prediction under the power form, as in serving
FLOOR = 0.05  # of a head's loss weight, as a share of the mean: a head the value forgets is still learned a little
SMALLEST_RATE = 1e-6
PAIRS = 1 << 22  # of a request's rows that are compared at once: memory does not grow with the longest request


class ValueModel(msgspec.Struct, frozen=True):
    """`linear`: V = sum of w q. `power`: V = product of q to the power w. Weights stand in the order of the heads."""

    form: Form
    weights: tuple[float, ...]

    def of(self, predictions: Floats) -> Floats:
        """(n,) values of (n, k) predictions."""
        w = np.asarray(self.weights)
        if self.form == "linear":
            return np.asarray(predictions @ w)
        return np.asarray(np.exp(np.log(np.maximum(predictions, SMALLEST)) @ w))


def loss_weights(value: ValueModel, rates: Floats, floor: float = FLOOR) -> Floats:
    """(k,) weights of the heads' cross-entropies, of mean 1, none under `floor`.

    Cross-entropy exceeds its minimum by about (q - p)^2 / (2 p (1 - p)). The squared error of a linear value is the sum
    of w^2 (q - p)^2, so it asks for w^2 pi (1 - pi); the squared error of the logarithm of a product of powers is the
    sum of w^2 ((q - p) / p)^2, so it asks for w^2 (1 - pi) / pi. Both are squares: a negative weight (of a hate) makes
    its head matter, and never turns a loss into a gain.
    """
    pi = np.clip(rates, SMALLEST_RATE, 1 - SMALLEST_RATE)
    w2 = np.asarray(value.weights) ** 2
    raw = w2 * pi * (1 - pi) if value.form == "linear" else w2 * (1 - pi) / pi
    return _floored(raw, floor)


def _floored(raw: Floats, floor: float) -> Floats:
    """Of mean 1 with none under `floor`: what lies above shares what the floor leaves."""
    if not raw.sum() > 0:
        return np.ones_like(raw)
    low = np.zeros(len(raw), bool)
    while True:
        room = len(raw) - floor * low.sum()
        weights = np.where(low, floor, raw * room / raw[~low].sum())
        if not (weights[~low] < floor).any():
            return np.asarray(weights)
        low |= weights < floor


def value_captured(predicted: Floats, true: Floats, request: NDArray[np.uint64], k: int) -> Floats:
    """(requests,) the share of the true value to be had from a request's k rows that its predicted best k have.

    (V(top k by predicted) - V(random)) / (V(top k by true) - V(random)), V a mean of true values; requests of k rows or
    fewer, or whose rows are all worth the same, tell nothing and are left out. Of rows that are predicted alike each is
    as likely among the best.
    """
    order = np.lexsort((np.arange(len(request)), request))
    starts = np.flatnonzero(np.r_[True, np.diff(request[order]) != 0])
    lengths = np.diff(np.r_[starts, len(request)])
    shares = np.full(len(starts), np.nan)
    for length in np.unique(lengths[lengths > k]):
        alike = np.flatnonzero(lengths == length)
        rows = order[starts[alike][:, None] + np.arange(length)]  # (requests of this length, length)
        shares[alike] = _shares(predicted[rows], true[rows], k)
    return np.asarray(shares[~np.isnan(shares)])


def _shares(predicted: Floats, value: Floats, k: int) -> Floats:
    """(m,) of m requests with (m, rows) values; NaN where all rows are worth the same."""
    mean = value.mean(1)
    room = np.sort(value, axis=1)[:, -k:].mean(1) - mean
    best = np.argsort(-predicted, axis=1, kind="stable")[:, :k]
    gained = np.take_along_axis(value, best, axis=1).mean(1) - mean
    last = np.take_along_axis(predicted, best[:, -1:], axis=1)  # of the best k
    ahead, even = predicted > last, predicted == last
    tied = ahead.sum(1) + even.sum(1) > k
    if tied.any():  # else the order of the rows would decide, which may be that of another ranker
        share = (k - ahead.sum(1)) / np.maximum(even.sum(1), 1)
        expected = (np.where(ahead, value, 0.0).sum(1) + share * np.where(even, value, 0.0).sum(1)) / k
        gained = np.where(tied, expected - mean, gained)
    told = (room > 0) & (value.max(1) > value.min(1))  # a mean of equal numbers is not always that number
    return np.asarray(np.divide(gained, room, out=np.full(len(room), np.nan), where=told))


def value_gauc(predicted: Floats, realised: Floats, request: NDArray[np.uint64]) -> float:
    """The share of pairs within a request that the prediction puts in order, each weighted by what it is worth.

    For logs without true probabilities: a pair's weight is the difference of its realised values; a tie counts half.
    NaN where no request has two rows of different value.
    """
    order = np.lexsort((np.arange(len(request)), request))
    starts = np.flatnonzero(np.r_[True, np.diff(request[order]) != 0])
    right = total = 0.0
    for rows in np.split(order, starts[1:]):
        at_once = max(1, PAIRS // len(rows)) if len(rows) else 1
        for first in range(0, len(rows), at_once):
            some = rows[first : first + at_once]
            gap = realised[some][:, None] - realised[rows]
            better = np.maximum(gap, 0.0)
            ahead = np.sign(predicted[some][:, None] - predicted[rows])
            right += float((better * (ahead + 1) / 2).sum())
            total += float(better.sum())
    return right / total if total else float("nan")
