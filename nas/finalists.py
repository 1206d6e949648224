"""Which networks of a search are trained alone, one after another, each chosen by what those before showed.

A supernet's losses are wrong by kind: networks that learn fast stand too high, whatever they reach in the end. So what
a training alone adds to the supernet's loss is a Gaussian process over what kind of network it is, on top of that loss
(Kennedy and O'Hagan 2000), and the next finalist has the least loss that this lets hope for. The first few are of
different kinds and one of each third by FLOPs, that there is something to compare: small networks learn fast, so a
supernet flatters them, and what comes first alone would say little of large ones. For the same reason the best
`ENLARGED` are tried again, larger (`enlarged`).

Notation: n networks found, t of them trained, m traits.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from nas.evolution import Evaluated
from nas.genotype import DENSE_KINDS, MERGERS, NORMS, SPARSE_KINDS, Block, Genotype, canonical, live
from nas.space import Space

Floats = NDArray[np.float64]
ENLARGED = 2  # finalists, the best, of which a larger network is trained too
SCOUTS = 3  # finalists of different kinds, one of each third by FLOPs
NOISE = 0.1  # variance of a training's own chance, as a share of what kinds of networks differ by


def next_finalist(found: Sequence[Evaluated], trained: Mapping[int, float]) -> Evaluated | None:
    """The network to train next, given the loss of each that was trained, by its index; None when all were."""
    left = [place for place, one in enumerate(found) if one.index not in trained]
    if not left:
        return None
    known = [place for place, one in enumerate(found) if one.index in trained]
    losses = np.array([one.loss for one in found])
    distances = _distances(np.array([traits(one) for one in found]))
    sizes, kinds = _thirds(found), [kind(one.genotype) for one in found]
    another = [place for place in left if kinds[place] not in {kinds[k] for k in known}]
    unseen = [place for place in left if sizes[place] not in sizes[known]]
    scouts = [place for place in another if place in unseen] or another or unseen
    if known and (len(known) >= SCOUTS or not scouts):
        losses += _added(distances, known, np.array([trained[found[k].index] for k in known]) - losses[known])
    elif known:
        left = scouts
    return found[min(left, key=lambda place: losses[place])]


def enlarged(genotype: Genotype, space: Space) -> Genotype:
    """The network widened, and with one layer more where a block is free."""
    wide = widened(genotype, space)
    return deepened(wide, space) or wide


def widened(genotype: Genotype, space: Space) -> Genotype:
    """The network with as many rows and as long embeddings as its space has."""
    blocks = tuple(msgspec.structs.replace(block, rows=max(space.rows)) for block in genotype.blocks)
    return msgspec.structs.replace(genotype, blocks=blocks, embedding=max(space.embeddings))


def deepened(genotype: Genotype, space: Space) -> Genotype | None:
    """The network with its last block once more in place of one that is not built; None where all are.

    The new block reads what the one before it reads, and that one in place of the newest of these if they are several.
    """
    alive = live(genotype)
    built = [dense or sparse for dense, sparse in zip(alive.dense, alive.sparse, strict=True)]
    if all(built):
        return None
    free, last = built.index(False), len(built)
    blocks = [_renumbered(block, free + 1) for b, block in enumerate(genotype.blocks) if b != free]
    reads = {}
    for name in ("dense_from", "sparse_from"):
        nodes = getattr(blocks[-1], name)
        reads[name] = (*(nodes[:-1] or nodes), last - 1)[-space.predecessors :]
    blocks.append(msgspec.structs.replace(blocks[-1], **reads))
    return msgspec.structs.replace(genotype, blocks=tuple(blocks))


def _renumbered(block: Block, gone: int) -> Block:
    """A block of a network without node `gone`, which nothing that is built reads."""
    reads = {
        name: tuple(sorted({0 if node == gone else node - (node > gone) for node in getattr(block, name)}))
        for name in ("dense_from", "sparse_from")
    }
    return msgspec.structs.replace(block, **reads)


def _thirds(found: Sequence[Evaluated]) -> NDArray[np.int64]:
    """(n,) which third by FLOPs: 0 the smallest networks."""
    flops = np.array([one.sizes.flops for one in found])
    return np.searchsorted(np.quantile(flops, (1 / 3, 2 / 3)), flops)


def kind(genotype: Genotype) -> tuple[frozenset[str], frozenset[str], bool]:
    """What its layers do that are built, dense and sparse, whatever their number, and whether numeric rows enter.

    Sums and embedded FC do not tell kinds apart: nearly every network has one somewhere.
    """
    net = canonical(genotype)
    alive = live(net)
    dense = {block.dense[0].kind for block, there in zip(net.blocks, alive.dense, strict=True) if there}
    sparse = {block.sparse[0].kind for block, there in zip(net.blocks, alive.sparse, strict=True) if there}
    return frozenset(dense - {"sum"}), frozenset(sparse - {"efc"}), net.numeric


def traits(one: Evaluated) -> Floats:
    """(m,) what kind of network it is: shares of operators and mergers, sizes, the choices that hold everywhere."""
    net = canonical(one.genotype)
    alive, count = live(net), len(net.blocks)
    dense = [block.dense[0].kind for block, there in zip(net.blocks, alive.dense, strict=True) if there]
    sparse = [block.sparse[0].kind for block, there in zip(net.blocks, alive.sparse, strict=True) if there]
    shares = [dense.count(kind) / max(1, len(dense)) for kind in DENSE_KINDS]  # type: ignore[arg-type]  # one of these
    shares += [sparse.count(kind) / max(1, len(sparse)) for kind in SPARSE_KINDS]  # type: ignore[arg-type]  # one of these
    shares += [sum(getattr(block, name) for block in net.blocks) / count for name in MERGERS]
    sizes = [len(dense) / count, len(sparse) / count, float(np.log2(net.embedding)), float(np.log2(one.sizes.flops))]
    return np.array([*shares, *sizes, *(net.norm == norm for norm in NORMS), net.numeric], np.float64)


def _distances(values: Floats) -> Floats:
    """(n, n) squared, of standardised traits, as a mean over those that differ at all."""
    spread = values.std(axis=0)
    scaled = (values / np.where(spread > 0, spread, 1.0))[:, spread > 0]
    return np.asarray(((scaled[:, None] - scaled[None]) ** 2).sum(axis=2) / max(1, scaled.shape[1]))


def _added(distances: Floats, known: list[int], added: Floats) -> Floats:
    """(n,) what training may add at best, given (t,) what it added: mean less deviation (Srinivas et al. 2010).

    The process has unit length and its own mean by least squares; its scale is the spread of what was added.
    """
    kernel = np.exp(-0.5 * distances)
    across = kernel[:, known]
    inverse = np.linalg.inv(across[known] + NOISE * np.eye(len(known)))
    mean = float(inverse.sum(axis=0) @ added / inverse.sum())
    variance = np.maximum(1.0 - ((across @ inverse) * across).sum(axis=1), 0.0)
    return np.asarray(mean + across @ inverse @ (added - mean) - added.std() * np.sqrt(variance))
