"""What a model costs: one trace of the operators it runs, searched or baseline alike.

The model runs once in inference mode; every ATen operator that touches numbers is recorded with its kind, its
shapes and which operands are static (a weight). Counted are 2 FLOPs per multiply-add, 1 per elementwise result, and the
passes of normalisation and softmax; moving data is free. An operator that is not in the table is an error, never a
zero: torch's own FlopCounterMode counts 0 for factorisation machines, gates, outer products and attention in inference.
Embedding rows are counted as bytes, apart.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Kind = Literal["linear", "matmul", "elementwise", "normalise", "softmax", "reduce", "embedding", "move"]
Shape = tuple[int, ...]


class Traced(msgspec.Struct, frozen=True):
    """One operator: shapes of its operands and its result, which operands are weights, FLOPs for the traced batch."""

    kind: Kind
    name: str
    operands: tuple[Shape, ...]
    static: tuple[bool, ...]
    result: Shape
    flops: int


class Costs(msgspec.Struct, frozen=True):
    """Of one row of a batch, but for `parameters`."""

    flops: float
    embedding_bytes: float
    parameters: int  # without the embedding table
    table_parameters: int


class UnknownOperator(Exception):
    """A model runs an operator that the cost table does not know."""


def trace(model: nn.Module, features: Sequence[Tensor]) -> tuple[Traced, ...]:
    """The operators of one inference on a batch, in order.

    Raises:
        UnknownOperator: the table lacks one.
    """
    was_training = model.training
    model.eval()
    recorder = _Recorder(model)
    with torch.no_grad(), recorder:
        model(*features)
    model.train(was_training)
    return tuple(recorder.found)


def costs(model: nn.Module, features: Sequence[Tensor]) -> Costs:
    """A model's costs, from its trace.

    FLOPs are what one more row adds: what is computed once a batch, of weights alone (FinalMLP's gates), is none of a
    row's; shared among the few rows of a trace, it would count for far more than among those of a served batch.
    """
    rows = len(features[0])
    found, doubled = trace(model, features), trace(model, [torch.cat((each, each)) for each in features])
    table = {id(p): p.numel() for name, p in model.named_parameters() if is_table(name)}
    return Costs(
        flops=(sum(op.flops for op in doubled) - sum(op.flops for op in found)) / rows,
        embedding_bytes=sum(4 * prod(op.result) for op in found if op.kind == "embedding") / rows,
        parameters=sum(p.numel() for p in model.parameters() if id(p) not in table),
        table_parameters=sum(table.values()),
    )


def is_table(name: str) -> bool:
    """Whether a parameter of this name is a model's embedding table."""
    return name.rpartition(".")[2] == "table"


class _Recorder(TorchDispatchMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: list[Traced] = []
        self.static = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers()) if t.numel()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        result = out[0] if isinstance(out, (tuple, list)) else out
        if isinstance(result, Tensor) and name not in _VIEWS:
            self.found.append(self._traced(name, _tensors(args), result))
        return out

    def _traced(self, name: str, operands: list[Tensor], result: Tensor) -> Traced:
        if name not in _TABLE:
            raise UnknownOperator(f"the operator {name!r} has no cost; add it to nas.trace")
        kind, count = _TABLE[name]
        shapes = [tuple(t.shape) for t in operands]
        static = tuple(t.untyped_storage().data_ptr() in self.static for t in operands)
        return Traced(kind, name, tuple(shapes), static, tuple(result.shape), count(shapes, tuple(result.shape)))


def _tensors(args: Sequence[Any]) -> list[Tensor]:
    flat = [part for arg in args for part in (arg if isinstance(arg, (tuple, list)) else (arg,))]
    return [part for part in flat if isinstance(part, Tensor)]


Count = Callable[[list[Shape], Shape], int]


def _each(passes: int) -> Count:
    return lambda operands, result: passes * prod(result)


def _inputs(passes: int) -> Count:
    return lambda operands, result: passes * prod(operands[0])


def _product(left: int) -> Count:
    """2 per multiply-add; a bias is added in the same pass and counts 1 a result."""
    return lambda operands, result: 2 * prod(result) * operands[left][-1] + (prod(result) if left else 0)


def _nothing(operands: list[Shape], result: Shape) -> int:
    return 0


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ELEMENTWISE = _names(
    "add sub rsub mul div neg relu sigmoid tanh exp log pow sqrt rsqrt abs maximum minimum where clamp clamp_min "
    "ge gt le lt eq ne logical_not add_ mul_ relu_ leaky_relu gelu silu reciprocal square masked_fill softplus"
)
_VIEWS = _names(
    "view _unsafe_view t transpose permute unsqueeze squeeze expand slice select detach alias reshape split "
    "split_with_sizes unbind as_strided chunk lift_fresh narrow unfold"
)
_MOVES = _names(
    "cat stack index_select clone _to_copy copy_ gather index arange zeros ones full zeros_like ones_like full_like "
    "repeat constant_pad_nd scalar_tensor new_zeros tril_indices empty fill_ flip roll"
)
_TABLE: dict[str, tuple[Kind, Count]] = {
    **dict.fromkeys(_ELEMENTWISE, ("elementwise", _each(1))),
    **dict.fromkeys(_MOVES, ("move", _nothing)),
    "mm": ("linear", _product(0)),
    "addmm": ("linear", _product(1)),
    "bmm": ("matmul", _product(0)),
    "baddbmm": ("matmul", _product(1)),
    "addcmul": ("elementwise", _each(3)),
    "native_layer_norm": ("normalise", _inputs(8)),  # mean 1, centre 1, square and mean 2, root and scale 2, affine 2
    "native_batch_norm": ("normalise", _each(4)),
    "_native_batch_norm_legit_no_training": ("normalise", _each(4)),
    "_softmax": ("softmax", _inputs(5)),  # maximum, difference, exponential, sum, quotient
    "sum": ("reduce", _inputs(1)),
    "mean": ("reduce", _inputs(1)),
    "amax": ("reduce", _inputs(1)),
    "max": ("reduce", _inputs(1)),
    "linalg_vector_norm": ("reduce", _inputs(2)),
    "embedding": ("embedding", _nothing),
}
