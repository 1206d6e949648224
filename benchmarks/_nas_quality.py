"""Quality: searched networks beside every baseline, at a quarter, a half and all of the best baseline's FLOPs.

One trainer, the same rows, learning rates and seeds for everyone; baselines have a front of widths of their own. What
is compared is chosen on validation; the test rows are read once, at the end. Random search has the evaluations and the
supernet of evolution.
"""

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks._nas_scale import Scale, Stage, gentle
from nas.architecture import Architecture
from nas.baselines import NAMES, Baseline
from nas.batches import probabilities
from nas.compare import Gap, paired_gap
from nas.evolution import Evaluated, Rules
from nas.genotype import digest
from nas.metrics import row_kl, row_logloss
from nas.rows import Parts
from nas.search import SearchPlan, search
from nas.supernet_train import SupernetPlan, train_supernet
from nas.train import Record, fit

Floats = NDArray[np.float64]
LEVELS = (0.25, 0.5, 1.0)  # of the best baseline's FLOPs


class Candidate(msgspec.Struct, frozen=True):
    """An architecture at its best learning rate: validation losses by seed."""

    name: str
    architecture: Architecture
    rate: float
    flops: float
    losses: tuple[float, ...]
    rows: int
    seconds: float

    @property
    def loss(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.losses))


class Level(msgspec.Struct, frozen=True):
    """The best of each side within a level of FLOPs, and their gap in test logloss (searched minus baseline)."""

    level: float
    flops: float
    searched: str
    searched_flops: float
    baseline: str
    baseline_flops: float
    gap: Gap
    kl_gap: Gap


class Quality(msgspec.Struct, frozen=True):
    """Everything of the stage."""

    candidates: list[Candidate]
    levels: list[Level]
    search_rows: int
    evaluation_seconds: float
    cost: float  # trainings that a search took: its rows, and its seconds of evaluation as rows, over one training's


def quality(stage: Stage, scale: Scale, parts: Parts, data: Path) -> Quality:
    """Baselines' fronts, searches, retrained winners, and the gaps."""
    embedding = max(scale.space.embeddings)
    baselines = [
        _candidate(stage, f"{name}-{width}", Baseline(name=name, width=width, embedding=embedding), scale, parts)
        for name in NAMES
        for width in scale.widths
    ]
    best = min(baselines, key=lambda one: one.loss)
    searched: list[Candidate] = []
    random: list[Candidate] = []
    rows, seconds = 0, 0.0
    for number in range(scale.searches):
        folder = stage.folder / f"search-{number}"
        found, spent = _searched(stage, scale, parts, data, folder, number)
        rows, seconds = rows + spent, seconds + sum(one.seconds for one in found["evolution"])
        for method, into in (("evolution", searched), ("random", random)):
            for level in LEVELS:
                winner = _within(found[method], level * best.flops)
                if winner is not None:
                    name = f"{method}-{number}-{digest(winner.genotype)[:6]}"
                    into.append(_candidate(stage, name, winner.genotype, scale, parts))
    levels = [
        _level(level, best.flops, unique(searched), baselines, scale, parts, stage)
        for level in LEVELS
        if any(one.flops <= level * best.flops for one in searched)
        and any(one.flops <= level * best.flops for one in baselines)
    ]
    everyone = [*baselines, *unique(searched), *unique(random)]
    per_row = np.mean([one.seconds / one.rows for one in everyone])
    cost = (rows + seconds / per_row) / scale.searches / scale.rows
    return Quality(everyone, levels, rows, seconds, float(cost))


def unique(candidates: list[Candidate]) -> list[Candidate]:
    """Each name once."""
    return list({one.name: one for one in candidates}.values())


def _searched(
    stage: Stage, scale: Scale, parts: Parts, data: Path, folder: Path, seed: int
) -> tuple[dict[str, list[Evaluated]], int]:
    plan = SupernetPlan(space=scale.space, recipe=scale.recipe, rows=scale.supernet_rows, seed=seed)

    def train() -> int:
        return train_supernet(plan, parts, folder / "supernet")[1].rows

    rows = stage.once(f"search-{seed}-supernet", int, train)
    found = {}
    for method in ("evolution", "random"):
        wanted = SearchPlan(
            rules=Rules(method=method, population=24), evaluations=scale.evaluations, adapt_rows=scale.adapt_rows,
            adapt=gentle(scale.recipe), valid_rows=scale.valid_rows, seed=seed,
        )  # fmt: skip
        found[method] = stage.once(
            f"search-{seed}-{method}",
            list[Evaluated],
            lambda wanted=wanted, method=method: search(wanted, data, folder / "supernet", folder / method),  # type: ignore[misc]  # mypy infers no lambda with a default
        )
    return found, rows


def _within(found: list[Evaluated], flops: float) -> Evaluated | None:
    return min((one for one in found if one.sizes.flops <= flops), key=lambda one: one.loss, default=None)


def _candidate(stage: Stage, name: str, architecture: Architecture, scale: Scale, parts: Parts) -> Candidate:
    """Tuned over the learning rates with one seed, then trained with all."""

    def compute() -> Candidate:
        first = {rate: _fit(architecture, rate, 0, scale, parts) for rate in scale.rates}
        rate = min(first, key=lambda r: first[r].best.valid.loss)
        runs = [first[rate], *(_fit(architecture, rate, seed, scale, parts) for seed in range(1, scale.seeds))]
        losses = tuple(run.best.valid.loss for run in runs)
        return Candidate(name, architecture, rate, runs[0].costs.flops, losses, runs[0].rows, runs[0].seconds)

    return stage.once(f"candidate-{name}", Candidate, compute)


def _fit(architecture: Architecture, rate: float, seed: int, scale: Scale, parts: Parts) -> Record:
    recipe = msgspec.structs.replace(scale.recipe, learning_rate=rate)
    return fit(architecture, recipe, parts, seed=seed, rows=scale.rows).record


def _level(
    level: float,
    most: float,
    searched: list[Candidate],
    baselines: list[Candidate],
    scale: Scale,
    parts: Parts,
    stage: Stage,
) -> Level:
    sides = [min((c for c in side if c.flops <= level * most), key=lambda c: c.loss) for side in (searched, baselines)]
    losses, divergences = zip(*(_test(one, scale, parts) for one in sides), strict=True)
    ours, theirs = sides
    return Level(
        level, level * most, ours.name, ours.flops, theirs.name, theirs.flops,
        paired_gap(losses[0], losses[1]), paired_gap(divergences[0], divergences[1]),
    )  # fmt: skip


def _test(one: Candidate, scale: Scale, parts: Parts) -> tuple[Floats, Floats]:
    """(seeds, n) mean logloss over heads, and divergence from the true probabilities, of each test row."""
    y, p = (np.asarray(part, np.float64) for part in (parts.test.labels, parts.test.truth))
    losses, divergences = [], []
    recipe = msgspec.structs.replace(scale.recipe, learning_rate=one.rate)
    for seed in range(scale.seeds):
        q = probabilities(fit(one.architecture, recipe, parts, seed=seed, rows=scale.rows).model, parts.test).numpy()
        losses.append(row_logloss(q, y).mean(axis=1))
        divergences.append(row_kl(p, q).mean(axis=1))
    return np.stack(losses), np.stack(divergences)
