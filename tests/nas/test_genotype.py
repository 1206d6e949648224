import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.genotype import MERGERS, Block, Genotype, Operator, canonical, decoded, digest, encoded, live
from nas.space import FULL, NASREC, SMALL, Space, cardinality, crossed, drawn, misfits, mutated, narrowest, widest
from tests.nas.networks import TINY, genotype

seeds = st.integers(0, 10_000)


def block(**changes: object) -> Block:
    plain = Block(
        dense=(Operator("fc"),), width=4, dense_from=(0,), sparse=(Operator("efc"),), rows=3, sparse_from=(0,)
    )
    return msgspec.structs.replace(plain, **changes)


@given(seed=seeds)
def test_json_and_back(seed: int) -> None:
    found = genotype(seed)
    assert decoded(encoded(found)) == found
    assert hash(decoded(encoded(found))) == hash(found)


@given(seed=seeds)
def test_mutation_changes_one_gene_and_stays_in_the_space(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parent = drawn(SMALL, rng)
    child = mutated(parent, SMALL, rng)
    assert not misfits(child, SMALL)
    genes = sum(
        getattr(a, name) != getattr(b, name)
        for a, b in zip(parent.blocks, child.blocks, strict=True)
        for name in Block.__struct_fields__
    )
    wide = sum(getattr(parent, name) != getattr(child, name) for name in ("embedding", "norm", "numeric"))
    assert genes + wide <= 1


@given(first=seeds, second=seeds)
def test_a_child_of_two_has_blocks_of_either(first: int, second: int) -> None:
    a, b = genotype(first), genotype(second)
    child = crossed(a, b, np.random.default_rng(first))
    assert not misfits(child, TINY)
    assert all(gene in pair for gene, *pair in zip(child.blocks, a.blocks, b.blocks, strict=True))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"dense": ()}, "dense: found"),
        ({"dense": (Operator("efc"),)}, "expected distinct ones of fc, gating, sum, dot, product"),
        ({"width": 0}, "width 0"),
    ],
)
def test_a_broken_block_cannot_be_made(broken: dict[str, object], message: str) -> None:
    values = {name: getattr(block(), name) for name in Block.__struct_fields__}
    with pytest.raises(ValueError, match=message):
        Block(**{**values, **broken})


def test_a_broken_genotype_cannot_be_read() -> None:
    good = msgspec.to_builtins(genotype(1))
    for change, message in (
        ({"schema": 9}, "schema 9; this version reads 1 and 2"),
        ({"blocks": []}, "one block or more"),
        ({"blocks": [msgspec.to_builtins(block(dense_from=(1,)))]}, r"block 0, dense_from: found \[1\]"),
        ({"norm": "batch"}, "Invalid enum value 'batch'"),
    ):
        with pytest.raises(msgspec.ValidationError, match=message):
            decoded(msgspec.json.encode({**good, **change}))


def test_a_record_of_the_first_schema_is_the_same_network() -> None:
    old = msgspec.to_builtins(Genotype(blocks=(block(), block(sparse_to_dense=True)), embedding=2, norm="layer"))
    for one in old["blocks"]:
        del one["flat_to_dense"]
    del old["numeric"]
    found = decoded(msgspec.json.encode({**old, "schema": 1}))
    assert canonical(found) == canonical(decoded(msgspec.json.encode({**old, "schema": 2})))


def test_a_space_says_what_does_not_fit_it() -> None:
    old = msgspec.structs.replace(NASREC, blocks=1, predecessors=1)
    for change in ({"flat_to_dense": True}, {"dense": (Operator("product"),)}, {"sparse": (Operator("product"),)}):
        made = Genotype(blocks=(block(width=16, rows=16, **change),), embedding=8, norm="none")
        (found,) = misfits(made, old)
        assert found.startswith("block 0")
    assert misfits(Genotype(blocks=(block(width=16, rows=16),), embedding=8, norm="none", numeric=True), old) == [
        "numeric True"
    ]


def test_cardinality_is_the_number_of_genotypes() -> None:
    tiny = Space(
        blocks=2,
        dense=("fc",),
        sparse=("efc",),
        widths=(4, 8),
        rows=(3,),
        predecessors=1,
        embeddings=(2,),
        norms=("none",),
    )
    rng = np.random.default_rng(0)
    plain = msgspec.structs.replace(tiny, mergers=MERGERS[:2], numeric=(False,))
    assert cardinality(plain) == len({drawn(plain, rng) for _ in range(4000)}) == (2 * 4) * (2 * 2 * 2 * 4)
    assert cardinality(tiny) == len({drawn(tiny, rng) for _ in range(20_000)}) == 2 * (2 * 8) * (2 * 2 * 2 * 8)
    sources = (1, 3, 7, 15, 30, 56, 98)
    assert cardinality(FULL) == 3 * 3 * 2 * np.prod([5 * 8 * 3 * 4 * 8 * s * s for s in sources], dtype=object)
    assert cardinality(NASREC) == 3 * 3 * np.prod([4 * 8 * 2 * 4 * 4 * s * s for s in sources], dtype=object)


def test_only_what_reaches_the_output_is_live() -> None:
    dead = Genotype(blocks=(block(), block(), block(dense_from=(0,), sparse_from=(1,))), embedding=2, norm="none")
    alive = live(dead)
    assert alive.dense == (False, False, True)
    assert alive.sparse == (True, False, True)
    assert alive.inputs == (True, True)
    merged = Genotype(
        blocks=(block(dense_to_sparse=True), block(sparse_from=(1,), dense_from=(0,))), embedding=2, norm="none"
    )
    assert live(merged).dense == (True, True)
    assert live(merged).dense_out == (False, True)


@given(seed=seeds)
def test_networks_that_differ_in_dead_genes_have_one_name(seed: int) -> None:
    found = genotype(seed)
    alive = live(found)
    blocks = [
        b if dense else msgspec.structs.replace(b, width=16, dense=(Operator("gating"),))
        for b, dense in zip(found.blocks, alive.dense, strict=True)
    ]
    other = msgspec.structs.replace(found, blocks=tuple(blocks))
    assert digest(other) == digest(found)
    assert live(canonical(found)) == live(found)


def test_the_extremes_hold_every_choice() -> None:
    assert all((len(b.dense), len(b.sparse)) == (5, 3) for b in widest(SMALL).blocks)
    assert widest(SMALL).numeric
    assert not misfits(narrowest(SMALL), SMALL)
    assert misfits(widest(SMALL), SMALL)
