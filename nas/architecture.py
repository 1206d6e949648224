"""What can be trained: a genotype of the space or a baseline. Both become a module with the same call."""

from nas.baselines import Baseline, BaselineNetwork, built
from nas.genotype import Genotype
from nas.network import Network
from nas.weights import Inputs

Architecture = Genotype | Baseline


def module_of(architecture: Architecture, inputs: Inputs, dropout: float) -> Network | BaselineNetwork:
    """A module with fresh weights from torch's current seed: (dense, sparse, *bags) to (n, heads) logits."""
    if isinstance(architecture, Baseline):
        return built(architecture, inputs, dropout)
    return Network(architecture, inputs, dropout)
