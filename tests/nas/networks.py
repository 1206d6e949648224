"""Random genotypes and features, for tests of networks."""

import numpy as np
import torch
from torch import Tensor

from nas.genotype import Genotype
from nas.space import Space, drawn
from nas.supernet import Supernet, fresh
from nas.weights import Inputs

TINY = Space(
    blocks=3, widths=(4, 8, 16), rows=(3, 5), predecessors=3, embeddings=(2, 4), norms=("none", "layer", "rms")
)
INPUTS = Inputs(dense=5, sparse=4, table_rows=30, heads=2)  # the last two sparse fields are bags


def genotype(seed: int, space: Space = TINY) -> Genotype:
    """A drawn genotype."""
    return drawn(space, np.random.default_rng(seed))


def features(inputs: Inputs, n: int = 7, seed: int = 0) -> tuple[Tensor, ...]:
    """Random features; the last two sparse fields are bags, of which some are empty."""
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(n, inputs.dense, generator=generator)
    bags = min(2, inputs.sparse)
    ids = torch.randint(0, max(inputs.table_rows, 1), (n, inputs.sparse - bags), generator=generator)
    return dense, ids, *(torch.randint(-1, inputs.table_rows, (n, 3), generator=generator) for _ in range(bags))


def filled(inputs: Inputs, space: Space = TINY, noise: float = 0.3) -> Supernet:
    """A supernet whose every weight is random: fresh ones have zeros, which hide mistakes."""
    supernet = fresh(space, inputs, 3)
    generator = torch.Generator().manual_seed(5)
    for weight in supernet.weights.values():
        weight.add_(noise * torch.randn(weight.shape, generator=generator))
    return supernet
