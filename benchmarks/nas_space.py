"""NAS: networks made by hand beside the baselines that they imitate, and networks drawn from this space and NASRec's.

Asked: whether the space holds networks as good as the baselines, and how networks drawn from it compare. One seed; the
data and the recipe are those of `python -m benchmarks nas --middle`, whose folder may be given and whose table holds
xDeepFM.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks._nas_data import Bench, bench, prepared
from benchmarks._nas_scale import MIDDLE, AnotherScale, claim
from benchmarks._nas_stage import OutOfTime, Stage
from nas.architecture import Architecture
from nas.baselines import Baseline
from nas.batches import inputs_of
from nas.forms import FORMS, formed
from nas.genotype import Block, Genotype, Operator
from nas.network import Network
from nas.space import NASREC, Space, drawn
from nas.train import fit, traced_costs

MOST_FLOPS = 250_000  # of a network that is drawn
OLD = msgspec.structs.replace(
    MIDDLE.space, dense=NASREC.dense, sparse=NASREC.sparse, mergers=NASREC.mergers, numeric=NASREC.numeric
)
SPACES: dict[str, Space] = {"drawn from this space": MIDDLE.space, "drawn from NASRec's": OLD}


class Line(msgspec.Struct, frozen=True):
    """A network on validation rows."""

    name: str
    flops: float
    loss: float


def main(argv: Sequence[str]) -> int:
    """Measure and print; status 3 where the time was not enough and the same command goes on."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks nas_space", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the log and results are kept")
    parser.add_argument("--drawn", type=int, default=12, help="networks from each space (12)")
    parser.add_argument("--minutes", type=float, default=40.0, help="of this call (40)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    try:
        claim(options.out, MIDDLE)
    except AnotherScale as error:
        print(error, file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    prepared(options.out, MIDDLE.hours, MIDDLE.requests_per_hour, MIDDLE.valid)
    context = bench(MIDDLE, options.out)
    console = Console(stderr=True, quiet=options.json)
    stage = Stage(context, options.out, options.minutes, console, None)
    tasks = {**made(), **{name: net for label in SPACES for name, net in _drawn(context, label, options.drawn).items()}}
    try:
        found = stage.each("networks", Line, line, {f"space-{n.replace(' ', '-')}": (n, a) for n, a in tasks.items()})
    except OutOfTime:
        console.print(f"the time of this call is over; the same command goes on from {options.out}")
        return 3
    if options.json:
        sys.stdout.write(msgspec.json.encode([*found.values()]).decode() + "\n")
    else:
        _show([*found.values()])
    return 0


def line(context: Bench, task: tuple[str, Architecture]) -> Line:
    """One training."""
    name, architecture = task
    run = fit(architecture, MIDDLE.recipe, context.parts, rows=MIDDLE.rows).record
    return Line(name, run.costs.flops, run.best.valid.loss)


def made() -> dict[str, Architecture]:
    """Baselines, and what imitates them."""
    return {
        "DNN": Baseline(name="dnn", width=64),
        "like a DNN": _like("DNN", 2, 64, 16),
        "DCN-V2": Baseline(name="dcnv2", width=64),
        "like DCN-V2, of rank 64": _like("DCN-V2", 1, 64, 16),
        "like xDeepFM, one layer": _like("xDeepFM", 1, 16, 32),
        "like xDeepFM, two layers": _like("xDeepFM", 2, 16, 32),
        "like xDeepFM, five layers": _like("xDeepFM", 5, 16, 32),
        "one layer of 64 rows": _like("xDeepFM", 1, 16, 64),
        "two layers of 64 rows": _like("xDeepFM", 2, 16, 64),
        "one dense product": _product(64),
    }


def _like(form: str, layers: int, width: int, rows: int) -> Genotype:
    return formed(FORMS[form], MIDDLE.space, layers=layers, width=width, rows=rows, embedding=16)


def _product(width: int) -> Genotype:
    """Over the dense fields, beside embeddings that go straight to the heads."""
    block = Block(
        dense=(Operator("product"),), width=width, dense_from=(0,), sparse=(Operator("efc"),), rows=16, sparse_from=(0,)
    )
    return Genotype(blocks=(block,), embedding=16, norm="none")


def _drawn(context: Bench, label: str, count: int) -> dict[str, Architecture]:
    rng = np.random.default_rng(5)
    inputs = inputs_of(context.parts.train, context.parts.encoding.table_rows)
    found: list[Architecture] = []
    while len(found) < count:
        net = drawn(SPACES[label], rng)
        if traced_costs(Network(net, inputs), context.parts).flops <= MOST_FLOPS:
            found.append(net)
    return {f"{label}, {i}": net for i, net in enumerate(found)}


def _show(found: list[Line]) -> None:
    console = Console(width=100)
    ours = Table("network", "FLOPs", "validation loss", title=f"{MIDDLE.rows:,} rows, one seed")
    for one in found[: len(made())]:
        ours.add_row(one.name, f"{one.flops:,.0f}", f"{one.loss:.5f}")
    console.print(ours)
    quartiles = Table("", "networks", "best", "quarter", "half", "three quarters", title="validation loss")
    for label in SPACES:
        losses = [one.loss for one in found if one.name.startswith(label)]
        ranks = np.quantile(losses, (0.0, 0.25, 0.5, 0.75))
        quartiles.add_row(label, str(len(losses)), *(f"{loss:.5f}" for loss in ranks))
    console.print(quartiles)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
