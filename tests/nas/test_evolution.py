from typing import Any, Literal

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nas.evolution import Evaluated, Limit, Rules, Sizes, _chosen, _order, _Round, _size_excess, front, proposed, within
from nas.genotype import Genotype, digest
from nas.pareto import crowding, dominated, ranks
from nas.space import FULL, SMALL, Space, drawn, misfits
from tests.nas.networks import genotype


def hypervolume(values: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """The area that (n, 2) points dominate below a reference point: how good a front is."""
    inside = values[(values < reference).all(axis=1)]
    area, ceiling = 0.0, float(reference[1])
    for x, y in inside[np.lexsort((inside[:, 1], inside[:, 0]))]:
        if y < ceiling:
            area += (reference[0] - x) * (ceiling - y)
            ceiling = y
    return float(area)


points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=25)


@given(points)
def test_domination_one_by_one(found: list[tuple[int, int]]) -> None:
    values = np.array(found, float)
    expected = [any((a <= b).all() and (a < b).any() for a in values) for b in values]
    assert dominated(values).tolist() == expected
    rank = ranks(values)
    assert (rank == 0).tolist() == [not out for out in expected]
    for level in range(1, rank.max() + 1):
        assert not dominated(values[rank == level]).any()


def test_crowding_and_hypervolume_by_hand() -> None:
    values = np.array([[0.0, 4.0], [1.0, 2.0], [4.0, 0.0]])
    assert crowding(values).tolist() == [np.inf, pytest.approx(2.0), np.inf]
    assert hypervolume(values, np.array([5.0, 5.0])) == pytest.approx(5 * 1 + 4 * 2 + 1 * 2)
    assert hypervolume(values, np.array([0.0, 0.0])) == 0


def sizes(found: Genotype) -> Sizes:
    return Sizes(float(sum(b.width for b in found.blocks)), found.embedding, None)


def loss(found: Genotype) -> float:
    """A made-up loss: a better network reads more and is wider, with little to gain from the last width."""
    gains = sum(len(b.dense_from) + np.log2(b.width) for b in found.blocks)
    return float(1.0 - 0.02 * gains - 0.01 * found.embedding)


def searched(rules: Rules, count: int, seed: int = 0, space: Space = SMALL) -> list[Evaluated]:
    found: list[Evaluated] = []
    while len(found) < count:
        for child in proposed(rules, space, found, rules.children, seed, sizes):
            found.append(Evaluated(len(found), child, loss(child), sizes(child), 0, 0.0))
    return found


METHODS: tuple[Literal["evolution", "random"], ...] = ("evolution", "random")
RULES = Rules(population=16, tournament=5, children=4)


def test_children_are_new_and_of_the_space() -> None:
    found = searched(RULES, 120)
    assert len({digest(one.genotype) for one in found}) == 120
    assert not any(misfits(one.genotype, SMALL) for one in found)


def test_evolution_finds_a_better_loss_than_chance() -> None:
    for seed in range(3):
        loss_alone = [Rules(method=m, objectives=("loss",), population=24, children=8) for m in METHODS]
        best = [min(one.loss for one in searched(rules, 160, seed, FULL)) for rules in loss_alone]
        assert best[0] < best[1]


def test_evolution_finds_a_better_front_than_chance_on_average() -> None:
    area = []
    for seed in range(4):
        found = [searched(Rules(method=m, population=24, children=8), 240, seed, FULL) for m in METHODS]
        fronts = [np.array([[a.loss, a.sizes.flops / 8000] for a in front(RULES, one)]) for one in found]
        area.append([hypervolume(values, np.ones(2)) for values in fronts])
    assert np.mean(area, axis=0)[0] > np.mean(area, axis=0)[1]


def test_the_old_die_however_fit() -> None:
    """A tournament of all who live is won by the fittest of the newest, the fittest of all being older than those."""
    rules = Rules(objectives=("loss",), population=4, tournament=4)
    found = [
        Evaluated(i, genotype(i), value, sizes(genotype(i)), 0, 0.0)
        for i, value in enumerate([0.1, 0.9, 0.7, 0.5, 0.3, 0.8])
    ]
    now = _Round(rules, SMALL, found, _order(rules, found), sizes, digest)
    for seed in range(10):
        assert _chosen(now, np.random.default_rng(seed)) == found[4].genotype


def evaluated(*points: tuple[float, float]) -> list[Evaluated]:
    """Networks of these losses and FLOPs, all different."""
    return [
        Evaluated(i, genotype(i, SMALL), value, Sizes(flops, 1, None), 0, 0.0)
        for i, (value, flops) in enumerate(points)
    ]


def test_the_fittest_are_within_the_limits_then_on_the_first_front_and_where_it_is_thin() -> None:
    rules = Rules(limits=(Limit("flops", 10.0),))
    # On the front 5 and 4 are the ends; the others have .45 + .70, .55 + .30 and .36 + .47 of its extent beside them.
    points = [(0.5, 5.0), (0.1, 9.0), (0.3, 6.0), (0.05, 20.0), (0.04, 12.0), (0.9, 1.0), (0.95, 2.0)]
    found = evaluated(*points)
    assert np.argsort(_order(rules, found)).tolist() == [5, 0, 1, 2, 6, 4, 3]
    assert [one.index for one in front(rules, found)] == [1, 2, 0, 5]
    assert [one.index for one in within(rules, found)] == [0, 1, 2, 5, 6]


def test_without_a_latency_no_limit_on_it_is_kept() -> None:
    assert within(Rules(limits=(Limit("latency_ms", 1e9),)), evaluated((0.5, 5.0))) == []


def test_by_how_much_limits_are_exceeded_is_relative_to_them_and_adds_up() -> None:
    rules = Rules(limits=(Limit("flops", 10.0), Limit("loss", 0.1)))
    found = evaluated((0.4, 1.0), (0.1, 35.0), (0.2, 25.0), (0.3, 14.0))  # 3, 2.5, 1 + 1.5 and 2 + .4 over
    assert np.argsort(_order(rules, found)).tolist() == [3, 1, 2, 0]
    several = Rules(limits=(Limit("flops", 10.0), Limit("loss", 0.1), Limit("parameters", 4.0)))
    assert _size_excess(several, Sizes(25.0, 6, None)) == pytest.approx(1.5 + 0.5)
    assert _size_excess(several, Sizes(5.0, 4, None)) == 0.0


def genes(found: Genotype) -> list[object]:
    return [getattr(block, name) for block in found.blocks for name in block.__struct_fields__] + [
        found.embedding, found.norm, found.numeric
    ]  # fmt: skip


def least_apart(child: Genotype, parents: list[Evaluated]) -> int:
    """In how many genes it differs from the nearest of these."""
    return min(sum(a != b for a, b in zip(genes(child), genes(one.genotype), strict=True)) for one in parents)


def test_a_child_is_one_gene_from_a_living_parent_or_from_a_mixture_of_two() -> None:
    found = evaluated(*((1.0 - 0.01 * i, 1.0) for i in range(12)))
    for crossover in (0.0, 1.0):
        rules = Rules(population=4, tournament=1, crossover=crossover)
        children = proposed(rules, SMALL, found, 30, 0, sizes)
        apart = np.array([least_apart(child, found[-4:]) for child in children])
        assert apart.min() >= 1
        assert (apart.max() == 1) == (crossover == 0.0)
        if crossover:
            of_any = [{str(gene) for gene in genes(one.genotype)} for one in found[-4:]]
            foreign = [sum(str(gene) not in set().union(*of_any) for gene in genes(child)) for child in children]
            assert max(foreign) <= 1
            assert np.mean(apart > 1) > 0.5


def test_the_first_of_a_population_and_what_is_random_ignore_what_was_found() -> None:
    one, other = evaluated(*[(0.5, 1.0)] * 6), evaluated(*[(0.5, 1.0)] * 12)[6:]
    for rules in (Rules(method="random", population=2), Rules(population=7)):
        assert proposed(rules, SMALL, one, 1, 3, sizes) == proposed(rules, SMALL, other, 1, 3, sizes)
    full = Rules(population=6)
    assert proposed(full, SMALL, one, 1, 3, sizes) != proposed(full, SMALL, other, 1, 3, sizes)


@pytest.mark.parametrize("method", METHODS)
def test_where_nothing_keeps_the_limits_the_nearest_of_many_is_proposed(method: Literal["evolution", "random"]) -> None:
    rules = Rules(method=method, known=0.0, limits=(Limit("flops", 1e-3),))
    rng = np.random.default_rng(0)
    usual = [sizes(drawn(SMALL, rng)).flops for _ in range(400)]
    assert max(sizes(child).flops for child in proposed(rules, SMALL, [], 4, 0, sizes)) <= np.quantile(usual, 0.1)


def test_of_a_space_that_has_been_searched_through_any_is_proposed() -> None:
    one = Space(
        blocks=1, widths=(8,), rows=(4,), predecessors=1, embeddings=(4,), norms=("none",), numeric=(False,),
        dense=("fc",), sparse=("efc",), mergers=(),
    )  # fmt: skip
    children = proposed(Rules(), one, [], 3, 0, sizes)
    assert len({digest(child) for child in children}) == 1
    assert not misfits(children[0], one)
    three = msgspec.structs.replace(one, widths=(8, 16, 32))
    for seed in range(6):
        assert len({digest(child) for child in proposed(Rules(), three, [], 3, seed, sizes)}) == 3


def test_limits_bind_what_is_proposed_and_what_is_on_the_front() -> None:
    rules = Rules(population=16, tournament=5, children=4, limits=(Limit("flops", 40.0),))
    found = searched(rules, 80)
    assert all(one.sizes.flops <= 40 for one in found)
    tight = Rules(population=16, tournament=5, children=4, limits=(Limit("loss", 0.55),))
    assert all(one.loss <= 0.55 for one in front(tight, found))


def test_a_known_form_that_exceeds_the_limits_at_every_size_gives_its_place_to_another_network() -> None:
    rules = Rules(known=1.0, limits=(Limit("flops", 1.0),))
    cost = {False: Sizes(1.0, 1, None), True: Sizes(2.0, 1, None)}
    found = proposed(rules, FULL, [], 24, 0, lambda one: cost[one.numeric])  # forms on the sparse side are numeric
    assert not any(one.numeric for one in found)


def test_a_limit_that_nothing_keeps_gives_an_empty_front() -> None:
    rules = Rules(limits=(Limit("flops", 1.0),), children=4, population=8)
    assert front(rules, searched(rules, 8)) == []


def test_what_is_proposed_depends_on_seed_and_past_alone() -> None:
    past = searched(RULES, 40)
    first, again, other = (proposed(RULES, SMALL, past, 4, seed, sizes) for seed in (0, 0, 1))
    assert first == again != other


def test_children_are_the_same_in_rounds_of_any_size_where_nothing_is_learned() -> None:
    rules = Rules(method="random")
    first = proposed(rules, SMALL, [], 4, 0, sizes)
    found = [Evaluated(i, one, 0.5, sizes(one), 0, 0.0) for i, one in enumerate(first)]
    assert proposed(rules, SMALL, [], 8, 0, sizes) == first + proposed(rules, SMALL, found, 4, 0, sizes)


@given(st.integers(0, 50))
def test_the_front_is_what_nothing_dominates(seed: int) -> None:
    found = [
        Evaluated(i, genotype(seed + i), loss(genotype(seed + i)), sizes(genotype(seed + i)), 0, 0.0) for i in range(15)
    ]
    kept = front(RULES, found)
    for one in found:
        beaten = any(a.loss <= one.loss and a.sizes.flops <= one.sizes.flops and a != one
                     and (a.loss, a.sizes.flops) != (one.loss, one.sizes.flops) for a in found)  # fmt: skip
        assert (one in kept) == (not beaten)


def test_rules_that_cannot_work_are_refused() -> None:
    with pytest.raises(ValueError, match="loss among them"):
        Rules(objectives=("flops",))
    with pytest.raises(ValueError, match=r"found loss, loss; expected each once"):
        Rules(objectives=("loss", "loss"))
    for name in ("population", "tournament", "children"):
        zero: dict[str, Any] = {name: 0}
        with pytest.raises(ValueError, match=rf"search\.{name}: found 0; expected 1 or more"):
            Rules(**zero)
    for share in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"search\.known: found .*; expected a share, 0 to 1"):
            Rules(known=share)
    with pytest.raises(ValueError, match="at_most: found 0"):
        Limit("flops", 0)
