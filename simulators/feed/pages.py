"""Answers of the recommender and what people make of them: n requests at a time.

A request has 16 candidates: four from each of three favourite tags, and four fresh ones. The ranker predicts, the value
model orders them by weights x predictions, the best six make the page. The person sees one item after the other until
the page ends or something makes them leave; an item that is seen is examined with a chance that falls with position.
"""

import msgspec
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from simulators.feed.items import STRATA, Catalogue, Singles, catalogue, trained_ms, trend
from simulators.feed.people import People
from simulators.feed.product import CANDIDATES, PAGE, Feed
from simulators.feed.response import Bits, Chances, chances, log_odds, marginals, respond
from simulators.feed.targets import SIGNALS
from simulators.feed.watch import watched
from simulators.worlds import HOUR_MS

SLOPE = np.array([1.23, 0.35, 0.50, 0.30, 0.40, 0.30, -0.30], np.float32)  # of eta in the match of tastes
EXAMINED = np.array([1.0, 0.98, 0.96, 0.94, 0.92, 0.90], np.float32)  # P(examined | seen) by position
MOMENT_MS = HOUR_MS // 4  # the appeal of items moves in steps


class Shelf(msgspec.Struct, frozen=True, eq=False):
    """A feed's items, and what its ranker does to log odds by segment."""

    feed: Feed
    items: Catalogue
    scale: Singles  # (7, segments)
    shift: Singles  # (7, segments)


class Now(msgspec.Struct, frozen=True, eq=False):
    """The items at one moment: propensities with their trend (7, I), and what the ranker takes them for."""

    bias: Singles
    hat_bias: Singles
    enjoyment: Singles  # (I,) the item's own part of it


class Pages(msgspec.Struct, frozen=True, eq=False):
    """n answers and what came of them."""

    person: NDArray[np.int32]  # (n,)
    candidates: NDArray[np.int32]  # (n, c)
    order: NDArray[np.intp]  # (n, p) positions in candidates
    seen: Bits  # (n, p)
    signals: Bits  # (7, n, p)
    watch_s: Singles  # (n, p)
    enjoyment: Singles  # (n,) mean over what was seen
    left: Bits  # (n,) before the page's end


def shelf_of(feed: Feed) -> Shelf:
    """Draw a feed's items."""
    ranker = feed.ranker
    scale, shift = ([by[name] for name in feed.groups] for by in (ranker.scale, ranker.shift))
    shape = (len(SIGNALS), len(feed.groups))
    wide = [np.broadcast_to(np.array(each, np.float32), shape) for each in (scale, shift)]
    return Shelf(feed, catalogue(feed), *wide)


def now(shelf: Shelf, at_ms: int) -> Now:
    """The items at a time; the ranker's knowledge is of its last training."""
    items, loyalty = shelf.items, shelf.feed.loyalty
    intercept = np.array(shelf.feed.law.intercept, np.float32)[:, None]
    liked = loyalty.quality * items.quality - loyalty.bait * items.bait - loyalty.offset
    return Now(
        bias=items.bias + intercept + trend(items, at_ms),
        hat_bias=items.hat_bias + intercept + trend(items, trained_ms(shelf.feed, at_ms)),
        enjoyment=liked.astype(np.float32),
    )


def drawn(shelf: Shelf, people: People, person: NDArray[np.int32], rng: Generator) -> NDArray[np.int32]:
    """Candidates (n, c): one from each stratum of each pool of a person, so no item twice."""
    pools = people.pools[person]
    u = rng.random((len(person), pools.shape[1], STRATA), dtype=np.float32)
    u *= shelf.items.width[pools]
    found = u.astype(np.int32)
    found += shelf.items.low[pools]
    return found.reshape(len(person), CANDIDATES)


def predicted(
    shelf: Shelf, people: People, at: Now, person: NDArray[np.int32], candidates: NDArray[np.int32]
) -> Singles:
    """The ranker's P(signal) (7, n, c): of wrong and stale tastes and propensities, distorted by segment."""
    segment = people.segment[person]
    scale, shift = shelf.scale[:, segment], shelf.shift[:, segment]
    intercept = np.array(shelf.feed.law.intercept, np.float32)[:, None]
    offset = np.asarray(
        people.hat_bias[:, person] + (shift + (np.float32(1.0) - scale) * intercept) / scale, np.float32
    )
    item, taste = (shelf.items.hat_taste, at.hat_bias), people.hat_taste
    eta, _ = log_odds((candidates, person), item, (taste, offset), SLOPE)
    eta *= scale[:, :, None]  # about the intercept
    return marginals(shelf.feed.law, chances(eta))


def ordered(predictions: Singles, theta: Singles) -> NDArray[np.intp]:
    """The page (n, p) that the value model makes of predictions (7, n, c) by weights (n, 7): positions, best first."""
    score = np.multiply(predictions[0], theta[:, :1])
    for s in range(1, len(SIGNALS)):
        score += predictions[s] * theta[:, s : s + 1]
    return np.argsort(-score, axis=1)[:, :PAGE]


def true_chances(
    shelf: Shelf, people: People, at: Now, person: NDArray[np.int32], items: NDArray[np.int32], hour: NDArray[np.int64]
) -> tuple[Chances, Singles]:
    """What people would do with items if they examined them, and how they would enjoy them (n, c)."""
    bias = people.bias[:, person]
    bias[0] += np.array(shelf.feed.law.hour, np.float32)[hour]
    eta, f = log_odds((items, person), (shelf.items.taste, at.bias), (people.taste, bias), SLOPE)
    return chances(eta), f * np.float32(shelf.feed.loyalty.taste) + at.enjoyment[items]


def hour_of_day(ts_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 to 23, UTC."""
    return np.asarray(ts_ms // HOUR_MS % 24)


def leaving(shelf: Shelf, enjoyment: Singles) -> Singles:
    """P(leaves after an item that was seen)."""
    loyalty = shelf.feed.loyalty
    odds = np.exp(enjoyment * np.float32(loyalty.leave_slope) + np.float32(loyalty.leave))
    return np.asarray(odds / (np.float32(1.0) + odds))


def served_pages(
    shelf: Shelf,
    people: People,
    at: Now,
    person: NDArray[np.int32],
    hour: NDArray[np.int64],
    theta: Singles,
    rng: Generator,
) -> Pages:
    """Answer requests of people (n,), at these hours of the day, by weights (n, 7), and let them respond."""
    candidates = drawn(shelf, people, person, rng)
    order = ordered(predicted(shelf, people, at, person, candidates), theta)
    shown = np.take_along_axis(candidates, order, axis=1)
    chance, enjoyment = true_chances(shelf, people, at, person, shown, hour)
    leaves = rng.random(shown.shape, dtype=np.float32) < leaving(shelf, enjoyment)
    seen = np.ones(shown.shape, np.bool_)
    np.logical_not(np.logical_or.accumulate(leaves[:, :-1], axis=1), out=seen[:, 1:])
    examined = (rng.random(shown.shape, dtype=np.float32) < EXAMINED) & seen
    signals = respond(shelf.feed.law, chance, examined, rng)
    return Pages(
        person=person,
        candidates=candidates,
        order=order,
        seen=seen,
        signals=signals,
        watch_s=watched(shelf.items.duration_s[shown], seen, signals, rng),
        enjoyment=(enjoyment * seen).sum(axis=1) / seen.sum(axis=1),
        left=np.asarray((leaves & seen).any(axis=1)),
    )
