"""The search space: which genotypes there are, how many, and how one is drawn, mutated and crossed over.

After Zhang et al., NASRec (WWW 2023): 7 blocks, dense widths 16 to 1024, 16 to 64 sparse rows, up to four predecessors.
"""

from collections.abc import Sequence
from math import comb
from typing import TypeVar

import msgspec
import numpy as np

from nas.genotype import DENSE_KINDS, MERGERS, NORMS, SPARSE_KINDS, Block, Genotype, Norm, Operator
from nas.ranges import at_least, expect

T = TypeVar("T")
GLOBAL_SHARE = 0.1  # of mutations that change what is not a block's


class Space(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The choices that a genotype makes."""

    blocks: int = 7
    dense: tuple[str, ...] = DENSE_KINDS
    sparse: tuple[str, ...] = SPARSE_KINDS
    widths: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 768, 1024)
    rows: tuple[int, ...] = (16, 32, 48, 64)
    predecessors: int = 4
    embeddings: tuple[int, ...] = (8, 16, 32)
    norms: tuple[Norm, ...] = ("none", "layer", "rms")
    mergers: tuple[str, ...] = MERGERS  # that a block may have; there may be none
    numeric: tuple[bool, ...] = (False, True)  # whether dense fields are rows too

    def __post_init__(self) -> None:
        at_least("space", self, blocks=1, predecessors=1)
        chosen = (("dense", DENSE_KINDS), ("sparse", SPARSE_KINDS), ("norms", NORMS), ("mergers", MERGERS))
        for name, known in chosen:
            none = not getattr(self, name) and name != "mergers"
            sound = not none and set(getattr(self, name)) <= set(known)
            expect(f"space.{name}", list(getattr(self, name)), sound, f"some of {', '.join(known)}")
        expect("space.numeric", "nothing", self.numeric != (), "false, true or both")
        for name in ("widths", "rows", "embeddings"):
            found = getattr(self, name)
            expect(f"space.{name}", list(found), min(found, default=0) >= 1, "one number or more, of 1 or more")


FULL = Space()
SMALL = Space(
    blocks=3, widths=(8, 16, 32), rows=(4, 8), predecessors=2, embeddings=(4, 8), norms=("none", "layer")
)  # for tests and first tries
NASREC = Space(
    dense=("fc", "gating", "sum", "dot"),
    sparse=("efc", "attention"),
    mergers=("dense_to_sparse", "sparse_to_dense"),
    numeric=(False,),
)  # no products of linear maps, no flattened rows, dense fields never rows
SPACES = {"full": FULL, "small": SMALL, "nasrec": NASREC}


def cardinality(space: Space) -> int:
    """The number of genotypes; networks that differ only in dead parts count apart."""
    count = len(space.embeddings) * len(space.norms) * len(space.numeric)
    for b in range(space.blocks):
        sources = sum(comb(b + 1, j) for j in range(1, min(space.predecessors, b + 1) + 1))
        dense = len(space.dense) * len(space.widths) * sources
        count *= dense * len(space.sparse) * len(space.rows) * sources * 2 ** len(space.mergers)
    return count


def misfits(genotype: Genotype, space: Space) -> list[str]:
    """What keeps a genotype out of a space; nothing when it is in it."""
    found = []
    if len(genotype.blocks) != space.blocks:
        found.append(f"{len(genotype.blocks)} blocks instead of {space.blocks}")
    if genotype.embedding not in space.embeddings or genotype.norm not in space.norms:
        found.append(f"embedding {genotype.embedding} with norm {genotype.norm!r}")
    if genotype.numeric not in space.numeric:
        found.append(f"numeric {genotype.numeric}")
    for b, block in enumerate(genotype.blocks):
        fits = (
            len(block.dense) == 1 == len(block.sparse)
            and block.dense[0].kind in space.dense
            and block.sparse[0].kind in space.sparse
            and all(name in space.mergers for name in MERGERS if getattr(block, name))
            and block.width in space.widths
            and block.rows in space.rows
            and max(len(block.dense_from), len(block.sparse_from)) <= space.predecessors
        )
        if not fits:
            found.append(f"block {b}: {block}")
    return found


def drawn(space: Space, rng: np.random.Generator) -> Genotype:
    """A genotype drawn uniformly."""
    return Genotype(
        blocks=tuple(_block(space, b, rng) for b in range(space.blocks)),
        embedding=one_of(space.embeddings, rng),
        norm=one_of(space.norms, rng),
        numeric=one_of(space.numeric, rng),
    )


def widest(space: Space) -> Genotype:
    """Everything at once: all operators, all predecessors, the largest sizes. The supernet's full path."""
    blocks = tuple(
        Block(
            dense=tuple(Operator(kind) for kind in space.dense),  # type: ignore[arg-type]  # checked by the space
            width=max(space.widths),
            dense_from=tuple(range(b + 1)),
            sparse=tuple(Operator(kind) for kind in space.sparse),  # type: ignore[arg-type]  # checked by the space
            rows=max(space.rows),
            sparse_from=tuple(range(b + 1)),
            **dict.fromkeys(space.mergers, True),
        )
        for b in range(space.blocks)
    )
    return Genotype(blocks=blocks, embedding=max(space.embeddings), norm=space.norms[-1], numeric=max(space.numeric))


def narrowest(space: Space) -> Genotype:
    """A chain of the cheapest choices, for the sandwich rule."""
    blocks = tuple(
        Block(
            dense=(Operator("fc" if "fc" in space.dense else space.dense[0]),),  # type: ignore[arg-type]  # checked by the space
            width=min(space.widths),
            dense_from=(b,),
            sparse=(Operator("efc" if "efc" in space.sparse else space.sparse[0]),),  # type: ignore[arg-type]  # checked by the space
            rows=min(space.rows),
            sparse_from=(b,),
        )
        for b in range(space.blocks)
    )
    return Genotype(blocks=blocks, embedding=min(space.embeddings), norm=space.norms[0], numeric=min(space.numeric))


def mutated(genotype: Genotype, space: Space, rng: np.random.Generator) -> Genotype:
    """A genotype that differs in one gene, where the space offers another value.

    Predecessors are drawn anew, and may be the same again.
    """
    if rng.random() < GLOBAL_SHARE:
        gene, choices = one_of(
            (("embedding", space.embeddings), ("norm", space.norms), ("numeric", space.numeric)), rng
        )
        return msgspec.structs.replace(genotype, **{gene: _other(choices, getattr(genotype, gene), rng)})
    b = int(rng.integers(space.blocks))
    blocks = (*genotype.blocks[:b], _mutated_block(genotype.blocks[b], b, space, rng), *genotype.blocks[b + 1 :])
    return msgspec.structs.replace(genotype, blocks=blocks)


def one_of(choices: Sequence[T], rng: np.random.Generator) -> T:
    """One of some choices, uniformly."""
    return choices[int(rng.integers(len(choices)))]


def crossed(first: Genotype, second: Genotype, rng: np.random.Generator) -> Genotype:
    """Each block and each global gene from one of two parents (uniform crossover)."""
    pairs = zip(first.blocks, second.blocks, strict=True)
    return Genotype(
        blocks=tuple(one_of(pair, rng) for pair in pairs),
        embedding=one_of((first.embedding, second.embedding), rng),
        norm=one_of((first.norm, second.norm), rng),
        numeric=one_of((first.numeric, second.numeric), rng),
    )


def _mutated_block(block: Block, b: int, space: Space, rng: np.random.Generator) -> Block:
    gene = one_of(("dense", "width", "dense_from", "sparse", "rows", "sparse_from", *space.mergers), rng)
    now = getattr(block, gene)
    if gene in ("dense", "sparse"):
        value: object = (Operator(_other(getattr(space, gene), now[0].kind, rng)),)
    elif gene in ("width", "rows"):
        value = _other(space.widths if gene == "width" else space.rows, now, rng)
    elif gene in ("dense_from", "sparse_from"):
        value = _sources(space, b, rng)
    else:
        value = not now
    return msgspec.structs.replace(block, **{gene: value})


def _block(space: Space, b: int, rng: np.random.Generator) -> Block:
    return Block(
        dense=(Operator(one_of(space.dense, rng)),),  # type: ignore[arg-type]  # checked by the space
        width=one_of(space.widths, rng),
        dense_from=_sources(space, b, rng),
        sparse=(Operator(one_of(space.sparse, rng)),),  # type: ignore[arg-type]  # checked by the space
        rows=one_of(space.rows, rng),
        sparse_from=_sources(space, b, rng),
        **{name: bool(rng.integers(2)) for name in space.mergers},
    )


def _sources(space: Space, b: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Some of the nodes 0 .. b, every set of at most `predecessors` equally likely."""
    sizes = range(1, min(space.predecessors, b + 1) + 1)
    counts = np.array([comb(b + 1, size) for size in sizes], float)
    size = int(rng.choice(sizes, p=counts / counts.sum()))
    return tuple(sorted(rng.choice(b + 1, size, replace=False).tolist()))


def _other(choices: Sequence[T], now: T, rng: np.random.Generator) -> T:
    others = [choice for choice in choices if choice != now]
    return one_of(others, rng) if others else now
