"""A genotype's network as a stand-alone module, and the one forward pass that it shares with the supernet."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas import operators
from nas.device import device
from nas.genotype import Block, Genotype, live
from nas.weights import (
    DIRECTION,
    PAIRS,
    TABLE,
    Inputs,
    Weight,
    interaction_rows,
    numeric,
    own_slots,
    projected_nodes,
    weights_of,
)

Lookup = Callable[[str], Tensor]
Embed = Callable[[Tensor], Tensor]  # rows of the table (n, F) -> (n, F, d)
EMBEDDING_SD = 0.01
DIRECTION_SD = 0.1  # of a dense field's row


class Network(nn.Module):
    """A genotype's network with weights of its own: nothing in it is wider than the genotype says."""

    def __init__(self, genotype: Genotype, inputs: Inputs, dropout: float = 0.0) -> None:
        super().__init__()
        self.genotype, self.inputs, self.dropout = genotype, inputs, dropout
        self.forward_pass = Forward(genotype, inputs)
        for weight in weights_of(genotype, inputs, own_slots(genotype)):
            self.register_parameter(_parameter(weight.name), nn.Parameter(initial(weight)))

    def forward(self, dense: Tensor, sparse: Tensor, *bags: Tensor) -> Tensor:
        """(n, heads) logits of dense (n, D), sparse (n, F) and a bag (n, longest) per multi-valued field."""
        return self.forward_pass(
            lambda name: getattr(self, _parameter(name)),
            lambda rows: functional.embedding(rows, self.table, sparse=self.training and not self.table.is_cuda),
            (dense, sparse, *bags),
            self.dropout if self.training else 0.0,
        )

    def begin_at(self, log_odds: Tensor) -> None:
        """Say these log odds (heads,) for every row, before anything is learned."""
        with torch.no_grad():
            self.weight("head.bias").copy_(log_odds)

    def weight(self, name: str) -> Tensor:
        """A weight by its name in `weights_of`."""
        found: Tensor = getattr(self, _parameter(name))
        return found


def _parameter(name: str) -> str:
    return name.replace(".", "_")  # torch allows no dots


def initial(weight: Weight, generator: torch.Generator | None = None) -> Tensor:
    """A weight at the beginning: by its fan-in (Glorot and Bengio 2010), small embeddings, gains of 1, biases of 0.

    The head begins at 0: every network begins with the same odds, however large its last activations are.
    """
    if weight.name == TABLE:
        return torch.randn(weight.shape, generator=generator) * EMBEDDING_SD
    if weight.name.endswith(".gain"):
        return torch.ones(weight.shape)
    if weight.name == DIRECTION:
        return torch.randn(weight.shape, generator=generator) * DIRECTION_SD
    if not weight.fan_in or weight.name.startswith("head."):
        return torch.zeros(weight.shape)
    return torch.randn(weight.shape, generator=generator) * weight.fan_in**-0.5


class Forward:
    """The forward pass of a genotype's live parts; weights come from a lookup by name."""

    def __init__(self, genotype: Genotype, inputs: Inputs) -> None:
        self.genotype, self.inputs, self.live = genotype, inputs, live(genotype)
        rows = {b: interaction_rows(block.width) + 1 for b, block in self._dots()}
        self.lower = {b: operators.lower_places(count).to(device()) for b, count in rows.items()}

    def _dots(self) -> list[tuple[int, Block]]:
        return [
            (b, block) for b, block in enumerate(self.genotype.blocks) if self.live.dense[b] and "dot" in block.kinds()
        ]

    def __call__(self, get: Lookup, embed: Embed, features: tuple[Tensor, ...], dropout: float) -> Tensor:
        """(n, heads) logits."""
        dense, sparse = self._stem(get, embed, features)
        denses: list[Tensor | None] = [dense]
        sparses: list[Tensor | None] = [sparse]
        for b, block in enumerate(self.genotype.blocks):
            dense, sparse = self._block(b, block, get, denses, sparses, dropout)
            denses.append(dense)
            sparses.append(sparse)
        assert dense is not None
        assert sparse is not None
        heads = get("head.sparse").flatten(1)
        return functional.linear(dense, get("head.dense"), get("head.bias")) + functional.linear(
            sparse.flatten(1), heads
        )

    def _stem(self, get: Lookup, embed: Embed, features: tuple[Tensor, ...]) -> tuple[Tensor | None, Tensor | None]:
        """Both sides of node 0.

        Without dense fields its dense side is the mean embedding. A dense field as a row is its value times a
        direction, plus an offset.
        """
        given, ids, *bags = features
        wants_dense, wants_sparse = self.live.inputs
        rows: Tensor | None = None
        if self.inputs.sparse and (wants_sparse or not self.inputs.dense):
            rows = embedded(embed, ids, bags)
        dense = given if self.inputs.dense else rows.mean(1) if rows is not None else None
        if wants_sparse and numeric(self.genotype, self.inputs):
            spanned = given.unsqueeze(-1) * get(DIRECTION) + get("stem.offset")
            rows = spanned if rows is None else torch.cat((rows, spanned), 1)
        return dense if wants_dense else None, rows

    def _block(
        self,
        b: int,
        block: Block,
        get: Lookup,
        denses: list[Tensor | None],
        sparses: list[Tensor | None],
        dropout: float,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Both sides of node b + 1; None for what nothing reads."""
        alive, name = self.live, f"block{b}"
        xs = [(node, denses[node]) for node in block.dense_from] if alive.dense[b] else []
        rows = _joined([sparses[node] for node in block.sparse_from]) if alive.reads_sparse(b, block) else None
        dense = self._dense(b, block, get, xs, rows) if alive.dense[b] else None
        sparse = self._sparse(block, get, name, rows) if alive.sparse[b] else None
        if dense is not None and dropout:
            dense = functional.dropout(dense, dropout)
        out_dense, out_sparse = dense, sparse
        if alive.dense_out[b] and block.sparse_to_dense:
            assert dense is not None
            out_dense = dense + functional.linear(
                operators.factorised(sparse), get(f"{name}.fm.weight"), get(f"{name}.fm.bias")
            )
        if alive.dense_out[b] and block.flat_to_dense:
            assert sparse is not None
            out_dense = out_dense + functional.linear(sparse.flatten(1), get(f"{name}.flat.weight").flatten(1))
        if alive.sparse_out[b] and block.dense_to_sparse:
            row = functional.linear(dense, get(f"{name}.row.weight"), get(f"{name}.row.bias"))
            out_sparse = torch.cat((sparse, row.unsqueeze(1)), 1)
        return out_dense if alive.dense_out[b] else None, out_sparse if alive.sparse_out[b] else None

    def _dense(
        self, b: int, block: Block, get: Lookup, xs: list[tuple[int, Tensor | None]], rows: Tensor | None
    ) -> Tensor:
        x = _joined([x for _, x in xs]) if any(o.kind != "sum" for o in block.dense) else None
        outs = [self._dense_operator(b, block, operator.kind, get, x, xs, rows) for operator in block.dense]
        out = _mean(outs)
        return self._normalised(out, get, f"block{b}.dense_norm")

    def _dense_operator(
        self, b: int, block: Block, kind: str, get: Lookup, x: Tensor | None, xs: list[tuple[int, Tensor | None]],
        rows: Tensor | None,
    ) -> Tensor:  # fmt: skip
        name = f"block{b}.{kind}"
        if kind == "fc":
            return torch.relu(functional.linear(x, get(f"{name}.weight"), get(f"{name}.bias")))
        if kind in PAIRS:
            weights = (get(f"{name}.{part}.{what}") for part in PAIRS[kind] for what in ("weight", "bias"))
            return (operators.gated if kind == "gating" else operators.multiplied)(x, *weights)
        if kind == "sum":
            projected = projected_nodes(self.genotype, self.inputs, block)
            kept = [x for node, x in xs if node not in projected]
            moved = [x for node, x in xs if node in projected]
            parts = [functional.linear(_joined(moved), get(f"{name}.weight")), *kept] if moved else kept
            return _sum(parts)
        row = functional.linear(x, get(f"{name}.row.weight")).unsqueeze(1)
        together = torch.cat((row, operators.rows_projected(rows, get(f"{name}.rows"))), 1)
        pairs = operators.pairwise_products(together, self.lower[b].to(together.device))
        return torch.relu(functional.linear(pairs, get(f"{name}.weight"), get(f"{name}.bias")))

    def _sparse(self, block: Block, get: Lookup, name: str, rows: Tensor | None) -> Tensor:
        outs = []
        for operator in block.sparse:
            own = f"{name}.{operator.kind}"
            if operator.kind == "product":
                weights = (get(f"{own}.rows_{part}.{what}") for part in PAIRS["product"] for what in ("weight", "bias"))
                outs.append(operators.rows_multiplied(rows, *weights))
                continue
            mixed = operators.rows_projected(rows, get(f"{own}.rows"))
            if operator.kind == "efc":
                outs.append(mixed + get(f"{own}.bias"))
            else:
                outs.append(operators.attended(mixed, *(get(f"{own}.{p}") for p in ("query", "key", "value", "out"))))
        return self._normalised(_mean(outs), get, f"{name}.sparse_norm")

    def _normalised(self, x: Tensor, get: Lookup, name: str) -> Tensor:
        kind = self.genotype.norm
        gain = get(f"{name}.gain") if kind != "none" else None
        bias = get(f"{name}.bias") if kind == "layer" else None
        return operators.normalised(x, kind, gain, bias)


def embedded(embed: Embed, ids: Tensor, bags: list[Tensor]) -> Tensor:
    """(n, F, d): a row per categorical field, then the mean of each bag."""
    parts = [embed(ids)] if ids.shape[1] else []
    for bag in bags:
        mean = operators.bag_mean(embed(bag.clamp(min=0)), bag >= 0)
        parts.append(mean.unsqueeze(1))
    return _joined(parts)


def _joined(parts: list[Tensor | None]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _sum(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _mean(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else _sum(parts) / len(parts)
