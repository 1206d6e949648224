"""Steps of training: where a network begins, and that a step recorded on a GPU is the step taken plainly."""

import msgspec
import numpy as np
import pytest
import torch

from nas import steps
from nas.architecture import module_of
from nas.baselines import NAMES, Baseline, Name
from nas.batches import Batch, base_rates, inputs_of, log_odds, probabilities
from nas.encoding import Coded
from nas.recipe import Recipe
from nas.rows import Parts, Rows
from nas.space import SMALL, drawn
from nas.train import fit
from tests.nas.files import parts

RECIPE = Recipe(batch_size=128, learning_rate=0.01)
GENOTYPE = drawn(SMALL, np.random.default_rng(4))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return parts(tmp_path_factory.mktemp("data"))


def test_a_network_begins_at_the_base_rates(data: Parts) -> None:
    network = module_of(GENOTYPE, inputs_of(data.train, data.encoding.table_rows), 0.0).to(log_odds(data.train).device)
    network.begin_at(log_odds(data.train))
    said = probabilities(network, data.valid.features).numpy()
    assert np.allclose(said, np.nanmean(data.train.labels, axis=0), atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_baseline_begins_beside_the_base_rates(data: Parts, name: Name) -> None:
    odds = log_odds(data.train)
    model = module_of(Baseline(name=name, width=16), inputs_of(data.train, data.encoding.table_rows), 0.0)
    model.to(odds.device).eval()
    features = Batch(data.valid.take(slice(0, 50))).features
    with torch.no_grad():
        even = model(*features)
        model.begin_at(odds)
        assert torch.allclose(model(*features) - even, odds.expand_as(even), atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("architecture", [GENOTYPE, Baseline(name="ple", width=16)])
def test_a_recorded_step_is_a_plain_one(data: Parts, monkeypatch: pytest.MonkeyPatch, architecture: Baseline) -> None:
    recorded = fit(architecture, RECIPE, data, rows=5000).record.best.valid.loss
    monkeypatch.setattr(steps, "Recorded", lambda step: step)
    assert fit(architecture, RECIPE, data, rows=5000).record.best.valid.loss == pytest.approx(recorded, abs=1e-4)


def test_a_network_begins_at_the_rate_of_rows_by_their_weights() -> None:
    labels = np.array([[1.0], [0.0], [np.nan], [1.0]], np.float32)
    rows = Rows(
        Coded(np.zeros((4, 0), np.float32), np.zeros((4, 0), np.int32), ()), labels, labels,
        np.array([1.0, 98.0, 50.0, 1.0], np.float32), np.zeros(4, np.uint64), np.zeros(4),
    )  # fmt: skip
    assert base_rates(rows).tolist() == [0.02]
    assert torch.sigmoid(log_odds(rows)).tolist() == pytest.approx([(0.02 * 3 + 0.5) / 4])
    assert base_rates(msgspec.structs.replace(rows, weight=np.full(4, 0.01, np.float32))).tolist() == pytest.approx(
        [2 / 3]
    )
