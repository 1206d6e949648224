"""Figures: the front, a genotype as a graph, and how well one measure of networks ranks another."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.evolution import Evaluated, Objective, Rules, front
from nas.genotype import Block, Genotype, live

Floats = NDArray[np.float64]
AXES: dict[str, str] = {
    "loss": "validation loss", "flops": "FLOPs a row", "parameters": "parameters", "latency_ms": "estimated ms a batch",
}  # fmt: skip
DENSE, SPARSE, FAINT = "#1f6f8b", "#c0603b", "#cccccc"


def _axes(width: float, height: float) -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(width, height), layout="constrained")


def _written(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def draw_front(rules: Rules, found: Sequence[Evaluated], path: Path) -> None:
    """Every evaluated network by loss and the second objective, the front among them."""
    other: Objective = next((name for name in rules.objectives if name != "loss"), "flops")
    best = sorted(front(rules, found), key=lambda one: one.value(other))
    figure, axes = _axes(6.4, 4.2)
    axes.scatter([one.value(other) for one in found], [one.loss for one in found], s=12, c=FAINT, label="evaluated")
    axes.step(
        [o.value(other) for o in best],
        [o.loss for o in best],
        where="post",
        color=DENSE,
        marker="o",
        ms=4,
        label="front",
    )
    axes.set(xscale="log", xlabel=AXES[other], ylabel=AXES["loss"])
    _plain_log_axis(axes.xaxis)
    losses = np.array([one.loss for one in found])
    most = np.quantile(losses, 0.9)  # networks that a supernet serves badly may be far above
    low, high = losses.min(), max([most, *(one.loss for one in best)])  # of the front all are seen
    margin = 0.05 * (high - low) or 0.01 * abs(low)
    axes.set_ylim(low - margin, high + margin)
    axes.legend(frameon=False)
    _written(figure, path)


def _plain_log_axis(axis: Any) -> None:
    """1, 2 and 5 of every decade, as 2 k or 5 M."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(EngFormatter())
    axis.set_minor_formatter(NullFormatter())


def draw_scatter(x: Floats, y: Floats, labels: tuple[str, str], title: str, path: Path) -> None:
    """Places of the same networks by two measures, the least first: what a rank correlation sees."""
    figure, axes = _axes(5.0, 4.4)
    axes.scatter(*(np.argsort(np.argsort(of, kind="stable")) + 1 for of in (x, y)), s=18, color=DENSE, alpha=0.8)
    axes.set(xlabel=f"place by {labels[0]}", ylabel=f"place by {labels[1]}")
    axes.set_title(title, fontsize=10)
    _written(figure, path)


def draw_genotype(genotype: Genotype, path: Path) -> None:
    """The live parts as a graph: dense cores above, sparse cores below, from the inputs at the left to the output."""
    alive = live(genotype)
    count = len(genotype.blocks)
    figure, axes = _axes(1.9 * (count + 2), 4.0)
    _box(axes, 0, 1, "dense\nfields", DENSE, alive.inputs[0])
    fields = "all fields" if genotype.numeric else "sparse fields"
    _box(axes, 0, 0, f"{fields},\n{genotype.embedding} wide rows", SPARSE, alive.inputs[1])
    for b, block in enumerate(genotype.blocks):
        dense = "+".join(operator.kind for operator in block.dense)
        sparse = "+".join(operator.kind for operator in block.sparse)
        _box(axes, b + 1, 1, f"{dense}\n{block.width} wide", DENSE, alive.dense[b])
        _box(axes, b + 1, 0, f"{sparse}\n{block.rows} rows", SPARSE, alive.sparse[b])
        _block_arrows(axes, genotype, b, block)
    _box(axes, count + 1, 0.5, "heads", "#444444", True)
    for height, colour in ((1, DENSE), (0, SPARSE)):
        _arrow(axes, (count, height), (count + 1, 0.5), colour, 0.0)
    axes.set(xlim=(-0.6, count + 1.6), ylim=(-1.0, 2.0))
    axes.set_title(
        f"embedding {genotype.embedding}, normalisation: {genotype.norm}; grey parts reach no output", fontsize=10
    )
    axes.axis("off")
    _written(figure, path)


def _block_arrows(axes: Any, genotype: Genotype, b: int, block: Block) -> None:
    alive, here = live(genotype), b + 1
    if alive.dense[b]:
        for node in block.dense_from:
            _arrow(axes, (node, 1), (here, 1), DENSE, _bend(node, here, up=True))
    if alive.reads_sparse(b, block):
        targets = ([0] if alive.sparse[b] else []) + ([1] if "dot" in block.kinds() and alive.dense[b] else [])
        for node in block.sparse_from:
            for target in targets:
                _arrow(axes, (node, 0), (here, target), SPARSE, _bend(node, here, up=False) if target == 0 else 0.0)
    if alive.dense_out[b] and block.merges_sparse:
        names = ("FM",) * block.sparse_to_dense + ("flat",) * block.flat_to_dense
        _arrow(axes, (here - 0.08, 0), (here - 0.08, 1), SPARSE, 0.0, "\n".join(names))
    if alive.sparse_out[b] and block.dense_to_sparse:
        _arrow(axes, (here + 0.08, 1), (here + 0.08, 0), DENSE, 0.0, "row")


def _bend(node: int, here: int, up: bool) -> float:
    """Arrows between neighbours are straight; longer ones bend around what lies between, the longer the flatter."""
    far = here - node
    bend = 0.0 if far == 1 else 0.12 + 0.2 / far
    return -bend if up else bend


def _box(axes: Any, x: float, y: float, text: str, colour: str, alive: bool) -> None:
    axes.text(
        x, y, text, ha="center", va="center", fontsize=8, color="white" if alive else "#999999", zorder=3,
        bbox={"boxstyle": "round,pad=0.4", "facecolor": colour if alive else "#eeeeee", "edgecolor": "none"},
    )  # fmt: skip


def _arrow(
    axes: Any, start: tuple[float, float], end: tuple[float, float], colour: str, bend: float, text: str = ""
) -> None:
    axes.annotate(
        "", end, start,
        arrowprops={"arrowstyle": "-|>", "color": colour, "alpha": 0.7, "connectionstyle": f"arc3,rad={bend}",
                    "shrinkA": 24, "shrinkB": 24},
    )  # fmt: skip
    if text:
        axes.text(start[0], 0.5, text, ha="center", va="center", fontsize=7, color=colour,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
