"""The arena as a picture: score by hour, the mean over worlds and every world by itself."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks._arena_report import mean
from benchmarks._arena_run import TRIMTAB
from benchmarks._arena_scores import HELD, Scores
from benchmarks._arena_worlds import entered
from simulators.worlds import Floats

COLUMNS = 4
INCHES = 3.2
FLOOR = -0.2  # a vector that does harm may score far below nothing


def plot(scores: Sequence[Scores], hard: frozenset[str], path: Path) -> None:
    """Write the figure, as SVG or PNG by the file's name. Needs matplotlib (the extra `bench`)."""
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    worlds = [name for name in dict.fromkeys(s.scenario for s in scores) if _scored(scores, name)]
    controllers = list(dict.fromkeys(s.controller for s in scores))
    rows = 2 + -(-len(worlds) // COLUMNS)
    figure = Figure(figsize=(COLUMNS * INCHES * 1.25, rows * INCHES), layout="constrained")
    grid = figure.add_gridspec(rows, COLUMNS)

    def curves(axes: Axes, chosen: Sequence[Scores], title: str) -> None:
        for k, controller in enumerate(controllers):
            level, error = _curve([s for s in chosen if s.controller == controller])
            hours, own = np.arange(1, len(level) + 1), controller == TRIMTAB
            color = "black" if own else f"C{k % 10}"
            axes.plot(
                hours, level, color=color, linewidth=2.4 if own else 1.2, label=controller, zorder=3 if own else 2
            )
            axes.fill_between(hours, level - error, level + error, color=color, alpha=0.15, linewidth=0)
        axes.axhline(HELD, color="grey", linewidth=0.6, linestyle=":")
        axes.set(title=title, ylim=(FLOOR, 1.03))
        axes.margins(x=0)
        axes.tick_params(labelsize=8)

    top = figure.add_subplot(grid[:2, :])
    curves(top, [s for s in scores if s.scenario not in hard], "mean over worlds, +- one standard error")
    top.set(xlabel="hour", ylabel="true gain / best feasible gain")
    top.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9, frameon=False)
    for i, name in enumerate(worlds):
        axes = figure.add_subplot(grid[2 + i // COLUMNS, i % COLUMNS])
        curves(axes, [s for s in scores if s.scenario == name], name + (" (beyond noise)" if name in hard else ""))
        if (jump := entered(name).jump_hour) is not None:
            axes.axvline(jump, color="grey", linewidth=0.6, linestyle="--")
    figure.savefig(path)


def _scored(scores: Sequence[Scores], scenario: str) -> bool:
    return any(s.series[0] is not None for s in scores if s.scenario == scenario)


def _curve(runs: Sequence[Scores]) -> tuple[Floats, Floats]:
    """Mean and standard error (0 with one run) of every check that all of the runs have."""
    hours = min((len(s.series) for s in runs), default=0)
    points = [mean(runs, lambda s, h=h: s.series[h]) or (np.nan, None) for h in range(hours)]  # type: ignore[misc]  # mypy infers no lambda with a default
    return np.array([level for level, _ in points]), np.array([error or 0.0 for _, error in points])
