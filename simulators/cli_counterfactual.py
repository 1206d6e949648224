"""`trimtab counterfactual`: what a ranking log says of weights that never served."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from controller.core.offline import MAX_VECTORS, Prediction
from controller.core.plan import Plan
from controller.shell.config import Study, load
from simulators.arguments import random_seed, world_name
from simulators.catalog import product_named
from simulators.counterfactual import NotRankable, csv_text, predictions, read, told, vectors
from simulators.kinds import immediate_changes
from simulators.study import mismatches
from simulators.worlds import Floats

FAILED, MISUSED = 1, 2


class Line(msgspec.Struct, frozen=True):
    """A prediction; beside the truth, where a simulator knows it."""

    theta: dict[str, float]
    metric: str
    change: float
    se: float
    true: float | None


def counterfactual(argv: list[str]) -> int:
    """Predict every metric's change at many weight vectors from a ranking log, for `[offline] path` of a study."""
    parser = argparse.ArgumentParser(prog="trimtab counterfactual", description=counterfactual.__doc__)
    parser.add_argument("log", type=Path, metavar="LOG.parquet", help="a ranking log: candidates with predictions")
    parser.add_argument("study", type=Path, metavar="STUDY.toml", help="whose weights and metrics are asked for")
    parser.add_argument(
        "--vectors", type=int, default=64, metavar="N", help=f"to predict for (64; at most {MAX_VECTORS})"
    )
    parser.add_argument("--seed", type=random_seed, default=0, help="of the vectors (0)")
    parser.add_argument("--write", type=Path, metavar="FILE.csv", help="write the file that [offline] path reads")
    parser.add_argument("--world", type=world_name, metavar="WORLD", help="show the truth of this world beside")
    parser.add_argument("--json", action="store_true", help="print data instead of a table")
    args = parser.parse_args(argv)
    study = load(args.study)
    plan = study.plan
    _refuse(parser, args, study)
    try:
        asked = vectors(plan.weights, args.vectors, args.seed)
        found, left = _predicted(args.log, plan, asked)
    except NotRankable as error:
        print(f"trimtab counterfactual: {error}", file=sys.stderr)
        return FAILED
    if left:
        print(f"a log tells nothing of {', '.join(left)}: delayed, or not among its labels", file=sys.stderr)
    if args.write is not None:
        with args.write.open("x") as file:
            file.write(csv_text(plan.weights, found))
        print(f"{args.write}: {len(found)} predictions; in the study file: [offline] path = \"{args.write.name}\"",
              file=sys.stderr)  # fmt: skip
    lines = _lines(plan, found, asked, args.world)
    if args.json:
        print(json.dumps(msgspec.to_builtins(lines), indent=2))
    else:
        Console(width=120).print(_table(plan, lines, truly=args.world is not None))
    return 0


def _refuse(parser: argparse.ArgumentParser, args: argparse.Namespace, study: Study) -> None:
    if not 1 <= args.vectors <= MAX_VECTORS:
        parser.error(f"--vectors {args.vectors}: 1 to {MAX_VECTORS}")
    if args.write is not None and not args.write.parent.is_dir():
        parser.error(f"--write {args.write}: there is no folder {args.write.parent}")
    if args.write is not None and args.write.exists():
        parser.error(f"--write {args.write}: exists already; name a new file")
    differ = [] if args.world is None else mismatches(product_named(args.world).world, study)
    differ = [line for line in differ if not line.startswith("traffic")]  # a log has none
    if differ:
        parser.error(f"--world {args.world}: is not that of {args.study}: {differ[0]}")


def _predicted(path: Path, plan: Plan, asked: Sequence[Floats]) -> tuple[list[Prediction], list[str]]:
    log = read(path)
    kept = {metric.name for metric in told(plan.metrics, log)}
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"{log.predictions.shape[1]:,} requests ranked anew", total=len(asked))
        found = list(predictions(log, plan.weights, plan.metrics, asked, lambda done: bar.update(task, completed=done)))
    return found, [metric.name for metric in plan.metrics if metric.name not in kept]


def _lines(plan: Plan, found: Sequence[Prediction], asked: Sequence[Floats], world: str | None) -> list[Line]:
    names = [weight.name for weight in plan.weights]
    truth: dict[tuple[tuple[float, ...], str], float] = {}
    if world is not None:
        product = product_named(world)
        own = [weight.name for weight in product.world.weights]
        for vector in asked:
            by_name = dict(zip(names, map(float, vector), strict=True))
            base = {weight.name: weight.baseline for weight in product.world.weights}
            theta = {"all": tuple((base | by_name)[name] for name in own)}
            change = immediate_changes(product, 0, [theta])[0]
            for metric, y in zip(product.world.metrics, change, strict=True):
                truth[tuple(map(float, vector)), metric.name] = float(y)
    return [
        Line(dict(zip(names, p.theta, strict=True)), p.metric, p.change, p.se, truth.get((p.theta, p.metric)))
        for p in found
    ]


def _table(plan: Plan, lines: Sequence[Line], *, truly: bool) -> Table:
    free = [weight.name for weight in plan.weights if not weight.fixed]
    table = Table(*free, "metric", "predicted", "+-", *(["true"] if truly else []), box=None)
    for line in lines:
        vector = [f"{line.theta[name]:.3g}" for name in free]
        true = [] if line.true is None else [f"{line.true:+.2%}"]
        table.add_row(*vector, line.metric, f"{line.change:+.2%}", f"{line.se:.2%}", *true)
    return table
