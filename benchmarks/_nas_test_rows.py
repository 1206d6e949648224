"""What the test rows say of trainings: read once, and kept by request.

Gaps are paired over people: candidates of one request are shown to one person, who makes many, so neither rows nor
requests are independent.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks._nas_data import Bench, person_of
from benchmarks._nas_runs import Candidate, Training, run_of
from benchmarks._nas_stage import Stage
from benchmarks._nas_value import THETAS
from nas.batches import probabilities
from nas.compare import Gap, paired_gap
from nas.evaluate import TOP, metrics_of
from nas.metrics import MIN_POSITIVES, HeadMetrics, row_kl, row_logloss
from nas.value import value_captured

Floats = NDArray[np.float64]


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


def lines(stage: Stage[Bench], models: Iterable[Candidate]) -> list[Line]:
    """Read the test rows with every seed of every model."""
    tasks = {one: _tasks(one) for one in models}
    flat = {name: training for few in tasks.values() for name, training in few.items()}
    heads = stage.each("test rows", list[HeadMetrics], on_test, flat)
    return [_line(stage.bench, one, [heads[name] for name in few]) for one, few in tasks.items()]


def _tasks(one: Candidate) -> dict[str, Training]:
    seeds = range(len(one.losses))
    tasks = [Training(one.name, one.architecture, one.rate, seed) for seed in seeds]
    return {f"test-{task.variant}": task for task in tasks}


def on_test(bench: Bench, one: Training) -> list[HeadMetrics]:
    """Metrics of the shown rows; beside, what each request says."""
    test = bench.parts.test
    q = probabilities(run_of(bench, one).model, test.features).numpy()
    y, p = (np.asarray(part, np.float64) for part in (test.labels, test.truth))
    request, shown = np.asarray(test.request), ~np.isnan(y).any(axis=1)
    values = THETAS.values()
    np.savez(
        _rows(bench, one),
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


def _rows(bench: Bench, one: Training) -> Path:
    return bench.folder / f"test-{one.variant}.npz"


def _read(bench: Bench, one: Candidate, what: str) -> Floats:
    """(seeds, requests, ...)."""
    return np.stack([np.load(_rows(bench, training))[what] for training in _tasks(one).values()])


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


def versus(bench: Bench, one: Candidate, other: Candidate) -> Versus:
    """The gaps of one model to another, of as many seeds as each has."""
    request, shown = np.asarray(bench.parts.test.request), ~np.isnan(bench.parts.test.labels).any(axis=1)
    person = person_of(bench, np.unique(request))
    asked, rows = np.unique(request[shown], return_counts=True)  # requests have unlike numbers of rows that were shown
    losses, kl, captured = (
        [_read(bench, model, what) for model in (one, other)] for what in ("logloss", "kl", "captured")
    )
    ours, theirs = (part * rows.mean() / rows for part in losses)

    def over_people(first: Floats, second: Floats) -> Gap:
        return paired_gap(first, second, group=person)

    names = [head.name for head in bench.parts.encoding.schema.heads]
    return Versus(
        one.name, other.name, paired_gap(ours, theirs, rows.astype(np.float64), person_of(bench, asked)),
        over_people(*(part.mean(2) for part in kl)),
        {name: over_people(*(part[..., j] for part in kl)) for j, name in enumerate(names)},
        {name: over_people(*(part[..., j] for part in captured)) for j, name in enumerate(THETAS)},
    )  # fmt: skip
