"""A feed's events: people come, are answered by the table of the moment, and come back or not.

State is what people do next, so memory does not grow with simulated time. People are dealt to shards; each shard has
streams of randomness of its own, so the events of a seed are the same to the byte however many processes share the
shards (`simulators.feed.crowd`).
"""

from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from simulators.events import Population, Rows, Served, event_ids
from simulators.feed import pages
from simulators.feed.clock import first_visits, next_visits
from simulators.feed.items import Singles
from simulators.feed.pages import MOMENT_MS, Now, Pages, Shelf, served_pages
from simulators.feed.people import People
from simulators.feed.product import COMPONENTS, SHARDS
from simulators.worlds import Floats, weights_of

BATCH = 4096  # pages: their arrays stay in a core's cache
TURN_MS = 1_000  # between two pages
VISIT_GOES_ON = -1  # a page's gap in days: it is not a visit's first
# The delay of a signal after its page: log-normal, median in seconds and spread; assumed. Clicks, long views and watch
# time are in the page's own event.
DELAY_S = {
    "like": (15.0, 1.0),
    "comment": (60.0, 1.2),
    "follow": (45.0, 1.5),
    "forward": (120.0, 1.5),
    "hate": (10.0, 0.8),
}
_NAMES = [component.name for component in COMPONENTS]
_VISIT, _DELAY, _FIRST = range(20, 23)  # streams
ROWS_OF_SHARD = 2**23 // SHARDS  # ids tell so many rows of a span apart
MOST_ROWS = ROWS_OF_SHARD // 2


class Shard(msgspec.Struct, eq=False):
    """Some people, and what each of them does next; changed in place."""

    number: int
    person: NDArray[np.int32]  # (k,)
    next_ms: NDArray[np.int64]  # (k,) their next page
    day: NDArray[np.int32]  # (k,) of the visit that it belongs to
    gap: NDArray[np.int32]  # (k,) days since their last active day if it is a visit's first, else VISIT_GOES_ON


class Answered(msgspec.Struct, frozen=True, eq=False):
    """A batch of pages: when, and what led to them."""

    at: Now
    ts_ms: NDArray[np.int64]  # (n,)
    gap: NDArray[np.int32]  # (n,)
    pages: Pages


Watch = Callable[[Answered], None]


def shards_of(
    shelf: Shelf, people: People, seed: int, begin_ms: int, numbers: Sequence[int] = range(SHARDS)
) -> list[Shard]:
    """Deal people to shards, and say when each of them first comes."""
    found = []
    for number in numbers:
        person = np.array_split(np.arange(len(people.segment), dtype=np.int32), SHARDS)[number]
        rng = _rng(seed, _FIRST, number, begin_ms)
        found.append(Shard(number, person, *first_visits(shelf.feed, people, person, begin_ms, rng)))
    return found


def span(
    shelf: Shelf,
    people: People,
    shard: Shard,
    theta: Callable[[NDArray[np.int32]], Singles],
    seed: int,
    bounds: tuple[int, int],
) -> Iterator[Answered]:
    """Every page of a shard's people in [begin, end), in batches; `theta` gives people's weights (n, 7)."""
    begin_ms, end_ms = bounds
    while begin_ms < end_ms:
        until_ms = min(begin_ms // MOMENT_MS * MOMENT_MS + MOMENT_MS, end_ms)
        at = pages.now(shelf, begin_ms // MOMENT_MS * MOMENT_MS)
        rng = _rng(seed, _VISIT, shard.number, begin_ms)
        due = np.flatnonzero(shard.next_ms < until_ms)
        while len(due):
            for first in range(0, len(due), BATCH):
                yield _batch(shelf, people, shard, at, due[first : first + BATCH], theta, rng)
            due = due[shard.next_ms[due] < until_ms]
        begin_ms = until_ms


def _batch(
    shelf: Shelf,
    people: People,
    shard: Shard,
    at: Now,
    due: NDArray[np.intp],
    theta: Callable[[NDArray[np.int32]], Singles],
    rng: np.random.Generator,
) -> Answered:
    person, ts_ms, gap = shard.person[due], shard.next_ms[due], shard.gap[due]
    made = served_pages(shelf, people, at, person, pages.hour_of_day(ts_ms), theta(person), rng)
    end_ms = ts_ms + TURN_MS + (1000 * made.watch_s.sum(axis=1)).astype(np.int64)
    shard.next_ms[due], shard.gap[due] = end_ms, VISIT_GOES_ON
    left = np.flatnonzero(made.left)
    gone = due[left]
    shard.next_ms[gone], shard.gap[gone] = next_visits(
        shelf.feed, people, person[left], end_ms[left], shard.day[gone], made.enjoyment[left], rng
    )
    shard.day[gone] += shard.gap[gone]
    return Answered(at, ts_ms, gap, made)


def merged(batches: Sequence[Answered]) -> Answered:
    """Batches of one moment as one."""
    columns = {
        name: np.concatenate([getattr(each.pages, name) for each in batches], axis=1 if name == "signals" else 0)
        for name in Pages.__struct_fields__
    }
    ts_ms, gap = (np.concatenate([getattr(each, name) for each in batches]) for name in ("ts_ms", "gap"))
    return Answered(batches[0].at, ts_ms, gap, Pages(**columns))


def weights_table(
    shelf: Shelf, people: People, bucket: NDArray[np.int32], served: Served
) -> Callable[[NDArray[np.int32]], Singles]:
    """What gives people's weights (n, 7) under a table."""
    arms = [[weights_of(theta, segment) for segment in shelf.feed.groups] for theta in served.theta]
    table = np.array(arms, np.float32)  # (A, S, 7)
    return lambda person: table[served.arm_of[bucket[person]], people.segment[person]]


def shard_rows(
    shelf: Shelf, people: People, population: Population, shard: Shard, served: Served, bounds: tuple[int, int]
) -> Rows:
    """A shard's events in [begin, end) under a table, by time of exposure. Raises `ValueError` for too long a span."""
    theta = weights_table(shelf, people, population.bucket, served)
    batches = list(span(shelf, people, shard, theta, population.seed, bounds))
    person = np.concatenate([np.empty(0, np.int32), *(batch.pages.person for batch in batches)])
    ts_ms = np.concatenate([np.empty(0, np.int64), *(batch.ts_ms for batch in batches)])
    values = np.concatenate([np.empty((0, len(_NAMES))), *(page_values(batch) for batch in batches)])
    origin, delay_ms, values = with_late_signals(values, _rng(population.seed, _DELAY, shard.number, bounds[0]))
    order = np.argsort(ts_ms[origin], kind="stable")
    if len(order) > MOST_ROWS:
        raise ValueError(f"{len(order)} events of a shard in one span of {bounds[1] - bounds[0]} ms: use shorter spans")
    numbers = shard.number * ROWS_OF_SHARD + np.arange(len(order))
    origin = origin[order]
    rows = served_rows(population, served, ts_ms[origin], person[origin], values[order], (bounds[0], numbers))
    return msgspec.structs.replace(rows, arrival_ms=rows.ts_ms + delay_ms[order])


def served_rows(
    population: Population,
    served: Served,
    ts_ms: NDArray[np.int64],
    unit: NDArray[np.int32],
    values: Floats,
    numbered: tuple[int, NDArray[np.integer]],
) -> Rows:
    """Events of units, with the echo of the table that served them; `numbered`: span and numbers that ids come from."""
    return Rows(
        ids=event_ids(population.seed, *numbered),
        ts_ms=ts_ms,
        arrival_ms=ts_ms,
        unit=unit,
        segment=population.segment[unit],
        version=np.full(len(ts_ms), served.version, np.int64),
        arm=served.arm_of[population.bucket[unit]].astype(np.int32),
        names=served.names,
        values=values,
    )


def page_values(answered: Answered) -> Floats:
    """Components of every page (n, C)."""
    made = answered.pages
    columns = [
        made.seen.sum(axis=1, dtype=np.uint8),
        *made.signals.sum(axis=2, dtype=np.uint8),
        np.round(made.watch_s.sum(axis=1, dtype=np.float64), 3),
        answered.gap >= 0,
        answered.gap == 1,
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def with_late_signals(values: Floats, rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.int64], Floats]:
    """Rows for pages (n, C), then one for each signal sent by itself: their page, delay in ms, values."""
    n = len(values)
    pages_of, delays, rows = [np.arange(n)], [np.zeros(n, np.int64)], [values.copy()]
    for signal, (median_s, spread) in DELAY_S.items():
        column = _NAMES.index(f"{signal}s")
        at = np.flatnonzero(values[:, column])
        own = np.zeros((len(at), values.shape[1]))
        own[:, column] = values[at, column]
        rows[0][at, column] = 0.0
        pages_of.append(at)
        delays.append((1000 * median_s * np.exp(spread * rng.standard_normal(len(at)))).astype(np.int64))
        rows.append(own)
    return np.concatenate(pages_of), np.concatenate(delays), np.concatenate(rows)


def _rng(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(key))
