"""Trains a supernet, each batch on one or a few sampled networks. Goes on after a kill to the same bits."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import torch

from nas.atomic import replaced
from nas.batches import Batch, inputs_of, log_odds, loss_of, training
from nas.device import device
from nas.differences import differences
from nas.environment import Environment, environment
from nas.genotype import Genotype
from nas.ranges import expect
from nas.recipe import Recipe, rate_at
from nas.rows import Parts
from nas.sampling import Strategy, paths
from nas.space import Space, widest
from nas.supernet import Supernet, fresh, key_of, loaded, progress_in, save
from nas.weights import Inputs

WARMUP = 0.02  # of the rows at most go through the full path first
CHECKPOINTS = 20  # over a training
HOPELESS = 100  # steps that were none, before any was made
SCHEMA = 3  # of a supernet: which weights there are, where in them a network's slice lies, what it computes
SUPERNET, RECORD = "supernet.pt", "supernet.json"
KEYS = {  # of a plan's fields, as the design file has them
    "space": "space", "recipe": "recipe", "head_weights": "the weight of each head's loss (value.losses)",
    "rows": "supernet.rows (or epochs, in rows)", "": "supernet.",
}  # fmt: skip
OTHER_DATA = "the data are others"


def expect_warmup(share: float) -> None:
    """Raises ValueError unless so much of the rows may go through the full path first."""
    expect("supernet.warmup", share, 0 <= share <= WARMUP, f"a share of the rows, at most {WARMUP}")


class SupernetPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a supernet is trained by."""

    space: Space
    recipe: Recipe
    rows: int
    strategy: Strategy = "half-known"
    warmup: float = 0.01
    seed: int = 0
    head_weights: tuple[float, ...] = ()  # all 1

    def __post_init__(self) -> None:
        expect_warmup(self.warmup)


class SupernetRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One training of a supernet."""

    plan: SupernetPlan
    inputs: Inputs
    data_digest: str
    digest: str  # of the weights
    rows: int  # forward and backward passes of a row: with several networks a batch, more than were read
    seconds: float
    loss: float  # mean over the last tenth, of whatever was sampled
    skipped: int = 0  # steps that were none: their gradients had left the range of fp32
    environment: Environment
    schema: int = 1  # supernets of the first did not say


class _State(msgspec.Struct):
    """Where a training is."""

    name: str  # digest of what it is of
    plan: SupernetPlan | None = None  # that, in words; earlier versions did not say
    data: str = ""
    done: int = 0
    skipped: int = 0
    seconds: float = 0.0
    losses: list[float] = []  # of the steps that were made


Say = Callable[[int, int, float], None]  # rows done, rows in all, the loss of late


def train_supernet(
    plan: SupernetPlan, parts: Parts, folder: Path, say: Say = lambda done, rows, loss: None
) -> tuple[Supernet, SupernetRecord]:
    """Train, or open what the folder holds of the same plan and data.

    Raises:
        AnotherSupernet: the folder holds another one, or one of an earlier version.
        ValueError: no step could be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    inputs = inputs_of(parts.train, parts.encoding.table_rows)
    name = hashlib.sha256(msgspec.json.encode((SCHEMA, plan, inputs, parts.digest))).hexdigest()
    state = _state(folder, _State(name, plan, parts.digest))
    supernet = loaded(folder / SUPERNET, plan.space, inputs) if state.done else _at_base_rates(plan, inputs, parts)
    every = max(1, plan.rows // CHECKPOINTS)
    while state.done < plan.rows:
        began = time.perf_counter()
        with torch.random.fork_rng():
            _train_until(min(plan.rows, state.done + every), state, plan, supernet, parts)
        state.seconds += time.perf_counter() - began
        save(supernet, folder / SUPERNET, msgspec.json.encode(state).decode())
        _refuse_none_made(state, plan, folder)
        say(state.done, plan.rows, float(np.mean(state.losses[-20:] or [np.nan])))
    record = SupernetRecord(
        plan=plan,
        inputs=inputs,
        data_digest=parts.digest,
        digest=supernet.digest(),
        rows=state.done,
        seconds=state.seconds,
        loss=float(np.mean(state.losses[-max(1, len(state.losses) // 10) :])),
        skipped=state.skipped,
        environment=environment(),
        schema=SCHEMA,
    )
    with replaced(folder / RECORD) as part:
        part.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2))
    return supernet, record


def _at_base_rates(plan: SupernetPlan, inputs: Inputs, parts: Parts) -> Supernet:
    supernet = fresh(plan.space, inputs, plan.seed)
    for norm in plan.space.norms:
        supernet.weights[key_of(norm, "head.bias")].copy_(log_odds(parts.train))
    return supernet


class AnotherSupernet(Exception):
    """A folder holds a supernet of another plan or other data."""


def _train_until(stop: int, state: _State, plan: SupernetPlan, supernet: Supernet, parts: Parts) -> None:
    """What is sampled at a row depends on the seed and the row alone."""
    weights = torch.tensor(plan.head_weights or (1.0,) * supernet.inputs.heads, device=device())
    per_batch = len(paths(plan.strategy, plan.space, np.random.default_rng(0)))
    first, last = state.done // per_batch, -(-stop // per_batch)
    for batch in training(parts.train, plan.recipe.batch_size, plan.seed, first, last):
        rng = np.random.default_rng((plan.seed, state.done))
        torch.manual_seed((plan.seed * 2**40 + state.done) % 2**64)  # of dropout
        rate = rate_at(plan.recipe, state.done, plan.rows)
        warm = state.done < plan.warmup * plan.rows
        chosen = (_full_path(plan.space, rng),) if warm else paths(plan.strategy, plan.space, rng)
        chosen = chosen * per_batch if len(chosen) < per_batch else chosen
        losses = [_step(path, batch, supernet, weights, rate, plan.recipe) for path in chosen]
        made = [loss for loss in losses if loss is not None]
        state.losses += made
        state.skipped += len(losses) - len(made)
        state.done += len(batch) * len(chosen)


def _refuse_none_made(state: _State, plan: SupernetPlan, folder: Path) -> None:
    """Nothing was learned, so nothing is kept: a design that was changed begins in the same folder."""
    if state.losses or (state.skipped < HOPELESS and state.done < plan.rows):
        return
    (folder / SUPERNET).unlink()
    norms = ", ".join(plan.space.norms)
    raise ValueError(
        f"supernet: none of its first {state.skipped} steps could be made, the gradients of every sampled network had "
        f'left the range of fp32: normalise, space.norms = ["layer"] (found {norms}); or fewer space.blocks (found '
        f'{plan.space.blocks}), or no "product" in space.dense and space.sparse'
    )


def _full_path(space: Space, rng: np.random.Generator) -> Genotype:
    """Everything at once, with one normalisation."""
    return msgspec.structs.replace(widest(space), norm=space.norms[int(rng.integers(len(space.norms)))])


def _step(
    path: Genotype, batch: Batch, supernet: Supernet, weights: torch.Tensor, rate: float, recipe: Recipe
) -> float | None:
    """The loss before the step; None where the step was none."""
    borrowed = supernet.borrow(path, batch.features)
    loss = loss_of(borrowed.logits(recipe.dropout), batch, weights)
    loss.backward()
    return float(loss.detach()) if borrowed.step(rate, recipe.embedding_l2) else None


def read_supernet(folder: Path) -> tuple[Supernet, SupernetRecord]:
    """A supernet that was trained.

    Raises:
        AnotherSupernet: there is none, it is not finished, or its weights lie as in an earlier version.
    """
    record = read_record(folder)
    return loaded(folder / SUPERNET, record.plan.space, record.inputs), record


def read_record(folder: Path) -> SupernetRecord:
    """What is told of a supernet that was trained; raises as `read_supernet`."""
    if not (folder / RECORD).exists():
        raise AnotherSupernet(f"{folder}: there is no trained supernet; `trimtab nas train` makes one")
    record = msgspec.json.decode((folder / RECORD).read_bytes(), type=SupernetRecord)
    if record.schema != SCHEMA:
        raise AnotherSupernet(
            f"{folder}: holds a supernet of schema {record.schema}; this version reads {SCHEMA}: train another one"
        )
    return record


def _state(folder: Path, begun: _State) -> _State:
    """Where the training in a folder is; at its beginning where there is none."""
    if not (folder / SUPERNET).exists():
        return begun
    try:
        found = msgspec.json.decode(progress_in(folder / SUPERNET) or "", type=_State)
    except msgspec.MsgspecError:
        found = None
    if found is None or found.name != begun.name:
        raise AnotherSupernet(
            f"{folder}: holds a supernet of {_other(found, begun)}; put the design back, remove {folder} to train "
            "anew, or name another folder (--out)"
        )
    return found


def _other(found: _State | None, begun: _State) -> str:
    """What a training is of that is not the one that would begin."""
    if found is None or found.plan is None or begun.plan is None:
        return "another design, or of an earlier version"
    other = OTHER_DATA if found.data != begun.data else differences(found.plan, begun.plan, KEYS)
    return f"another design: {other}" if other else "an earlier version"
