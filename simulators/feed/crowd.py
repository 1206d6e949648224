"""A feed's people as a closed loop or a product meets them: events span by span, over any number of processes.

The people of a seed, and what each does next, are the crowd's state. Shards are worked on here or in processes; either
way their events are put together in the order of the shards and of time, so they are the same to the byte.
"""

from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Protocol, Self

import msgspec
import numpy as np

from controller.unit_hash import buckets_of, unit_hashes
from simulators.events import Delivery, Population, Rows, Served, delivered, joined, partition_of, taken
from simulators.feed.pages import MOMENT_MS, Shelf, hour_of_day, now, served_pages, shelf_of
from simulators.feed.people import People, people_of
from simulators.feed.product import SHARDS, Feed
from simulators.feed.traffic import (
    ROWS_OF_SHARD,
    VISIT_GOES_ON,
    Answered,
    Shard,
    page_values,
    served_rows,
    shard_rows,
    shards_of,
    weights_table,
)

_DELIVER, _BEAT = 30, 31  # streams


class Workforce(Protocol):
    """Works on all shards."""

    def rows(self, served: Served, bounds: tuple[int, int]) -> list[Rows]:
        """The events of [begin, end), shard by shard; a span begins where the last one ended."""
        ...


class Here:
    """This process works on some shards."""

    def __init__(self, shelf: Shelf, people: People, population: Population, numbers: Sequence[int]) -> None:
        self._shelf, self._people, self._population, self._numbers = shelf, people, population, numbers
        self._shards: list[Shard] | None = None

    def rows(self, served: Served, bounds: tuple[int, int]) -> list[Rows]:
        """See `Workforce.rows`."""
        if self._shards is None:
            self._shards = shards_of(self._shelf, self._people, self._population.seed, bounds[0], self._numbers)
        return [shard_rows(self._shelf, self._people, self._population, s, served, bounds) for s in self._shards]


class Processes:
    """So many processes share the shards. A context manager: leaving it ends them."""

    def __init__(self, feed: Feed, seed: int, salt: str, processes: int) -> None:
        context = get_context("spawn")
        self._workers = []
        for numbers in np.array_split(np.arange(SHARDS), min(processes, SHARDS)):
            ours, theirs = context.Pipe()
            worker = context.Process(target=_work, args=(theirs, feed, seed, salt, numbers.tolist()), daemon=True)
            worker.start()
            self._workers.append((worker, ours))

    def rows(self, served: Served, bounds: tuple[int, int]) -> list[Rows]:
        """See `Workforce.rows`."""
        for _, pipe in self._workers:
            pipe.send((served, bounds))
        return [rows for _, pipe in self._workers for rows in pipe.recv()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker, pipe in self._workers:
            pipe.close()
            worker.join()


class Crowd:
    """The people of a feed and a seed. `at_work`: who works on the shards; this process if nobody is named."""

    def __init__(
        self, feed: Feed, people: Population, delivery: Delivery | None = None, at_work: Workforce | None = None
    ) -> None:
        self._shelf = shelf_of(feed)
        self._people = people_of(feed, self._shelf.items, len(people.names), people.seed)
        self._population, self._delivery = people, delivery
        self._at_work = at_work or Here(self._shelf, self._people, people, range(SHARDS))

    def exposures(self, served: Served, begin_ms: int, end_ms: int) -> Rows:
        """All events whose exposure lies in [begin, end), served by one table; later signals and copies included.

        Spans follow each other without gaps. Raises `ValueError` when one holds more events than ids can tell apart.
        """
        rows = joined(*self._at_work.rows(served, (begin_ms, end_ms)))
        rows = taken(rows, np.argsort(rows.ts_ms, kind="stable"))
        if self._delivery is None:
            return rows
        return delivered(rows, self._delivery, _rng(self._population.seed, _DELIVER, begin_ms))

    def heartbeats(self, served: Served, at_ms: int, partitions: int) -> Rows:
        """One page at `at_ms` on every partition, which lets its watermark pass that time; nobody remembers it."""
        rng = _rng(self._population.seed, _BEAT, at_ms)
        person = np.array(
            [rng.choice(np.flatnonzero(self._population.partition == p)) for p in range(partitions)], np.int32
        )
        ts_ms = np.full(partitions, at_ms, np.int64)
        at = now(self._shelf, at_ms // MOMENT_MS * MOMENT_MS)
        theta = weights_table(self._shelf, self._people, self._population.bucket, served)(person)
        made = served_pages(self._shelf, self._people, at, person, hour_of_day(ts_ms), theta, rng)
        values = page_values(Answered(at, ts_ms, np.full(partitions, VISIT_GOES_ON, np.int32), made))
        numbers = SHARDS * ROWS_OF_SHARD - 1 - np.arange(partitions)
        return served_rows(self._population, served, ts_ms, person, values, (at_ms, numbers))


def feed_population(feed: Feed, seed: int, salt: str, partitions: int = 1) -> Population:
    """The units of a feed. Raises `ValueError` when a partition would have nobody."""
    names = np.array([b"u%d" % unit for unit in range(feed.units)])
    hashes = unit_hashes(names, salt)
    shelf = shelf_of(feed)
    return Population(
        names=names,
        unit_hash=hashes,
        bucket=buckets_of(hashes, feed.buckets),
        segment=people_of(feed, shelf.items, feed.units, seed).segment,
        partition=partition_of(hashes, partitions, feed.name),
        lookup=np.empty(0, np.int32),
        traits=(),
        seed=seed,
    )


def acting(feed: Feed, served: Served) -> Served:
    """The table with the weights as they act: on predictions that a later ranker has scaled."""
    if all(factor == 1.0 for factor in feed.rescaled):
        return served
    scale = np.array(feed.rescaled)
    theta = tuple({name: np.asarray(arm[name]) * scale for name in arm} for arm in served.theta)
    return msgspec.structs.replace(served, theta=theta)


def _work(pipe: Connection, feed: Feed, seed: int, salt: str, numbers: list[int]) -> None:
    """A worker's life: spans in, rows out, until the pipe is closed."""
    people = feed_population(feed, seed, salt)
    shelf = shelf_of(feed)
    here = Here(shelf, people_of(feed, shelf.items, feed.units, seed), people, numbers)
    while True:
        try:
            served, bounds = pipe.recv()
        except EOFError:
            return
        pipe.send(here.rows(served, bounds))


def _rng(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(key))
