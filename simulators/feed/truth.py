"""What a weight vector truly does to a feed's metrics: expectations over people, to a stated Monte Carlo error.

A person's pages are alike and independent, given the person and the vector, and where a visit ends a renewal begins
(`simulators.feed.clock`). So a person's long-run rates follow from the means of a page:

| symbol | meaning |
|---|---|
| A | mean components of a page |
| L, B | P(it ends the visit); P(so it does, and the next active day, once today is over, is tomorrow) |
| v | mean visits of an active day: over the week, of 1 / (1 - again) |
| G | mean days to the next active day: B/L + (1 - B/L) D, D the mean of the longer gaps |

    active days per day 1/G;   visits v/G;   returned (B/L)/G;   a component A v / (G L)                           (1)

Signals, examination and leaving are integrated out (Rao-Blackwell); people, times and candidates are drawn once and
serve every vector: common random numbers, so a change against the baseline has a small error even where levels have
not. The bias of the ratios in (1) is taken out by the jackknife over two halves of a person's pages (Quenouille 1956).

`settled` is what holds when everyone has been served by the vector for good. `immediate` is what shows while people
have not had the time to change how often they come: visits as at the baseline, what happens in them by the vector.
"""

from functools import cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from simulators.feed.clock import LONGER_DAYS, back_tomorrow
from simulators.feed.items import Singles
from simulators.feed.pages import (
    EXAMINED,
    MOMENT_MS,
    Shelf,
    drawn,
    leaving,
    now,
    ordered,
    predicted,
    shelf_of,
    true_chances,
)
from simulators.feed.people import People, people_of
from simulators.feed.product import COMPONENTS, Feed
from simulators.feed.response import Chances, marginals
from simulators.feed.targets import HOURLY_IMPRESSIONS
from simulators.feed.watch import PASSED_S, expected_s
from simulators.worlds import Floats, Theta, weights_of

PEOPLE, PAGES = 4_000, 16  # of the sample: standard errors of about .1 % for changes of a few per cent
FROM_MS, TO_MS = 1_699_920_000_000, 1_699_920_000_000 + 60 * 86_400_000  # the trends' waves come round many times
_CANDIDATE = ("predictions", "chances", "watch_s", "enjoyment", "leaves")


class Requests(msgspec.Struct, frozen=True, eq=False):
    """One request of every person, with what is true and what is predicted of each candidate (N, c)."""

    at_ms: int
    hour: NDArray[np.int64]  # (N,)
    candidates: NDArray[np.int32]
    predictions: Singles  # (7, N, c)
    chances: Singles  # (7, N, c) if examined
    watch_s: Singles  # (N, c) if examined
    enjoyment: Singles  # (N, c)
    leaves: Singles  # (N, c)


class Change(msgspec.Struct, frozen=True, eq=False):
    """Relative changes of the feed's metrics against the baseline (M,), and their standard errors."""

    change: Floats
    se: Floats


class Truth:
    """A sample of a feed's people and requests, drawn once, that tells what any vector does."""

    def __init__(self, feed: Feed, people: int = PEOPLE, pages: int = PAGES, seed: int = 0) -> None:
        """`pages` of each of so many people; even, for the jackknife."""
        self.feed, self.shelf = feed, shelf_of(feed)
        self.people = people_of(feed, self.shelf.items, people, seed)
        rng = np.random.Generator(np.random.SFC64((seed, 40)))
        self.requests = [requests(self.shelf, self.people, rng) for _ in range(pages)]
        self._baseline = self.levels({"all": feed.baseline})

    def settled(self, theta: Theta) -> Change:
        """The change when everyone is served by `theta` for good."""
        return self._change(self.levels(theta), self._baseline)

    def immediate(self, theta: Theta) -> Change:
        """The change before people come more often or less."""
        visits = [component.name for component in COMPONENTS].index("visits")
        levels, base = self.levels(theta), self._baseline
        kept = levels * np.where(levels[:, [visits]] > 0, base[:, [visits]] / levels[:, [visits]], 0.0)
        kept[:, visits:] = base[:, visits:]  # visits and returns
        return self._change(kept, base)

    def levels(self, theta: Theta) -> Floats:
        """Every person's components a day (N, C) in the long run, in the order of COMPONENTS."""
        table = np.array([weights_of(theta, segment) for segment in self.feed.groups]) * self.feed.rescaled
        weights = table[self.people.segment].astype(np.float32)
        pages = np.array([page_means(self.shelf, self.people, r, weights) for r in self.requests])
        half = len(pages) // 2
        halves = self._rates(pages[:half].mean(axis=0)) + self._rates(pages[half:].mean(axis=0))
        return 2 * self._rates(pages.mean(axis=0)) - halves / 2

    def _rates(self, means: Floats) -> Floats:
        """(1), of a page's means (N, C)."""
        again = np.array(self.feed.law.again)
        v = float(np.mean(1.0 / (1.0 - again)))
        L, tomorrow = means[:, -2], means[:, -1] / means[:, -2]
        days = tomorrow + (1.0 - tomorrow) * LONGER_DAYS
        return np.column_stack([means[:, :-2] * (v / (days * L))[:, None], v / days, tomorrow / days])

    def _change(self, levels: Floats, base: Floats) -> Change:
        names = [component.name for component in COMPONENTS]
        changes, errors = [], []
        for metric in self.feed.metrics:
            ratio, influence = 1.0, np.zeros(len(levels))
            for side, sign in ((metric.numerator, 1), (metric.denominator, -1)):
                if side not in names:  # buckets
                    continue
                y, y0 = levels[:, names.index(side)], base[:, names.index(side)]
                ratio *= (y.mean() / y0.mean()) ** sign
                influence += sign * (y / y.mean() - y0 / y0.mean())
            changes.append(ratio - 1.0)
            errors.append(ratio * influence.std() / np.sqrt(len(levels)))
        return Change(np.array(changes), np.array(errors))


@cache
def truth_of(feed: Feed) -> Truth:
    """The feed's, drawn once."""
    return Truth(feed)


def requests(shelf: Shelf, people: People, rng: np.random.Generator) -> Requests:
    """Draw a request of every person: a moment for all of them, an hour of the day for each."""
    n = len(people.segment)
    person = np.arange(n, dtype=np.int32)
    at_ms = int(rng.integers(FROM_MS, TO_MS)) // MOMENT_MS * MOMENT_MS
    at = now(shelf, at_ms)
    volume = np.array(HOURLY_IMPRESSIONS, np.float64)
    hour = rng.choice(24, n, p=volume / volume.sum())
    candidates = drawn(shelf, people, person, rng)
    chance, enjoyment = true_chances(shelf, people, at, person, candidates, hour)
    p = marginals(shelf.feed.law, chance)
    return Requests(
        at_ms=at_ms,
        hour=hour,
        candidates=candidates,
        predictions=predicted(shelf, people, at, person, candidates),
        chances=p,
        watch_s=_watch_s(shelf, candidates, chance, p),
        enjoyment=enjoyment,
        leaves=leaving(shelf, enjoyment),
    )


def page_means(shelf: Shelf, people: People, of: Requests, weights: Singles) -> Floats:
    """Expected components of everyone's page by weights (n, 7), then L and B of the module's table: (n, C)."""
    order = ordered(of.predictions, weights)
    shown = {name: _picked(getattr(of, name), order) for name in _CANDIDATE[2:]}
    survives = np.cumprod(1.0 - shown["leaves"], axis=1)
    seen = np.concatenate([np.ones((len(order), 1)), survives[:, :-1]], axis=1)
    ends = seen * shown["leaves"]
    so_far = np.cumsum(shown["enjoyment"], axis=1) / np.arange(1, order.shape[1] + 1)
    back = back_tomorrow(shelf.feed, people.habit[:, None], so_far.astype(np.float32))
    columns = [
        seen.sum(axis=1),
        *((seen * EXAMINED * _picked(p, order)).sum(axis=1) for p in of.chances),
        (seen * (EXAMINED * shown["watch_s"] + (1.0 - EXAMINED) * PASSED_S)).sum(axis=1),
        ends.sum(axis=1),
        (ends * back).sum(axis=1),
    ]
    return np.stack(columns, axis=1)


def _picked(values: Singles, order: NDArray[np.intp]) -> Singles:
    return np.take_along_axis(values, order, axis=1)


def _watch_s(shelf: Shelf, items: NDArray[np.int32], at: Chances, p: Singles) -> Singles:
    return expected_s(shelf.items.duration_s[items], p[0], p[1], at.click * at.stay)
