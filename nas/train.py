"""The one trainer: any architecture, one recipe, a budget of rows, and one record of the run.

Training goes by rows, not steps or epochs. At every rung and every end of an epoch the validation rows are measured,
the best weights kept, and `report` asked whether to stop. With a folder, where it is is stored at each of these checks
and `CHECKPOINTS` times besides: a run that was killed or pruned goes on from there to the same bits.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from nas.architecture import Architecture, module_of
from nas.atomic import replaced
from nas.batches import features_of, inputs_of, log_odds, training
from nas.device import device
from nas.differences import differences
from nas.environment import Environment, environment
from nas.evaluate import Metrics, evaluate
from nas.genotype import Genotype, digest
from nas.recipe import Recipe, rate_at
from nas.rows import Parts, Rows
from nas.steps import Steps, optimisers_of
from nas.trace import Costs, costs
from nas.value import ValueModel
from nas.weights import Inputs

RECORD_SCHEMA = 2  # what a normalised network computes changed with the second
TRACED_ROWS = 2
CHECKPOINTS = 20  # over a training, besides those at its checks
CHECKPOINT, RECORD, MODEL = "checkpoint.pt", "record.json", "model.pt"


class AnotherRun(Exception):
    """A folder holds another run, or one that is not this version's."""


class Check(msgspec.Struct, frozen=True):
    """The validation after so many training rows."""

    rows: int
    valid: Metrics


Report = Callable[[Check], bool]  # whether to stop here
Say = Callable[[int, int], None]  # rows done, rows in all


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One run."""

    architecture: Architecture
    recipe: Recipe
    seed: int
    data_digest: str
    head_weights: tuple[float, ...]
    value: ValueModel | None
    budget: int  # rows
    rows: int  # trained on
    stopped: str  # budget, patience, pruned, or diverged: its weights left the range of fp32
    seconds: float
    costs: Costs
    checks: tuple[Check, ...]
    best: Check
    environment: Environment
    test: Metrics | None = None
    schema: int = RECORD_SCHEMA


class Run(msgspec.Struct, frozen=True, eq=False):
    """A record and the model with its best weights."""

    record: Record
    model: nn.Module


class _Made(msgspec.Struct, frozen=True):
    """What a checkpoint is of, in words."""

    network: str
    recipe: Recipe
    data: str
    seed: int
    budget: int
    head_weights: tuple[float, ...]


KEYS = {  # of its fields, as the design file has them
    "network": "the network", "recipe": "recipe", "data": "the data", "seed": "the seed", "budget": "rows to train on",
    "head_weights": "the weight of each head's loss (value.losses)",
}  # fmt: skip


class _Task(msgspec.Struct, frozen=True, eq=False):
    """What is trained, on what, and how it is judged."""

    architecture: Architecture
    recipe: Recipe
    parts: Parts
    seed: int
    budget: int  # rows
    head_weights: tuple[float, ...]
    value: ValueModel | None

    @property
    def name(self) -> str:
        """Of all that the bits of a training depend on: what a checkpoint is of. The value model is no part of it."""
        schema = (RECORD_SCHEMA,) if _normalised(self.architecture) else ()
        arguments = (
            self.architecture, self.recipe, self.parts.digest, self.seed, self.budget, self.head_weights, *schema,
        )  # fmt: skip
        return hashlib.sha256(msgspec.json.encode(arguments)).hexdigest()

    @property
    def made(self) -> _Made:
        """The same, but for this version's own numbers."""
        whole = self.architecture
        network = digest(whole) if isinstance(whole, Genotype) else msgspec.json.encode(whole).decode()
        return _Made(network, self.recipe, self.parts.digest, self.seed, self.budget, self.head_weights)

    def validated(self, model: nn.Module) -> Metrics:
        """A model on the validation rows."""
        return evaluate(model, self.parts.valid, self.parts.encoding.schema, self.head_weights, self.value)[0]


class _Progress(msgspec.Struct):
    """Where a run is. Everything here and in the optimisers goes into a checkpoint."""

    rows: int = 0
    worse: int = 0  # checks in a row
    seconds: float = 0.0
    checks: list[Check] = []
    best: dict[str, Tensor] = {}
    stopped: str = "budget"

    @property
    def best_check(self) -> Check:
        """Not of weights that left the range of fp32 where there are others: even odds may look better than they."""
        usable = self.checks[:-1] if self.stopped == "diverged" else []
        return min(usable or self.checks, key=lambda check: check.valid.loss)


def fit(
    architecture: Architecture,
    recipe: Recipe,
    parts: Parts,
    *,
    seed: int = 0,
    rows: int | None = None,
    head_weights: Sequence[float] | None = None,
    value: ValueModel | None = None,
    rungs: Sequence[int] = (),
    report: Report | None = None,
    folder: Path | None = None,
    start: nn.Module | None = None,
    say: Say = lambda rows, budget: None,
) -> Run:
    """Train, and choose by validation.

    `rows`: the budget (the recipe's epochs). `head_weights`: of the heads' losses (all 1). `rungs`: rows at which
    validation is measured besides the ends of epochs. `start`: a module to go on from instead of fresh weights. `say`:
    told after each batch. The same arguments give the same bits on a CPU with the same number of threads.

    Raises:
        AnotherRun: the folder holds a checkpoint of other arguments.
    """
    weights = tuple(head_weights or (1.0,) * len(parts.encoding.schema.heads))
    epoch = _epoch(len(parts.train), recipe.batch_size)
    task = _Task(architecture, recipe, parts, seed, rows or recipe.epochs * epoch, weights, value)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = start or _fresh(task)
        model.to(device())
        optimisers = optimisers_of(model, recipe)
        progress = _resumed(folder, task, model, optimisers) if folder else _Progress()
        steps = Steps(model, optimisers, recipe, torch.tensor(weights, device=device()))
        before = progress.rows
        if progress.checks:  # what is gone on with may have ended
            progress.stopped = _reason(progress, recipe, None, model)
        for stop in _stops(progress.rows, task.budget, epoch, min(recipe.batch_size, epoch), rungs):
            if progress.stopped != "budget":
                break
            while progress.rows < stop:
                _train_until(min(stop, progress.rows + max(1, task.budget // CHECKPOINTS)), task, steps, progress, say)
                if folder and progress.rows < stop:
                    _checkpoint(folder, task, model, optimisers, progress)
            _check(task, model, progress)
            progress.stopped = _reason(progress, recipe, report, model)
            if folder:
                _checkpoint(folder, task, model, optimisers, progress)
    model.load_state_dict(progress.best)
    if before and value is not None:  # it may be another one than that of the checks before
        _valued_again(task, model, progress)
    record = _record(task, progress, traced_costs(model, parts))
    if folder:
        write_run(folder, record, model)
    return Run(record, model)


def _fresh(task: _Task) -> nn.Module:
    inputs = inputs_of(task.parts.train, task.parts.encoding.table_rows)
    model = module_of(task.architecture, inputs, task.recipe.dropout)
    model.begin_at(log_odds(task.parts.train))
    return model


def _normalised(architecture: Architecture) -> bool:
    return isinstance(architecture, Genotype) and architecture.norm != "none"


def traced_costs(model: nn.Module, parts: Parts) -> Costs:
    """A model's costs on rows of this shape."""
    return costs(model.to(device()), traced_features(parts.valid))


def traced_features(rows: Rows, count: int = TRACED_ROWS) -> tuple[Tensor, ...]:
    """What a model is given when it is traced: the first of the rows."""
    return features_of(rows.features.take(slice(0, count)))


def write_run(folder: Path, record: Record, model: nn.Module) -> None:
    """Write a run's weights, then its record: where there is one, the run is whole and the weights are its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)  # of the run before it was gone on with
    with replaced(folder / MODEL) as part:
        torch.save(model.state_dict(), part)
    with replaced(folder / RECORD) as part:
        part.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2))


def read_run(folder: Path, inputs: Inputs) -> Run:
    """A run that was written.

    Raises:
        AnotherRun: by a version of which its network computed something else, or what is damaged.
    """
    try:
        record = msgspec.json.decode((folder / RECORD).read_bytes(), type=Record)
    except msgspec.MsgspecError as error:
        raise AnotherRun(f"{folder / RECORD}: no record of a run: {error}; train it again") from error
    if record.schema < RECORD_SCHEMA and _normalised(record.architecture):
        raise AnotherRun(
            f"{folder}: holds a normalised network of schema {record.schema}, of which this version ({RECORD_SCHEMA}) "
            "would compute something else: train it again; what was exported of it goes on as it is"
        )
    model = module_of(record.architecture, inputs, record.recipe.dropout)
    try:
        model.load_state_dict(torch.load(folder / MODEL, weights_only=True, map_location=device()))
    except (RuntimeError, EOFError, UnpicklingError) as error:
        raise AnotherRun(f"{folder / MODEL}: not the weights that {RECORD} tells of; train it again") from error
    return Run(record, model.to(device()).eval())


def _epoch(rows: int, batch: int) -> int:
    """Rows of an epoch: whole batches."""
    return rows // min(batch, rows) * min(batch, rows)


def _stops(done: int, budget: int, epoch: int, size: int, rungs: Sequence[int]) -> list[int]:
    """Rows at which to check, whole batches of that size each: rungs, ends of epochs, the end."""
    epochs = range(epoch, budget, epoch)
    wanted = {-(-stop // size) * size for stop in (*rungs, *epochs, budget) if stop <= budget}
    return sorted(stop for stop in wanted if stop > done)


def _train_until(stop: int, task: _Task, steps: Steps, progress: _Progress, say: Say) -> None:
    began = time.perf_counter()
    steps.model.train()
    for batch in training(task.parts.train, task.recipe.batch_size, task.seed, progress.rows, stop):
        steps(batch, rate_at(task.recipe, progress.rows, task.budget))
        progress.rows += len(batch)
        say(progress.rows, task.budget)
    progress.seconds += time.perf_counter() - began


def _check(task: _Task, model: nn.Module, progress: _Progress) -> None:
    progress.checks.append(Check(progress.rows, task.validated(model)))
    if not _finite(model):
        progress.stopped = "diverged"
    better = progress.best_check is progress.checks[-1]
    progress.worse = 0 if better else progress.worse + 1
    if better or not progress.best:
        progress.best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _valued_again(task: _Task, model: nn.Module, progress: _Progress) -> None:
    best = progress.best_check
    progress.checks[progress.checks.index(best)] = Check(best.rows, task.validated(model))


def _finite(model: nn.Module) -> bool:
    return all(bool(torch.isfinite(weight).all()) for weight in model.parameters())


def _reason(progress: _Progress, recipe: Recipe, report: Report | None, model: nn.Module) -> str:
    if not _finite(model):
        return "diverged"
    if report is not None and report(progress.checks[-1]):
        return "pruned"
    return "patience" if progress.worse >= recipe.patience else "budget"


def _checkpoint(
    folder: Path, task: _Task, model: nn.Module, optimisers: list[torch.optim.Optimizer], progress: _Progress
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        "name": task.name,
        "made": msgspec.json.encode(task.made).decode(),
        "model": model.state_dict(),
        "optimisers": [optimiser.state_dict() for optimiser in optimisers],
        "random": torch.get_rng_state(),
        "best": progress.best,
        "progress": msgspec.json.encode((progress.rows, progress.worse, progress.seconds, progress.checks)).decode(),
    }
    with replaced(folder / CHECKPOINT) as part:
        torch.save(state, part)


def _resumed(folder: Path, task: _Task, model: nn.Module, optimisers: list[torch.optim.Optimizer]) -> _Progress:
    if not (folder / CHECKPOINT).exists():
        return _Progress()
    try:
        state = torch.load(folder / CHECKPOINT, weights_only=True, map_location=device())
    except (RuntimeError, EOFError, UnpicklingError) as error:
        raise AnotherRun(f"{folder / CHECKPOINT}: damaged; remove it to train from the beginning") from error
    if state["name"] != task.name:
        raise AnotherRun(
            f"{folder / CHECKPOINT}: of {_other(state.get('made'), task.made)}; put the design back, remove {folder} "
            "to train anew, or name another folder (--out)"
        )
    model.load_state_dict(state["model"])
    for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(saved)
    torch.set_rng_state(state["random"].cpu())
    rows, worse, seconds, checks = msgspec.json.decode(state["progress"], type=tuple[int, int, float, list[Check]])
    return _Progress(rows, worse, seconds, checks, state["best"])


def _other(held: str | None, wanted: _Made) -> str:
    """What a checkpoint is of that is not the training that is asked for."""
    if held is None:
        return "another training, or of an earlier version"
    made = msgspec.json.decode(held, type=_Made)
    other = "the data are others" if made.data != wanted.data else differences(made, wanted, KEYS)
    return f"another training: {other}" if other else "an earlier version"


def _record(task: _Task, progress: _Progress, traced: Costs) -> Record:
    return Record(
        architecture=task.architecture,
        recipe=task.recipe,
        seed=task.seed,
        data_digest=task.parts.digest,
        head_weights=task.head_weights,
        value=task.value,
        budget=task.budget,
        rows=progress.rows,
        stopped=progress.stopped,
        seconds=progress.seconds,
        costs=traced,
        checks=tuple(progress.checks),
        best=progress.best_check,
        environment=environment(),
    )


def on_test_rows(
    run: Run, parts: Parts, head_weights: tuple[float, ...], value: ValueModel | None = None
) -> tuple[Record, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    """The record with metrics on the test rows, and the (n, k) predictions. Read the test once.

    Runs are compared by one judge: these head weights and this value model, not those that each was trained by.
    """
    metrics, q = evaluate(run.model, parts.test, parts.encoding.schema, head_weights, value)
    return msgspec.structs.replace(run.record, test=metrics), q
