"""How a network is trained, apart from what it is: one recipe serves a searched network and every baseline."""

from math import cos, pi
from typing import Literal

import msgspec

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
        if not (self.learning_rate > 0 and self.batch_size >= 1 and self.epochs >= 1 and self.patience >= 1):
            raise ValueError("recipe: learning_rate must be above 0; batch_size, epochs and patience 1 or more")
        if not (0 <= self.dropout < 1 and self.embedding_l2 >= 0):
            raise ValueError("recipe: dropout must lie in [0, 1), embedding_l2 be 0 or more")


def rate_at(recipe: Recipe, row: int, rows: int) -> float:
    """The learning rate after `row` of `rows` rows."""
    if recipe.schedule == "constant":
        return recipe.learning_rate
    done = row / rows
    rise = min(1.0, (done + 1e-9) / WARMUP) if done < WARMUP else 1.0
    return recipe.learning_rate * rise * (0.01 + 0.99 * 0.5 * (1 + cos(pi * min(1.0, done))))
