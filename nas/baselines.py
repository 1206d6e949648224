"""The networks that a search must beat, each with as many outputs as there are heads, trained like any genotype.

All share one stem: dense fields as they are, every other field embedded. AutoInt and xDeepFM also embed dense
fields, as a value times a direction. `width` and `layers` give each a range of sizes.
"""

from collections.abc import Callable
from typing import Literal

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.interactions import (
    BilinearFusion,
    CompressedInteraction,
    CrossNetwork,
    FactorisationMachine,
    FactorisedLayer,
    InteractingLayer,
    mlp,
)
from nas.network import DIRECTION_SD, EMBEDDING_SD, embedded
from nas.ranges import at_least, expect
from nas.weights import Inputs

Name = Literal["dnn", "deepfm", "dcnv2", "autoint", "xdeepfm", "finalnet", "finalmlp", "mmoe", "ple"]
ATTENTION_HEADS, FUSION_HEADS, EXPERTS = 2, 2, 4
CROSS_LAYERS, ATTENTION_LAYERS, MAPS = 3, 2, (32, 32)


class Baseline(msgspec.Struct, frozen=True, tag="baseline", kw_only=True):
    """A baseline and its size."""

    name: Name
    width: int = 128
    layers: int = 2
    embedding: int = 16

    def __post_init__(self) -> None:
        expect("baseline.width", self.width, self.width >= 4 and not self.width % 4, "a multiple of 4")
        at_least("baseline", self, layers=1)
        expect("baseline.embedding", self.embedding, self.embedding >= 2 and not self.embedding % 2, "an even number")


class Stem(nn.Module):
    """Dense (n, D) as given and fields (n, f, d); `numeric` embeds dense fields as well."""

    def __init__(self, inputs: Inputs, d: int, numeric: bool = False) -> None:
        super().__init__()
        self.inputs = inputs
        self.table = nn.Parameter(torch.randn(inputs.table_rows, d) * EMBEDDING_SD)
        self.numeric = numeric or not inputs.sparse
        if self.numeric:
            self.direction = nn.Parameter(torch.randn(inputs.dense, d) * DIRECTION_SD)
        self.fields = inputs.sparse + (inputs.dense if self.numeric else 0)
        self.flat = inputs.dense + inputs.sparse * d

    def forward(self, dense: Tensor, ids: Tensor, bags: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """(n, flat) and (n, fields, d)."""
        rows = [embedded(self.look_up, ids, list(bags))] if self.inputs.sparse else []
        flat = torch.cat((dense, *(part.flatten(1) for part in rows)), 1)
        if self.numeric:
            rows.append(dense.unsqueeze(-1) * self.direction)
        return flat, rows[0] if len(rows) == 1 else torch.cat(rows, 1)

    def look_up(self, ids: Tensor) -> Tensor:
        """Rows of the table."""
        return functional.embedding(ids, self.table, sparse=self.training and not self.table.is_cuda)


class BaselineNetwork(nn.Module):
    """A stem and a body."""

    prior: Tensor

    def __init__(self, stem: Stem, body: nn.Module) -> None:
        super().__init__()
        self.stem, self.body = stem, body
        self.register_buffer("prior", torch.zeros(stem.inputs.heads))

    def begin_at(self, log_odds: Tensor) -> None:
        """Add these log odds (heads,) to what the body says."""
        self.prior.copy_(log_odds)

    def forward(self, dense: Tensor, sparse: Tensor, *bags: Tensor) -> Tensor:
        """(n, heads) logits."""
        out: Tensor = self.body(*self.stem(dense, sparse, bags))
        return out + self.prior


def built(baseline: Baseline, inputs: Inputs, dropout: float) -> BaselineNetwork:
    """A baseline with fresh weights."""
    stem = Stem(inputs, baseline.embedding, numeric=baseline.name in ("autoint", "xdeepfm"))
    return BaselineNetwork(stem, _BODIES[baseline.name](baseline, stem, dropout))


def _deep(b: Baseline, stem: Stem, dropout: float) -> nn.Sequential:
    return mlp(stem.flat, (b.width,) * b.layers, dropout)


class _Deep(nn.Module):
    def __init__(self, b: Baseline, stem: Stem, dropout: float) -> None:
        super().__init__()
        self.deep = _deep(b, stem, dropout)
        self.out = nn.Linear(b.width, stem.inputs.heads)

    def forward(self, flat: Tensor, rows: Tensor) -> Tensor:
        return self.out(self.deep(flat))


class _DeepFm(nn.Module):
    """Guo et al. 2017: linear terms, a factorisation machine and a deep part over the same embeddings."""

    def __init__(self, b: Baseline, stem: Stem, dropout: float) -> None:
        super().__init__()
        heads = stem.inputs.heads
        self.linear = nn.Linear(stem.flat, heads)  # a linear term of an embedding stands for a first-order weight
        self.machine, self.scale = FactorisationMachine(), nn.Parameter(torch.ones(heads))
        self.deep, self.out = _deep(b, stem, dropout), nn.Linear(b.width, heads)

    def forward(self, flat: Tensor, rows: Tensor) -> Tensor:
        return self.linear(flat) + self.machine(rows) * self.scale + self.out(self.deep(flat))


class _DcnV2(nn.Module):
    """Wang et al. 2021, the parallel structure."""

    def __init__(self, b: Baseline, stem: Stem, dropout: float) -> None:
        super().__init__()
        self.cross, self.deep = CrossNetwork(stem.flat, CROSS_LAYERS), _deep(b, stem, dropout)
        self.out = nn.Linear(stem.flat + b.width, stem.inputs.heads)

    def forward(self, flat: Tensor, rows: Tensor) -> Tensor:
        return self.out(torch.cat((self.cross(flat), self.deep(flat)), 1))


class _AutoInt(nn.Module):
    """Song et al. 2019, with the deep part (AutoInt+)."""

    def __init__(self, b: Baseline, stem: Stem, dropout: float) -> None:
        super().__init__()
        d, heads = b.embedding, stem.inputs.heads
        self.attention = nn.Sequential(*(InteractingLayer(d, d, ATTENTION_HEADS) for _ in range(ATTENTION_LAYERS)))
        self.deep = _deep(b, stem, dropout)
        self.out = nn.Linear(stem.fields * d + b.width, heads)

    def forward(self, flat: Tensor, rows: Tensor) -> Tensor:
        return self.out(torch.cat((self.attention(rows).flatten(1), self.deep(flat)), 1))


class _XDeepFm(nn.Module):
    """Lian et al. 2018: linear, compressed interactions, deep."""

    def __init__(self, b: Baseline, stem: Stem, dropout: float) -> None:
        super().__init__()
        heads = stem.inputs.heads
        self.linear, self.interaction = nn.Linear(stem.flat, heads), CompressedInteraction(stem.fields, MAPS)
        self.deep = _deep(b, stem, dropout)
        self.out = nn.Linear(sum(MAPS) + b.width, heads)

    def forward(self, flat: Tensor, rows: Tensor) -> Tensor:
        return self.linear(flat) + self.out(torch.cat((self.interaction(rows), self.deep(flat)), 1))


class _FinalNet(nn.Module):
    """Zhu et al. 2023, one block: stacked factorised layers."""

    def __init__(self, b: Baseline, stem: Stem, dropout: float) -> None:
        super().__init__()
        widths = (stem.flat, *(b.width,) * b.layers)
        self.layers = nn.ModuleList(FactorisedLayer(w, b.width) for w in widths[:-1])
        self.norms = nn.ModuleList(nn.LayerNorm(b.width) for _ in range(b.layers))
        self.drop, self.out = nn.Dropout(dropout), nn.Linear(b.width, stem.inputs.heads)

    def forward(self, flat: Tensor, rows: Tensor) -> Tensor:
        x = flat
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self.drop(torch.relu(norm(layer(x))))
        return self.out(x)


class _FinalMlp(nn.Module):
    """Mao et al. 2023: two streams, each over its own gated features, and a bilinear fusion."""

    def __init__(self, b: Baseline, stem: Stem, dropout: float) -> None:
        super().__init__()
        self.contexts = nn.Parameter(torch.zeros(2, b.embedding))
        self.gates = nn.ModuleList(mlp(b.embedding, (b.width // 2, stem.flat), 0.0, False) for _ in range(2))
        self.streams = nn.ModuleList((_deep(b, stem, dropout), mlp(stem.flat, (b.width // 2,) * b.layers, dropout)))
        self.fusion = BilinearFusion(b.width, b.width // 2, stem.inputs.heads, FUSION_HEADS)

    def forward(self, flat: Tensor, rows: Tensor) -> Tensor:
        gated = [flat * 2 * torch.sigmoid(gate(self.contexts[i])) for i, gate in enumerate(self.gates)]
        return self.fusion(*(stream(x) for stream, x in zip(self.streams, gated, strict=True)))


class _Gate(nn.Module):
    """A mixture of experts with weights that depend on the row (softmax)."""

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.choose = nn.Linear(width, experts)

    def forward(self, x: Tensor, experts: Tensor) -> Tensor:
        """(n, w) of x (n, width) and experts (n, experts, w)."""
        return torch.matmul(torch.softmax(self.choose(x), 1).unsqueeze(1), experts).squeeze(1)


class _MMoE(nn.Module):
    """Ma et al. 2018: shared experts, a gate and a tower per head."""

    def __init__(self, b: Baseline, stem: Stem, dropout: float) -> None:
        super().__init__()
        heads = stem.inputs.heads
        self.experts = nn.ModuleList(_deep(b, stem, dropout) for _ in range(EXPERTS))
        self.gates = nn.ModuleList(_Gate(stem.flat, EXPERTS) for _ in range(heads))
        self.towers = nn.ModuleList(mlp(b.width, (b.width // 2, 1), dropout, False) for _ in range(heads))

    def forward(self, flat: Tensor, rows: Tensor) -> Tensor:
        experts = torch.stack([expert(flat) for expert in self.experts], 1)
        mixed = (gate(flat, experts) for gate in self.gates)
        return torch.cat([tower(x) for tower, x in zip(self.towers, mixed, strict=True)], 1)


class _Extraction(nn.Module):
    """One level of PLE: shared experts and own experts per head; the last level has no shared output."""

    def __init__(self, width: int, out: int, heads: int, dropout: float, last: bool) -> None:
        super().__init__()
        count = EXPERTS // 2
        self.own = nn.ModuleList(
            nn.ModuleList(mlp(width, (out,), dropout) for _ in range(count)) for _ in range(heads + 1)
        )  # the last group is shared
        self.gates = nn.ModuleList(_Gate(width, 2 * count) for _ in range(heads))
        self.shared_gate = None if last else _Gate(width, (heads + 1) * count)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        groups = [torch.stack([expert(x) for expert in group], 1) for group, x in zip(self.own, xs, strict=True)]
        outs = [gate(x, torch.cat((own, groups[-1]), 1)) for gate, x, own in zip(self.gates, xs, groups, strict=False)]
        return outs if self.shared_gate is None else [*outs, self.shared_gate(xs[-1], torch.cat(groups, 1))]


class _Ple(nn.Module):
    """Tang et al. 2020: progressive layered extraction."""

    def __init__(self, b: Baseline, stem: Stem, dropout: float) -> None:
        super().__init__()
        heads, widths = stem.inputs.heads, (stem.flat, *(b.width,) * b.layers)
        levels = range(b.layers)
        self.levels = nn.ModuleList(
            _Extraction(widths[i], b.width, heads, dropout, last=i == b.layers - 1) for i in levels
        )
        self.towers = nn.ModuleList(mlp(b.width, (b.width // 2, 1), dropout, False) for _ in range(heads))

    def forward(self, flat: Tensor, rows: Tensor) -> Tensor:
        xs = [flat] * (len(self.towers) + 1)
        for level in self.levels:
            xs = level(xs)
        return torch.cat([tower(x) for tower, x in zip(self.towers, xs, strict=True)], 1)


_BODIES: dict[Name, Callable[[Baseline, Stem, float], nn.Module]] = {
    "dnn": _Deep, "deepfm": _DeepFm, "dcnv2": _DcnV2, "autoint": _AutoInt, "xdeepfm": _XDeepFm, "finalnet": _FinalNet,
    "finalmlp": _FinalMlp, "mmoe": _MMoE, "ple": _Ple,
}  # fmt: skip
NAMES: tuple[Name, ...] = tuple(_BODIES)
