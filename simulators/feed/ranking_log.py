"""The ranking log of a feed: every candidate of every request, and what is true of it in a file apart.

One row a candidate. Labels are null where an item never came on the screen: below the page, or after the person had
left. Features are what a product would know: the covariates of people and items, and embeddings and priors from models
upstream that are as wrong as the serving ranker. What people and items are truly like stands nowhere but in the truth.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from simulators.events import Population, Served, event_ids
from simulators.feed.items import Singles
from simulators.feed.pages import MOMENT_MS, Shelf, hour_of_day, leaving, predicted, shelf_of, true_chances
from simulators.feed.people import People, people_of
from simulators.feed.product import CANDIDATES, LATENT, Feed
from simulators.feed.response import marginals
from simulators.feed.targets import SIGNALS, USERS, VIDEOS
from simulators.feed.traffic import BATCH, Answered, merged, shards_of, span, weights_table
from simulators.feed.watch import expected_s
from simulators.worlds import HOUR_MS, weights_of

WEEKDAYS = ("Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed")  # the epoch began on a Thursday
_WRITTEN = {"compression": "zstd", "compression_level": 1}


class Progress(msgspec.Struct, frozen=True):
    """How far a log has come."""

    through_ms: int
    requests: int
    candidates: int
    shown: int


def truth_path(path: Path) -> Path:
    """Where the true probabilities of a log's rows stand, under the same keys in the same order."""
    return path.with_name(f"{path.stem}.truth{path.suffix}")


def write(
    feed: Feed,
    people: Population,
    served: Served,
    bounds: tuple[int, int],
    path: Path,
    watch: Callable[[Progress], None],
) -> Progress:
    """Log what everyone is answered in [begin, end) under one table, in memory that does not grow with time.

    Raises `OSError` when a file cannot be written.
    """
    shelf = shelf_of(feed)
    latents = people_of(feed, shelf.items, len(people.names), people.seed)
    progress = Progress(bounds[0], 0, 0, 0)
    log: parquet.ParquetWriter | None = None
    truth: parquet.ParquetWriter | None = None
    try:
        for through_ms, batch in _batches(shelf, latents, people, served, bounds):
            n, seen = len(batch.ts_ms), int(batch.pages.seen.sum())
            request = event_ids(people.seed, 0, progress.requests + np.arange(n))
            rows, true = tables(shelf, latents, people, served, batch, request)
            log = log or parquet.ParquetWriter(path, rows.schema, **_WRITTEN)
            truth = truth or parquet.ParquetWriter(truth_path(path), true.schema, **_WRITTEN)
            log.write_table(rows)
            truth.write_table(true)
            progress = Progress(
                through_ms, progress.requests + n, progress.candidates + n * CANDIDATES, progress.shown + seen
            )
            watch(progress)
    finally:
        for writer in (log, truth):
            if writer is not None:
                writer.close()
    return progress


def _batches(
    shelf: Shelf, latents: People, people: Population, served: Served, bounds: tuple[int, int]
) -> Iterator[tuple[int, Answered]]:
    theta = weights_table(shelf, latents, people.bucket, served)
    shards = shards_of(shelf, latents, people.seed, bounds[0])
    edges = [*range(bounds[0] // MOMENT_MS * MOMENT_MS, bounds[1], MOMENT_MS), bounds[1]]
    edges[0] = bounds[0]  # a log may begin within a moment: what is put together is of one moment all the same
    for begin_ms, end_ms in pairwise(edges):
        waiting = list[Answered]()
        for shard in shards:
            for batch in span(shelf, latents, shard, theta, people.seed, (begin_ms, end_ms)):
                waiting.append(batch)
                if sum(len(each.ts_ms) for each in waiting) >= BATCH:
                    yield end_ms, merged(waiting)
                    waiting.clear()
        if waiting:
            yield end_ms, merged(waiting)


def tables(
    shelf: Shelf, latents: People, people: Population, served: Served, batch: Answered, request: NDArray[np.bytes_]
) -> tuple[pa.Table, pa.Table]:
    """A batch's rows of the log and of its truth."""
    person, candidates = batch.pages.person, batch.pages.candidates
    keys = {"request": _repeated(request), "item": _named("v", candidates.reshape(-1))}
    columns = (
        keys
        | _echo(shelf.feed, people, served, batch)
        | _features(shelf, latents, batch)
        | _outcome(batch)
        | _numbers("pred_", predicted(shelf, latents, batch.at, person, candidates))
    )
    chance, enjoyment = true_chances(shelf, latents, batch.at, person, candidates, hour_of_day(batch.ts_ms))
    p = marginals(shelf.feed.law, chance)
    watch_s = expected_s(shelf.items.duration_s[candidates], p[0], p[1], chance.click * chance.stay)
    true = keys | _numbers("true_", p)
    true |= {"true_watch_s": _flat(watch_s), "true_leave": _flat(leaving(shelf, enjoyment))}
    true["true_enjoyment"] = _flat(enjoyment)
    return pa.table(columns), pa.table(true)


def _echo(feed: Feed, people: Population, served: Served, batch: Answered) -> dict[str, pa.Array]:
    """Who was served, when, and by what."""
    person = batch.pages.person
    arm = served.arm_of[people.bucket[person]]
    vectors = np.array([[weights_of(theta, name) for name in feed.groups] for theta in served.theta])
    theta = vectors[arm, people.segment[person]]
    return {
        "ts_ms": pa.array(np.repeat(batch.ts_ms, CANDIDATES)),
        "unit": _named("u", np.repeat(person, CANDIDATES)),
        "segment": _coded(people.segment[person], tuple(feed.groups)),
        "version": pa.array(np.full(len(person) * CANDIDATES, served.version, np.int64)),
        "arm": _coded(arm, served.names),
        "theta": pa.StructArray.from_arrays(
            [pa.array(np.repeat(column, CANDIDATES)) for column in theta.T], [f"p_{signal}" for signal in SIGNALS]
        ),
    }


def _features(shelf: Shelf, latents: People, batch: Answered) -> dict[str, pa.Array]:
    person, candidates, items = batch.pages.person, batch.pages.candidates.reshape(-1), shelf.items
    day = batch.ts_ms // (24 * HOUR_MS) % 7
    return {
        **{f"user_{_bare(name)}": _coded(latents.features[name][person], tuple(USERS[name])) for name in USERS},
        **{f"user_prior_{s}": _repeated(latents.hat_bias[k, person]) for k, s in enumerate(SIGNALS)},
        **{f"user_embedding_{k}": _repeated(latents.hat_taste[person, k]) for k in range(LATENT)},
        **{f"item_{name}": _coded_items(items.features[name][candidates], tuple(VIDEOS[name])) for name in VIDEOS},
        "item_duration_s": pa.array(items.duration_s[candidates]),
        **{f"item_prior_{s}": pa.array(items.hat_bias[k, candidates]) for k, s in enumerate(SIGNALS)},
        **{f"item_embedding_{k}": pa.array(items.hat_taste[candidates, k]) for k in range(LATENT)},
        "context_hour": _coded(hour_of_day(batch.ts_ms), tuple(f"{hour:02d}" for hour in range(24))),
        "context_weekday": _coded(day, WEEKDAYS),
    }


def _outcome(batch: Answered) -> dict[str, pa.Array]:
    """What was shown where, and the labels of that."""
    made = batch.pages
    position = np.full(made.candidates.shape, -1, np.int8)
    places = np.where(made.seen, np.arange(made.order.shape[1], dtype=np.int8), np.int8(-1))
    np.put_along_axis(position, made.order, places, axis=1)
    hidden = position.reshape(-1) < 0
    labels = {}
    for k, signal in enumerate(SIGNALS):
        labels[f"label_{signal}"] = _placed(made.signals[k].astype(np.int8), made.order, hidden)
    return {
        "shown": pa.array(~hidden),
        "position": pa.array(position.reshape(-1), mask=hidden),
        **labels,
        "watch_s": _placed(made.watch_s, made.order, hidden),
    }


def _placed(values: NDArray[np.generic], order: NDArray[np.intp], hidden: NDArray[np.bool_]) -> pa.Array:
    """A page's values (n, p) at their candidates, null where hidden."""
    everywhere = np.zeros((len(order), CANDIDATES), values.dtype)
    np.put_along_axis(everywhere, order, values, axis=1)
    return pa.array(everywhere.reshape(-1), mask=hidden)


def _numbers(prefix: str, values: Singles) -> dict[str, pa.Array]:
    return {f"{prefix}{signal}": _flat(values[k]) for k, signal in enumerate(SIGNALS)}


def _flat(values: Singles) -> pa.Array:
    return pa.array(values.reshape(-1))


def _repeated(values: NDArray[np.generic]) -> pa.Array:
    """A request's value, at each of its candidates."""
    if values.dtype.kind != "S":
        return pa.array(np.repeat(values, CANDIDATES))
    index = pa.array(np.repeat(np.arange(len(values), dtype=np.int32), CANDIDATES))
    return pa.DictionaryArray.from_arrays(index, pa.array(values.astype("U")))


def _named(letter: str, numbers: NDArray[np.integer]) -> pa.Array:
    """Names like u17."""
    found, index = np.unique(numbers, return_inverse=True)
    names = pa.array([f"{letter}{number}" for number in found.tolist()])
    return pa.DictionaryArray.from_arrays(pa.array(index.astype(np.int32)), names)


def _coded(codes: NDArray[np.integer], names: tuple[str, ...]) -> pa.Array:
    return _coded_items(np.repeat(codes, CANDIDATES), names)


def _coded_items(codes: NDArray[np.integer], names: tuple[str, ...]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(names))


def _bare(feature: str) -> str:
    return feature.removeprefix("user_").removesuffix("_range")
