"""Baselines: each learns, has its hand count of FLOPs in the parts torch does not count, and agrees with a library."""

from typing import Any

import pytest
import torch
from torch import Tensor

from nas.baselines import NAMES, Baseline, Name, built
from nas.interactions import (
    AT_ONCE,
    BilinearFusion,
    CompressedInteraction,
    CrossNetwork,
    FactorisationMachine,
    FactorisedLayer,
    InteractingLayer,
)
from nas.recipe import Recipe
from nas.rows import Parts
from nas.trace import costs, trace
from nas.train import fit
from nas.weights import Inputs
from tests.nas.files import parts
from tests.nas.networks import features

INPUTS = Inputs(dense=5, sparse=4, table_rows=30, heads=2)
ROWS = torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return parts(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("name", NAMES)
def test_every_baseline_learns_in_the_one_trainer(name: Name, data: Parts) -> None:
    baseline = Baseline(name=name, width=32, embedding=4)
    record = fit(baseline, Recipe(batch_size=128, learning_rate=0.01, epochs=4), data).record
    assert record.best.valid.loss < record.checks[0].valid.loss + 1e-9
    assert record.best.valid.heads[0].auc is not None
    assert record.best.valid.heads[0].auc > 0.6
    assert record.costs.flops > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("inputs", [Inputs(5, 0, 0, 1), Inputs(0, 4, 30, 3), INPUTS])
def test_any_mix_of_fields_and_heads(name: Name, inputs: Inputs) -> None:
    model = built(Baseline(name=name, width=16, embedding=4), inputs, 0.0)
    assert model(*features(inputs)).shape == (7, inputs.heads)


def test_a_wider_baseline_costs_more() -> None:
    for name in NAMES:
        found = [
            costs(built(Baseline(name=name, width=w, embedding=4), INPUTS, 0.0), features(INPUTS)).flops
            for w in (8, 32)
        ]
        assert found[0] < found[1], name


def test_outer_products_and_attention_are_counted() -> None:
    n, f, d, h = 2, 5, 8, 6
    rows = (torch.randn(n, f, d),)
    cin = CompressedInteraction(f, (h,))
    outer, project, relu, pool = d * f * f, 2 * d * f * f * h + d * h, d * h, d * h
    assert costs(cin, rows).flops == outer + project + relu + pool
    assert next(op.kind for op in trace(cin, rows) if op.kind != "move") == "elementwise"
    attention = InteractingLayer(d, d, 2)
    projections, scores = 4 * 2 * f * d * d, 2 * f * f * d
    expected = projections + 2 * scores + 2 * f * f + 5 * 2 * f * f + f * d + f * d  # scale, softmax, residual, relu
    assert costs(attention, rows).flops == expected


def test_compressed_interactions_of_many_rows_are_those_of_each() -> None:
    cin, rows = CompressedInteraction(5, (4, 3)), torch.randn(2 * AT_ONCE + 3, 5, 8)
    assert torch.allclose(cin(rows), torch.cat([cin(row) for row in rows.split(1)]), atol=1e-5)


def library(module: str = "basic.layers") -> Any:
    """A module of torch-rechub, which has no types."""
    return pytest.importorskip(
        f"torch_rechub.{module}", reason="pip install torch-rechub scikit-learn", exc_type=ImportError
    )


def test_the_factorisation_machine_is_the_librarys() -> None:
    assert torch.allclose(FactorisationMachine()(ROWS), library().FM()(ROWS), atol=1e-5)


def test_the_cross_network_is_the_librarys() -> None:
    x, mine, theirs = torch.randn(6, 8), CrossNetwork(8, 3), library().CrossNetV2(8, 3)
    y = x
    for layer, weight in zip(mine.layers, theirs.w, strict=True):
        torch.nn.init.zeros_(layer.bias)  # the library leaves its bias out of the product: compared without
        layer.weight.data.copy_(weight.weight)
        y = x * layer(y) + y
    assert torch.allclose(mine(x), y)
    assert torch.allclose(mine(x), theirs(x), atol=1e-5)


def test_the_interacting_layer_is_the_librarys() -> None:
    mine, theirs = InteractingLayer(8, 8, 2), library().InteractingLayer(8, 2)
    for own, other in (("query", "W_Q"), ("key", "W_K"), ("value", "W_V"), ("residual", "W_Res")):
        getattr(mine, own).weight.data.copy_(getattr(theirs, other).weight)
    assert torch.allclose(mine(ROWS), theirs(ROWS), atol=1e-5)


def test_compressed_interactions_are_the_librarys() -> None:
    mine, theirs = CompressedInteraction(5, (4, 3)), library().CIN(5, [4, 3], split_half=False)
    for layer, conv in zip(mine.layers, theirs.conv_layers, strict=True):
        layer.weight.data.copy_(conv.weight.squeeze(2))
        layer.bias.data.copy_(conv.bias)
    assert torch.allclose(theirs.fc(mine(ROWS)), theirs(ROWS), atol=1e-5)


def whole(name: Name, fields: list[Any]) -> Any:
    """The library's model, of a baseline's sizes: width 8, two layers, two heads (DeepFM has one)."""
    if name == "deepfm":
        return library("models.ranking").DeepFM(fields, fields, {"dims": [8, 8]})
    models, heads, towers = library("models.multi_task"), ["classification"] * 2, [{"dims": [4]}] * 2
    if name == "mmoe":
        return models.MMOE(fields, heads, 4, {"dims": [8, 8]}, towers)
    return models.PLE(fields, heads, 2, 2, 2, {"dims": [8]}, towers)


@pytest.mark.parametrize("name", ["deepfm", "mmoe", "ple"])
def test_a_whole_baseline_is_the_librarys(name: Name) -> None:
    sparse = library("basic.features").SparseFeature
    theirs = whole(name, [sparse(f"f{i}", vocab_size=30, embed_dim=4) for i in range(4)]).eval()
    inputs = Inputs(dense=0, sparse=4, table_rows=30, heads=1 if name == "deepfm" else 2)
    mine = built(Baseline(name=name, width=8, embedding=4), inputs, 0.0)
    for own, other in zip(linears(mine), linears(theirs), strict=True):
        own.load_state_dict(other.state_dict())
    for table in theirs.embedding.embed_dict.values():
        table.weight.data.copy_(mine.stem.table.data.normal_(generator=torch.Generator().manual_seed(0)))
    ids = torch.randint(0, 30, (6, 4))
    found = torch.sigmoid(mine(torch.zeros(6, 0), ids))
    expected = theirs({f"f{i}": ids[:, i] for i in range(4)}).reshape(found.shape)
    assert torch.allclose(found, expected, atol=1e-4)  # its batch normalisation divides by the root of 1 + 1e-5
    assert found.std() > 0.01


def linears(model: torch.nn.Module) -> list[torch.nn.Linear]:
    """In order: experts, gates and towers stand in the same order in both."""
    return [part for part in model.modules() if isinstance(part, torch.nn.Linear)]


def test_the_factorised_layer_and_the_fusion_by_hand() -> None:
    layer = FactorisedLayer(8, 6)
    x = torch.randn(4, 8)
    a, b = layer.project(x)[:, :3], layer.project(x)[:, 3:]
    assert torch.allclose(layer(x), torch.cat((a, a * b), 1))
    fusion, y = BilinearFusion(8, 4, 3, 2), torch.randn(4, 4)
    assert torch.allclose(fusion(x, y), _fused(fusion, x, y), atol=1e-5)


def _fused(fusion: BilinearFusion, x: Tensor, y: Tensor) -> Tensor:
    out = fusion.first(x) + fusion.second(y)
    for n in range(len(x)):
        for k in range(out.shape[1]):
            for head in range(2):
                left, right = x[n, 4 * head : 4 * head + 4], y[n, 2 * head : 2 * head + 2]
                out[n, k] = out[n, k] + left @ fusion.products[k, head] @ right
    return out


def test_a_mixture_of_experts_mixes_by_its_gates() -> None:
    model = built(Baseline(name="mmoe", width=8, embedding=4), INPUTS, 0.0)
    flat, _ = model.stem(*features(INPUTS)[:2], features(INPUTS)[2:])
    experts = torch.stack([expert(flat) for expert in model.body.experts], 1)
    by_hand = []
    for gate, tower in zip(model.body.gates, model.body.towers, strict=True):
        share = torch.softmax(gate.choose(flat), 1)
        by_hand.append(tower((share.unsqueeze(2) * experts).sum(1)))
    assert torch.allclose(model(*features(INPUTS)), torch.cat(by_hand, 1), atol=1e-5)
