"""The supernet: one set of weights of the widest sizes, of which each network of the space uses its own slice.

A network never sees more than its slice: no masks, no padding, normalisation over the active width alone. Cut out,
it is a stand-alone `Network` that computes the same numbers and costs what it costs alone.
"""

import hashlib
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from nas.atomic import replaced
from nas.device import device
from nas.genotype import Genotype, Norm
from nas.network import DIRECTION_SD, EMBEDDING_SD, Forward, Network
from nas.optimiser import Moments, moments_of, pieces, step_rows, step_slice
from nas.space import Space, widest
from nas.weights import DIRECTION, TABLE, Cuts, Inputs, Weight, slots_of, weights_of

CLIP = 1.0  # the longest gradient of one network


def key_of(norm: Norm, name: str) -> str:
    """Under which name a weight is shared. Networks share weights with those of their normalisation, and the table.

    A normalised network hardly sees how large its weights are; one without would have to live with their size.
    """
    return name if name == TABLE else f"{norm}/{name}"


class Supernet:
    """Shared weights, their moments, and the two things done with them: a step of one network, and cutting one out."""

    def __init__(self, space: Space, inputs: Inputs, weights: dict[str, Tensor], moments: dict[str, Moments]) -> None:
        self.space, self.inputs, self.slots = space, inputs, slots_of(space)
        self.weights, self.moments = weights, moments

    def slice_of(self, weight: Weight, norm: Norm) -> Tensor:
        """A copy of the slice that is a network's own weight."""
        own = torch.empty(weight.shape, device=device())
        for whole, part in pieces(weight.axes):
            own[part] = self.weights[key_of(norm, weight.name)][whole]
        return own

    def cut(self, genotype: Genotype, dropout: float = 0.0) -> Network:
        """A network of the space, stand-alone, with the weights it inherits."""
        network = Network(genotype, self.inputs, dropout)
        network.to(device())
        with torch.no_grad():
            for weight in weights_of(genotype, self.inputs, self.slots):
                network.weight(weight.name).copy_(self.slice_of(weight, genotype.norm))
        return network

    def borrow(self, genotype: Genotype, features: tuple[Tensor, ...]) -> "Borrowed":
        """The slices that one network needs for one batch, as leaves of a graph."""
        return Borrowed(self, genotype, features)

    def digest(self) -> str:
        """Of all weights."""
        found = hashlib.sha256()
        for name in sorted(self.weights):
            found.update(self.weights[name].cpu().numpy().tobytes())
        return found.hexdigest()[:16]


class Borrowed:
    """One network's slices for one step: logits through them, then a step of Adam back into the supernet."""

    def __init__(self, supernet: Supernet, genotype: Genotype, features: tuple[Tensor, ...]) -> None:
        self.supernet, self.features = supernet, features
        self.forward_pass = Forward(genotype, supernet.inputs)
        self.parts = {w.name: w for w in weights_of(genotype, supernet.inputs, supernet.slots)}
        self.norm = genotype.norm
        self.leaves = {
            name: supernet.slice_of(w, self.norm).requires_grad_() for name, w in self.parts.items() if name != TABLE
        }
        self.rows = torch.zeros(0, dtype=torch.long, device=device())
        if TABLE in self.parts:
            self.rows = torch.unique(torch.cat([ids.clamp(min=0).flatten() for ids in features[1:]]))
            self.leaves[TABLE] = supernet.weights[TABLE][self.rows, : genotype.embedding].clone().requires_grad_()

    def logits(self, dropout: float = 0.0) -> Tensor:
        """(n, heads)."""
        return self.forward_pass(self.leaves.__getitem__, self._embed, self.features, dropout)

    def _embed(self, ids: Tensor) -> Tensor:
        return self.leaves[TABLE][torch.searchsorted(self.rows, ids)]

    def step(self, rate: float, embedding_l2: float = 0.0) -> bool:
        """Adam with the leaves' gradients, together no longer than `CLIP`; the leaves are spent. Whether it was made.

        Some networks of a space answer a step with gradients a thousand times those of others: Adam's second moments
        would remember these, and the others would hardly move. Where products of products left the range of fp32, there
        is no direction to go: the step is none.
        """
        if not torch.isfinite(torch.nn.utils.clip_grad_norm_(self.leaves.values(), CLIP)):
            return False
        with torch.no_grad():
            for name, leaf in self.leaves.items():
                gradient = leaf.grad
                if gradient is None:
                    continue
                key = key_of(self.norm, name)
                whole = self.supernet.weights[key]
                moments = self.supernet.moments.setdefault(key, moments_of(whole))
                if name == TABLE:
                    step_rows(whole, moments, self.rows, gradient + embedding_l2 * leaf, rate)
                else:
                    step_slice(whole, moments, self.parts[name].axes, gradient, rate)
        return True


def fresh(space: Space, inputs: Inputs, seed: int) -> Supernet:
    """A supernet before its first step."""
    generator = torch.Generator().manual_seed(seed)
    weights = {key: _initial(w, space, generator).to(device()) for key, w in _at_full_extent(space, inputs).items()}
    return Supernet(space, inputs, weights, {})


def _at_full_extent(space: Space, inputs: Inputs) -> dict[str, Weight]:
    """Every weight of the space: those of the widest network, once for every normalisation."""
    found: dict[str, Weight] = {}
    for norm in space.norms:
        genotype = msgspec.structs.replace(widest(space), norm=norm)
        for weight in weights_of(genotype, inputs, slots_of(space)):
            found[key_of(norm, weight.name)] = weight
        for block in range(space.blocks if "sum" in space.dense else 0):
            weight = _sum_weight(block, inputs, space)
            found[key_of(norm, weight.name)] = weight
    return found


def _sum_weight(block: int, inputs: Inputs, space: Space) -> Weight:
    """The sum's projection at full extent: which predecessors it projects depends on the chosen widths."""
    columns = (inputs.dense or max(space.embeddings)) + block * max(space.widths)
    full: tuple[Cuts, ...] = (((0, max(space.widths)),), ((0, columns),))
    return Weight(f"block{block}.sum.weight", full, columns)


def _initial(weight: Weight, space: Space, generator: torch.Generator) -> Tensor:
    """At full extent. A sampled network reads a part of a weight's columns: variance is set for that part's usual size.

    With the variance of the whole fan-in, small networks would begin with activations near 0.
    """
    shape = tuple(max(stop for _, stop in cuts) for cuts in weight.axes)
    if weight.name == TABLE:
        return torch.randn(shape, generator=generator) * EMBEDDING_SD
    if weight.name.endswith(".gain"):
        return torch.ones(shape)
    if weight.name == DIRECTION:
        return torch.randn(shape, generator=generator) * DIRECTION_SD
    if not weight.fan_in or weight.name.startswith("head."):
        return torch.zeros(shape)
    return torch.randn(shape, generator=generator) * _usual_fan_in(weight, space) ** -0.5


def _usual_fan_in(weight: Weight, space: Space) -> float:
    """The whole fan-in shrunk as the space's sizes usually are."""
    usual = sum(space.widths) / len(space.widths) / max(space.widths)
    return max(1.0, weight.fan_in * usual)


def save(supernet: Supernet, path: Path, progress: str) -> None:
    """Write a supernet and where its training is, in one file: after a kill they are of the same step."""
    moments = {name: (m.first, m.second, m.steps) for name, m in supernet.moments.items()}
    with replaced(path) as part:
        torch.save({"weights": supernet.weights, "moments": moments, "progress": progress}, part)


def progress_in(path: Path) -> str | None:
    """Where the training of a supernet's file is; None where it does not say, as the first versions' files."""
    found: str | None = torch.load(path, mmap=True, weights_only=True, map_location="cpu").get("progress")
    return found


def loaded(path: Path, space: Space, inputs: Inputs) -> Supernet:
    """A supernet from its file, its weights mapped: processes that read one file share its memory."""
    state = torch.load(path, mmap=True, weights_only=True, map_location=device())
    moments = {name: Moments(*values) for name, values in state["moments"].items()}
    return Supernet(space, inputs, state["weights"], moments)
