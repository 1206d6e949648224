"""How large the measurements of `nas` are, and how they go on where they stopped."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
from rich.console import Console

from nas.recipe import Recipe
from nas.sampling import STRATEGIES, Strategy
from nas.space import SMALL, Space

T = TypeVar("T")
WIDE = Space(blocks=5, widths=(16, 32, 64, 128, 256), rows=(16, 32), embeddings=(8, 16), norms=("none", "layer"))


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes. `rows`: of one stand-alone training."""

    name: str
    requests: int
    space: Space
    recipe: Recipe
    rows: int
    supernet_rows: int
    nets: int  # that are ranked
    strategies: tuple[Strategy, ...]
    adapt_rows: int
    valid_rows: int
    searches: int
    evaluations: int
    seeds: int
    widths: tuple[int, ...]  # of baselines
    rates: tuple[float, ...]  # learning rates that every model is tuned over


SHORT = Scale(
    name="short", requests=4_000, space=SMALL, recipe=Recipe(batch_size=256, learning_rate=0.008), rows=50_000,
    supernet_rows=300_000, nets=40, strategies=("single-any", "single-single"), adapt_rows=1_000, valid_rows=8_000,
    searches=1, evaluations=80, seeds=2, widths=(16,), rates=(0.008,),
)  # fmt: skip
LONG = Scale(
    name="full", requests=250_000, space=WIDE, recipe=Recipe(batch_size=1024, learning_rate=0.004), rows=1_000_000,
    supernet_rows=4_000_000, nets=100, strategies=STRATEGIES, adapt_rows=20_000, valid_rows=50_000,
    searches=3, evaluations=300, seeds=5, widths=(16, 64, 256), rates=(0.002, 0.004, 0.008),
)  # fmt: skip


def gentle(recipe: Recipe) -> Recipe:
    """A short adaptation's: a quarter of the rate, so that few rows do not undo what many taught."""
    return msgspec.structs.replace(recipe, learning_rate=recipe.learning_rate / 4)


class OutOfTime(Exception):
    """The stage's minutes are over; the same command goes on."""


class Stage:
    """Results by name in a folder, each computed once; stops between two results when the time is over."""

    def __init__(self, folder: Path, minutes: float, console: Console) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.until, self.console = folder, time.monotonic() + 60 * minutes, console

    def once(self, name: str, kind: type[T], compute: Callable[[], T]) -> T:
        """A result, computed or found.

        Raises:
            OutOfTime: it is to be computed and there is no time left.
        """
        path = self.folder / f"{name}.json"
        if path.exists():
            return msgspec.json.decode(path.read_bytes(), type=kind)
        if time.monotonic() > self.until:
            raise OutOfTime
        self.console.print(f"[dim]{name}[/dim]")
        found = compute()
        path.with_suffix(".part").write_bytes(msgspec.json.encode(found))
        path.with_suffix(".part").replace(path)
        return found
