"""How a network is trained, apart from what it is: one recipe serves a searched network and every baseline."""

from math import cos, inf, pi
from typing import Literal

import msgspec

from nas.ranges import at_least, expect

WARMUP = 0.05  # of the rows: the rate rises from 0


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Adam with these numbers. `patience`: checks in a row without a better validation after which training stops."""

    learning_rate: float = 2e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    batch_size: int = 512
    embedding_l2: float = 1e-6  # on the embeddings that a batch looks up
    dropout: float = 0.0
    epochs: int = 1
    patience: int = 2

    def __post_init__(self) -> None:
        expect("recipe.learning_rate", self.learning_rate, 0 < self.learning_rate < inf, "a number above 0")
        at_least("recipe", self, batch_size=1, epochs=1, patience=1)
        expect("recipe.embedding_l2", self.embedding_l2, 0 <= self.embedding_l2 < inf, "a number, 0 or more")
        expect("recipe.dropout", self.dropout, 0 <= self.dropout < 1, "a share below 1")


def rate_at(recipe: Recipe, row: int, rows: int) -> float:
    """The learning rate after `row` of `rows` rows."""
    if recipe.schedule == "constant":
        return recipe.learning_rate
    done = row / rows
    rise = min(1.0, (done + 1e-9) / WARMUP) if done < WARMUP else 1.0
    return recipe.learning_rate * rise * (0.01 + 0.99 * 0.5 * (1 + cos(pi * min(1.0, done))))
