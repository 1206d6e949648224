"""Which networks of the supernet one batch trains.

`single-any`: one operator a branch, any connections, drawn uniformly from the space. `single-single`: one operator, one
predecessor. `any-any`: any set of operators, any connections (the three of Zhang et al. 2023, section 4.1). `sandwich`:
the largest sizes, the smallest, and one drawn, on the same batch (Yu and Huang 2019). `half-known`, the default: half
are known forms, varied a little, the others as by `single-any`.
"""

from collections.abc import Callable
from typing import Literal

import msgspec
import numpy as np

from nas.forms import near_known
from nas.genotype import Block, Genotype, Operator
from nas.space import Space, drawn, narrowest

Strategy = Literal["half-known", "single-any", "single-single", "any-any", "sandwich"]
STRATEGIES: tuple[Strategy, ...] = ("half-known", "single-any", "single-single", "any-any", "sandwich")

KNOWN = 0.5


def paths(strategy: Strategy, space: Space, rng: np.random.Generator) -> tuple[Genotype, ...]:
    """Networks to train on one batch; each counts as a batch of rows."""
    if strategy == "half-known" and rng.random() < KNOWN:
        return (near_known(space, rng),)
    path = drawn(space, rng)
    if strategy == "single-single":
        return (_each_block(path, lambda b, block: _one_source(b, block, rng)),)
    if strategy == "any-any":
        return (_each_block(path, lambda b, block: _any_operators(block, space, rng)),)
    if strategy == "sandwich":
        largest = _each_block(path, lambda b, block: _resized(block, max(space.widths), max(space.rows)))
        return msgspec.structs.replace(largest, embedding=max(space.embeddings)), path, narrowest(space)
    return (path,)


def _each_block(path: Genotype, change: Callable[[int, Block], Block]) -> Genotype:
    blocks = tuple(change(b, block) for b, block in enumerate(path.blocks))
    return msgspec.structs.replace(path, blocks=blocks)


def _one_source(b: int, block: Block, rng: np.random.Generator) -> Block:
    sources = rng.integers(b + 1, size=2).tolist()
    return msgspec.structs.replace(block, dense_from=(sources[0],), sparse_from=(sources[1],))


def _any_operators(block: Block, space: Space, rng: np.random.Generator) -> Block:
    return msgspec.structs.replace(block, dense=_some(space.dense, rng), sparse=_some(space.sparse, rng))


def _some(kinds: tuple[str, ...], rng: np.random.Generator) -> tuple[Operator, ...]:
    """A set of kinds, every one that is not empty equally likely."""
    chosen = int(rng.integers(1, 2 ** len(kinds)))
    return tuple(Operator(kind) for i, kind in enumerate(kinds) if chosen >> i & 1)  # type: ignore[arg-type]  # checked by the space


def _resized(block: Block, width: int, rows: int) -> Block:
    return msgspec.structs.replace(block, width=width, rows=rows)
