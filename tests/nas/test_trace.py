"""FLOPs against counts made by hand, per row: 2 per multiply-add, 1 per elementwise result."""

from collections.abc import Callable
from math import prod

import msgspec
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nas.baselines import NAMES, Baseline, Name, built
from nas.genotype import Block, Genotype, Operator
from nas.network import Network
from nas.trace import Traced, UnknownOperator, costs, is_table, trace
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


class Calls(nn.Module):
    """A function, as a model."""

    def __init__(self, of: Callable[..., Tensor]) -> None:
        super().__init__()
        self.of = of

    def forward(self, *given: Tensor) -> Tensor:
        return self.of(*given)


def only(of: Callable[..., Tensor], *shapes: tuple[int, ...]) -> Traced:
    """The one operator that a function runs on random operands of these shapes."""
    (found,) = trace(Calls(of), [torch.rand(shape) for shape in shapes])
    return found


@pytest.mark.parametrize(
    ("of", "shapes", "kind"),
    [
        (torch.mm, ((3, 4), (4, 5)), "linear"),
        (torch.addmm, ((5,), (3, 4), (4, 5)), "linear"),
        (torch.bmm, ((2, 3, 4), (2, 4, 5)), "matmul"),
        (torch.baddbmm, ((2, 3, 5), (2, 3, 4), (2, 4, 5)), "matmul"),
    ],
)
def test_products_are_what_torch_counts_and_a_bias_one_more_a_result(
    of: Callable[..., Tensor], shapes: tuple[tuple[int, ...], ...], kind: str
) -> None:
    given = [torch.rand(shape) for shape in shapes]
    with FlopCounterMode(display=False) as counted:
        result = of(*given)
    found = only(of, *shapes)
    bias = result.numel() if len(shapes) == 3 else 0
    assert (found.kind, found.result) == (kind, tuple(result.shape))
    assert found.flops == counted.get_total_flops() + bias


def _batch_norm(x: Tensor) -> Tensor:
    return torch.native_batch_norm(x, None, None, torch.zeros(7), torch.ones(7), False, 0.1, 1e-5)[0]


def _batch_norm_of_inference(x: Tensor) -> Tensor:
    zeros, ones = torch.zeros(7), torch.ones(7)
    return torch.ops.aten._native_batch_norm_legit_no_training(x, None, None, zeros, ones, 0.1, 1e-5)[0]


@pytest.mark.parametrize(
    ("of", "passes", "kind"),
    [
        (lambda x: nn.functional.layer_norm(x, (7,)), 8, "normalise"),
        (_batch_norm, 4, "normalise"),
        (_batch_norm_of_inference, 4, "normalise"),
        (lambda x: x.softmax(dim=1), 5, "softmax"),
        (lambda x: x.sum(dim=1), 1, "reduce"),
        (lambda x: x.mean(dim=1), 1, "reduce"),
        (lambda x: x.amax(dim=1), 1, "reduce"),
        (lambda x: x.max(dim=1)[0], 1, "reduce"),
        (lambda x: torch.linalg.vector_norm(x, dim=1), 2, "reduce"),
        (lambda x: x.relu(), 1, "elementwise"),
        (lambda x: x.t().contiguous(), 0, "move"),
    ],
)
def test_what_reduces_or_normalises_passes_over_what_it_reads(
    of: Callable[..., Tensor], passes: int, kind: str
) -> None:
    found = trace(Calls(of), [torch.rand(5, 7)])
    assert [op.kind for op in found if op.kind != "move" or not passes] == [kind]
    assert sum(op.flops for op in found) == passes * 5 * 7


def test_what_is_broadcast_counts_by_its_result() -> None:
    assert only(torch.add, (5, 1), (1, 7)).flops == 5 * 7
    assert only(torch.addcmul, (5, 7), (5, 1), (1, 7)).flops == 3 * 5 * 7


class Gated(nn.Module):
    """A buffer and a weight, of which what is dropped in training is none of inference's."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.rand(4))
        self.weight = nn.Parameter(torch.rand(4))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x * self.scale) * self.weight + x


@pytest.mark.parametrize("training", [False, True])
def test_inference_is_traced_whatever_the_mode_and_buffers_are_static_too(training: bool) -> None:
    model = Gated().train(training)
    found = trace(model, [torch.rand(3, 4)])
    assert [(op.name, op.static) for op in found] == [
        ("mul", (False, True)),
        ("mul", (False, True)),
        ("add", (False, False)),
    ]
    assert all(op.operands[1] == ((4,) if op.name == "mul" else (3, 4)) for op in found)
    assert model.training == model.dropout.training == training
    assert costs(model, [torch.rand(3, 4)]).flops == 3 * prod((4,))


def test_a_table_is_a_parameter_of_that_name() -> None:
    names = ("table", "rows.table", "timetable", "table.weight", "rows.timetable")
    assert [is_table(name) for name in names] == [True, True, False, False, False]


def test_an_unknown_operator_is_an_error() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            return torch.erfinv(x)

    with pytest.raises(UnknownOperator, match="erfinv"):
        costs(Odd(), (torch.zeros(2, 2), torch.zeros(2, 2)))
