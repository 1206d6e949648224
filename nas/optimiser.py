"""Adam on the part of a weight that took part in a step (Kingma and Ba 2015, algorithm 1, lazily).

A supernet's step touches a slice of each weight that its sampled network uses. Only that slice, and its moments, are
read or written: a step costs what the network costs alone, and what was not sampled does not drift on old momentum.
"""

from collections.abc import Iterator
from itertools import accumulate, product

import msgspec
import torch
from torch import Tensor

from nas.weights import Cuts

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class Moments(msgspec.Struct, eq=False):
    """Running means of a weight's gradient and of its square; the steps it took part in."""

    first: Tensor
    second: Tensor
    steps: int = 0


def moments_of(weight: Tensor) -> Moments:
    """Before the first step."""
    return Moments(torch.zeros_like(weight), torch.zeros_like(weight))


def pieces(axes: tuple[Cuts, ...]) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Pairs of slices: where a piece lies in the whole weight, and where in the network's own."""
    for cuts in product(*(zip(cuts, _offsets(cuts), strict=True) for cuts in axes)):
        whole = tuple(slice(start, stop) for (start, stop), _ in cuts)
        own = tuple(slice(offset, offset + stop - start) for (start, stop), offset in cuts)
        yield whole, own


def _offsets(cuts: Cuts) -> list[int]:
    return list(accumulate((stop - start for start, stop in cuts[:-1]), initial=0))


def step_slice(weight: Tensor, moments: Moments, axes: tuple[Cuts, ...], gradient: Tensor, rate: float) -> None:
    """One step on a slice, in place."""
    moments.steps += 1
    for whole, own in pieces(axes):
        _adam(weight[whole], moments.first[whole], moments.second[whole], gradient[own], rate, moments.steps)


def step_rows(weight: Tensor, moments: Moments, rows: Tensor, gradient: Tensor, rate: float) -> None:
    """One step on some rows of a table and on as many columns as the (rows, d) gradient has, in place."""
    moments.steps += 1
    width = gradient.shape[1]
    parts = [whole[:, :width] for whole in (weight, moments.first, moments.second)]
    taken = [part[rows] for part in parts]
    _adam(taken[0], taken[1], taken[2], gradient, rate, moments.steps)
    for part, value in zip(parts, taken, strict=True):
        part[rows] = value


class MaskedAdam(torch.optim.Optimizer):
    """`step_rows` for tables whose gradient is dense: rows without a gradient stay, and so do their moments.

    Nothing in a step waits for the device, so a CUDA graph can hold it. `rate` is a tensor on the table's device.
    """

    def __init__(self, tables: list[Tensor], rate: Tensor, l2: float) -> None:
        super().__init__(tables, {"lr": rate, "l2": l2})

    def step(self, closure: None = None) -> None:
        """Move the rows that have a gradient."""
        with torch.no_grad():
            for group in self.param_groups:
                for table in group["params"]:
                    if table.grad is not None:
                        self._move(table, self._state(table), group["lr"], group["l2"])

    def _state(self, table: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[table]
        if not state:
            state["steps"] = torch.zeros((), device=table.device)
            state["first"], state["second"] = torch.zeros_like(table), torch.zeros_like(table)
        return state

    def _move(self, table: Tensor, state: dict[str, Tensor], rate: Tensor, l2: float) -> None:
        m, v, t = state["first"], state["second"], state["steps"].add_(1)
        seen = (table.grad != 0).any(1, keepdim=True)
        g = table.grad + l2 * table
        m.copy_(torch.where(seen, torch.lerp(m, g, 1 - BETA1), m))
        v.copy_(torch.where(seen, BETA2 * v + (1 - BETA2) * g * g, v))
        move = m / (1 - BETA1**t) / ((v / (1 - BETA2**t)).sqrt() + EPSILON)
        table.sub_(torch.where(seen, rate * move, torch.zeros_like(table)))


def _adam(w: Tensor, m: Tensor, v: Tensor, g: Tensor, rate: float, t: int) -> None:
    m.lerp_(g, 1 - BETA1)
    v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
    scale = (v / (1 - BETA2**t)).sqrt_().add_(EPSILON)
    w.addcdiv_(m, scale, value=-rate / (1 - BETA1**t))
