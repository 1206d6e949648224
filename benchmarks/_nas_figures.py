"""Figures: the front of a search, its pick, and the ranking of a supernet against networks trained alone."""

from pathlib import Path

import msgspec
import numpy as np

from benchmarks._nas_quality import Quality
from benchmarks._nas_ranking import Rankings
from nas.evolution import Evaluated, Rules
from nas.figures import draw_front, draw_genotype, draw_scatter
from nas.genotype import Genotype


def draw(results: Path, ranked: Rankings | None, quality: Quality | None, folder: Path) -> None:
    """Write nas-front.png and nas-genotype.png of the best search, and nas-ranking.png where networks were ranked."""
    folder.mkdir(parents=True, exist_ok=True)
    if quality:
        _draw_best(results, quality, folder)
    if ranked:
        inherited = np.array(next(one.scores for one in ranked.ways if one.name.endswith("adapted")))
        labels = ("loss through the supernet, adapted", "loss trained alone")
        title = f"{len(ranked.nets)} networks, validation rows"
        draw_scatter(inherited, np.array(ranked.truth), labels, title, folder / "nas-ranking.png")


def _draw_best(results: Path, quality: Quality, folder: Path) -> None:
    best = min(quality.levels, key=lambda level: level.gap.mean)
    found = msgspec.json.decode((results / f"search-{best.search}-evolution.json").read_bytes(), type=list[Evaluated])
    draw_front(Rules(), found, folder / "nas-front.png")
    pick = next(one.architecture for one in quality.candidates if one.name == best.searched)
    assert isinstance(pick, Genotype)
    draw_genotype(pick, folder / "nas-genotype.png")
