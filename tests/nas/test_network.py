"""What the space can say: networks of it that compute what a baseline computes, once they have its weights."""

import pytest
import torch

from nas.baselines import Baseline, BaselineNetwork, built
from nas.genotype import Block, Genotype, Operator
from nas.network import Network
from nas.operators import normalised
from nas.weights import TABLE, Inputs
from tests.nas.networks import features

INPUTS = Inputs(dense=5, sparse=4, table_rows=30, heads=2)
D, WIDTH = 4, 8
SUM, FC, PRODUCT = Operator("sum"), Operator("fc"), Operator("product")
FLAT = INPUTS.dense + INPUTS.sparse * D


def block(dense: Operator, width: int, dense_from: tuple[int, ...], flat: bool = False) -> Block:
    """Its sparse core can be all rows of node 0."""
    return Block(
        dense=(dense,), width=width, dense_from=dense_from, sparse=(Operator("efc"),), rows=INPUTS.sparse,
        sparse_from=(0,), flat_to_dense=flat,
    )  # fmt: skip


def with_weights(network: Network, weights: dict[str, torch.Tensor], stem: BaselineNetwork) -> Network:
    """The table of a baseline, rows as they are, these weights, and 0 for all others."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.weight(TABLE).copy_(stem.stem.table)
        network.weight("block0.efc.rows").copy_(torch.eye(INPUTS.sparse))
        for name, weight in weights.items():
            network.weight(name).copy_(weight.reshape(network.weight(name).shape))
    return network


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_a_normalisation_keeps_the_small_small_and_brings_the_large_to_one(kind: str) -> None:
    """Embeddings of which nothing is learned yet must not become as loud as all else."""
    x, ones = torch.randn(50, 16, generator=torch.Generator().manual_seed(3)), torch.ones(16)
    bias = torch.zeros(16) if kind == "layer" else None
    small, large = (normalised(size * x, kind, ones, bias).square().mean(-1).sqrt() for size in (0.01, 100.0))
    assert (small < 0.02).all()
    assert ((large > 0.99) & (large < 1.01)).all()


def test_a_network_of_the_space_is_a_dnn() -> None:
    dnn = built(Baseline(name="dnn", width=WIDTH, embedding=D), INPUTS, 0.0)
    first, second = dnn.body.deep[0], dnn.body.deep[2]
    blocks = (block(SUM, WIDTH, (0,), flat=True), block(FC, WIDTH, (1,)), block(FC, WIDTH, (2,)))
    network = Network(Genotype(blocks=blocks, embedding=D, norm="none"), INPUTS)
    weights = {
        "block0.sum.weight": first.weight[:, : INPUTS.dense],
        "block0.flat.weight": first.weight[:, INPUTS.dense :],
        "block1.fc.weight": torch.eye(WIDTH),
        "block1.fc.bias": first.bias,
        "block2.fc.weight": second.weight,
        "block2.fc.bias": second.bias,
        "head.dense": dnn.body.out.weight,
        "head.bias": dnn.body.out.bias,
    }
    given = features(INPUTS)
    assert torch.allclose(with_weights(network, weights, dnn)(*given), dnn(*given), atol=1e-6)


def test_a_network_of_the_space_is_a_cross_network() -> None:
    dcn = built(Baseline(name="dcnv2", width=WIDTH, embedding=D), INPUTS, 0.0)
    cross, head = dcn.body.cross, dcn.body.out
    with torch.no_grad():
        head.weight[:, FLAT:] = 0.0  # without its deep part
        cross.layers[2].weight.zero_()
        cross.layers[2].bias.zero_()  # two layers
    blocks = (
        block(SUM, FLAT, (0,), flat=True),  # x_0
        block(PRODUCT, FLAT, (1,)),  # x_1 = x_0 * (W x_0 + b + 1)
        block(PRODUCT, FLAT, (1, 2)),  # x_2 - x_1 = x_0 * (W x_1 + b)
        block(SUM, FLAT, (2, 3)),
    )
    network = Network(Genotype(blocks=blocks, embedding=D, norm="none"), INPUTS)
    one, zero = torch.eye(FLAT), torch.zeros(FLAT, FLAT)
    weights = {
        "block0.sum.weight": one[:, : INPUTS.dense],
        "block0.flat.weight": one[:, INPUTS.dense :],
        "block1.product.first.weight": one,
        "block1.product.second.weight": cross.layers[0].weight,
        "block1.product.second.bias": cross.layers[0].bias + 1,
        "block2.product.first.weight": torch.cat((one, zero), 1),
        "block2.product.second.weight": torch.cat((zero, cross.layers[1].weight), 1),
        "block2.product.second.bias": cross.layers[1].bias,
        "head.dense": head.weight[:, :FLAT],
        "head.bias": head.bias,
    }
    given = features(INPUTS)
    assert torch.allclose(with_weights(network, weights, dcn)(*given), dcn(*given), atol=1e-6)
