from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest
import torch

from nas.baselines import Baseline
from nas.batches import probabilities
from nas.export import Card, ExportWrong, export
from nas.genotype import Block, Genotype, Operator
from nas.recipe import Recipe
from nas.rows import Parts
from nas.space import SMALL, drawn
from nas.train import fit
from tests.nas.files import SCHEMA, parts

RECIPE = Recipe(batch_size=256, learning_rate=0.01)
GENOTYPES = [drawn(SMALL, np.random.default_rng(0))]
PRODUCT = Block(
    dense=(Operator("product"),), width=8, dense_from=(0,), sparse=(Operator("product"),), rows=4, sparse_from=(0,),
    flat_to_dense=True,
)  # fmt: skip
GENOTYPES += [Genotype(blocks=(PRODUCT,), embedding=4, norm="layer", numeric=True)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return parts(tmp_path_factory.mktemp("data"), rows=1500)


BASELINES = [Baseline(name=name, width=8, embedding=4) for name in ("finalmlp", "ple", "xdeepfm")]


@pytest.mark.parametrize("architecture", [*GENOTYPES, *BASELINES])
def test_onnx_computes_what_torch_computes(architecture: Genotype | Baseline, data: Parts, tmp_path: Path) -> None:
    run = fit(architecture, RECIPE, data, rows=512)
    run.model.train()
    card = export(run, data, tmp_path / "model.onnx")
    assert run.model.training, "the model is left as it was"
    f = data.test.take(slice(0, 100)).features
    given = {"dense": f.dense, "sparse": f.sparse.astype(np.int64), "bag0": f.bags[0].astype(np.int64)}
    (found,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, given)
    expected = probabilities(run.model, f).numpy()
    assert np.abs(found - expected).max() < 1e-5
    assert msgspec.json.decode((tmp_path / "model.card.json").read_bytes(), type=Card) == card
    assert card.heads == ("click", "like")


@pytest.mark.parametrize("kinds", [("dense",)])
def test_any_kind_of_field_alone(kinds: tuple[str, ...], tmp_path: Path) -> None:
    schema = msgspec.structs.replace(SCHEMA, fields=tuple(f for f in SCHEMA.fields if f.kind in kinds))
    data = parts(tmp_path, rows=1000, schema=schema)
    run = fit(GENOTYPES[0], RECIPE, data, rows=256)
    assert export(run, data, tmp_path / "model.onnx").largest_difference < 1e-5


def test_a_model_without_numbers_is_not_written(data: Parts, tmp_path: Path) -> None:
    run = fit(GENOTYPES[0], RECIPE, data, rows=256)
    with torch.no_grad():
        next(iter(run.model.parameters())).fill_(float("nan"))
    with pytest.raises(ExportWrong, match="no numbers"):
        export(run, data, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
