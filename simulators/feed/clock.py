"""When people come: hours of the day, days of the week, and a return that depends on what the last page was like.

A person's days are a chain. On an active day there is a first visit at an hour of `law.clock`; after each visit another
one may follow on the same day (`law.again`, by weekday); if not, the next active day comes after 1 day with

    P(1 day) = logistic(back + habit of the person + slope x mean enjoyment of the page that ended the visit)     (1)

and else after 2 to 16 days, as often as among KuaiRand's people who took longer than one.
"""

import numpy as np
from numpy.typing import NDArray

from simulators.feed.items import DAY_MS, Singles
from simulators.feed.people import People
from simulators.feed.product import Feed
from simulators.feed.targets import RETURN_GAP_DAYS

LONGER = np.cumsum(RETURN_GAP_DAYS[1:]) / sum(RETURN_GAP_DAYS[1:])  # of gaps of 2, 3, ... 16 days
LONGER_DAYS = float(np.sum(np.diff(LONGER, prepend=0.0) * np.arange(2, 2 + len(LONGER))))  # their mean
FIRST_MONDAY = 4  # the epoch began on a Thursday: day 4 was a Monday


def weekday(day: NDArray[np.int32]) -> NDArray[np.int32]:
    """0 is Monday, of days since the epoch."""
    return np.asarray((day - FIRST_MONDAY) % 7)


def back_tomorrow(feed: Feed, habit: Singles, enjoyment: Singles) -> Singles:
    """(1)."""
    loyalty = feed.loyalty
    odds = np.exp(np.float32(loyalty.back) + habit + np.float32(loyalty.slope) * enjoyment)
    return np.asarray(odds / (np.float32(1.0) + odds))


def next_visits(
    feed: Feed,
    people: People,
    person: NDArray[np.int32],
    end_ms: NDArray[np.int64],
    day: NDArray[np.int32],
    enjoyment: Singles,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """When people (n,) come next whose visit of a day ended so: times, and days after `day` (0: later the same day)."""
    u = rng.random((3, len(person)))
    again = u[0] < np.array(feed.law.again)[weekday(day)]
    tomorrow = u[1] < back_tomorrow(feed, people.habit[person], enjoyment)
    rest = rng.random(len(person))
    gap = np.where(again, 0, np.where(tomorrow, 1, 2 + np.searchsorted(LONGER, rest))).astype(np.int32)
    passed = np.where(again, _passed(feed, (end_ms - day.astype(np.int64) * DAY_MS) / DAY_MS), 0.0)
    at = (day + gap).astype(np.int64) * DAY_MS + _time_of_day(feed, passed + (1.0 - passed) * u[2])
    return np.maximum(at, end_ms + 1), gap


def first_visits(
    feed: Feed, people: People, person: NDArray[np.int32], begin_ms: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Times of the first visits at or after a time, their days and gaps, as if people had been coming for ever."""
    n = len(person)
    calm = np.zeros(n, np.float32)
    days = 1.0 - back_tomorrow(feed, people.habit[person], calm)  # P(a gap is longer than one day)
    survival = np.cumsum(np.stack([np.ones(n), *(np.outer(1.0 - np.concatenate([[0.0], LONGER[:-1]]), days))]), axis=0)
    wait = (rng.random(n) * survival[-1] > survival).sum(axis=0)
    day = (begin_ms // DAY_MS + wait).astype(np.int32)
    at = day.astype(np.int64) * DAY_MS + _time_of_day(feed, rng.random(n))
    gap = _gap_over(wait, 1.0 - days.astype(np.float64), rng)
    early = np.flatnonzero(at < begin_ms)
    while len(early):
        at[early], gap[early] = next_visits(feed, people, person[early], at[early], day[early], calm[early], rng)
        day[early] += gap[early]
        early = early[at[early] < begin_ms]
    return at, day, gap


def _gap_over(wait: NDArray[np.int64], tomorrow: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int32]:
    """Days since the last active day, given that so many of them lie ahead: gaps that are longer than `wait`."""
    u, rest = rng.random((2, len(wait)))
    shorter = np.concatenate([[0.0, 0.0], LONGER])[wait]  # of the longer gaps, those that are not
    longer = 2 + np.searchsorted(LONGER, shorter + (1.0 - shorter) * rest)
    return np.where((wait == 0) & (u < tomorrow), 1, longer).astype(np.int32)


def _passed(feed: Feed, fraction: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much of a day's first visits come before this part of the day."""
    return np.interp(fraction * 24, np.arange(25), _cumulated(feed))


def _time_of_day(feed: Feed, u: NDArray[np.float64]) -> NDArray[np.int64]:
    """ms after midnight, given uniform numbers: the inverse of `_passed`."""
    return (np.interp(u, _cumulated(feed), np.arange(25)) / 24 * DAY_MS).astype(np.int64)


def _cumulated(feed: Feed) -> NDArray[np.float64]:
    share = np.array(feed.law.clock)
    return np.concatenate([[0.0], np.cumsum(share) / share.sum()])
