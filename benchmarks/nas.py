"""NAS: how a supernet ranks networks, what value-weighted losses capture, searched networks beside baselines.

Claims are printed with their intervals, beside what they are measured against in the same run. `--short` takes a few
minutes. Without it the measurement takes hours, in stages: each call works for `--minutes` and the next goes on.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from pyarrow import parquet, schema
from rich.console import Console
from rich.table import Table

from benchmarks._nas_figures import draw
from benchmarks._nas_quality import Quality, quality
from benchmarks._nas_ranking import Ranking, rankings, stratified
from benchmarks._nas_scale import LONG, SHORT, OutOfTime, Scale, Stage
from benchmarks._nas_value import THETAS, Captured, captured
from benchmarks._nas_world import write_world
from nas.baselines import NAMES
from nas.compare import Gap
from nas.layouts import ranking_log
from nas.prepare import Sources, prepare
from nas.readers import Source
from nas.rows import Parts
from nas.splits import Split
from nas.train import fit

SEED = 11


class Results(msgspec.Struct, frozen=True):
    """Everything that is printed."""

    scale: str
    data: str  # digest
    rankings: list[Ranking]
    captured: list[Captured]
    quality: Quality
    seconds: float


def main(argv: Sequence[str]) -> int:
    """Measure and print; status 3 where the time of this call was not enough."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks nas", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a few minutes")
    parser.add_argument("--minutes", type=float, default=40.0, help="of this call (40)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where results are kept (the short one: a temporary folder)"
    )
    parser.add_argument("--figures", type=Path, metavar="DIR", help="draw the front, its best network and the ranking")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    if not options.short and options.out is None:
        parser.error("--out DIR is needed: the measurement goes on there from call to call")
    scale = SHORT if options.short else LONG
    folder = options.out or Path(tempfile.mkdtemp(prefix="trimtab-nas-"))
    console = Console(stderr=True, quiet=options.json)
    torch.set_num_threads(1)
    began = time.monotonic()
    stage = Stage(folder, options.minutes, console)
    parts = _data(folder, scale)
    _forecast(scale, parts, console)
    try:
        found = Results(
            scale.name, parts.digest, rankings(stage, scale, parts), captured(stage, scale, parts),
            quality(stage, scale, parts, folder / "data"), time.monotonic() - began,
        )  # fmt: skip
    except OutOfTime:
        console.print(f"the time of this call is over; the same command goes on from {folder}")
        return 3
    (folder / "results.json").write_bytes(msgspec.json.encode(found))
    if options.figures:
        draw(folder, scale, parts, options.figures)
    if options.json:
        print(msgspec.json.encode(found).decode())
    else:
        _print(found)
    return 0


def _data(folder: Path, scale: Scale) -> Parts:
    log, truth = write_world(folder / "world", scale.requests, SEED)
    columns = schema(
        [*parquet.read_schema(log), *(f for f in parquet.read_schema(truth) if f.name.startswith("true_"))]
    )
    source = Source("ranking-log", (str(log),), truth=(str(truth),))
    split = Split(by="time", valid=0.1, test=0.2)
    return prepare(Sources(whole=source), ranking_log(columns), split, folder / "data")


def _forecast(scale: Scale, parts: Parts, console: Console) -> None:
    """What is to come, from one short training."""
    net = stratified(msgspec.structs.replace(scale, nets=3), parts)[1]
    rows = max(scale.recipe.batch_size * 10, scale.rows // 50)
    per_row = fit(net, scale.recipe, parts, rows=rows).record.seconds / rows
    trainings = 2 * scale.nets + 3 * len(THETAS) * max(3, scale.seeds)
    candidates = len(NAMES) * len(scale.widths) + 6 * scale.searches
    trainings += candidates * (len(scale.rates) + scale.seeds - 1) + 6 * scale.seeds
    supernets = (len(scale.strategies) + scale.searches) * scale.supernet_rows
    minutes = per_row * (trainings * scale.rows + supernets) / 60
    console.print(f"forecast: {trainings} trainings, about {minutes:.0f} minutes of one core")


def _print(found: Results) -> None:
    console = Console()
    table = Table("ranked by", "tau", "tau, best half", "regret at 5", "rows", title="against networks trained alone")
    for one in found.rankings:
        table.add_row(one.name, _gap(one.tau, 2), _gap(one.tau_best_half, 2), f"{one.regret_at_5:.5f}", f"{one.rows:,}")
    console.print(table)
    table = Table("theta", "weights of losses", "value captured", "more than equal weights", title="co-training")
    for share in found.captured:
        table.add_row(share.theta, share.weighting, f"{share.captured:.4f}", _gap(share.gain, 4) if share.gain else "")
    console.print(table)
    table = Table(
        "within FLOPs", "searched", "baseline", "logloss gap", "KL gap", title="searched minus best baseline, test rows"
    )
    for level in found.quality.levels:
        table.add_row(
            f"{level.level:g} x: {level.flops:,.0f}", f"{level.searched} ({level.searched_flops:,.0f})",
            f"{level.baseline} ({level.baseline_flops:,.0f})", _gap(level.gap, 5), _gap(level.kl_gap, 5),
        )  # fmt: skip
    console.print(table)
    table = Table("candidate", "FLOPs", "validation loss", "rate", title="everyone, by validation")
    for c in sorted(found.quality.candidates, key=lambda c: np.mean(c.losses)):
        table.add_row(c.name, f"{c.flops:,.0f}", f"{np.mean(c.losses):.5f}", f"{c.rate:g}")
    console.print(table)
    print(f"a search cost {found.quality.cost:.1f} trainings; everything took {found.seconds:.0f} s")


def _gap(gap: Gap, digits: int) -> str:
    return f"{gap.mean:.{digits}f} [{gap.low:.{digits}f}, {gap.high:.{digits}f}]"
