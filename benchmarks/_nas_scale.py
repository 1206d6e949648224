"""How large the measurements of `nas` are, and of which size a folder's results are."""

from pathlib import Path

import msgspec

from nas.recipe import Recipe
from nas.sampling import STRATEGIES, Strategy
from nas.space import SMALL, Space

WIDE = Space(blocks=5, widths=(16, 32, 64, 128, 256), rows=(16, 32, 64), embeddings=(8, 16), norms=("none", "layer"))


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes. `rows`: of one training alone."""

    name: str
    hours: int  # of the simulated log
    requests_per_hour: float
    valid: float  # share of the log, just before its newest fifth, which is the test
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
    finalists: int  # of a search, that are trained alone before one is picked
    seeds: int
    widths: tuple[int, ...]  # of baselines
    rates: tuple[float, ...]  # learning rates that baselines and picks are tuned over; a search has the recipe's


SHORT = Scale(
    name="short", hours=24, requests_per_hour=570.0, valid=0.1, space=SMALL,
    recipe=Recipe(batch_size=256, learning_rate=0.008), rows=50_000,
    supernet=Recipe(batch_size=256, learning_rate=0.008), supernet_rows=125_000, nets=40,
    strategies=("half-known", "single-any", "single-single"), adapt_rows=1_000, valid_rows=4_000, searches=1,
    evaluations=36, finalists=3, seeds=2, widths=(16,), rates=(0.008,),
)  # fmt: skip
MIDDLE = Scale(
    name="middle", hours=24, requests_per_hour=3_000.0, valid=0.1, space=WIDE,
    recipe=Recipe(batch_size=512, learning_rate=0.008), rows=250_000,
    supernet=Recipe(batch_size=256, learning_rate=0.004), supernet_rows=500_000, nets=100,
    strategies=("half-known", "single-any"), adapt_rows=4_000, valid_rows=8_000, searches=3, evaluations=80,
    finalists=5, seeds=3, widths=(64, 256), rates=(0.004, 0.008),
)  # fmt: skip
LONG = Scale(  # nine days: every hour and weekday of the test rows is one of the training's too
    name="full", hours=216, requests_per_hour=4_300.0, valid=0.02, space=WIDE,
    recipe=Recipe(batch_size=512, learning_rate=0.004), rows=1_000_000,
    supernet=Recipe(batch_size=256, learning_rate=0.004), supernet_rows=1_000_000, nets=100, strategies=STRATEGIES,
    adapt_rows=10_000, valid_rows=20_000, searches=3, evaluations=80, finalists=5, seeds=5, widths=(64, 256),
    rates=(0.002, 0.004, 0.008),
)  # fmt: skip

MARK = "scale.json"  # in a measurement's folder


class AnotherScale(Exception):
    """A folder holds results of other sizes."""


def claim(folder: Path, scale: Scale) -> None:
    """Mark a folder as of a scale; with more searches, seeds, widths or rates it may be gone on with.

    Raises:
        AnotherScale: it holds results of another one.
    """
    mark, ours = folder / MARK, msgspec.json.encode(scale)
    if folder.exists() and not folder.is_dir():
        raise AnotherScale(f"{folder}: is a file; name a folder")
    if not mark.exists():
        if folder.exists() and any(folder.iterdir()):
            raise AnotherScale(f"{folder}: holds files but no {MARK}; name an empty folder")
        folder.mkdir(parents=True, exist_ok=True)
        mark.write_bytes(ours)
    theirs = msgspec.json.decode(mark.read_bytes())
    if _of_a_folder(theirs) != _of_a_folder(msgspec.json.decode(ours)):
        what = f"the {theirs['name']} measurement" if theirs["name"] != scale.name else "other sizes"
        raise AnotherScale(f"{folder}: holds results of {what}, this is the {scale.name} one; name another folder")


def _of_a_folder(scale: dict[str, object]) -> dict[str, object]:
    """What all results of a folder share: others are named by theirs."""
    return {name: value for name, value in scale.items() if name not in ("searches", "seeds", "widths", "rates")}
