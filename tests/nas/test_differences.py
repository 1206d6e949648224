import msgspec

from nas.differences import differences
from nas.recipe import Recipe
from nas.space import SMALL
from nas.supernet_train import KEYS, SupernetPlan

PLAN = SupernetPlan(space=SMALL, recipe=Recipe(), rows=100, head_weights=(1.0, 1.0))


def test_every_field_that_differs_is_named_by_its_key() -> None:
    other = msgspec.structs.replace(
        PLAN, space=msgspec.structs.replace(SMALL, blocks=2), recipe=Recipe(dropout=0.1), rows=200
    )
    assert differences(PLAN, PLAN, KEYS) == ""
    assert differences(PLAN, other, KEYS) == (
        f"space.blocks was {SMALL.blocks}, is 2; recipe.dropout was 0.0, is 0.1; "
        "supernet.rows (or epochs, in rows) was 100, is 200"
    )


def test_a_field_that_no_key_tells_of_keeps_its_name() -> None:
    assert differences(Recipe(epochs=1), Recipe(epochs=2), {"drop": "x"}) == "epochs was 1, is 2"
