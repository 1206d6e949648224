"""Figures of the measurement: the front of a search, and the supernet's ranking against networks trained alone."""

from pathlib import Path

import msgspec
import numpy as np

from benchmarks._nas_ranking import Rankings
from nas.evolution import Evaluated, Rules, front
from nas.figures import draw_front, draw_genotype, draw_scatter


def draw(results: Path, ranked: Rankings, folder: Path) -> None:
    """Write nas-front.png, nas-genotype.png and nas-ranking.png from a finished measurement."""
    folder.mkdir(parents=True, exist_ok=True)
    found = msgspec.json.decode((results / "search-0-evolution.json").read_bytes(), type=list[Evaluated])
    draw_front(Rules(), found, folder / "nas-front.png")
    draw_genotype(front(Rules(), found)[0].genotype, folder / "nas-genotype.png")
    inherited = np.array(next(one.scores for one in ranked.ways if one.name == "single-any adapted"))
    labels = ("loss through the supernet, adapted", "loss trained alone")
    title = f"{len(ranked.nets)} networks, validation rows"
    draw_scatter(inherited, np.array(ranked.truth), labels, title, folder / "nas-ranking.png")
