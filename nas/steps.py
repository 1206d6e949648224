"""One step of training, for any module: plain on a CPU; on a GPU recorded once as a CUDA graph and then replayed.

The networks of a ranking stage are small: on a GPU, launching hundreds of kernels a step takes far longer than running
them, and a replay launches them all at once. Tables of embeddings move lazily in both forms.
"""

import gc
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nas.batches import Batch, loss_of
from nas.optimiser import MaskedAdam
from nas.recipe import Recipe
from nas.trace import is_table

PLAIN_FIRST = 3  # steps before the recording: they settle the optimisers' state and the allocator
Step = Callable[[Batch], None]


def optimisers_of(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Adam for what every row moves; its lazy form for tables, of which a batch moves a few rows."""
    tables = [p for name, p in model.named_parameters() if is_table(name) and p.numel()]
    ids = {id(p) for p in tables}
    rest = [p for p in model.parameters() if id(p) not in ids and p.numel()]
    if rest[0].is_cuda:  # a recorded step reads its rate from the device
        rate = torch.tensor(recipe.learning_rate, device=rest[0].device)
        dense: torch.optim.Optimizer = torch.optim.Adam(rest, rate, fused=True, capturable=True)
        return [dense, MaskedAdam(tables, rate.clone(), recipe.embedding_l2)] if tables else [dense]
    plain: torch.optim.Optimizer = torch.optim.Adam(rest, recipe.learning_rate, fused=True)
    return [plain, torch.optim.SparseAdam(tables, recipe.learning_rate)] if tables else [plain]


class Steps:
    """Takes one step a batch; all batches have as many rows."""

    def __init__(
        self, model: nn.Module, optimisers: list[torch.optim.Optimizer], recipe: Recipe, head_weights: Tensor
    ) -> None:
        self.model, self.optimisers, self.recipe, self.head_weights = model, optimisers, recipe, head_weights
        self.take: Step = Recorded(self._plain) if head_weights.is_cuda else self._plain

    def __call__(self, batch: Batch, rate: float) -> None:
        """Move the model's weights."""
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
        self.take(batch)

    def _plain(self, batch: Batch) -> None:
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss_of(self.model(*batch.features), batch, self.head_weights).backward()
        _decay(self.model, self.recipe.embedding_l2)
        for optimiser in self.optimisers:
            optimiser.step()


class Recorded:
    """A step as a CUDA graph: its first batches are taken plainly, on a stream of their own as recording asks."""

    def __init__(self, step: Step) -> None:
        self.step, self.left = step, PLAIN_FIRST
        self.stream = torch.cuda.Stream()
        self.batch: Batch | None = None  # what the graph reads
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Batch) -> None:
        """Take one step."""
        if self.batch is None:
            self.batch = batch
        else:
            self.batch.overwrite(batch)
        if self.left:
            self.left -= 1
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                self.step(self.batch)
            torch.cuda.current_stream().wait_stream(self.stream)
            return
        if self.graph is None:
            self.graph = self._recorded(self.batch)
        self.graph.replay()

    def _recorded(self, batch: Batch) -> torch.cuda.CUDAGraph:
        """An old graph that is collected while one is recorded makes the device refuse the recording."""
        gc.collect()
        gc.disable()
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.step(batch)
        finally:
            gc.enable()
        return graph


def _decay(model: nn.Module, l2: float) -> None:
    """Add the gradient of l2 |e|^2 / 2 for every embedding that the batch looked up."""
    for parameter in model.parameters():
        if parameter.grad is not None and parameter.grad.is_sparse:
            gradient = parameter.grad.coalesce()
            rows = gradient.indices()[0]
            values = gradient.values() + l2 * parameter.detach()[rows]
            parameter.grad = torch.sparse_coo_tensor(
                gradient.indices(), values, gradient.shape, check_invariants=False, is_coalesced=True
            )
