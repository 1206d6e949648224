"""Finalists: far apart at first, then where training lets hope for the least loss."""

import msgspec
import numpy as np

from nas.evolution import Evaluated, Sizes
from nas.finalists import SCOUTS, next_finalist, traits, widened
from nas.forms import FORMS, known
from nas.genotype import Genotype, digest
from nas.space import FULL, misfits

ATTENTION_SHARE = 6  # its place among traits: after five dense operators and efc


def found_by(seed: int, count: int = 60) -> list[Evaluated]:
    """Forms, of which those with attention seem best."""
    rng = np.random.default_rng(seed)
    nets: dict[str, tuple[str, Genotype]] = {}
    while len(nets) < count:
        form = list(FORMS)[int(rng.integers(len(FORMS)))]
        net = known(FORMS[form], FULL, rng)
        nets[digest(net)] = (form, net)
    return [
        Evaluated(index, net, 0.5 + 0.01 * rng.random() - 0.02 * (form == "AutoInt"), Sizes(1e5, 1, None), 0, 0.0)
        for index, (form, net) in enumerate(nets.values())
    ]


def chosen(found: list[Evaluated], count: int) -> dict[int, float]:
    """What training says: attention gains nothing, everything else does."""
    losses: dict[int, float] = {}
    for _ in range(count):
        one = next_finalist(found, losses)
        assert one is not None
        assert one.index not in losses
        losses[one.index] = one.loss - 0.04 * (traits(one)[ATTENTION_SHARE] == 0)
    return losses


def test_the_first_has_the_least_loss_and_a_kind_that_disappoints_is_left() -> None:
    for seed in range(5):
        found = found_by(seed)
        losses = chosen(found, 8)
        first = next(iter(losses))
        assert found[first].loss == min(one.loss for one in found)
        assert traits(found[first])[ATTENTION_SHARE] == 1
        later = [traits(found[index])[ATTENTION_SHARE] for index in [*losses][SCOUTS:]]
        assert sum(later) <= 1
        best = sorted(losses[i] if i in losses else one.loss - 0.04 * (traits(one)[ATTENTION_SHARE] == 0)
                      for i, one in enumerate(found))  # fmt: skip
        assert min(losses.values()) <= best[9]


def test_the_first_few_are_of_all_sizes() -> None:
    for seed in range(5):
        flops = np.random.default_rng(seed).permutation(np.geomspace(1e4, 1e6, 60))
        found = [
            msgspec.structs.replace(one, loss=float(size), sizes=Sizes(float(size), 1, None))
            for one, size in zip(found_by(seed), flops, strict=True)
        ]  # the smaller the better, it seems
        sizes = sorted(found[index].sizes.flops for index in chosen(found, SCOUTS))
        assert [int(np.searchsorted(np.geomspace(1e4, 1e6, 4)[1:3], size)) for size in sizes] == [0, 1, 2]


def test_a_widened_network_is_as_large_as_its_space_allows_and_else_the_same() -> None:
    net = found_by(0, 7)[3].genotype
    wide = widened(net, FULL)
    assert not misfits(wide, FULL)
    assert (wide.embedding, {block.rows for block in wide.blocks}) == (32, {64})
    assert [block.dense_from for block in wide.blocks] == [block.dense_from for block in net.blocks]
    assert widened(wide, FULL) == wide


def test_all_are_trained_at_last() -> None:
    found = found_by(0, 7)
    assert len(chosen(found, 7)) == 7
    assert next_finalist(found, dict.fromkeys(range(7), 0.5)) is None
