"""Which weights a network has, and which part of the supernet's weights each of them is.

A weight's axis is a list of cuts [start, stop) into the supernet's axis. A node's dense side owns a slot of columns as
wide as the widest choice; its sparse side a slot of rows, with one more for the merged row. So the same input of
the same operator is always multiplied by the same entries, whatever else a genotype reads beside it, and a network's
own weight has no entry that it does not use.
"""

from functools import lru_cache
from math import ceil, prod, sqrt

import msgspec

from nas.genotype import Block, Genotype, Live, live
from nas.space import Space

Cuts = tuple[tuple[int, int], ...]
TABLE = "table"  # the embedding table's name
DIRECTION = "stem.direction"  # of dense fields as rows
PAIRS = {"gating": ("gate", "value"), "product": ("first", "second")}  # operators that multiply two linear maps


class Inputs(msgspec.Struct, frozen=True):
    """What a network is given and asked for: counts of dense and sparse fields, rows of the table, heads."""

    dense: int
    sparse: int  # categorical and multi-valued
    table_rows: int
    heads: int


class Slots(msgspec.Struct, frozen=True):
    """The widest choices: sizes of the supernet's slots."""

    width: int
    rows: int
    embedding: int


class Weight(msgspec.Struct, frozen=True):
    """One weight. `fan_in`: inputs that add up into one output, 0 for a bias or a gain."""

    name: str
    axes: tuple[Cuts, ...]
    fan_in: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the network's own weight."""
        return tuple(sum(stop - start for start, stop in cuts) for cuts in self.axes)


def slots_of(space: Space) -> Slots:
    """A space's slots."""
    return Slots(max(space.widths), max(space.rows), max(space.embeddings))


def own_slots(genotype: Genotype) -> Slots:
    """Slots that just hold one network."""
    blocks = genotype.blocks
    return Slots(max(b.width for b in blocks), max(b.rows for b in blocks), genotype.embedding)


def interaction_rows(width: int) -> int:
    """Rows whose pairwise products the dot product takes for a dense output of `width`.

    Rows are first projected to sqrt(2 width), so that the pairs number about `width`: without this balance the
    projection after them would dwarf every other operator (Zhang et al. 2023, operator-balancing).
    """
    return ceil(sqrt(2 * width))


@lru_cache(maxsize=512)
def weights_of(genotype: Genotype, inputs: Inputs, slots: Slots) -> tuple[Weight, ...]:
    """Every weight of a network's live parts, in order of use."""
    layout = _Layout(genotype, inputs, slots, live(genotype))
    found = [*_stem(layout)]
    for b in range(len(genotype.blocks)):
        found += _block(layout, b)
    return (*found, *_head(layout))


def size(weights: tuple[Weight, ...]) -> int:
    """Parameters, the embedding table included."""
    return sum(prod(weight.shape) for weight in weights)


class _Layout(msgspec.Struct, frozen=True):
    """Where each node's sides lie in the supernet's axes."""

    genotype: Genotype
    inputs: Inputs
    slots: Slots
    live: Live

    @property
    def d(self) -> Cuts:
        return ((0, self.genotype.embedding),)

    def columns(self, node: int) -> Cuts:
        """Of a node's dense side."""
        first = self.inputs.dense or self.slots.embedding
        if node == 0:
            return ((0, self.inputs.dense or self.genotype.embedding),)
        start = first + (node - 1) * self.slots.width
        return ((start, start + self.genotype.blocks[node - 1].width),)

    def rows(self, node: int) -> Cuts:
        """Of a node's sparse side."""
        first = self.inputs.sparse + self.inputs.dense
        if node == 0:
            return ((0, self.inputs.sparse + (self.inputs.dense if numeric(self.genotype, self.inputs) else 0)),)
        block = self.genotype.blocks[node - 1]
        start = first + (node - 1) * (self.slots.rows + 1)
        merged = ((start + self.slots.rows, start + self.slots.rows + 1),) if block.dense_to_sparse else ()
        return ((start, start + block.rows), *merged)

    def dense_in(self, block: Block) -> Cuts:
        return tuple(cut for node in block.dense_from for cut in self.columns(node))

    def sparse_in(self, block: Block) -> Cuts:
        return tuple(cut for node in block.sparse_from for cut in self.rows(node))


def _length(cuts: Cuts) -> int:
    return sum(stop - start for start, stop in cuts)


def _upto(n: int) -> Cuts:
    return ((0, n),)


def _linear(name: str, out: Cuts, into: Cuts, bias: bool = True) -> list[Weight]:
    weight = Weight(f"{name}.weight", (out, into), _length(into))
    return [weight, Weight(f"{name}.bias", (out,))] if bias else [weight]


def _norm(layout: _Layout, name: str, over: Cuts) -> list[Weight]:
    if layout.genotype.norm == "none":
        return []
    gain = Weight(f"{name}.gain", (over,))
    return [gain] if layout.genotype.norm == "rms" else [gain, Weight(f"{name}.bias", (over,))]


def _stem(layout: _Layout) -> list[Weight]:
    """The table, and each dense field's direction and offset where dense fields are rows."""
    dense, sparse = layout.live.inputs
    found: list[Weight] = []
    if layout.inputs.sparse and (sparse or (dense and not layout.inputs.dense)):
        found.append(Weight(TABLE, (_upto(layout.inputs.table_rows), layout.d)))
    if sparse and numeric(layout.genotype, layout.inputs):
        fields = _upto(layout.inputs.dense)
        found += [Weight(DIRECTION, (fields, layout.d), 1), Weight("stem.offset", (fields, layout.d))]
    return found


def _block(layout: _Layout, b: int) -> list[Weight]:
    block, alive, name = layout.genotype.blocks[b], layout.live, f"block{b}"
    out = _upto(block.width)
    found: list[Weight] = []
    if alive.dense[b]:
        for operator in block.dense:
            found += _dense(layout, block, operator.kind, f"{name}.{operator.kind}")
        found += _norm(layout, f"{name}.dense_norm", out)
    if alive.sparse[b]:
        for operator in block.sparse:
            found += _sparse(layout, block, operator.kind, f"{name}.{operator.kind}")
        found += _norm(layout, f"{name}.sparse_norm", layout.d)
    if alive.dense_out[b] and block.sparse_to_dense:
        found += _linear(f"{name}.fm", out, layout.d)
    if alive.dense_out[b] and block.flat_to_dense:
        core = _upto(block.rows)
        found.append(Weight(f"{name}.flat.weight", (out, core, layout.d), block.rows * layout.genotype.embedding))
    if alive.sparse_out[b] and block.dense_to_sparse:
        found += _linear(f"{name}.row", layout.d, out)
    return found


def _dense(layout: _Layout, block: Block, kind: str, name: str) -> list[Weight]:
    out, into = _upto(block.width), layout.dense_in(block)
    if kind == "fc":
        return _linear(name, out, into)
    if kind in PAIRS:
        return [weight for part in PAIRS[kind] for weight in _linear(f"{name}.{part}", out, into)]
    if kind == "sum":
        projected = tuple(
            cut for node in projected_nodes(layout.genotype, layout.inputs, block) for cut in layout.columns(node)
        )
        return _linear(name, out, projected, bias=False) if projected else []
    k = interaction_rows(block.width)
    return [
        *_linear(f"{name}.row", layout.d, into, bias=False),
        Weight(f"{name}.rows", (_upto(k), layout.sparse_in(block)), _length(layout.sparse_in(block))),
        *_linear(name, out, _upto(k * (k + 1) // 2)),
    ]


def numeric(genotype: Genotype, inputs: Inputs) -> bool:
    """Whether dense fields are rows of node 0."""
    return bool(inputs.dense) and (genotype.numeric or not inputs.sparse)


def projected_nodes(genotype: Genotype, inputs: Inputs, block: Block) -> tuple[int, ...]:
    """Predecessors that the sum projects: those of another width than its own."""
    widths = [inputs.dense or genotype.embedding, *(b.width for b in genotype.blocks)]
    return tuple(node for node in block.dense_from if widths[node] != block.width)


def _sparse(layout: _Layout, block: Block, kind: str, name: str) -> list[Weight]:
    rows, into, d = _upto(block.rows), layout.sparse_in(block), layout.d
    if kind == "product":
        return [
            weight
            for part in PAIRS[kind]
            for weight in (
                Weight(f"{name}.rows_{part}.weight", (rows, into), _length(into)),
                Weight(f"{name}.rows_{part}.bias", (rows, _upto(1))),
            )
        ]
    projection = [Weight(f"{name}.rows", (rows, into), _length(into))]
    if kind == "efc":
        return [*projection, Weight(f"{name}.bias", (rows, _upto(1)))]
    return [*projection, *(Weight(f"{name}.{part}", (d, d), _length(d)) for part in ("query", "key", "value", "out"))]


def _head(layout: _Layout) -> list[Weight]:
    last = layout.genotype.blocks[-1]
    heads, merged = _upto(layout.inputs.heads), (layout.slots.rows, layout.slots.rows + 1)
    rows: Cuts = ((0, last.rows), merged) if last.dense_to_sparse else ((0, last.rows),)
    fan_in = last.width + _length(rows) * layout.genotype.embedding
    return [
        Weight("head.dense", (heads, _upto(last.width)), fan_in),
        Weight("head.sparse", (heads, rows, layout.d), fan_in),
        Weight("head.bias", (heads,)),
    ]
