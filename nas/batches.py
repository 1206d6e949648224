"""Rows as tensors, and the loss of a batch."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nas.device import device
from nas.encoding import Coded
from nas.rows import Rows, in_order, shuffled
from nas.weights import Inputs


def _predict_rows() -> int:
    """How many rows are predicted at once: on a CPU so few that what they become stays in a core's cache."""
    return 8192 if device().type == "cuda" else 1024


def inputs_of(rows: Rows, table_rows: int) -> Inputs:
    """What a network over these rows is given and asked for."""
    f = rows.features
    return Inputs(f.dense.shape[1], f.sparse.shape[1] + len(f.bags), table_rows, rows.labels.shape[1])


def base_rates(rows: Rows) -> NDArray[np.float64]:
    """(k,) of each head among its observed rows, which count by their weights; NaN where none has any."""
    labels, weight = np.asarray(rows.labels, np.float64), np.asarray(rows.weight, np.float64)[:, None]
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(weight * labels, axis=0) / (weight * ~np.isnan(labels)).sum(axis=0))


def log_odds(rows: Rows) -> Tensor:
    """(k,) of each head's base rate: what a network says before it has learned anything.

    Begun with even odds instead, a short training is spent on finding out that a rare head is rare.
    """
    observed = (~np.isnan(np.asarray(rows.labels))).sum(axis=0)
    rates = (np.nan_to_num(base_rates(rows), nan=0.5) * observed + 0.5) / (observed + 1.0)
    return torch.tensor(np.log(rates / (1 - rates)), dtype=torch.float32, device=device())


def features_of(coded: Coded) -> tuple[Tensor, ...]:
    """Dense (n, D) float32, sparse (n, F) int64, and each bag (n, longest) int64."""
    ids = (coded.sparse, *coded.bags)
    tensors = (torch.from_numpy(coded.dense), *(torch.from_numpy(part).long() for part in ids))
    return tuple(tensor.to(device()) for tensor in tensors)


class Batch:
    """Features, labels and weights of some rows."""

    def __init__(self, rows: Rows) -> None:
        self.features = features_of(rows.features)
        self.labels = torch.from_numpy(rows.labels).to(device())
        self.weight = torch.from_numpy(rows.weight).to(device())

    def __len__(self) -> int:
        return len(self.labels)

    def overwrite(self, other: "Batch") -> None:
        """Put another batch of as many rows into this one's memory."""
        mine, theirs = ((*batch.features, batch.labels, batch.weight) for batch in (self, other))
        for tensor, values in zip(mine, theirs, strict=True):
            tensor.copy_(values)


def training(rows: Rows, batch_size: int, seed: int, start: int, stop: int) -> Iterator[Batch]:
    """Batches from row number `start` of the shuffled epochs to row `stop`; a full epoch is followed by the next."""
    size = min(batch_size, len(rows))
    per_epoch = len(rows) // size * size
    seen = start
    while seen < stop:
        epoch, within = divmod(seen, per_epoch)
        for index in shuffled(len(rows), size, seed, epoch, skip=within):
            yield Batch(rows.take(index))
            seen += size
            if seen >= stop:
                return


def loss_of(logits: Tensor, batch: Batch, head_weights: Tensor) -> Tensor:
    """Weighted cross-entropy: the mean over each head's observed rows, then the mean over heads with their weights."""
    observed = ~torch.isnan(batch.labels)
    target = torch.where(observed, batch.labels, torch.zeros_like(batch.labels))
    each = functional.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    weight = observed * batch.weight.unsqueeze(1)
    by_head = (each * weight).sum(0) / weight.sum(0).clamp(min=1e-9)
    return (by_head * head_weights).mean()


def probabilities(model: nn.Module, features: Coded) -> Tensor:
    """(n, k) float64 predictions, in order."""
    model.eval()
    found = []
    with torch.no_grad():
        for part in in_order(len(features), _predict_rows()):
            logits = model(*features_of(features.take(part)))
            found.append(torch.sigmoid(logits.double()).cpu())
    return torch.cat(found)
