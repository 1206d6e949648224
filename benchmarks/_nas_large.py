"""What the test rows of a large log say of networks that were chosen on a smaller one, and of baselines.

Gaps are paired over requests: candidates of one request are shown to one person, so they are no independent rows.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks._nas_data import Bench
from benchmarks._nas_quality import LEVELS, Quality
from benchmarks._nas_runs import Candidate, Trained, Training, at_rates, best_rates, run_of, seeded, train, within
from benchmarks._nas_scale import Scale
from benchmarks._nas_stage import Stage
from benchmarks._nas_value import THETAS
from nas.baselines import Baseline, Name
from nas.batches import probabilities
from nas.compare import Gap, paired_gap
from nas.evaluate import TOP, metrics_of
from nas.metrics import MIN_POSITIVES, HeadMetrics, row_kl, row_logloss
from nas.value import value_captured

Floats = NDArray[np.float64]
DEAR = 1_000_000  # FLOPs: a training takes ten times as long as the others'
COMPARED: tuple[Name, ...] = ("dnn", "deepfm", "dcnv2", "xdeepfm", "finalnet", "finalmlp")  # others: slow, never best


class NothingFound(Exception):
    """A folder holds no finished measurement of `nas`."""


class Found(msgspec.Struct, frozen=True):
    """What is read of a finished measurement of `nas`."""

    scale: Scale
    quality: Quality

    @property
    def picks(self) -> list[Candidate]:
        """What its searches by evolution picked."""
        names = dict.fromkeys(level.searched for level in self.quality.levels)
        by_name = {one.name: one for one in self.quality.candidates}
        return [by_name[name] for name in names]

    @property
    def rivals(self) -> frozenset[str]:
        """Baselines that picks were held against there."""
        return frozenset(level.baseline for level in self.quality.levels)

    @property
    def baselines(self) -> list[Candidate]:
        """Of each kind that is compared the best by its validation rows, all seeds there; the best first."""
        best: dict[Name, Candidate] = {}
        for one in sorted(self.quality.candidates, key=lambda one: one.loss):
            if isinstance(one.architecture, Baseline) and one.architecture.name in COMPARED:
                best.setdefault(one.architecture.name, one)
        return [*best.values()]


class Head(msgspec.Struct, frozen=True):
    """A head, means over seeds: KL over all candidates, the rest over those that were shown."""

    head: str
    positives: int
    kl: float
    logloss: float
    calibration: float | None  # predicted over observed positives; None where there are none
    calibration_error: float
    auc: float | None  # None where there are too few positives


class Line(msgspec.Struct, frozen=True):
    """A model: validation losses by seed, then means over seeds on the test rows."""

    name: str
    flops: float
    rate: float
    losses: tuple[float, ...]
    logloss: float
    kl: float
    captured: dict[str, float]  # by theta
    heads: tuple[Head, ...]


class Versus(msgspec.Struct, frozen=True):
    """A model minus a baseline, on test rows. Of one seed each, it is between these two trainings."""

    name: str
    baseline: str
    logloss: Gap
    kl: Gap
    kl_by_head: dict[str, Gap]
    captured: dict[str, Gap]


class Large(msgspec.Struct, frozen=True):
    """Everything that was measured. `best`: the best baseline by validation rows."""

    best: str
    lines: list[Line]
    gaps: list[Versus]


def found_in(folder: Path) -> Found:
    """Of a folder that `python -m benchmarks nas` finished.

    Raises:
        NothingFound: it did not.
    """
    path = folder / "results.json"
    if not path.exists():
        raise NothingFound(f"{path}: there is none; --found takes a folder that `python -m benchmarks nas` finished")
    try:
        return msgspec.json.decode(path.read_bytes(), type=Found)
    except msgspec.MsgspecError as error:
        raise NothingFound(f"{path}: not of this version of `python -m benchmarks nas`: {error}") from error


def at_rates_found(found: Found) -> dict[str, Training]:
    """Every model at each learning rate that baselines have there: with more rows, another one may be the better."""
    return at_rates(((one.name, one.architecture) for one in (*found.picks, *found.baselines)), found.scale.rates)


def seeds_of(flops: float, seeds: int) -> int:
    """How many seeds a model has that is to be compared."""
    return 1 if flops > DEAR else seeds


def large(stage: Stage[Bench], found: Found) -> Large:
    """Train everyone at every rate, and what is to be compared again at the better one; then read the test rows."""
    everyone = best_rates(stage.each("every model, one seed", Trained, train, at_rates_found(found)))
    picks = [one for one in everyone if not isinstance(one.architecture, Baseline)]
    others = [one for one in everyone if isinstance(one.architecture, Baseline)]
    best = min(others, key=lambda one: one.loss)
    rivals = {one.name: one for level in LEVELS if (one := within(others, level * best.flops))}
    rivals |= {one.name: one for one in others if one.name in found.rivals}
    again = seeded(stage, [*picks, *rivals.values()], lambda one: seeds_of(one.flops, stage.bench.scale.seeds))
    known = {one.name: one for one in everyone} | again
    tasks = {one.name: _tasks(one) for one in known.values()}
    flat = {name: training for few in tasks.values() for name, training in few.items()}
    heads = stage.each("test rows", list[HeadMetrics], on_test, flat)
    lines = [_line(stage.bench, one, [heads[name] for name in tasks[one.name]]) for one in known.values()]
    pairs = [(one.name, best.name) for one in known.values() if one.name != best.name]
    pairs += [(pick.name, rival) for rival in rivals if rival != best.name for pick in picks]
    return Large(best.name, lines, [_versus(stage.bench, known[a], known[b]) for a, b in pairs])


def _tasks(one: Candidate) -> dict[str, Training]:
    seeds = range(len(one.losses))
    return {f"test-{one.name}-{seed}": Training(one.name, one.architecture, one.rate, seed) for seed in seeds}


def on_test(bench: Bench, one: Training) -> list[HeadMetrics]:
    """Metrics of the shown rows; beside, what each request says."""
    test = bench.parts.test
    q = probabilities(run_of(bench, one).model, test).numpy()
    y, p = (np.asarray(part, np.float64) for part in (test.labels, test.truth))
    request, shown = np.asarray(test.request), ~np.isnan(y).any(axis=1)
    values = THETAS.values()
    np.savez(
        _rows(bench, one.name, one.seed),
        logloss=by_request(row_logloss(q[shown], y[shown]).mean(1, keepdims=True), request[shown])[:, 0],
        kl=by_request(row_kl(p, q), request),
        captured=np.stack([value_captured(value.of(q), value.of(p), request, TOP) for value in values], axis=1),
    )
    schema = bench.parts.encoding.schema
    return list(metrics_of(q, test, schema, (1.0,) * len(schema.heads)).heads)


def by_request(rows: Floats, request: NDArray[np.uint64]) -> Floats:
    """(requests, k) numbers whose mean is that of (n, k) rows: a request's sum over the mean count of rows."""
    _, index = np.unique(request, return_inverse=True)
    sums = np.stack([np.bincount(index, weights=column) for column in rows.T], axis=1)
    return np.asarray(sums * (len(sums) / len(rows)))


def _rows(bench: Bench, name: str, seed: int) -> Path:
    return bench.folder / f"test-{name}-{seed}.npz"


def _read(bench: Bench, one: Candidate, what: str) -> Floats:
    """(seeds, requests, ...)."""
    return np.stack([np.load(_rows(bench, one.name, seed))[what] for seed in range(len(one.losses))])


def _line(bench: Bench, one: Candidate, by_seed: Sequence[list[HeadMetrics]]) -> Line:
    kl = _read(bench, one, "kl").mean((0, 1))
    captured = _read(bench, one, "captured").mean((0, 1)).tolist()
    heads = tuple(_head(float(kl[j]), [metrics[j] for metrics in by_seed]) for j in range(len(kl)))
    return Line(
        one.name, one.flops, one.rate, one.losses, float(_read(bench, one, "logloss").mean()), float(kl.mean()),
        dict(zip(THETAS, captured, strict=True)), heads,
    )  # fmt: skip


def _head(kl: float, seeds: list[HeadMetrics]) -> Head:
    first = seeds[0]
    logloss, error = (
        float(np.mean([getattr(one, what) for one in seeds])) for what in ("logloss", "calibration_error")
    )
    calibration = [one.calibration for one in seeds if one.calibration is not None]
    areas = [one.auc for one in seeds if one.auc is not None and one.positives >= MIN_POSITIVES]
    return Head(first.head, first.positives, kl, logloss, _mean(calibration), error, _mean(areas))


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _versus(bench: Bench, one: Candidate, other: Candidate) -> Versus:
    losses, kl, captured = (
        [_read(bench, model, what) for model in (one, other)] for what in ("logloss", "kl", "captured")
    )
    names = [head.name for head in bench.parts.encoding.schema.heads]
    return Versus(
        one.name, other.name, paired_gap(*losses), paired_gap(*(part.mean(2) for part in kl)),
        {name: paired_gap(*(part[..., j] for part in kl)) for j, name in enumerate(names)},
        {name: paired_gap(*(part[..., j] for part in captured)) for j, name in enumerate(THETAS)},
    )  # fmt: skip
