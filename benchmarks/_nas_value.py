"""Co-training: value captured with losses weighted by what the value model needs, beside equal weights.

The same network, seeds and rows for every weighting; intervals are paired over the requests of the test rows and over
seeds.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks._nas_scale import Scale, Stage
from nas.baselines import Baseline
from nas.batches import probabilities
from nas.compare import Gap, paired_gap
from nas.evaluate import TOP
from nas.rows import Parts
from nas.train import fit
from nas.value import ValueModel, loss_weights, value_captured

Floats = NDArray[np.float64]
THETAS = {
    "linear, likes dear": ValueModel("linear", (1.0, 2.0, 20.0, -30.0)),
    "linear, hates dear": ValueModel("linear", (1.0, 0.5, 2.0, -100.0)),
    "power": ValueModel("power", (1.0, 0.8, 0.3, -0.2)),
}
MODEL = Baseline(name="dnn", width=16, layers=2, embedding=4)  # small: what it spends on one head, it lacks for another


class Captured(msgspec.Struct, frozen=True):
    """Value captured by one weighting under one theta, and how much more than equal weights."""

    theta: str
    weighting: str
    captured: float
    gain: Gap | None


def captured(stage: Stage, scale: Scale, parts: Parts) -> list[Captured]:
    """Every theta with every weighting."""
    rates = np.nanmean(np.asarray(parts.train.labels, np.float64), axis=0)
    found = []
    for name, value in THETAS.items():
        shares = {
            label: np.array(
                [
                    stage.once(
                        f"value-{name}-{label}-{seed}".replace(" ", "-").replace(",", ""),
                        list[float],
                        lambda value=value, weights=weights, seed=seed: _shares(value, weights, seed, scale, parts),  # type: ignore[misc]  # mypy infers no lambda with a default
                    )
                    for seed in range(max(3, scale.seeds))
                ]
            )
            for label, weights in _weightings(value, rates).items()
        }
        for label, runs in shares.items():
            gain = None if label == "equal" else paired_gap(runs, shares["equal"])
            found.append(Captured(name, label, float(runs.mean()), gain))
    return found


def _weightings(value: ValueModel, rates: Floats) -> dict[str, Floats]:
    theta_rate = np.abs(value.weights) * rates
    return {
        "equal": np.ones(len(rates)),
        "value": loss_weights(value, rates),
        "theta x rate": theta_rate / theta_rate.mean(),
    }


def _shares(value: ValueModel, weights: Floats, seed: int, scale: Scale, parts: Parts) -> list[float]:
    run = fit(MODEL, scale.recipe, parts, seed=seed, rows=scale.rows, head_weights=weights.tolist())
    q = probabilities(run.model, parts.test).numpy()
    truth = np.asarray(parts.test.truth, np.float64)
    shares = value_captured(value.of(q), value.of(truth), np.asarray(parts.test.request), TOP)
    return [float(share) for share in shares]
