"""The simulated feed beside the real app, number by number.

60,000 people are simulated for a week, everyone served by the baseline, and what they do is counted as it was counted
there. A figure passes within its tolerance, which is relative, and for signals wider by three standard errors of the
real count.
"""

from collections.abc import Callable, Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from simulators.feed import targets
from simulators.feed.clock import first_visits
from simulators.feed.items import DAY_MS
from simulators.feed.pages import Shelf, hour_of_day, shelf_of, true_chances
from simulators.feed.people import People, people_of
from simulators.feed.product import Feed
from simulators.feed.targets import SIGNALS, USERS, hourly_clicks, real_together, weekly
from simulators.feed.traffic import Answered, Shard, span
from simulators.worlds import Floats

PEOPLE, DAYS = 60_000, 7
START_MS = 1_699_833_600_000  # a Monday, 0:00 UTC
_RANDOM, _FIRST = 41, 42  # streams of randomness


class Figure(msgspec.Struct, frozen=True):
    """One number of both. `tolerance` is the largest distance allowed."""

    group: str
    name: str
    real: float
    simulated: float
    tolerance: float

    @property
    def held(self) -> bool:
        """Whether the two are as near as is asked."""
        return abs(self.simulated - self.real) <= self.tolerance


class Tally(msgspec.Struct, eq=False):
    """What is counted of impressions; changed in place."""

    together: Floats  # (7, 7) impressions with both signals
    hourly: Floats  # (24,) impressions
    clicks: Floats  # (24,)
    weekly: Floats  # (7,) impressions, Monday first
    pages: float
    gaps: Floats  # (17,) first pages of an active day, by days since the last one; [0] is of no use
    random: Floats  # (2,) impressions of random items, their expected clicks


def tally(
    feed: Feed, people: int = PEOPLE, days: int = DAYS, seed: int = 0, watch: Callable[[int], None] | None = None
) -> Tally:
    """Simulate so many people for so many days (whole weeks), and count; `watch` is told each day that is done."""
    shelf = shelf_of(feed)
    latents = people_of(feed, shelf.items, people, seed)
    rng = np.random.Generator(np.random.SFC64((seed, _RANDOM)))
    found = Tally(np.zeros((7, 7)), np.zeros(24), np.zeros(24), np.zeros(7), 0.0, np.zeros(17), np.zeros(2))
    for day, batch in _served(shelf, latents, days, seed):
        _count(found, batch)
        _count_random(found, shelf, latents, batch, rng)
        if watch is not None:
            watch(day)
    return found


def figures(found: Tally, latents: People) -> list[Figure]:
    """Every figure that the feed is held to."""
    made = (*_signals(found), *_clock(found), *_covariates(latents))
    return [Figure(each.group, each.name, *map(float, (each.real, each.simulated, each.tolerance))) for each in made]


def _served(shelf: Shelf, latents: People, days: int, seed: int) -> Iterator[tuple[int, Answered]]:
    baseline = shelf.feed.baseline.astype(np.float32)

    def theta(person: NDArray[np.int32]) -> NDArray[np.float32]:
        return np.broadcast_to(baseline, (len(person), len(SIGNALS)))

    everyone = np.arange(len(latents.segment), dtype=np.int32)  # in one shard: few people make small batches
    first = first_visits(shelf.feed, latents, everyone, START_MS, np.random.default_rng((seed, _FIRST)))
    shard = Shard(0, everyone, *first)
    for day in range(days):
        begin_ms = START_MS + day * DAY_MS
        for batch in span(shelf, latents, shard, theta, seed, (begin_ms, begin_ms + DAY_MS)):
            yield day, batch


def _count(found: Tally, batch: Answered) -> None:
    made = batch.pages
    hour, day = hour_of_day(batch.ts_ms), batch.ts_ms // DAY_MS
    seen = made.seen.sum(axis=1)
    rows = made.signals[:, made.seen].astype(np.float32)
    found.together += rows @ rows.T
    found.hourly += np.bincount(hour, seen, minlength=24)
    found.clicks += np.bincount(hour, made.signals[0].sum(axis=1), minlength=24)
    found.weekly += np.bincount((day - START_MS // DAY_MS) % 7, seen, minlength=7)
    found.pages += len(seen)
    found.gaps += np.bincount(np.maximum(batch.gap, 0), minlength=17)


def _count_random(found: Tally, shelf: Shelf, latents: People, batch: Answered, rng: np.random.Generator) -> None:
    person = batch.pages.person
    items = rng.integers(0, len(shelf.items.duration_s), (len(person), 1), dtype=np.int32)
    chance, _ = true_chances(shelf, latents, batch.at, person, items, hour_of_day(batch.ts_ms))
    found.random += len(person), float(chance.click.sum())


def _signals(found: Tally) -> Iterator[Figure]:
    shown, real = found.hourly.sum(), real_together()
    for i, signal in enumerate(SIGNALS):
        tolerance = _tolerance(real[i, i], 0.05)
        yield Figure("signals", signal, real[i, i], found.together[i, i] / shown, tolerance)
    for i, first in enumerate(SIGNALS):
        for j in range(i + 1, len(SIGNALS)):
            value = found.together[i, j] / shown
            yield Figure("pairs", f"{first} & {SIGNALS[j]}", real[i, j], value, _tolerance(real[i, j], 0.1))
    ctr = (
        targets.RANDOM_CLICKS
        / targets.RANDOM_IMPRESSIONS
        * sum(targets.HOURLY_IMPRESSIONS)
        / sum(targets.HOURLY_CLICKS)
    )
    sim = found.random[1] / found.random[0] * shown / found.together[0, 0]
    yield Figure("ranking", "click rate of random items / of those shown", ctr, sim, 0.1 * ctr)
    pauses = sum(targets.PAUSES.values()) / (sum(targets.PAUSES.values()) - targets.PAUSES["<1s"])
    yield Figure("ranking", "impressions of an answer", pauses, shown / found.pages, 0.05 * pauses)


def _clock(found: Tally) -> Iterator[Figure]:
    hours = np.array(targets.HOURLY_IMPRESSIONS) / sum(targets.HOURLY_IMPRESSIONS)
    for hour in range(24):
        share = found.hourly[hour] / found.hourly.sum()
        yield Figure("hourly volume", f"{hour:02d}h", hours[hour], share, 0.05 * hours[hour])
    clicks = hourly_clicks()
    for hour in range(24):
        rate = found.clicks[hour] / found.hourly[hour]
        yield Figure("hourly click rate", f"{hour:02d}h", clicks[hour], rate, 0.02 * clicks[hour])
    volume, names = weekly(), ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    for day in range(7):
        yield Figure("weekly volume", names[day], volume[day], found.weekly[day] / found.weekly.mean(), 0.05)
    gaps = np.array(targets.RETURN_GAP_DAYS) / sum(targets.RETURN_GAP_DAYS)
    for days in range(1, 17):
        share = found.gaps[days] / found.gaps[1:].sum()
        yield Figure("return gap", f"{days} days", gaps[days - 1], share, 0.05 * gaps[days - 1] + 0.0005)


def _covariates(latents: People) -> Iterator[Figure]:
    for feature, counts in USERS.items():
        real = np.array(list(counts.values())) / sum(counts.values())
        share = np.bincount(latents.features[feature], minlength=len(real)) / len(latents.segment)
        for name, there, here in zip(counts, real, share, strict=True):
            yield Figure("people", f"{feature} {name}", there, here, 0.001)


def _tolerance(share: float, relative: float) -> float:
    """Of a share of impressions: relative, and three standard errors of the real count."""
    return float(relative * share + 3.0 * np.sqrt(share / targets.IMPRESSIONS))
