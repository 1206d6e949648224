"""Known forms: genotypes of their space, shaped as they are named, and what a search begins with."""

import msgspec
import numpy as np
import pytest

from nas.forms import FORMS, MOST_LAYERS, begun, formed, known, near_known, offered
from nas.genotype import Genotype, digest, live
from nas.space import FULL, NASREC, SMALL, SPACES, Space, misfits

POOR = Space(blocks=1, dense=("gating",), sparse=("efc",), mergers=(), numeric=(False,), norms=("layer",))


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_a_form_is_of_its_space_and_what_it_does_not_need_is_not_built(space: Space) -> None:
    for form in offered(space):
        for seed in range(20):
            net = known(form, space, np.random.default_rng(seed))
            assert not misfits(net, space)
            built = [there for pair in zip(live(net).dense, live(net).sparse, strict=True) for there in pair]
            assert sum(built) <= 2 * (MOST_LAYERS + 1)


def shape(name: str, layers: int) -> list[tuple[str, tuple[int, ...], str, tuple[int, ...], bool]]:
    net = formed(FORMS[name], SMALL, layers=layers, width=16, rows=4, embedding=8)
    return [(b.dense[0].kind, b.dense_from, b.sparse[0].kind, b.sparse_from, b.flat_to_dense) for b in net.blocks]


def test_forms_by_hand() -> None:
    flat = ("sum", (0,), "efc", (0,), True)
    assert shape("DCN-V2", 2) == [flat, ("product", (1,), "efc", (0,), False), ("product", (1, 2), "efc", (0,), False)]
    assert shape("DNN", 2)[1:] == [("fc", (1,), "efc", (0,), False), ("fc", (2,), "efc", (0,), False)]
    assert shape("DNN", 1)[1:] == [flat, ("fc", (2,), "efc", (0,), False)]
    assert [layer[2:4] for layer in shape("xDeepFM", 2)[1:]] == [("product", (0,)), ("product", (0, 2))]
    assert [layer[2:4] for layer in shape("AutoInt", 2)[1:]] == [("attention", (0,)), ("attention", (2,))]
    numeric = {name for name in FORMS if formed(FORMS[name], FULL, layers=1, width=16, rows=16, embedding=8).numeric}
    assert numeric == {"AutoInt", "xDeepFM"}


def test_a_share_of_what_a_search_begins_with_are_forms_in_turn() -> None:
    def form_of(net: Genotype) -> str | None:
        ours = (n for n, f in FORMS.items() for layers in (1, 2) if digest(net) == digest(_like(n, layers, net)))
        return next(ours, None)

    def _like(name: str, layers: int, net: Genotype) -> Genotype:
        last = net.blocks[-1]
        return formed(FORMS[name], SMALL, layers=layers, width=last.width, rows=last.rows, embedding=net.embedding)

    small = msgspec.structs.replace(SMALL, blocks=3)
    found = [form_of(begun(small, 0.5, n, np.random.default_rng(n))) for n in range(60)]
    assert found[::2] == [None] * 30
    assert sum(name is not None for name in found[1::2]) >= 20  # one layer and two; three are told apart by no one here
    assert {name for name in found if name} >= {"DNN", "AutoInt", "xDeepFM"}


def test_a_space_without_forms_is_drawn_from() -> None:
    assert not offered(POOR)
    assert len(offered(NASREC)) == 3
    for seed in range(5):
        rng = np.random.default_rng(seed)
        assert not misfits(begun(POOR, 1.0, 0, rng), POOR)
        assert not misfits(near_known(POOR, rng), POOR)
        assert not misfits(near_known(FULL, rng), FULL)
