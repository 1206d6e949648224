"""How large the measurements of `nas` are."""

import msgspec

from nas.recipe import Recipe
from nas.sampling import STRATEGIES, Strategy
from nas.space import SMALL, Space

WIDE = Space(blocks=5, widths=(16, 32, 64, 128, 256), rows=(16, 32), embeddings=(8, 16), norms=("none", "layer"))


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes. `rows`: of one training alone."""

    name: str
    hours: int  # of the simulated log
    requests_per_hour: float
    space: Space
    recipe: Recipe
    rows: int
    supernet: Recipe
    supernet_rows: int
    nets: int  # that are ranked
    strategies: tuple[Strategy, ...]
    adapt_rows: int
    valid_rows: int
    searches: int
    evaluations: int
    finalists: int  # of a search, per level of FLOPs, that are trained alone before one is picked
    seeds: int
    widths: tuple[int, ...]  # of baselines
    rates: tuple[float, ...]  # learning rates that baselines are tuned over; searched networks have the recipe's


SHORT = Scale(
    name="short", hours=24, requests_per_hour=570.0, space=SMALL, recipe=Recipe(batch_size=256, learning_rate=0.008),
    rows=50_000, supernet=Recipe(batch_size=256, learning_rate=0.008), supernet_rows=125_000, nets=40,
    strategies=("single-any", "single-single"), adapt_rows=1_000, valid_rows=4_000, searches=1, evaluations=36,
    finalists=1, seeds=2, widths=(16,), rates=(0.008,),
)  # fmt: skip
MIDDLE = Scale(
    name="middle", hours=24, requests_per_hour=3_000.0, space=WIDE, recipe=Recipe(batch_size=512, learning_rate=0.008),
    rows=250_000, supernet=Recipe(batch_size=256, learning_rate=0.004), supernet_rows=500_000, nets=30,
    strategies=("single-any",), adapt_rows=4_000, valid_rows=8_000, searches=3, evaluations=80, finalists=2, seeds=3,
    widths=(256,), rates=(0.004, 0.008),
)  # fmt: skip
LONG = Scale(
    name="full", hours=24, requests_per_hour=11_000.0, space=WIDE, recipe=Recipe(batch_size=1024, learning_rate=0.008),
    rows=1_000_000, supernet=Recipe(batch_size=256, learning_rate=0.004), supernet_rows=1_500_000, nets=100,
    strategies=STRATEGIES, adapt_rows=10_000, valid_rows=10_000, searches=3, evaluations=80, finalists=2, seeds=5,
    widths=(16, 64, 256), rates=(0.004, 0.008),
)  # fmt: skip
