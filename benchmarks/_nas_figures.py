"""Figures of the measurement: the front of a search, and the supernet's ranking against networks trained alone."""

from pathlib import Path

import msgspec
import numpy as np

from benchmarks._nas_ranking import Alone, stratified
from benchmarks._nas_scale import Scale
from nas.evolution import Evaluated, Rules, front
from nas.figures import draw_front, draw_genotype, draw_scatter
from nas.genotype import digest
from nas.rows import Parts


def draw(results: Path, scale: Scale, parts: Parts, folder: Path) -> None:
    """Write nas-front.png, nas-genotype.png and nas-ranking.png from a finished measurement."""
    folder.mkdir(parents=True, exist_ok=True)
    found = msgspec.json.decode((results / "search-0-evolution.json").read_bytes(), type=list[Evaluated])
    draw_front(Rules(), found, folder / "nas-front.png")
    draw_genotype(front(Rules(), found)[0].genotype, folder / "nas-genotype.png")
    alone = [_alone(results, digest(net)) for net in stratified(scale, parts)]
    inherited = np.array(msgspec.json.decode((results / "ranking-single-any-adapted.json").read_bytes()))
    truth = np.array([np.mean(one.losses) for one in alone])
    labels = ("loss through the supernet, adapted", "loss trained alone")
    draw_scatter(inherited, truth, labels, f"{len(alone)} networks, validation rows", folder / "nas-ranking.png")


def _alone(results: Path, name: str) -> Alone:
    return msgspec.json.decode((results / f"alone-{name}.json").read_bytes(), type=Alone)
