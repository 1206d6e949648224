"""NAS: the networks that searches picked beside six baselines, at 4 M training and 1 M test impressions.

What is compared was chosen by a finished measurement of `nas` (`--found`): its searches' picks, and each kind of
baseline at its best width. Here all are trained anew on nine days of the same feed, one pass over four million
impressions, at the better of that measurement's learning rates for baselines. The picks and the baselines that they are
held against, there or here (the best within a quarter, a half and all of the best one's FLOPs), have as many seeds as
there; a model of over a million FLOPs has one. The newest fifth is the test, read once; the full measurement, whose log
this is, has the same.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch
from rich.console import Console

from benchmarks._nas_data import Bench, bench, prepared
from benchmarks._nas_large import Found, Large, NothingFound, at_rates_found, found_in, large
from benchmarks._nas_runs import seeds_of
from benchmarks._nas_scale import LONG, AnotherScale, Scale, claim
from benchmarks._nas_stage import OutOfTime, Stage
from benchmarks._nas_tables import WIDTH, tested
from nas.environment import Environment, environment
from nas.train import fit

ROWS = 4_000_000
TRIED = 20  # steps of each model, for the forecast


class Results(msgspec.Struct, frozen=True):
    """Everything that is printed. `rows`: shown, of training, validation and test; `candidates`: of the test."""

    scale: Scale
    data: str  # digest
    rows: tuple[int, int, int]
    candidates: int
    environment: Environment
    large: Large
    seconds: float  # of this call


def main(argv: Sequence[str]) -> int:
    """Measure and print; status 3 where there was not enough time, 2 where a folder is not what it should be."""
    options = _options(argv)
    began = time.monotonic()
    console = Console(stderr=True, quiet=options.json)
    try:
        found = found_in(options.found)
        scale = _scale(found.scale)
        claim(options.out, scale)
    except (NothingFound, AnotherScale) as error:
        print(error, file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    console.print(f"{scale.hours} hours of the feed: simulated and encoded once, in a few minutes")
    prepared(options.out, scale.hours, scale.requests_per_hour, scale.valid)
    context = bench(scale, options.out)
    stage = Stage(context, options.out, options.minutes - (time.monotonic() - began) / 60, console, None)
    try:
        _forecast(stage, found)
        measured = large(stage, found)
    except OutOfTime:
        console.print(f"the time of this call is over; the same command goes on from {options.out}")
        return 3
    parts = context.parts
    rows = (len(parts.train), len(parts.valid), len(parts.test.observed()))
    everything = Results(
        scale, parts.digest, rows, len(parts.test), environment(), measured, time.monotonic() - began
    )  # fmt: skip
    (options.out / "results.json").write_bytes(msgspec.json.encode(everything))
    if options.json:
        print(msgspec.json.encode(everything).decode())
    else:
        _show(everything)
    return 0


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks nas_large", description=__doc__)
    parser.add_argument(
        "--found", type=Path, required=True, metavar="DIR", help="a finished measurement: python -m benchmarks nas"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the log and results are kept")
    parser.add_argument("--minutes", type=float, default=40.0, help="of this call (40)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(argv)


def _scale(found: Scale) -> Scale:
    """The found one's recipe and seeds, on a larger log."""
    return msgspec.structs.replace(
        found, name="large", hours=LONG.hours, requests_per_hour=LONG.requests_per_hour, valid=LONG.valid, rows=ROWS
    )


def _forecast(stage: Stage[Bench], found: Found) -> None:
    """What is to come, from a few steps of every model."""
    context, scale = stage.bench, stage.bench.scale
    valid = context.parts.valid.take(slice(0, scale.recipe.batch_size))
    few, rows = msgspec.structs.replace(context.parts, valid=valid), TRIED * scale.recipe.batch_size
    spent, total = [], 0.0
    for one in {one.name: one for one in at_rates_found(found).values()}.values():
        record = fit(one.architecture, scale.recipe, few, rows=rows).record
        minutes = record.seconds / rows * scale.rows / 60
        total += minutes * (len(scale.rates) + seeds_of(record.costs.flops, scale.seeds) - 1)
        spent.append(f"{one.name} {minutes:.1f}")
    stage.console.print(
        f"forecast: at most {total:.0f} minutes of training in all; minutes of each training: {', '.join(spent)}"
    )


def _show(results: Results) -> None:
    console = Console(width=WIDTH)
    train, valid, test = results.rows
    print(
        f"{results.scale.rows:,} of {train:,} impressions to train on, {valid:,} to validate, {test:,} to test; "
        f"{results.candidates:,} candidates of test requests"
    )
    for table in tested(results.large.lines, results.large.gaps, results.large.best):
        console.print(table)
    print(f"this call took {results.seconds:.0f} s")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
