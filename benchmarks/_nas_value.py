"""Co-training: value captured with losses weighted by what the value model needs, beside equal weights.

The same network, seeds and rows for every weighting; intervals are paired over the people of the test rows and over
seeds. What is captured is read off the true probabilities of all candidates of a request, shown or not.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks._nas_data import Bench, person_of
from benchmarks._nas_stage import Stage
from nas.baselines import Baseline
from nas.batches import probabilities
from nas.compare import Gap, paired_gap
from nas.evaluate import TOP
from nas.train import fit
from nas.value import ValueModel, loss_weights, value_captured

Floats = NDArray[np.float64]
THETAS = {  # weights of click, long_view, like, comment, follow, forward, hate
    "linear, likes dear": ValueModel("linear", (1.0, 2.0, 20.0, 20.0, 30.0, 30.0, -50.0)),
    "linear, hates dear": ValueModel("linear", (1.0, 0.5, 2.0, 2.0, 5.0, 5.0, -200.0)),
    "power": ValueModel("power", (1.0, 0.8, 0.3, 0.05, 0.05, 0.05, -0.2)),
}
EQUAL, BY_VALUE, BY_RATE = "equal", "value", "theta x rate"
MODEL = Baseline(name="dnn", width=16, layers=2, embedding=4)  # small: what it spends on one head, it lacks for another
SEEDS = 3  # at least


class Captured(msgspec.Struct, frozen=True):
    """Value captured by one weighting under one theta, and how much more than equal weights."""

    theta: str
    weighting: str
    captured: float
    gain: Gap | None


class Training(msgspec.Struct, frozen=True):
    """One training: losses weighted for a theta, or equally, and then measured under the thetas named."""

    weighting: str
    weighted_for: str
    measured: tuple[str, ...]
    seed: int

    @property
    def name(self) -> str:
        """Of its result."""
        return f"value-{self.weighting}-{self.weighted_for}-{self.seed}".replace(" ", "-").replace(",", "")


def trainings(bench: Bench) -> dict[str, Training]:
    """Equal weights once, for all thetas."""
    seeds = range(max(SEEDS, bench.scale.seeds))
    all_of_them = [Training(EQUAL, "", tuple(THETAS), seed) for seed in seeds]
    all_of_them += [Training(w, name, (name,), seed) for name in THETAS for w in (BY_VALUE, BY_RATE) for seed in seeds]
    return {one.name: one for one in all_of_them}


def captured(stage: Stage[Bench]) -> list[Captured]:
    """Every theta with every weighting."""
    found = stage.each("value captured", list[list[float]], shares_of, trainings(stage.bench))
    person = person_of(stage.bench, np.unique(stage.bench.parts.test.request))
    lines = []
    for number, name in enumerate(THETAS):
        equal = _runs(found, Training(EQUAL, "", (), 0), number, stage)
        lines.append(Captured(name, EQUAL, float(equal.mean()), None))
        for weighting in (BY_VALUE, BY_RATE):
            runs = _runs(found, Training(weighting, name, (), 0), 0, stage)
            lines.append(Captured(name, weighting, float(runs.mean()), paired_gap(runs, equal, group=person)))
    return lines


def _runs(found: dict[str, list[list[float]]], one: Training, measure: int, stage: Stage[Bench]) -> Floats:
    """(seeds, requests)."""
    seeds = range(max(SEEDS, stage.bench.scale.seeds))
    return np.array([found[msgspec.structs.replace(one, seed=seed).name][measure] for seed in seeds])


def shares_of(bench: Bench, training: Training) -> list[list[float]]:
    """Train, and the share captured of every request of the test rows, under each theta that is measured."""
    parts = bench.parts
    weights = np.ones(len(parts.encoding.schema.heads))
    if training.weighting != EQUAL:
        value, rates = THETAS[training.weighted_for], np.nanmean(np.asarray(parts.train.labels, np.float64), axis=0)
        theta_rate = np.abs(value.weights) * rates
        weights = loss_weights(value, rates) if training.weighting == BY_VALUE else theta_rate / theta_rate.mean()
    run = fit(
        MODEL, bench.scale.recipe, parts, seed=training.seed, rows=bench.scale.rows, head_weights=weights.tolist()
    )
    q = probabilities(run.model, parts.test.features).numpy()
    truth, request = np.asarray(parts.test.truth, np.float64), np.asarray(parts.test.request)
    values = [THETAS[name] for name in training.measured]
    return [value_captured(value.of(q), value.of(truth), request, TOP).round(5).tolist() for value in values]
