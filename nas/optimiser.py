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


def _adam(w: Tensor, m: Tensor, v: Tensor, g: Tensor, rate: float, t: int) -> None:
    m.lerp_(g, 1 - BETA1)
    v.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
    scale = (v / (1 - BETA2**t)).sqrt_().add_(EPSILON)
    w.addcdiv_(m, scale, value=-rate / (1 - BETA1**t))
