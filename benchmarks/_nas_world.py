"""A made-up ranking log in the layout of the design's 3.6, with its true probabilities in a file beside it.

People and items have tastes that features show in part; each head depends on them through interactions of its own. All
candidates of a request are shown, so nothing is biased by an earlier ranker.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

CANDIDATES = 20  # a request
HEADS = ("click", "long_view", "like", "hate")
_RATES = (0.35, 0.2, 0.03, 0.01)  # about
PEOPLE, ITEMS, TASTES, GROUPS = 4000, 1500, 6, 12
_CHUNK = 20_000  # requests at a time

Floats = NDArray[np.float64]


def write_world(folder: Path, requests: int, seed: int) -> tuple[Path, Path]:
    """Write `log.parquet` and `truth.parquet`; their paths. Nothing is written when both are there."""
    log, truth = folder / "log.parquet", folder / "truth.parquet"
    if log.exists() and truth.exists():
        return log, truth
    folder.mkdir(parents=True, exist_ok=True)
    latent = _Latent(seed)
    writers: list[parquet.ParquetWriter] = []
    for number, first in enumerate(range(0, requests, _CHUNK)):
        tables = _tables(latent, first, min(_CHUNK, requests - first), np.random.default_rng((seed, number)))
        if not writers:
            writers = [
                parquet.ParquetWriter(f"{path}.part", t.schema) for path, t in zip((log, truth), tables, strict=True)
            ]
        for writer, table in zip(writers, tables, strict=True):
            writer.write_table(table)
    for writer, path in zip(writers, (log, truth), strict=True):
        writer.close()
        Path(f"{path}.part").rename(path)
    return log, truth


class _Latent:
    """What is true of people, items and heads."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        group, topic = rng.integers(GROUPS, size=PEOPLE), rng.integers(GROUPS, size=ITEMS)
        centres = rng.normal(0, 1.0, (2, GROUPS, TASTES))
        self.group, self.topic = group, topic
        self.person = 0.95 * centres[0][group] + 0.3 * rng.normal(0, 1, (PEOPLE, TASTES))
        self.item = 0.95 * centres[1][topic] + 0.3 * rng.normal(0, 1, (ITEMS, TASTES))
        self.age, self.length = rng.normal(0, 1, PEOPLE), rng.normal(0, 1, ITEMS)
        self.author = rng.integers(200, size=ITEMS)
        self.quality = rng.normal(0, 0.5, 200)[self.author] + rng.normal(0, 0.3, ITEMS)
        self.mix = rng.normal(0, 0.6, (len(HEADS), TASTES))
        self.slopes = rng.normal(0, 0.5, (len(HEADS), 4))


def _tables(latent: _Latent, first: int, requests: int, rng: np.random.Generator) -> tuple[pa.Table, pa.Table]:
    who = np.repeat(rng.integers(PEOPLE, size=requests), CANDIDATES)
    hour = np.repeat(rng.integers(24, size=requests), CANDIDATES)
    what = rng.integers(ITEMS, size=requests * CANDIDATES)
    p = _probabilities(latent, who, what, hour)
    label = rng.random(p.shape) < p
    n = len(who)
    keys = {
        "request": np.char.add("r", np.repeat(np.arange(first, first + requests), CANDIDATES).astype(str)),
        "item": np.char.add("i", what.astype(str)),
    }
    likes = np.argsort(-latent.person[who], axis=1)[:, :3]
    log = {
        **keys,
        "ts_ms": np.repeat(np.arange(first, first + requests), CANDIDATES) * 1000,
        "shown": np.ones(n, bool),
        "user_group": np.char.add("g", latent.group[who].astype(str)),
        "user_age": latent.age[who],
        "user_interests": [[f"t{j}" for j in row] for row in likes],
        "item_topic": np.char.add("t", latent.topic[what].astype(str)),
        "item_author": np.char.add("a", latent.author[what].astype(str)),
        "item_id": keys["item"],
        "item_length": latent.length[what],
        "context_hour": np.char.add("h", hour.astype(str)),
        **{f"label_{head}": label[:, j].astype(np.float64) for j, head in enumerate(HEADS)},
    }
    return pa.table(log), pa.table({**keys, **{f"true_{head}": p[:, j] for j, head in enumerate(HEADS)}})


def _probabilities(latent: _Latent, who: NDArray[np.int64], what: NDArray[np.int64], hour: NDArray[np.int64]) -> Floats:
    """(n, heads)."""
    tastes = latent.person[who] * latent.item[what]
    day = np.sin(2 * np.pi * hour / 24)
    plain = np.stack((latent.quality[what], latent.age[who] * latent.length[what], day * latent.length[what], day), 1)
    sign = np.array([1.0, 1.0, 1.0, -1.0])  # what is liked is not hated
    pull = sign * (tastes @ latent.mix.T + 0.5 * tastes.sum(1, keepdims=True) / TASTES**0.5) + plain @ latent.slopes.T
    rates = np.array(_RATES)
    return np.asarray(1 / (1 + np.exp(-(pull + np.log(rates / (1 - rates)) - 0.3))))
