"""A genotype: one ranking network of the space, as a frozen record that is valid by construction.

Nodes are numbered along the network: node 0 is the input, node b + 1 the output of block b. Each node has a dense side
(n, width) and a sparse side (n, rows, embedding). A block computes a dense core from earlier dense sides and a sparse
core from earlier sparse sides; the mergers then add to the dense side what a factorisation machine makes of the sparse
core (`sparse_to_dense`) or its flattened rows (`flat_to_dense`), projected, and append the projected dense core as one
more row to the sparse side (`dense_to_sparse`).
"""

import hashlib
from typing import Literal

import msgspec

SCHEMA = 2
READ = (1, 2)  # a record of schema 1 has none of what came with 2, and means what it meant
DENSE_KINDS = ("fc", "gating", "sum", "dot", "product")
SPARSE_KINDS = ("efc", "attention", "product")
MERGERS = ("dense_to_sparse", "sparse_to_dense", "flat_to_dense")
NORMS = ("none", "layer", "rms")
Norm = Literal["none", "layer", "rms"]


class Operator(msgspec.Struct, frozen=True):
    """One operator of a branch. What a search chooses per operator besides its kind (bits, hardware) belongs here."""

    kind: Literal["fc", "gating", "sum", "dot", "efc", "attention", "product"]


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """One choice block. A searched network has one operator a branch; a supernet may run several, averaged."""

    dense: tuple[Operator, ...]
    width: int  # of the dense side
    dense_from: tuple[int, ...]  # nodes, rising
    sparse: tuple[Operator, ...]
    rows: int  # of the sparse core
    sparse_from: tuple[int, ...]  # nodes, rising; of the dot product's rows too
    dense_to_sparse: bool = False
    sparse_to_dense: bool = False
    flat_to_dense: bool = False

    def __post_init__(self) -> None:
        for branch, operators, kinds in (("dense", self.dense, DENSE_KINDS), ("sparse", self.sparse, SPARSE_KINDS)):
            found = [operator.kind for operator in operators]
            if not found or len(set(found)) < len(found) or not set(found) <= set(kinds):
                raise ValueError(f"{branch}: found {found}; expected distinct ones of {', '.join(kinds)}")
        if self.width < 1 or self.rows < 1:
            raise ValueError(f"found width {self.width} and rows {self.rows}; expected 1 or more")

    def kinds(self) -> frozenset[str]:
        """Every operator kind in the block."""
        return frozenset(operator.kind for operator in (*self.dense, *self.sparse))

    @property
    def merges_sparse(self) -> bool:
        """Whether something of the sparse core is added to the dense side."""
        return self.sparse_to_dense or self.flat_to_dense


class Genotype(msgspec.Struct, frozen=True, kw_only=True, tag="genotype"):
    """A network: its blocks, the width of an embedding, how activations are normalised, which fields are rows."""

    blocks: tuple[Block, ...]
    embedding: int
    norm: Norm
    numeric: bool = False  # whether dense fields too are rows of node 0; without sparse fields they always are
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema not in READ:
            raise ValueError(f"genotype: found schema {self.schema}; this version reads {' and '.join(map(str, READ))}")
        if not self.blocks or self.embedding < 1:
            raise ValueError("genotype: expected one block or more, and an embedding of 1 or more")
        for b, block in enumerate(self.blocks):
            for name in ("dense_from", "sparse_from"):
                nodes = getattr(block, name)
                if not nodes or list(nodes) != sorted(set(nodes)) or nodes[0] < 0 or nodes[-1] > b:
                    raise ValueError(f"block {b}, {name}: found {list(nodes)}; expected rising nodes of 0 .. {b}")


class Live(msgspec.Struct, frozen=True):
    """Which parts reach the output, per block; nothing else is built, run or counted."""

    dense: tuple[bool, ...]  # the dense core
    sparse: tuple[bool, ...]  # the sparse core
    dense_out: tuple[bool, ...]  # the dense side, with its merger
    sparse_out: tuple[bool, ...]
    inputs: tuple[bool, bool]  # the dense and the sparse side of node 0

    def reads_sparse(self, b: int, block: Block) -> bool:
        """Whether block b reads its sparse predecessors: for its sparse core, or for a dot product's rows."""
        return self.sparse[b] or (self.dense[b] and "dot" in block.kinds())


def live(genotype: Genotype) -> Live:
    """Go from the output back along what is read."""
    count = len(genotype.blocks)
    dense_side, sparse_side = {count}, {count}
    cores: list[tuple[bool, bool]] = []
    for b in reversed(range(count)):
        block = genotype.blocks[b]
        out_dense, out_sparse = b + 1 in dense_side, b + 1 in sparse_side
        dense = out_dense or (out_sparse and block.dense_to_sparse)
        sparse = out_sparse or (out_dense and block.merges_sparse)
        cores.append((dense, sparse))
        if dense:
            dense_side.update(block.dense_from)
        if sparse or (dense and "dot" in block.kinds()):
            sparse_side.update(block.sparse_from)
    nodes = range(1, count + 1)
    return Live(
        tuple(dense for dense, _ in reversed(cores)),
        tuple(sparse for _, sparse in reversed(cores)),
        tuple(node in dense_side for node in nodes),
        tuple(node in sparse_side for node in nodes),
        (0 in dense_side, 0 in sparse_side),
    )


def canonical(genotype: Genotype) -> Genotype:
    """The same network, with every gene that does nothing set alike: equal networks become equal records."""
    alive = live(genotype)
    blocks = tuple(_canonical_block(b, block, alive) for b, block in enumerate(genotype.blocks))
    numeric = genotype.numeric and alive.inputs[1]
    return msgspec.structs.replace(genotype, blocks=blocks, numeric=numeric, schema=SCHEMA)


def _canonical_block(b: int, block: Block, alive: Live) -> Block:
    dense, sparse = alive.dense[b], alive.sparse[b]
    return Block(
        dense=block.dense if dense else (Operator("fc"),),
        width=block.width if dense else 1,
        dense_from=block.dense_from if dense else (0,),
        sparse=block.sparse if sparse else (Operator("efc"),),
        rows=block.rows if sparse else 1,
        sparse_from=block.sparse_from if alive.reads_sparse(b, block) else (0,),
        dense_to_sparse=block.dense_to_sparse and alive.sparse_out[b],
        sparse_to_dense=block.sparse_to_dense and alive.dense_out[b],
        flat_to_dense=block.flat_to_dense and alive.dense_out[b],
    )


def digest(genotype: Genotype) -> str:
    """A name of 16 letters, the same for equal networks."""
    return hashlib.sha256(encoded(canonical(genotype))).hexdigest()[:16]


def encoded(genotype: Genotype) -> bytes:
    """JSON."""
    return msgspec.json.encode(genotype)


def decoded(raw: bytes) -> Genotype:
    """From JSON.

    Raises:
        msgspec.ValidationError: no genotype; says where.
    """
    return msgspec.json.decode(raw, type=Genotype)
