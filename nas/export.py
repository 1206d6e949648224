"""A trained model as an ONNX file, checked against torch in onnxruntime, with a card that says what it is."""

import hashlib
import logging
import warnings
from copy import deepcopy
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from nas.batches import features_of
from nas.genotype import Genotype, encoded
from nas.latency import session
from nas.rows import Parts, Rows
from nas.train import Record, Run

TOLERANCE = 1e-5  # between probabilities of torch and of onnxruntime
CHECKED_ROWS = (1, 7, 256)  # batch sizes that are compared
CARD_SCHEMA = 1


class ExportWrong(Exception):
    """onnxruntime does not compute what torch computes."""


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What an exported model is: whoever finds the file knows where it came from and what goes in."""

    inputs: tuple[str, ...]  # the ONNX inputs, in order
    heads: tuple[str, ...]
    record: Record
    model_digest: str
    largest_difference: float  # from torch's probabilities, over the checked rows
    schema: int = CARD_SCHEMA


class Scorer(nn.Module):
    """A model that takes what it uses of the features and gives probabilities."""

    def __init__(self, model: nn.Module, used: tuple[bool, ...], empty: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.model, self.used, self.empty = model, used, empty

    def forward(self, *given: Tensor) -> Tensor:
        """(n, heads) probabilities."""
        left = iter(given)
        features = [next(left) if use else part for use, part in zip(self.used, self.empty, strict=True)]
        if not self.used[0]:
            features[0] = given[0].new_zeros((given[0].shape[0], 0), dtype=torch.float32)
        if not self.used[1]:
            features[1] = given[0].new_zeros((given[0].shape[0], 0), dtype=torch.long)
        return torch.sigmoid(self.model(*features))


def export(run: Run, parts: Parts, path: Path) -> Card:
    """Write PATH.onnx and PATH.card.json beside it.

    Raises:
        ExportWrong: onnxruntime's probabilities differ from torch's, or are none; nothing is written.
    """
    rows = parts.valid.take(slice(0, max(CHECKED_ROWS)))
    scorer, given, names = _scorer(run.model, rows)
    raw = _onnx(scorer, given, names)
    difference = _difference(raw, scorer, given, names)
    if not np.isfinite(difference):
        raise ExportWrong("the model's probabilities are no numbers: its weights left the range of fp32")
    if difference > TOLERANCE:
        raise ExportWrong(f"onnxruntime differs from torch by {difference:.2g}; at most {TOLERANCE:.0e} is rounding")
    card = Card(
        inputs=names,
        heads=tuple(head.name for head in parts.encoding.schema.heads),
        record=run.record,
        model_digest=hashlib.sha256(raw).hexdigest(),
        largest_difference=difference,
    )
    path.write_bytes(raw)
    path.with_suffix(".card.json").write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=2))
    if isinstance(run.record.architecture, Genotype):
        path.with_suffix(".genotype.json").write_bytes(encoded(run.record.architecture))
    return card


def onnx_bytes(model: nn.Module, rows: Rows) -> bytes:
    """A model that takes features like those of the rows, as ONNX."""
    return _onnx(*_scorer(model, rows))


def _scorer(model: nn.Module, rows: Rows) -> tuple[Scorer, tuple[Tensor, ...], tuple[str, ...]]:
    names, used = input_names(rows)
    features = tuple(part.cpu() for part in features_of(rows.features))
    given = tuple(part for part, use in zip(features, used, strict=True) if use)
    return Scorer(deepcopy(model).cpu().eval(), used, features), given, names  # the caller's stays where it is


def input_names(rows: Rows) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """Names of the features that there are, and whether each of (dense, sparse, *bags) is one."""
    f = rows.features
    names = ("dense", "sparse", *(f"bag{j}" for j in range(len(f.bags))))
    used = (f.dense.shape[1] > 0, f.sparse.shape[1] > 0, *(True for _ in f.bags))
    return tuple(name for name, use in zip(names, used, strict=True) if use), used


def _onnx(scorer: Scorer, given: tuple[Tensor, ...], names: tuple[str, ...]) -> bytes:
    batch = torch.export.Dim("batch", min=1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter, about torch
        program = torch.onnx.export(
            scorer, given, dynamo=True, verbose=False, input_names=list(names), output_names=["probabilities"],
            dynamic_shapes=(tuple({0: batch} for _ in given),),
        )  # fmt: skip
    return bytes(program.model_proto.SerializeToString())


def _difference(raw: bytes, scorer: Scorer, given: tuple[Tensor, ...], names: tuple[str, ...]) -> float:
    """The largest over all checked batches; NaN where either side has no number."""
    ran = session(raw)
    differences = []
    for rows in CHECKED_ROWS:
        part = tuple(tensor[:rows] for tensor in given)
        with torch.no_grad():
            expected = scorer(*part).numpy()
        (found,) = ran.run(None, {name: tensor.numpy() for name, tensor in zip(names, part, strict=True)})
        differences.append(np.abs(found - expected).max())
    return float(np.max(differences))  # `max` of Python's would pass over a NaN
