"""The operators, as functions of tensors and weights. Nothing here knows of supernets, blocks or genotypes.

Shapes: n rows of a batch; w a dense width; r rows of a sparse side; d the embedding width.
"""

import torch
from torch import Tensor
from torch.nn import functional

# Of a normalisation: what is much smaller than 1 passes nearly as it is, what is larger is brought to 1. With the usual
# 1e-5 embeddings of which nothing is learned yet (their sd is .01) are made as loud as everything else (docs/nas.md).
EPSILON = 1.0


def normalised(x: Tensor, kind: str, gain: Tensor | None, bias: Tensor | None) -> Tensor:
    """(..., w) normalised over its last axis: by mean and variance (`layer`), by its root mean square (`rms`)."""
    if kind == "layer":
        return functional.layer_norm(x, x.shape[-1:], gain, bias, EPSILON)
    if kind == "rms":
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + EPSILON) * gain
    return x


def gated(x: Tensor, gate: Tensor, gate_bias: Tensor, value: Tensor, value_bias: Tensor) -> Tensor:
    """(n, w): sigmoid(gate x) times (value x)."""
    return torch.sigmoid(functional.linear(x, gate, gate_bias)) * functional.linear(x, value, value_bias)


def multiplied(x: Tensor, first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor) -> Tensor:
    """(n, w): (first x) times (second x), as in FINAL (Zhu et al. 2023); a cross layer (DCN-V2) of lower rank."""
    return functional.linear(x, first, first_bias) * functional.linear(x, second, second_bias)


def rows_projected(rows: Tensor, weight: Tensor) -> Tensor:
    """(n, r', d) from (n, r, d) and (r', r): each new row is a mixture of rows; the embedded FC without its bias."""
    return torch.matmul(weight, rows)


def rows_multiplied(rows: Tensor, first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor) -> Tensor:
    """(n, r', d) products of two mixtures of rows each: compressed interactions (xDeepFM) of lower rank."""
    return (rows_projected(rows, first) + first_bias) * (rows_projected(rows, second) + second_bias)


def attended(rows: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor) -> Tensor:
    """(n, r, d) + self-attention over its r rows with one head (Vaswani et al. 2017, eq. 1)."""
    q, k, v = (functional.linear(rows, weight) for weight in (query, key, value))
    attention = torch.softmax(torch.matmul(q, k.transpose(1, 2)) * rows.shape[-1] ** -0.5, dim=-1)
    return rows + functional.linear(torch.matmul(attention, v), out)


def pairwise_products(rows: Tensor, lower: Tensor) -> Tensor:
    """(n, r (r - 1) / 2) inner products of distinct rows of (n, r, d); `lower` holds their places in (r, r).

    Ordered by the later row, so that the pairs of the first rows are a prefix of the pairs of more rows.
    """
    products = torch.matmul(rows, rows.transpose(1, 2)).flatten(1)
    return products.index_select(1, lower)


def lower_places(rows: int) -> Tensor:
    """Places below the diagonal of a flattened (rows, rows) matrix, in the order of `pairwise_products`."""
    i, j = torch.tril_indices(rows, rows, offset=-1)
    return i * rows + j


def factorised(rows: Tensor) -> Tensor:
    """(n, d) sum of products of all pairs of rows (Rendle 2010, eq. 5): (square of the sum - sum of squares) / 2."""
    total = rows.sum(1)
    return 0.5 * (total * total - (rows * rows).sum(1))


def bag_mean(embedded: Tensor, present: Tensor) -> Tensor:
    """(n, d) mean of the (n, longest, d) embeddings that are `present` (n, longest), 0 where there is none."""
    mask = present.unsqueeze(-1).to(embedded.dtype)
    return (embedded * mask).sum(1) / mask.sum(1).clamp(min=1.0)
