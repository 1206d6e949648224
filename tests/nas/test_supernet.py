"""What weight sharing must keep: a network cut out of the supernet computes the same numbers, at its own size."""

from pathlib import Path

import msgspec
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.network import Network
from nas.space import widest
from nas.supernet import fresh, key_of, loaded, progress_in, save
from nas.trace import costs
from nas.weights import TABLE, Inputs, size, slots_of, weights_of
from tests.nas.networks import INPUTS, TINY, features, filled, genotype

WITHOUT_SPARSE = Inputs(dense=5, sparse=0, table_rows=0, heads=1)
WITHOUT_DENSE = Inputs(dense=0, sparse=4, table_rows=30, heads=1)


@given(seed=st.integers(0, 100_000), inputs=st.sampled_from([INPUTS, WITHOUT_SPARSE, WITHOUT_DENSE]))
@settings(max_examples=120)
def test_a_cut_network_computes_what_it_computes_in_the_supernet(seed: int, inputs: Inputs) -> None:
    supernet, found = filled(inputs), genotype(seed)
    given = features(inputs)
    inside = supernet.borrow(found, given).logits()
    cut = supernet.cut(found).eval()
    assert torch.allclose(cut(*given), inside, rtol=1e-5, atol=1e-6)
    alone = Network(found, inputs)
    assert [p.shape for p in cut.parameters()] == [p.shape for p in alone.parameters()]
    assert sum(p.numel() for p in alone.parameters()) == size(weights_of(found, inputs, slots_of(TINY)))
    assert costs(cut, given) == costs(alone, given)


@given(seed=st.integers(0, 100_000))
@settings(max_examples=60)
def test_gradients_in_the_supernet_are_those_of_the_cut_network(seed: int) -> None:
    supernet, found, given = filled(INPUTS), genotype(seed), features(INPUTS)
    target = torch.linspace(-1, 1, 14).reshape(7, 2)
    borrowed, cut = supernet.borrow(found, given), supernet.cut(found).train()
    ((borrowed.logits() - target) ** 2).sum().backward()
    ((cut(*given) - target) ** 2).sum().backward()
    for name, leaf in borrowed.leaves.items():
        own = cut.weight(name).grad
        if name == TABLE:
            own = own.to_dense()[borrowed.rows]
        assert torch.allclose(leaf.grad, own, rtol=1e-3, atol=1e-5), name


@given(seed=st.integers(0, 100_000))
@settings(max_examples=30)
def test_a_step_leaves_everything_else_as_it_was(seed: int) -> None:
    supernet, found, given = filled(INPUTS), genotype(seed), features(INPUTS)
    before = {name: weight.clone() for name, weight in supernet.weights.items()}
    borrowed = supernet.borrow(found, given)
    borrowed.logits().sum().backward()
    assert borrowed.step(0.01)
    parts = {key_of(found.norm, w.name): w for w in weights_of(found, INPUTS, supernet.slots)}
    for name, weight in supernet.weights.items():
        moved = weight != before[name]
        if name not in parts:
            assert not moved.any(), name
        else:
            inside = torch.zeros_like(moved)
            index = np.ix_(*([i for start, stop in cuts for i in range(start, stop)] for cuts in parts[name].axes))
            inside[index] = True
            assert not (moved & ~inside).any(), name


def test_the_full_path_trains_every_weight() -> None:
    supernet, given = filled(INPUTS, noise=0.03), features(INPUTS, 64)  # more would leave the range of fp32
    before = {name: weight.clone() for name, weight in supernet.weights.items()}
    for norm in TINY.norms:
        borrowed = supernet.borrow(msgspec.structs.replace(widest(TINY), norm=norm), given)
        (borrowed.logits() ** 2).sum().backward()
        borrowed.step(0.01)
    still = [name for name in before if torch.equal(before[name], supernet.weights[name])]
    assert all("sum" in name for name in still)  # at one width throughout a sum projects the input alone


def test_gradients_beyond_numbers_move_nothing() -> None:
    supernet, given = filled(INPUTS, noise=1e4), features(INPUTS)
    before = {name: weight.clone() for name, weight in supernet.weights.items()}
    borrowed = supernet.borrow(msgspec.structs.replace(widest(TINY), norm="none"), given)
    borrowed.logits().sum().backward()
    assert not borrowed.step(0.01)
    assert all(torch.equal(weight, before[name]) for name, weight in supernet.weights.items())


def test_every_genotype_finds_its_weights_in_the_supernet() -> None:
    supernet = fresh(TINY, INPUTS, 0)
    for seed in range(300):
        found = genotype(seed)
        for weight in weights_of(found, INPUTS, supernet.slots):
            whole = supernet.weights[key_of(found.norm, weight.name)]
            assert all(cuts[-1][1] <= length for cuts, length in zip(weight.axes, whole.shape, strict=True))


def test_activations_begin_neither_near_zero_nor_large() -> None:
    supernet, given = filled(INPUTS), features(INPUTS, 200)
    spread = [float(supernet.cut(genotype(seed)).eval()(*given).detach().std()) for seed in range(100)]
    assert 0.02 < np.median(spread) < 3.0


def test_a_stored_supernet_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "supernet.pt"
    supernet, found, given = filled(INPUTS), genotype(5), features(INPUTS)
    borrowed = supernet.borrow(found, given)
    borrowed.logits().sum().backward()
    borrowed.step(0.01)
    save(supernet, path, "half")
    assert progress_in(path) == "half"
    again = loaded(path, TINY, INPUTS)
    assert again.digest() == supernet.digest()
    assert torch.equal(again.cut(found).eval()(*given), supernet.cut(found).eval()(*given))
