"""What a record of a design refuses, and how it says so."""

from collections.abc import Callable
from functools import partial

import pytest

from nas.baselines import Baseline
from nas.evolution import Limit
from nas.recipe import Recipe
from nas.schema import Field
from nas.space import Space
from nas.splits import Split

AGE = partial(Field, name="age", kind="dense")
DNN = partial(Baseline, name="dnn")


@pytest.mark.parametrize(
    ("record", "key", "values", "expected"),
    [
        (Recipe, "recipe.learning_rate", (0.0, -1.0, float("nan"), float("inf")), "a number above 0"),
        (Recipe, "recipe.epochs", (0,), "1 or more"),
        (Recipe, "recipe.patience", (0,), "1 or more"),
        (Recipe, "recipe.embedding_l2", (-1e-9, float("nan"), float("inf")), "a number, 0 or more"),
        (Recipe, "recipe.dropout", (-0.1, 1.0), "a share below 1"),
        (Split, "split.valid", (0.0, 1.0), "a share, above 0 and below 1"),
        (Split, "split.test", (0.0, float("nan")), "a share, above 0 and below 1"),
        (Split, "split.folds", (1, 2), "3 or more"),
        (partial(Split, folds=3), "split.fold", (-1, 3), "one of 0 .. 2"),
        (partial(Split, by="time"), "split.folds", (3,), "none where the split is by time"),
        (Space, "space.blocks", (0,), "1 or more"),
        (Space, "space.predecessors", (0,), "1 or more"),
        (AGE, "field age.min_count", (0,), "1 or more"),
        (AGE, "field age.buckets", (-1,), "0 or more"),
        (AGE, "field age.longest", (0,), "1 or more"),
        (DNN, "baseline.width", (2, 6), "a multiple of 4"),
        (DNN, "baseline.layers", (0,), "1 or more"),
        (DNN, "baseline.embedding", (0, 3), "an even number"),
        (partial(Limit, objective="flops"), "at_most", (0.0, float("nan")), "above 0"),
    ],
)
def test_a_number_out_of_its_range_is_named_with_what_would_do(
    record: Callable[..., object], key: str, values: tuple[float, ...], expected: str
) -> None:
    for value in values:
        with pytest.raises(ValueError) as error:  # noqa: PT011  (the whole text is compared)
            record(**{key.rpartition(".")[2]: value})
        assert str(error.value) == f"{key}: found {value}; expected {expected}"


def test_shares_that_leave_nothing_to_train_on_are_refused_together() -> None:
    with pytest.raises(ValueError, match=r"^split: valid and test: found 1 together; expected some rows left"):
        Split(valid=0.5, test=0.5)


def test_the_ends_of_the_ranges_will_do() -> None:
    Recipe(learning_rate=1e-9, epochs=1, patience=1, embedding_l2=0.0, dropout=0.0)
    Split(valid=0.5, test=0.49)
    Split(folds=3, fold=2)
    AGE(min_count=1, buckets=0, longest=1)
    DNN(width=4, layers=1, embedding=2)
