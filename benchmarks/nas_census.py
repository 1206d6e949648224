"""NAS on Census-Income: LightGBM beside networks for one head, networks for two heads beside each other, ten folds.

The data are UCI's, in census_income of the folder that TRIMTAB_DATA names. Rows with equal features stay in one fold.
Every network has the same recipe, learning rates and rows; its rate is chosen on the fold that comes next. Gaps are
paired: in AUC over folds, in logloss over all rows, each of which is in the test of one fold.
"""

import argparse
import os
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks._nas_census import LABELS, census, source
from benchmarks._nas_stage import OutOfTime, Stage, workers
from benchmarks._nas_tables import WIDTH, gap_text
from benchmarks._nas_trees import WITHOUT_TREES, predicted
from nas.baselines import Baseline, Name
from nas.batches import probabilities
from nas.compare import LEVEL, Gap, paired_gap
from nas.metrics import auc, row_logloss
from nas.prepare import Sources, prepare
from nas.recipe import Recipe
from nas.rows import Parts
from nas.splits import Split
from nas.train import fit

Floats = NDArray[np.float64]
Heads = Literal["income", "marital", "both"]
FOLDS = 10
MODELS: dict[Heads, tuple[Name, ...]] = {
    "income": ("dnn", "dcnv2", "finalmlp"), "marital": ("dnn", "dcnv2", "finalmlp"), "both": ("dnn", "mmoe", "ple"),
}  # fmt: skip
RATES, RECIPE = (0.001, 0.003), Recipe(batch_size=512, epochs=4)
LIGHTGBM, AGAINST = "lightgbm", "dnn"


class Fold(msgspec.Struct, frozen=True):
    """One model's predictions of one fold."""

    model: str
    head: str
    auc: float
    losses: list[float]  # of each row


class Line(msgspec.Struct, frozen=True):
    """One model over all folds, and its gaps to the DNN on the same columns."""

    heads: str
    head: str
    model: str
    auc: float
    logloss: float
    auc_gap: Gap | None
    logloss_gap: Gap | None


def main(argv: Sequence[str]) -> int:
    """Measure and print; status 3 where the time of this call was not enough."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks nas_census", description=__doc__)
    parser.add_argument("--minutes", type=float, default=40.0, help="of this call (40)")
    parser.add_argument("--workers", type=int, default=1, help="processes (1)")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="where results are kept")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    if "TRIMTAB_DATA" not in os.environ:
        parser.error("TRIMTAB_DATA names no folder with census_income/census-income.test.gz")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    console = Console(stderr=True, quiet=options.json)
    if find_spec("lightgbm") is None:
        console.print(WITHOUT_TREES)
    try:
        with workers(options.workers, partial(Path, options.out)) as pool:
            found = _lines(Stage(options.out, options.out, options.minutes, console, pool))
    except OutOfTime:
        console.print(f"the time of this call is over; the same command goes on from {options.out}")
        return 3
    if options.json:
        print(msgspec.json.encode(found).decode())
    else:
        Console(width=WIDTH).print(_table(found))
    return 0


def folds(folder: Path, task: tuple[Heads, int]) -> list[Fold]:
    """Every model on one fold."""
    heads, number = task
    data = Path(os.environ["TRIMTAB_DATA"]) / "census_income"
    split = Split(by="distinct", folds=FOLDS, fold=number)
    parts = prepare(Sources(whole=source(data)), census(heads), split, folder / f"data-{heads}-{number}")
    found = [one for name in MODELS[heads] for one in _folds(name, _network(name, parts), parts)]
    return [*found, *_folds(LIGHTGBM, _trees(parts), parts)] if find_spec("lightgbm") else found


def _network(name: Name, parts: Parts) -> Floats:
    """(n, heads) test predictions at the better rate."""
    runs = [
        fit(Baseline(name=name, width=128), msgspec.structs.replace(RECIPE, learning_rate=rate), parts)
        for rate in RATES
    ]
    best = min(runs, key=lambda run: run.record.best.valid.loss)
    return np.asarray(probabilities(best.model, parts.test.features).numpy())


def _trees(parts: Parts) -> Floats:
    heads = range(parts.train.labels.shape[1])
    return np.stack([predicted(parts.train, parts.valid, parts.test, head)[0] for head in heads], axis=1)


def _folds(model: str, q: Floats, parts: Parts) -> list[Fold]:
    y = np.asarray(parts.test.labels, np.float64)
    return [
        Fold(model, head.name, auc(q[:, j], y[:, j]), row_logloss(q[:, j], y[:, j]).round(7).tolist())
        for j, head in enumerate(parts.encoding.schema.heads)
    ]


def _lines(stage: Stage[Path]) -> list[Line]:
    """Every model over the folds."""
    tasks = {f"{heads}-{fold}": (heads, fold) for fold in range(FOLDS) for heads in MODELS}
    found = stage.each("folds", list[Fold], folds, tasks)
    lines = []
    for heads in MODELS:
        for head in LABELS if heads == "both" else (heads,):
            by_fold = [[one for one in found[f"{heads}-{fold}"] if one.head == head] for fold in range(FOLDS)]
            lines += _compared(heads, head, by_fold)
    return lines


def _compared(heads: str, head: str, by_fold: list[list[Fold]]) -> list[Line]:
    aucs = {one.model: np.array([fold[i].auc for fold in by_fold]) for i, one in enumerate(by_fold[0])}
    losses = {one.model: np.concatenate([fold[i].losses for fold in by_fold]) for i, one in enumerate(by_fold[0])}
    found = []
    for model, area in aucs.items():
        gaps: tuple[Gap | None, Gap | None] = None, None
        if model != AGAINST:
            gaps = _over_folds(area - aucs[AGAINST]), paired_gap(losses[model][None], losses[AGAINST][None])
        found.append(Line(heads, head, model, float(area.mean()), float(losses[model].mean()), *gaps))
    return found


def _over_folds(differences: Floats) -> Gap:
    """Student's interval of the mean over folds."""
    n, mean = len(differences), float(differences.mean())
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * differences.std(ddof=1) / n**0.5)
    return Gap(mean, mean - half, mean + half)


def _table(lines: Sequence[Line]) -> Table:
    table = Table("heads", "head", "model", "AUC", "logloss", "AUC minus DNN", "logloss minus DNN",
                  title="Census-Income, ten folds")  # fmt: skip
    for one in lines:
        gaps = (gap_text(gap, 5) if gap else "" for gap in (one.auc_gap, one.logloss_gap))
        table.add_row(one.heads, one.head, one.model, f"{one.auc:.4f}", f"{one.logloss:.5f}", *gaps)
    return table
