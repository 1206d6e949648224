"""A feed as data: what a study tunes, who the people are, how well the ranker knows them, how people respond.

Where the closed-form worlds (`simulators.worlds`) say how metrics respond to weights, a feed says how people respond to
what they are shown; how metrics respond to weights follows from that (`simulators.feed.truth`).
"""

import operator
from collections.abc import Mapping
from typing import Literal

import msgspec
import numpy as np

from controller.core.estimate import Metric
from controller.core.safety import Guardrail
from controller.core.space import Weight
from simulators.feed.targets import SIGNALS
from simulators.worlds import Floats

CANDIDATES = 16  # of a request
PAGE = 6  # items of an answer: KuaiRand's 5.8 impressions between pauses of a second and more
LATENT = 8  # dimensions of taste
SHARDS = 4  # people are dealt to them; each has streams of randomness of its own


class Component(msgspec.Struct, frozen=True):
    """A component of the feed's events: a "count" of what is shown, a "part" of it or of the visits, an "amount"."""

    name: str
    law: Literal["count", "part", "amount"]


COUNTED = tuple(f"{signal}s" for signal in SIGNALS)  # clicks, long_views, likes, ...
COMPONENTS = (
    Component("impressions", "count"),
    *(Component(name, "part") for name in COUNTED),
    Component("watch_s", "amount"),
    Component("visits", "count"),
    Component("returned", "part"),
)


class Ranker(msgspec.Struct, frozen=True, kw_only=True):
    """How far the model that predicts is from the truth.

    `error`: of its taste vectors, relative to their length. `shrink`: what part of an item's or a person's own
    propensities it has learned. `wrong`: standard deviation of what it believes of them beside that. Trained anew
    every `retrain_ms`, on data up to `lag_ms` before. `scale`, `shift`: by group of people, what it does to log odds.
    """

    error: float = 0.5
    shrink: float = 0.7
    wrong: float = 0.15
    retrain_ms: int = 24 * 3_600_000
    lag_ms: int = 6 * 3_600_000
    scale: dict[str, float]
    shift: dict[str, float]


class Law(msgspec.Struct, frozen=True):
    """How people respond: fitted to `simulators.feed.targets` by `simulators.feed.fit`.

    Orders are those of `SIGNALS`; the five rare ones (like to hate) come after click and long view.
    """

    intercept: tuple[float, ...]  # (7,) of click's and long view's log odds, of the others' log rates
    stray: float  # P(long view | no click)
    clicked: tuple[float, ...]  # (5,) rate after a click without a long view / rate after a long view
    passed: tuple[float, ...]  # (5,) rate without a click / rate after a long view
    pairs: tuple[tuple[float, ...], ...]  # (5, 5), lower: factor of the row's rate where the column's signal came
    hour: tuple[float, ...]  # (24,) of click's log odds
    clock: tuple[float, ...]  # (24,) share of a day's first visits
    again: tuple[float, ...]  # (7,) P(another visit on the same day), Monday first


class Loyalty(msgspec.Struct, frozen=True, kw_only=True):
    """What a person makes of a page, and what follows from it.

    Enjoyment of an item is `taste` f + `quality` q - `bait` b - `offset`: f the match of tastes, q and b the item's
    own. `offset` and `back` are fitted, so that it has mean 0 and people come back as often as real ones.
    """

    taste: float
    quality: float
    bait: float
    offset: float
    back: float  # log odds to come back on the next day, after a page of enjoyment 0
    slope: float  # of those log odds in a page's mean enjoyment
    leave: float = -4.0  # log odds to leave after an item of enjoyment 0
    leave_slope: float = -0.5


class Level(msgspec.Struct, frozen=True):
    """What is fitted for one kind of people: see `Loyalty` and `Feed.pages_per_day`."""

    offset: float
    back: float
    pages_per_day: float


class Feed(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A simulated short-video feed. `catalogue_seed` draws its items and what the ranker thinks of them."""

    name: str
    summary: str
    weights: tuple[Weight, ...]  # of the predictions, in the order of SIGNALS
    metrics: tuple[Metric, ...]
    objective: dict[str, float]
    guardrails: tuple[Guardrail, ...]
    law: Law
    loyalty: Loyalty
    ranker: Ranker
    groups: dict[str, float]  # of people, name -> share: the ranker knows one less well than the other
    segments: dict[str, float] = {}  # with weights of their own: none, or the groups
    events_per_hour: float = 120_000.0  # pages, mean over the day and week
    pages_per_day: float  # of a person, at the baseline: fitted; how many people there are follows
    buckets: int = 1000
    explore_arms: int = 8
    explore_share: float = 0.32
    catalogue_seed: int = 20_220_408
    rescaled: tuple[float, ...] = (1.0,) * len(SIGNALS)  # what a later ranker does to each prediction

    @property
    def baseline(self) -> Floats:
        """The weight vector (7,) at which every change is zero."""
        return np.array([weight.baseline for weight in self.weights])

    @property
    def quantities(self) -> tuple[Component, ...]:
        """What its events hold."""
        return COMPONENTS

    @property
    def segment_by(self) -> str:
        """A person stays in a segment."""
        return "unit"

    def index(self, component: str) -> int:
        """The position of a component by its name."""
        return [each.name for each in COMPONENTS].index(component)

    @property
    def units(self) -> int:
        """How many people it takes to make the events."""
        return max(SHARDS, round(self.events_per_hour * 24 / self.pages_per_day))


def rescaled(feed: Feed, scale: Mapping[str, float]) -> Feed:
    """The feed once each weight's prediction is `scale` times what it was."""
    factors = (scale.get(weight.name, 1.0) for weight in feed.weights)
    return msgspec.structs.replace(feed, rescaled=tuple(map(operator.mul, feed.rescaled, factors)))
