"""Known forms: what a space has of the baselines' structures, at sizes drawn from the space.

A network drawn uniformly is hardly ever regular, with one kind of operator repeated and each layer fed by the last and
by the input; those that people found are. A search that begins with some of each need not find regularity first.
"""

from typing import Literal

import msgspec
import numpy as np

from nas.genotype import Block, Genotype, Operator
from nas.space import Space, drawn, mutated, one_of

MOST_LAYERS = 3  # as the baselines have
VARIED = 4  # genes of a known form that a supernet trains beside it: what a search makes of forms is near them


class Form(msgspec.Struct, frozen=True):
    """A layer, repeated. One on the dense side follows a node of the flattened rows, one on the sparse side the input.

    `again`: what each layer reads besides the one before: that first node, or the input, once more.
    """

    kind: Literal["fc", "product", "attention"]
    side: Literal["dense", "sparse"]
    again: bool = False
    machine: bool = False  # whether a factorisation machine is added in the end


FORMS: dict[str, Form] = {
    "DNN": Form("fc", "dense"),
    "DeepFM": Form("fc", "dense", machine=True),
    "FinalNet": Form("product", "dense"),
    "DCN-V2": Form("product", "dense", again=True),
    "AutoInt": Form("attention", "sparse"),
    "xDeepFM": Form("product", "sparse", again=True),
}


def offered(space: Space) -> list[Form]:
    """The forms whose operators and depth a space has."""
    return [form for form in FORMS.values() if form.kind in getattr(space, form.side) and _first(form) < space.blocks]


def formed(form: Form, space: Space, *, layers: int, width: int, rows: int, embedding: int) -> Genotype:
    """A form as a genotype of a space, in its last blocks: nothing reads those before, so they are not built.

    Like the baselines, it has no normalisation where the space allows that.
    """
    unused = space.blocks - layers - _first(form)
    blocks = [_block(space, width, rows) for _ in range(unused)]
    if _first(form):
        blocks.append(_block(space, width, rows, merger="flat_to_dense"))
    for number in range(layers):
        merger = "sparse_to_dense" if form.machine and number == layers - 1 else ""
        blocks.append(_block(space, width, rows, form, _reads(form, unused, len(blocks), space), merger))
    return Genotype(
        blocks=tuple(blocks),
        embedding=embedding,
        norm="none" if "none" in space.norms else space.norms[0],
        numeric=form.side == "sparse" if len(space.numeric) > 1 else space.numeric[0],
    )


def known(form: Form, space: Space, rng: np.random.Generator) -> Genotype:
    """A form with one width, as many rows, layers and an embedding drawn from a space."""
    layers = int(rng.integers(1, min(MOST_LAYERS, space.blocks - _first(form)) + 1))
    return formed(
        form, space, layers=layers, width=one_of(space.widths, rng), rows=one_of(space.rows, rng),
        embedding=one_of(space.embeddings, rng),
    )  # fmt: skip


def begun(space: Space, share: float, number: int, rng: np.random.Generator) -> Genotype:
    """The network with which a search begins in place `number`: a `share` are known forms, each form in its turn.

    The others are drawn uniformly; all of them where a space has no form.
    """
    turn, forms = int(number * share), offered(space)
    if not forms or int((number + 1) * share) == turn:
        return drawn(space, rng)
    return known(forms[turn % len(forms)], space, rng)


def near_known(space: Space, rng: np.random.Generator) -> Genotype:
    """A known form, mutated up to `VARIED` times; a genotype drawn uniformly where a space has none."""
    forms = offered(space)
    found = known(one_of(forms, rng), space, rng) if forms else drawn(space, rng)
    for _ in range(int(rng.integers(VARIED + 1))):
        found = mutated(found, space, rng)
    return found


def _first(form: Form) -> int:
    """How many nodes stand before the first layer."""
    return int(form.side == "dense")


def _reads(form: Form, unused: int, last: int, space: Space) -> tuple[int, ...]:
    """Nodes that the layer after node `last` reads."""
    first = unused + 1 if _first(form) else 0
    before = last if last > unused else 0
    return tuple(sorted({first, before})) if form.again and space.predecessors > 1 else (before,)


def _block(
    space: Space, width: int, rows: int, form: Form | None = None, reads: tuple[int, ...] = (0,), merger: str = ""
) -> Block:
    """A block of the plainest operators that reads the input, but for the branch of a form."""
    dense = "sum" if "sum" in space.dense else space.dense[0]
    sparse = "efc" if "efc" in space.sparse else space.sparse[0]
    block = Block(
        dense=(Operator(dense),),  # type: ignore[arg-type]  # checked by the space
        width=width,
        dense_from=(0,),
        sparse=(Operator(sparse),),  # type: ignore[arg-type]  # checked by the space
        rows=rows,
        sparse_from=(0,),
        **({merger: True} if merger in space.mergers else {}),
    )
    if form is None:
        return block
    return msgspec.structs.replace(block, **{form.side: (Operator(form.kind),), f"{form.side}_from": reads})
