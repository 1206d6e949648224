"""The search: rounds of proposals, evaluated through the supernet by any number of processes, journalled one by one.

A killed search goes on where its journal ends; results are joined by their number, so on a CPU in fp32 the same
seed gives the same bits with any number of workers. A worker computes with one thread.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch
from msgspec.structs import replace
from numpy.typing import NDArray
from torch import Tensor

from nas.atomic import replaced
from nas.device import device
from nas.differences import differences
from nas.evaluate import evaluate
from nas.evolution import Evaluated, Rules, Sizes, proposed
from nas.genotype import Genotype, digest
from nas.latency import LatencyTable
from nas.network import Network
from nas.prepare import opened
from nas.processes import processes
from nas.recipe import Recipe
from nas.rows import Parts, Rows
from nas.schema import DataError
from nas.supernet import Supernet
from nas.supernet_train import AnotherSupernet, SupernetRecord, read_supernet
from nas.trace import costs
from nas.train import TRACED_ROWS, fit, traced_features
from nas.weights import Inputs, numeric

JOURNAL = "search.jsonl"
MAX_ADAPTATION = 0.02  # of one training
ADAPT_STEPS, ADAPT_BATCH = 32, 16  # so many steps, unless their batches were smaller than this (docs/nas.md)


class SearchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One search. `evaluations` and `rows` (of adaptation) both bound it; a network is judged on `valid_rows`."""

    rules: Rules
    evaluations: int = 200
    rows: int | None = None
    adapt_rows: int = 0
    adapt: Recipe = Recipe(learning_rate=5e-4)
    valid_rows: int = 20_000
    seed: int = 0


def adaptation(recipe: Recipe, rows: int) -> Recipe:
    """The recipe of a short adaptation: half a training's rate, in batches small enough for some steps."""
    size = min(recipe.batch_size, max(ADAPT_BATCH, rows // ADAPT_STEPS))
    return replace(recipe, batch_size=size, learning_rate=recipe.learning_rate / 2)


class Header(msgspec.Struct, frozen=True):
    """What a journal is of: results of another one must not be mixed in."""

    plan: SearchPlan
    supernet: str
    data: str
    latency: str | None


KEYS = {  # of a header's fields, as the design file has them
    "plan.rules.": "search.", "plan.adapt_rows": "search.adapt, in rows,", "plan.adapt.": "the adaptation's ",
    "plan.": "search.", "supernet": "the supernet", "data": "the data", "latency": "the latency table (search.batch)",
}  # fmt: skip


class AnotherSearch(Exception):
    """A journal is of another search."""


Say = Callable[[list[Evaluated]], None]


class Worker:
    """Evaluates genotypes through one supernet."""

    def __init__(self, plan: SearchPlan, data: Path, supernet: Path, table: LatencyTable | None) -> None:
        parts = opened(data)
        self.plan, self.table = plan, table
        self.parts: Parts = replace(parts, valid=parts.valid.observed(plan.valid_rows))
        _refuse_unobserved(self.parts.valid, parts)
        found: tuple[Supernet, SupernetRecord] = read_supernet(supernet)
        self.supernet, self.record = found
        heads = len(parts.encoding.schema.heads)
        self.head_weights = self.record.plan.head_weights or (1.0,) * heads
        self.traced = traced_features(self.parts.valid, table.batch if table else TRACED_ROWS)

    def sizes(self, genotype: Genotype) -> Sizes:
        """What is known without training."""
        return sizes_of(genotype, self.record.inputs, self.traced, self.table)

    def named(self, genotype: Genotype) -> str:
        """The same for equal networks: where a kind of field is missing, `numeric` changes nothing."""
        return digest(replace(genotype, numeric=numeric(genotype, self.record.inputs)))

    def evaluate(self, index: int, genotype: Genotype) -> Evaluated:
        """The validation loss with inherited weights, after a short adaptation where the plan asks for one."""
        began = time.perf_counter()
        network = self.supernet.cut(genotype)
        if self.plan.adapt_rows:
            run = fit(
                genotype, self.plan.adapt, self.parts, seed=self.plan.seed, rows=self.plan.adapt_rows,
                head_weights=self.head_weights, start=network,
            )  # fmt: skip
            loss = run.record.best.valid.loss
        else:
            loss = evaluate(network, self.parts.valid, self.parts.encoding.schema, self.head_weights)[0].loss
        seconds = time.perf_counter() - began
        return Evaluated(index, genotype, loss, self.sizes(genotype), self.plan.adapt_rows, seconds)


def sizes_of(
    genotype: Genotype, inputs: Inputs, features: tuple[Tensor, ...], table: LatencyTable | None = None
) -> Sizes:
    """What is known of a network without training it, from its trace on a few rows: those of `table`'s batch."""
    network = Network(genotype, inputs).to(device())
    found = costs(network, features)
    latency = table.estimate(network, features) if table else None
    return Sizes(found.flops, found.parameters + found.table_parameters, latency)


def _refuse_unobserved(judged: Rows, parts: Parts) -> None:
    """Without a label of every head no network has a loss."""
    for j, head in enumerate(parts.encoding.schema.heads):
        if not _counted(judged, j).any():
            first = int(_counted(parts.valid.observed(), j).argmax()) + 1
            raise DataError(
                f"search.valid_rows: none of the first {len(judged)} validation rows has a {head.label!r}, which head "
                f"{head.name!r} is judged by; expected at least {first}, the first that has one"
            )


def _counted(rows: Rows, head: int) -> NDArray[np.bool_]:
    """(n,) whether a row's label of a head counts in a loss."""
    return np.asarray(~np.isnan(rows.labels[:, head]) & (rows.weight > 0))


def search(
    plan: SearchPlan, data: Path, supernet: Path, folder: Path, *, table: LatencyTable | None = None, workers: int = 1,
    say: Say = lambda found: None,
) -> list[Evaluated]:  # fmt: skip
    """Search, or go on with what the folder's journal holds; every evaluated network, in order.

    Raises:
        AnotherSearch: the journal is of another search.
        AnotherSupernet: the supernet was trained on other data.
        DataError: the validation rows that networks are judged on lack a head's label.
        ValueError: the adaptation is longer than a search may spend.
    """
    with one_thread():
        worker = Worker(plan, data, supernet, table)
        if worker.record.data_digest != worker.parts.digest:
            raise AnotherSupernet(f"{supernet}: was trained on other data than {data} holds; train another one")
        training = plan.adapt.epochs * len(worker.parts.train)
        if plan.adapt_rows > MAX_ADAPTATION * training:
            raise ValueError(
                f"search.adapt_rows: found {plan.adapt_rows}; expected at most {MAX_ADAPTATION:.0%} of the {training} "
                "rows of one training"
            )
        header = Header(plan, worker.record.digest, worker.record.data_digest, table.digest if table else None)
        journal = _Journal(folder / JOURNAL, header)
        with processes(workers, partial(_start_worker, plan, data, supernet, table)) as pool:
            return _rounds(plan, worker, journal, pool, say)


def _rounds(
    plan: SearchPlan, worker: Worker, journal: "_Journal", pool: ProcessPoolExecutor | None, say: Say
) -> list[Evaluated]:
    rules = plan.rules
    found: list[Evaluated] = []
    known = journal.results
    while len(found) < plan.evaluations and not _spent(plan, found):
        count = min(rules.children, plan.evaluations - len(found))
        genotypes = proposed(rules, worker.record.plan.space, found, count, plan.seed, worker.sizes, worker.named)
        tasks = {len(found) + i: genotype for i, genotype in enumerate(genotypes)}
        for one in _evaluated({i: g for i, g in tasks.items() if i not in known}, worker, pool):
            journal.append(one)
            say([known[i] for i in sorted(known)])
        found += [known[i] for i in tasks]
    return found


def _spent(plan: SearchPlan, found: list[Evaluated]) -> bool:
    return plan.rows is not None and sum(one.rows for one in found) >= plan.rows


def _evaluated(tasks: dict[int, Genotype], worker: Worker, pool: ProcessPoolExecutor | None) -> Iterator[Evaluated]:
    if pool is None:
        yield from (worker.evaluate(index, genotype) for index, genotype in tasks.items())
        return
    for future in as_completed([pool.submit(_in_worker, index, genotype) for index, genotype in tasks.items()]):
        yield future.result()


def whole_lines(path: Path) -> list[bytes]:
    """Lines of a journal without a torn last one; none where a kill came before the first was written."""
    held = path.read_bytes() if path.exists() else b""
    return held[: held.rfind(b"\n") + 1].splitlines()


class _Journal:
    """Results of a search, a JSON line each, below a line that says what they are of."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self.results = path, dict[int, Evaluated]()
        lines = whole_lines(path)
        if lines:
            _refuse_another(path, lines[0], header)
        lines[:1] = [msgspec.json.encode(header)]
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as part:
            part.write_bytes(b"".join(line + b"\n" for line in lines))
        for line in lines[1:]:
            one = msgspec.json.decode(line, type=Evaluated)
            self.results[one.index] = one

    def append(self, one: Evaluated) -> None:
        """Add a result."""
        with self.path.open("ab") as file:
            file.write(msgspec.json.encode(one) + b"\n")
        self.results[one.index] = one


def _refuse_another(path: Path, line: bytes, header: Header) -> None:
    """More evaluations go on with those that there are: what is proposed depends on those before it alone."""
    anew = f"remove {path.parent} to search anew (the supernet stays)"
    try:
        held = msgspec.json.decode(line, type=Header)
    except msgspec.MsgspecError:
        held = None
    if held is None or msgspec.json.encode(held) != line:
        raise AnotherSearch(f"{path}: of an earlier version; {anew}")
    if held.plan.evaluations < header.plan.evaluations:
        held = replace(held, plan=replace(held.plan, evaluations=header.plan.evaluations))
    if held != header:
        raise AnotherSearch(
            f"{path}: of another search: {differences(held, header, KEYS)}; put the design back, or {anew}"
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """As in every worker: sums are taken in the same order, so results have the same bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_WORKER: dict[str, Worker] = {}  # of a worker process


def _start_worker(plan: SearchPlan, data: Path, supernet: Path, table: LatencyTable | None) -> None:
    torch.set_num_threads(1)
    _WORKER["self"] = Worker(plan, data, supernet, table)


def _in_worker(index: int, genotype: Genotype) -> Evaluated:
    return _WORKER["self"].evaluate(index, genotype)
