"""How long a model takes: a stored table per operator for the search, and interleaved measurements for finalists.

The table holds seconds of single operators in onnxruntime with one thread at a few sizes each. A network's estimate is
the sum over its trace of the table's entries, log-linear between sizes. It is a table, not a clock: the same network
always has the same estimate, on any machine and whatever else it does.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from math import exp, log, prod
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor, nn

from nas.environment import Environment, environment
from nas.trace import Kind, Traced, trace

BATCH = 256
REPEATS, WARM = 15, 3
_SIZES: dict[Kind, tuple[tuple[int, ...], ...]] = {
    "linear": ((16, 16), (64, 64), (256, 128), (512, 512), (1024, 1024)),  # in, out
    "matmul": ((4, 8), (16, 16), (48, 16), (64, 32)),  # rows, embedding
    "elementwise": ((16,), (256,), (4096,)),
    "normalise": ((16,), (256,), (1024,)),
    "softmax": ((16,), (64,)),
    "reduce": ((16,), (256,), (1024,)),
    "embedding": ((8,), (64,), (512,)),
    "move": ((16,), (256,), (4096,)),
}


class Entry(msgspec.Struct, frozen=True):
    """Seconds of one operator; `size` is its FLOPs, or the elements it moves."""

    kind: Kind
    size: float
    seconds: float


class LatencyTable(msgspec.Struct, frozen=True):
    """Entries of every kind, by rising size, for batches of `batch` rows."""

    batch: int
    entries: tuple[Entry, ...]
    environment: Environment

    @property
    def digest(self) -> str:
        """A name of 16 letters."""
        return hashlib.sha256(msgspec.json.encode(self.entries)).hexdigest()[:16]

    def estimate(self, model: nn.Module, features: Sequence[Tensor]) -> float:
        """Milliseconds of one batch; `features` are `batch` rows."""
        return 1e3 * sum(self.seconds(op) for op in trace(model, features))

    def seconds(self, op: Traced) -> float:
        """Of one operator, from the entries of its kind: log-linear between sizes, in proportion beyond them."""
        known = [entry for entry in self.entries if entry.kind == op.kind]
        x = log(max(size_of(op), 1))
        xs, ys = [log(entry.size) for entry in known], [log(entry.seconds) for entry in known]
        if x > xs[-1]:
            return known[-1].seconds * exp(x - xs[-1])
        return float(np.exp(np.interp(x, xs, ys)))


def size_of(op: Traced) -> float:
    """What an operator's time grows with."""
    return float(prod(op.result) if op.kind in ("move", "embedding") else op.flops)


def measured_table(batch: int = BATCH) -> LatencyTable:
    """Measure this machine."""
    entries = [_entry(kind, sizes, batch) for kind, all_sizes in _SIZES.items() for sizes in all_sizes]
    return LatencyTable(batch, tuple(entries), environment())


def read_table(path: Path) -> LatencyTable:
    """A table that was stored as JSON."""
    return msgspec.json.decode(path.read_bytes(), type=LatencyTable)


def session(model: bytes | str) -> onnxruntime.InferenceSession:
    """An onnxruntime session with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Timing(msgspec.Struct, frozen=True):
    """Milliseconds of one batch."""

    p50_ms: float
    p99_ms: float
    runs: int


def interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Time several calls in turn, round after round, so that a busy moment of the machine hits them all alike."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + WARM):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if number >= WARM:
                taken[name].append(1e3 * (time.perf_counter() - began))
    return {name: _timing(milliseconds) for name, milliseconds in taken.items()}


def _timing(milliseconds: list[float]) -> Timing:
    p50, p99 = np.percentile(milliseconds, (50, 99))
    return Timing(float(p50), float(p99), len(milliseconds))


def _entry(kind: Kind, sizes: tuple[int, ...], batch: int) -> Entry:
    size, nodes, feed, weights = _PROBES[kind](batch, *sizes)
    ran = session(_model(nodes, feed, weights))
    timing = interleaved({kind: lambda: ran.run(None, feed)}, REPEATS)[kind]
    return Entry(kind, float(size), timing.p50_ms / 1e3)


Arrays = dict[str, NDArray[Any]]
Probe = tuple[int, list[Any], Arrays, Arrays]


def _model(nodes: list[Any], feed: Arrays, weights: Arrays) -> bytes:
    types = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}
    inputs = [helper.make_tensor_value_info(name, types[array.dtype], array.shape) for name, array in feed.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    initial = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "probe", inputs, outputs, initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def _ones(*shape: int) -> NDArray[np.float32]:
    return np.ones(shape, np.float32)


def _linear(n: int, into: int, out: int) -> Probe:
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)
    return 2 * n * into * out + n * out, [node], {"x": _ones(n, into)}, {"w": _ones(out, into), "b": _ones(out)}


def _matmul(n: int, rows: int, d: int) -> Probe:
    node = helper.make_node("MatMul", ["x", "z"], ["y"])
    return 2 * n * rows * rows * d, [node], {"x": _ones(n, rows, d), "z": _ones(n, d, rows)}, {}


def _elementwise(n: int, width: int) -> Probe:
    return n * width, [helper.make_node("Mul", ["x", "z"], ["y"])], {"x": _ones(n, width), "z": _ones(n, width)}, {}


def _normalise(n: int, width: int) -> Probe:
    node = helper.make_node("LayerNormalization", ["x", "w", "b"], ["y"])
    return 8 * n * width, [node], {"x": _ones(n, width)}, {"w": _ones(width), "b": _ones(width)}


def _softmax(n: int, rows: int) -> Probe:
    return 5 * n * rows * rows, [helper.make_node("Softmax", ["x"], ["y"])], {"x": _ones(n, rows, rows)}, {}


def _reduce(n: int, width: int) -> Probe:
    node = helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)
    return n * width, [node], {"x": _ones(n, width // 16, 16)}, {"axes": np.array([1], np.int64)}


def _embedding(n: int, width: int) -> Probe:
    ids = np.random.default_rng(0).integers(0, 10_000, (n, width // 8))
    return n * width, [helper.make_node("Gather", ["w", "x"], ["y"])], {"x": ids}, {"w": _ones(10_000, 8)}


def _move(n: int, width: int) -> Probe:
    node = helper.make_node("Concat", ["x", "z"], ["y"], axis=1)
    return n * width, [node], {"x": _ones(n, width // 2), "z": _ones(n, width // 2)}, {}


_PROBES: dict[Kind, Callable[..., Probe]] = {
    "linear": _linear, "matmul": _matmul, "elementwise": _elementwise, "normalise": _normalise, "softmax": _softmax,
    "reduce": _reduce, "embedding": _embedding, "move": _move,
}  # fmt: skip
