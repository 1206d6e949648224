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


class Part(msgspec.Struct):
    size: int = 1


class Whole(msgspec.Struct):
    part: Part | None = None
    name: str | None = None


def test_a_part_that_is_new_or_gone_is_told_whole_and_nothing_as_null() -> None:
    some, none = Whole(Part(2), "a"), Whole()
    assert differences(none, some, {}) == 'part was null, is {"size":2}; name was null, is "a"'
    assert differences(some, none, {}) == 'part was {"size":2}, is null; name was "a", is null'


def test_of_keys_the_first_that_a_place_begins_with_counts() -> None:
    before, after = Whole(Part(1)), Whole(Part(2))
    assert differences(before, after, {"size": "x", "part.": "the first's ", "part": "second"}) == (
        "the first's size was 1, is 2"
    )
