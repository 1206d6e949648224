"""Peers with a library's model: what each must get right, where its library is installed."""

import numpy as np
import pytest

from benchmarks._arena_protocol import Brief, History, Missing, Tuner
from benchmarks._arena_run import PEERS
from controller.core.goal import Goal, Limit
from simulators.worlds import Floats

MODELS = ("scbo", "qlognei", "ax", "vizier")
ARMS = 4
# The gain rises with the first weight, and so does what the guardrail limits, which breaks at 0.75.
BRIEF = Brief(np.full(2, 0.5), Goal((1.0, 0.0), (Limit(1, 1, -0.02),)), ARMS, 0)


def tuner(name: str) -> Tuner:
    try:
        return PEERS[name][0](BRIEF)
    except Missing as lack:
        pytest.skip(str(lack))


def measured(unit: Floats) -> History:
    """A world without noise to speak of."""
    change = np.column_stack((0.2 * (unit[:, 0] - 0.5), 0.08 * (0.5 - unit[:, 0])))
    return History(unit, change, np.full(change.shape, 1e-4), np.zeros(len(unit)), ARMS)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_proposes_and_recommends_what_the_measurements_say(name: str) -> None:
    peer = tuner(name)
    tried = measured(np.random.default_rng(0).uniform(0.1, 0.9, (12, 2)))
    unit = peer.propose(tried)
    assert unit.shape == (ARMS, 2)
    assert ((unit >= 0) & (unit <= 1)).all()
    assert len(np.unique(unit.round(6), axis=0)) == ARMS
    best = peer.recommend(tried)
    assert best is not None
    kept = tried.unit[tried.unit[:, 0] < 0.75]
    assert best.tolist() == kept[kept[:, 0].argmax()].tolist()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_keeps_the_baseline_where_nothing_gains(name: str) -> None:
    tried = measured(np.random.default_rng(0).uniform(0.1, 0.4, (8, 2)))
    assert tuner(name).recommend(tried) is None


@pytest.mark.parametrize("name", ["scbo", "qlognei"])
def test_the_baseline_is_known_to_gain_nothing_and_to_keep_its_whole_margin(name: str) -> None:
    peer = tuner(name)
    peer.recommend(measured(np.random.default_rng(0).uniform(0.1, 0.9, (12, 2))))
    mean, sd = peer.processes.posterior(BRIEF.baseline[None])  # type: ignore[attr-defined]
    assert mean[0] == pytest.approx([0.0, -2.0], abs=0.05)
    assert (sd < 0.05).all()
