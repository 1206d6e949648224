"""LightGBM, the reference that is no network: a booster a head, its leaves tuned, stopped by validation rows."""

from importlib.util import find_spec
from itertools import islice
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks._nas_data import Bench
from nas.metrics import auc, row_kl, row_logloss
from nas.rows import Rows, shuffled

Floats = NDArray[np.float64]
LEAVES = (15, 63)
ROUNDS, PATIENCE, RATE = 1000, 20, 0.1
WITHOUT_TREES = "LightGBM, the reference, is not installed and left out: pip install 'trimtab[peers]'"


class Trees(msgspec.Struct, frozen=True):
    """One head on the test rows. `kl`: None where the truth is unknown."""

    head: str
    logloss: float
    kl: float | None
    auc: float | None  # None where the test rows have no positive
    leaves: int
    rounds: int


def heads(bench: Bench) -> dict[str, int]:
    """A task a head; none where LightGBM is not installed."""
    names = [head.name for head in bench.parts.encoding.schema.heads] if find_spec("lightgbm") else []
    return {f"lightgbm-{name}": number for number, name in enumerate(names)}  # trees-*: of the oldest rows, as once


def trees(bench: Bench, head: int) -> Trees:
    """The reference on the measurement's rows."""
    parts = bench.parts
    q, leaves, rounds = predicted(_learned_from(bench), parts.valid, parts.test, head)
    y, p = (np.asarray(part[:, head], np.float64) for part in (parts.test.labels, parts.test.truth))
    shown = ~np.isnan(y)
    kl = None if np.isnan(p).any() else float(row_kl(p, q).mean())
    name = parts.encoding.schema.heads[head].name
    area = auc(q[shown], y[shown]) if 0 < y[shown].sum() < shown.sum() else None
    return Trees(name, float(row_logloss(q[shown], y[shown]).mean()), kl, area, leaves, rounds)


def _learned_from(bench: Bench) -> Rows:
    """What the first seed's networks see in a first epoch, of all the log's days: the oldest rows alone have few."""
    train, size = bench.parts.train, min(bench.scale.recipe.batch_size, len(bench.parts.train))
    batches = islice(shuffled(len(train), size, seed=0, epoch=0), -(-bench.scale.rows // size))
    return train.take(np.sort(np.concatenate([*batches])))


def predicted(train: Rows, valid: Rows, test: Rows, head: int) -> tuple[Floats, int, int]:
    """(n,) probabilities of the test rows; leaves and rounds that validation rows chose."""
    import lightgbm

    (x, y), (x_valid, y_valid) = ((_table(rows), rows.labels[:, head].copy()) for rows in (train, valid))
    dense = train.features.dense.shape[1]
    kept: dict[str, Any] = {"categorical_feature": list(range(dense, x.shape[1])), "free_raw_data": False}
    found = []
    for leaves in LEAVES:
        data = lightgbm.Dataset(x, y, **kept)
        beside = lightgbm.Dataset(x_valid, y_valid, reference=data, **kept)
        wanted = {"objective": "binary", "num_leaves": leaves, "learning_rate": RATE, "num_threads": 1, "verbose": -1}
        stop = lightgbm.early_stopping(PATIENCE, verbose=False)
        booster = lightgbm.train(wanted, data, ROUNDS, valid_sets=[beside], callbacks=[stop])
        found.append((float(booster.best_score["valid_0"]["binary_logloss"]), leaves, booster))
    _, leaves, best = min(found, key=lambda one: one[0])
    return np.asarray(best.predict(_table(test), num_iteration=best.best_iteration)), leaves, best.best_iteration


def _table(rows: Rows) -> NDArray[np.float32]:
    return np.concatenate((rows.features.dense, rows.features.sparse), axis=1, dtype=np.float32)
