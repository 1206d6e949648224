"""NAS: how a supernet ranks networks, what value-weighted losses capture, searched networks beside baselines.

The data are the ranking log of the simulated short-video feed, with true probabilities. Claims are printed with their
intervals, beside what they are measured against in the same run. `--short` takes a few minutes, `--middle` three
hours of one core, on a day of the feed. Without either it is nine days, and a million of their rows a training: that
takes hours on two cores, and minutes on a GPU, in stages: each call works for `--minutes` and the next goes on.
`--quality` leaves out all but searches beside baselines, and may begin with few `--searches` and `--seeds`: a later
call with more of them adds what is missing. `--ranking` leaves out all but supernets beside networks trained alone.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
from rich.console import Console

from benchmarks._nas_data import Bench, bench, prepared
from benchmarks._nas_figures import draw
from benchmarks._nas_quality import (
    LEVELS,
    METHODS,
    Quality,
    baselines,
    quality,
    searched,
    searches,
    supernet,
    supernets,
)
from benchmarks._nas_ranking import SEEDS, Rankings, rankings, strategies, train_strategy
from benchmarks._nas_runs import train
from benchmarks._nas_scale import LONG, MIDDLE, SHORT, AnotherScale, Scale, claim
from benchmarks._nas_stage import OutOfTime, Stage, workers
from benchmarks._nas_tables import show
from benchmarks._nas_trees import WITHOUT_TREES, heads, trees
from benchmarks._nas_value import Captured, captured, shares_of, trainings
from nas.cli import count
from nas.environment import Environment, environment
from nas.finalists import ENLARGED
from nas.space import drawn
from nas.train import fit

Part = Literal["quality", "ranking"]  # of the measurement, alone


class Results(msgspec.Struct, frozen=True):
    """Everything that is printed."""

    scale: Scale
    data: str  # digest
    rows: tuple[int, int, int]  # that were shown, of training, validation and test
    environment: Environment
    rankings: Rankings | None  # None where quality is measured alone
    captured: list[Captured]
    quality: Quality | None  # None where ranking is measured alone
    seconds: float  # of this call


def main(argv: Sequence[str]) -> int:
    """Measure and print; status 3 where there was not enough time, 2 where the folder is of another scale."""
    options = _options(argv)
    scale = _scale(options)
    folder = options.out or Path(tempfile.mkdtemp(prefix="trimtab-nas-"))
    console = Console(stderr=True, quiet=options.json)
    try:
        claim(folder, scale)
    except AnotherScale as error:
        print(error, file=sys.stderr)
        return 2
    if find_spec("lightgbm") is None:
        console.print(WITHOUT_TREES)
    torch.set_num_threads(1)
    began = time.monotonic()
    prepared(folder, scale.hours, scale.requests_per_hour, scale.valid)
    try:
        with workers(options.workers, partial(bench, scale, folder)) as pool:
            minutes = options.minutes - (time.monotonic() - began) / 60
            stage = Stage(bench(scale, folder), folder, minutes, console, pool)
            _forecast(stage, options.workers, options.only)
            found = _measured(stage, began, options.only)
    except OutOfTime:
        console.print(f"the time of this call is over; the same command goes on from {folder}")
        return 3
    path = folder / "results.json"
    path.write_bytes(msgspec.json.encode(_beside(path, found)))
    if options.figures:
        draw(folder, found.rankings, found.quality, options.figures)
    if options.json:
        print(msgspec.json.encode(found).decode())
    else:
        show(found.rankings, found.captured, found.quality, found.seconds)
    return 0


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks nas", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--short", action="store_true", help="a few minutes: a small space, small networks")
    size.add_argument("--middle", action="store_true", help="three hours of one core: larger networks, a smaller log")
    part = parser.add_mutually_exclusive_group()
    for name, what in (("quality", "searches by evolution beside all baselines"), ("ranking", "supernets' rankings")):
        part.add_argument(f"--{name}", dest="only", action="store_const", const=name, help=f"only {what}")
    parser.add_argument("--searches", type=count, metavar="N", help="independent ones (of the size: 1 or 3)")
    parser.add_argument("--seeds", type=count, metavar="N", help="of picks and their rivals (of the size: 2, 3 or 5)")
    parser.add_argument("--minutes", type=float, default=40.0, help="of this call (40)")
    parser.add_argument("--workers", type=int, default=1, help="processes (1); on a GPU a dozen share it")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where results are kept (the short one: a temporary folder)"
    )
    parser.add_argument(
        "--figures", type=Path, metavar="DIR", help="draw the front, its best network and the ranking, where measured"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    if not options.short and options.out is None:
        parser.error("--out DIR is needed: the measurement goes on there from call to call")
    return options


def _scale(options: argparse.Namespace) -> Scale:
    scale = SHORT if options.short else MIDDLE if options.middle else LONG
    return msgspec.structs.replace(
        scale, searches=options.searches or scale.searches, seeds=options.seeds or scale.seeds
    )  # fmt: skip


def _measured(stage: Stage[Bench], began: float, only: Part | None) -> Results:
    """Everything. What takes longest begins first, so that no worker waits for it at the end."""
    context = stage.bench
    if only == "quality":
        return _results(context, None, [], quality(stage, None), began)
    stage.ahead(train_strategy, strategies(context))
    if only == "ranking":
        return _results(context, rankings(stage), [], None, began)
    stage.ahead(supernet, supernets(context))
    stage.ahead(trees, heads(context))
    stage.ahead(train, baselines(context))
    stage.ahead(shares_of, trainings(context))
    if stage.pool is not None:
        stage.each("supernets of searches", tuple[int, float], supernet, supernets(context))
        stage.ahead(searched, searches(context))
    ranked = rankings(stage)
    return _results(context, ranked, captured(stage), quality(stage, ranked), began)


def _beside(path: Path, found: Results) -> Results:
    """What was found, with what earlier calls found of the parts that this one left out."""
    try:
        known = msgspec.json.decode(path.read_bytes(), type=Results)
    except (FileNotFoundError, msgspec.MsgspecError):  # none yet, or of an earlier version
        return found
    return msgspec.structs.replace(
        found,
        rankings=found.rankings or known.rankings,
        captured=found.captured or known.captured,
        quality=found.quality or known.quality,
    )


def _results(
    context: Bench, ranked: Rankings | None, gains: list[Captured], gaps: Quality | None, began: float
) -> Results:
    parts = context.parts
    return Results(
        context.scale, parts.digest, (len(parts.train), len(parts.valid), len(parts.test.observed())), environment(),
        ranked, gains, gaps, time.monotonic() - began,
    )  # fmt: skip


def _forecast(stage: Stage[Bench], count: int, only: Part | None) -> None:
    """What is to come, from one short training."""
    context, scale = stage.bench, stage.bench.scale
    rows = max(scale.recipe.batch_size * 10, scale.rows // 50)
    net = drawn(scale.space, np.random.default_rng(0))
    per_row = fit(net, scale.recipe, context.parts, rows=rows).record.seconds / rows
    methods = 1 if only == "quality" else len(METHODS)
    alone, inherited = 0, 0
    if only != "ranking":
        alone += len(baselines(context)) + scale.searches * methods * (scale.finalists + ENLARGED)
        alone += (scale.searches + 1) * len(LEVELS) * (scale.seeds - 1)  # picks of evolution, and their rivals
        alone += scale.searches * len(LEVELS) * (len(scale.rates) - 1)  # picks at the other rates
        inherited += scale.searches * (scale.supernet_rows + methods * scale.evaluations * scale.adapt_rows)
    if only is None:
        alone += len(trainings(context))
    if only != "quality":
        alone += SEEDS * scale.nets
        inherited += len(scale.strategies) * (scale.supernet_rows + scale.nets * scale.adapt_rows)
    minutes = per_row * (alone * scale.rows + inherited) / 60 / count
    stage.console.print(
        f"forecast: at most {alone} trainings and {inherited:,} rows of supernets: {minutes:.0f} minutes"
    )
