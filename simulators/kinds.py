"""The two kinds of worlds, told apart in one place: closed forms (`simulators.worlds`) and feeds (`simulators.feed`).

A closed form says how metrics respond to weights; its events follow from (seed, span, table). A feed says how people
respond to what they are shown; they remember, so its events follow from all spans before as well.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

from controller.core.experiment import Theta
from simulators import events, truth
from simulators.events import Delivery, Population, Rows, Served
from simulators.feed.crowd import Crowd, acting, feed_population
from simulators.feed.product import Feed
from simulators.feed.scenario import FeedScenario
from simulators.feed.shipped import best_of
from simulators.feed.truth import truth_of
from simulators.optimum import Best
from simulators.scenarios import Scenario
from simulators.scenarios import over_time as closed_over_time
from simulators.worlds import Floats, World

AnyWorld = World | Feed
AnyScenario = Scenario | FeedScenario
SameScenario = TypeVar("SameScenario", bound=Scenario | FeedScenario)  # the same kind out as in


class Source(Protocol):
    """What makes events."""

    def exposures(self, world: AnyWorld, served: Served, begin_ms: int, end_ms: int, *, wild: bool) -> Rows:
        """All events whose exposure lies in [begin, end), served by one table; spans follow each other."""
        ...

    def heartbeats(self, world: AnyWorld, served: Served, at_ms: int, partitions: int) -> Rows:
        """One ordinary event at a time on every partition."""
        ...


def over_time(product: AnyWorld | AnyScenario) -> AnyScenario:
    """A world that never changes, as a scenario."""
    if isinstance(product, FeedScenario):
        return product
    return FeedScenario(product) if isinstance(product, Feed) else closed_over_time(product)


def population(world: AnyWorld, seed: int, salt: str, partitions: int = 1) -> Population:
    """The people of a world. Raises `ValueError` when a partition would have nobody."""
    if isinstance(world, Feed):
        return feed_population(world, seed, salt, partitions)
    return events.population(world, seed, salt, partitions)


def source(scenario: AnyScenario, people: Population, delivery: Delivery | None) -> Source:
    """What makes a scenario's events."""
    if isinstance(scenario, FeedScenario):
        return _Crowd(Crowd(scenario.world, people, delivery))
    return _ClosedForm(scenario, people, delivery)


def true_changes(
    scenario: AnyScenario, hour: int, thetas: Sequence[Theta | None], *, seen: int | None = None
) -> Floats:
    """Relative changes (n, M) of these vectors (None: the baseline): `truth.truth`, or a feed's in the long run."""
    if isinstance(scenario, Scenario):
        return truth.truth(scenario, hour, thetas, seen=seen)
    feed = scenario.at(hour)
    vectors = [theta or {"all": tuple(feed.baseline.tolist())} for theta in thetas]
    return np.stack([truth_of(feed).settled(theta).change for theta in vectors])


def immediate_changes(scenario: AnyScenario, hour: int, thetas: Sequence[Theta]) -> Floats:
    """Relative changes (n, M) before people come more or less often: all that a log, or a deal of an hour, can see."""
    if isinstance(scenario, Scenario):
        return truth.truth(scenario, hour, thetas)
    feed = scenario.at(hour)
    return np.stack([truth_of(feed).immediate(theta).change for theta in thetas])


def true_errors(scenario: AnyScenario, hour: int, theta: Theta) -> Floats:
    """Standard errors (M,) of `true_changes`: 0 for a closed form, of Monte Carlo for a feed."""
    if isinstance(scenario, Scenario):
        return np.zeros(len(scenario.world.metrics))
    return truth_of(scenario.at(hour)).settled(theta).se


def optimum(scenario: AnyScenario, hour: int, *, common: bool, seen: int | None = None) -> Best:
    """The best feasible vector: `truth.optimum`, or the one that a search over a feed's truth has found."""
    if isinstance(scenario, Scenario):
        return truth.optimum(scenario, hour, common=common, seen=seen)
    return best_of(scenario.at(hour))


class _ClosedForm:
    def __init__(self, scenario: Scenario, people: Population, delivery: Delivery | None) -> None:
        self._scenario, self._people, self._delivery = scenario, people, delivery

    def exposures(self, world: AnyWorld, served: Served, begin_ms: int, end_ms: int, *, wild: bool) -> Rows:
        assert isinstance(world, World)
        late = self._scenario.late
        return events.exposures(world, self._people, served, begin_ms, end_ms, self._delivery, late=late, wild=wild)

    def heartbeats(self, world: AnyWorld, served: Served, at_ms: int, partitions: int) -> Rows:
        assert isinstance(world, World)
        return events.heartbeats(world, self._people, served, at_ms, partitions)


class _Crowd:
    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd

    def exposures(self, world: AnyWorld, served: Served, begin_ms: int, end_ms: int, *, wild: bool) -> Rows:
        assert isinstance(world, Feed)
        return self._crowd.exposures(acting(world, served), begin_ms, end_ms)

    def heartbeats(self, world: AnyWorld, served: Served, at_ms: int, partitions: int) -> Rows:
        assert isinstance(world, Feed)
        return self._crowd.heartbeats(acting(world, served), at_ms, partitions)
