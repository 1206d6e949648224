"""Architectures trained alone, each at a learning rate and with a seed, and kept: what several measurements compare."""

from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np

from benchmarks._nas_data import Bench
from benchmarks._nas_stage import Stage
from nas.architecture import Architecture
from nas.batches import inputs_of
from nas.train import RECORD, Run, fit, read_run, write_run

DEAR = 1_000_000  # FLOPs: a training takes ten times as long as the others'


class Training(msgspec.Struct, frozen=True):
    """One training of an architecture."""

    name: str  # of the architecture
    architecture: Architecture
    rate: float
    seed: int

    @property
    def variant(self) -> str:
        """What tells it from every other training on the same rows."""
        return f"{self.name}-{self.rate:g}-{self.seed}"

    @property
    def task(self) -> str:
        """Of its result."""
        return f"run-{self.variant}"


class Trained(msgspec.Struct, frozen=True):
    """What a training gave on validation rows."""

    training: Training
    flops: float
    loss: float
    rows: int
    seconds: float


class Candidate(msgspec.Struct, frozen=True):
    """An architecture at its best learning rate: validation losses, by seed."""

    name: str
    architecture: Architecture
    rate: float
    flops: float
    losses: tuple[float, ...]

    @property
    def loss(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.losses))


def train(bench: Bench, one: Training) -> Trained:
    """One training, kept in a folder of its own."""
    run = run_of(bench, one).record
    return Trained(one, run.costs.flops, run.best.valid.loss, run.rows, run.seconds)


def run_of(bench: Bench, one: Training) -> Run:
    """A training, found or made."""
    folder = bench.folder / "runs" / one.task
    if (folder / RECORD).exists():
        return read_run(folder, inputs_of(bench.parts.train, bench.parts.encoding.table_rows))
    recipe = msgspec.structs.replace(bench.scale.recipe, learning_rate=one.rate)
    run = fit(one.architecture, recipe, bench.parts, seed=one.seed, rows=bench.scale.rows)
    write_run(folder, run.record, run.model)
    return run


def at_rates(architectures: Iterable[tuple[str, Architecture]], rates: Sequence[float]) -> dict[str, Training]:
    """Every learning rate with the first seed."""
    wanted = [Training(name, one, rate, 0) for name, one in architectures for rate in rates]
    return {one.task: one for one in wanted}


def best_rates(found: dict[str, Trained]) -> list[Candidate]:
    """Each architecture at the rate with the least loss."""
    best: dict[str, Trained] = {}
    for one in found.values():
        known = best.get(one.training.name)
        if known is None or one.loss < known.loss:
            best[one.training.name] = one
    return [
        Candidate(name, one.training.architecture, one.training.rate, one.flops, (one.loss,))
        for name, one in best.items()
    ]


def within(candidates: Sequence[Candidate], flops: float) -> Candidate | None:
    """The best that costs no more."""
    return min((one for one in candidates if one.flops <= flops), key=lambda one: one.loss, default=None)


def seeds_of(flops: float, seeds: int) -> int:
    """How many seeds a model has that is to be compared."""
    return 1 if flops > DEAR else seeds


def seeded(
    stage: Stage[Bench], candidates: Iterable[Candidate], seeds: Callable[[Candidate], int]
) -> dict[str, Candidate]:
    """By name, with the losses of as many seeds as each has; everyone's second before anyone's third."""
    distinct = {one.name: one for one in candidates}
    wanted = [
        Training(one.name, one.architecture, one.rate, seed) for one in distinct.values() for seed in range(seeds(one))
    ]
    wanted.sort(key=lambda one: one.seed)
    found = stage.each("finalists, all seeds", Trained, train, {one.task: one for one in wanted})
    losses: dict[str, list[float]] = {name: [] for name in distinct}
    for one in found.values():
        losses[one.training.name].append(one.loss)
    return {name: msgspec.structs.replace(one, losses=tuple(losses[name])) for name, one in distinct.items()}
