"""FLOPs against counts made by hand, per row: 2 per multiply-add, 1 per elementwise result."""

import msgspec
import pytest
import torch
from torch import nn

from nas.baselines import NAMES, Baseline, Name, built
from nas.genotype import Block, Genotype, Operator
from nas.network import Network
from nas.trace import UnknownOperator, costs, trace
from nas.weights import Inputs
from tests.nas.networks import features

INPUTS = Inputs(dense=5, sparse=4, table_rows=30, heads=2)
PLAIN = Block(dense=(Operator("fc"),), width=8, dense_from=(0,), sparse=(Operator("efc"),), rows=3, sparse_from=(0,))
D, F, DENSE, W, R, K = 4, 4, 5, 8, 3, 2
BAGS = 2 * ((3 * D) + 3 * D + 3 + 1 + D + 3 + 3)  # mask, its product, sums, floor, quotient, clamp and test of ids
FC = 2 * DENSE * W + W + W  # multiply-add, bias, relu
EFC = 2 * R * F * D + R * D
HEAD = 2 * W * K + K + 2 * R * D * K + K


def flops(**changes: object) -> float:
    genotype = Genotype(blocks=(msgspec.structs.replace(PLAIN, **changes),), embedding=D, norm="none")
    return costs(Network(genotype, INPUTS), features(INPUTS, 2)).flops


def test_fc_and_efc() -> None:
    assert flops() == FC + EFC + HEAD + BAGS


def test_gating() -> None:
    gating = 2 * (2 * DENSE * W + W) + W + W  # two projections, sigmoid, product
    assert flops(dense=(Operator("gating"),)) == gating + EFC + HEAD + BAGS


def test_sum() -> None:
    assert flops(dense=(Operator("sum"),)) == 2 * DENSE * W + EFC + HEAD + BAGS


def test_dense_product() -> None:
    assert flops(dense=(Operator("product"),)) == 2 * (2 * DENSE * W + W) + W + EFC + HEAD + BAGS


def test_sparse_product() -> None:
    product = 2 * (2 * R * F * D + R * D) + R * D  # two mixtures with their biases, product
    assert flops(sparse=(Operator("product"),)) == FC + product + HEAD + BAGS


def test_flattened_rows() -> None:
    assert flops(flat_to_dense=True) == FC + EFC + 2 * R * D * W + W + HEAD + BAGS


def test_dense_fields_as_rows() -> None:
    genotype = Genotype(blocks=(PLAIN,), embedding=D, norm="none", numeric=True)
    found = costs(Network(genotype, INPUTS), features(INPUTS, 2))
    rows = 2 * DENSE * D + 2 * R * DENSE * D  # value times direction, offset; the mixtures read them
    assert found.flops == flops() + rows


def test_dot_product() -> None:
    k, pairs = 4, 10  # sqrt(2 * 8) rows and the dense row: 5 * 4 / 2 pairs
    dot = 2 * DENSE * D + 2 * k * F * D + 2 * (k + 1) ** 2 * D + 2 * pairs * W + W + W
    assert flops(dense=(Operator("dot"),)) == dot + EFC + HEAD + BAGS


def test_attention() -> None:
    projections = 4 * 2 * R * D * D
    attention = 2 * R * R * D + R * R + 5 * R * R + 2 * R * R * D + R * D  # scores, scale, softmax, mixture, residual
    assert flops(sparse=(Operator("attention"),)) == FC + 2 * R * F * D + projections + attention + HEAD + BAGS


def test_factorisation_machine() -> None:
    machine = R * D + D + R * D + R * D + D + D  # sum, its square, squares, their sum, difference, half
    assert flops(sparse_to_dense=True) == FC + EFC + machine + 2 * D * W + W + W + HEAD + BAGS


def test_dense_to_sparse() -> None:
    row = 2 * W * D + D
    assert flops(dense_to_sparse=True) == FC + EFC + row + HEAD + 2 * D * K + BAGS


def test_normalisation() -> None:
    genotype = Genotype(blocks=(PLAIN,), embedding=D, norm="layer")
    normalised = costs(Network(genotype, INPUTS), features(INPUTS, 2)).flops - flops()
    assert normalised == 8 * W + 8 * R * D


def test_embedding_bytes_and_parameters() -> None:
    genotype = Genotype(blocks=(PLAIN,), embedding=D, norm="none")
    found = costs(Network(genotype, INPUTS), features(INPUTS, 2))
    assert found.embedding_bytes == 4 * D * (2 + 3 + 3)
    assert found.table_parameters == 30 * D
    assert found.parameters == (DENSE * W + W) + (R * F + R) + (W * K + R * D * K + K)


def test_costs_do_not_depend_on_the_batch() -> None:
    genotype = Genotype(blocks=(PLAIN,), embedding=D, norm="layer")
    network = Network(genotype, INPUTS)
    found = [costs(network, features(INPUTS, n)).flops for n in (1, 2, 64)]
    assert found == pytest.approx([found[0]] * 3)


@pytest.mark.parametrize("name", NAMES)
def test_costs_of_a_baseline_do_not_depend_on_the_batch(name: Name) -> None:
    network = built(Baseline(name=name, width=16, embedding=D), INPUTS, 0.0)
    small, large = (costs(network, features(INPUTS, n)).flops for n in (2, 256))
    assert small == large
    traced = sum(op.flops for op in trace(network, features(INPUTS, 2))) / 2
    assert (small == traced) == (name != "finalmlp")  # of which two gates read no row


def test_the_trace_says_which_operand_is_a_weight() -> None:
    genotype = Genotype(
        blocks=(msgspec.structs.replace(PLAIN, sparse=(Operator("attention"),)),), embedding=D, norm="none"
    )
    found = trace(Network(genotype, INPUTS), features(INPUTS, 2))
    linear = [op for op in found if op.kind == "linear"]
    products = [op for op in found if op.kind == "matmul"]
    assert all(any(op.static) for op in linear)
    assert any(not any(op.static) for op in products)  # attention: both operands are activations


def test_an_unknown_operator_is_an_error() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            return torch.erfinv(x)

    with pytest.raises(UnknownOperator, match="erfinv"):
        costs(Odd(), (torch.zeros(2, 2), torch.zeros(2, 2)))
