"""Worlds over time: which world answers when, and how its traffic reaches the controller.

A jump, a drift and late amounts belong to the scenario, not to the world: the study knows nothing of them.
Hours count from the scenario's start.
"""

from functools import cache

import msgspec
import numpy as np

from controller.core.space import Weight
from simulators.worlds import Floats, Polynomial, World, recalibrated

PERIOD_H = 240.0


class Drift(msgspec.Struct, frozen=True):
    """How responses change with time: what a weight does to a quantity swings once a day, and its peak wanders.

    All terms of a weight are multiplied by 1 + swing cos(2 pi (hour - phase) / 24), with a phase for each weight and
    quantity; linear terms also by 1 + wander sin(2 pi (hour / PERIOD_H + start)), with a start for each weight, which
    moves the peak to or from the baseline.
    """

    swing: float
    wander: float
    seed: int


class LateAmount(msgspec.Struct, frozen=True):
    """An amount that arrives after its exposure, a large one later.

    Half of the pieces are long, `spread` above the mean, the others as far below. A piece's delay is exponential; its
    mean is `mean_h` x what the piece is expected to be over the rate at the baseline, cut off at the study's lateness.
    """

    quantity: str
    mean_h: float = 2.0
    spread: float = 0.6


class Swap(msgspec.Struct, frozen=True):
    """A new ranking model: from an hour on, every other weight's prediction is `scale` times as large, others as small.

    Scaling all of them alike would change no order.
    """

    hour: int
    scale: float = 1.5

    def scales(self, weights: tuple[Weight, ...]) -> dict[str, float]:
        """By weight."""
        return {weight.name: self.scale ** (-1) ** i for i, weight in enumerate(weights)}


class Scenario(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A world per span of hours: `later` takes over at `jump_hour`, where there is one."""

    name: str
    summary: str
    world: World
    later: World | None = None
    jump_hour: int | None = None
    swap: Swap | None = None
    drift: Drift | None = None
    late: LateAmount | None = None
    bad_hours: tuple[int, ...] = ()  # in which some arms' rates and all buckets go wild, for no reason of the weights

    def at(self, hour: int) -> World:
        """The world that answers in an hour since the study's start."""
        return self.foreseen(hour, hour)

    def foreseen(self, now: int, hour: int) -> World:
        """The world of a later hour as far as it can be known now: without the changes at once between."""
        world = self.later if self.later is not None and self.jumped(now) else self.world
        if self.swap is not None and now >= self.swap.hour:
            world = recalibrated(world, self.swap.scales(world.weights))
        return world if self.drift is None else drifted(world, self.drift, hour + 0.5)

    def jumped(self, hour: int) -> bool:
        """Whether the jump lies behind."""
        return self.jump_hour is not None and hour >= self.jump_hour

    def last_change(self, hour: int) -> int:
        """The hour since which nothing has changed that nobody could foresee."""
        changes = (self.jump_hour, None if self.swap is None else self.swap.hour)
        return max((change for change in changes if change is not None and change <= hour), default=0)

    @property
    def still(self) -> bool:
        """Whether every hour is like every other."""
        return not (self.jump_hour or self.swap or self.drift or self.bad_hours)


def over_time(world: World | Scenario) -> Scenario:
    """A world that never changes, as a scenario."""
    return world if isinstance(world, Scenario) else Scenario(name=world.name, summary=world.summary, world=world)


def drifted(world: World, drift: Drift, hour: float) -> World:
    """The world as it answers at a time since the study's start."""
    phase, start = _drifts(drift.seed, len(world.weights), len(world.quantities))
    swings = 1.0 + drift.swing * np.cos((hour - phase) * (2 * np.pi / 24))  # (1 + Q, W)
    wander = 1.0 + drift.wander * np.sin(2 * np.pi * (hour / PERIOD_H + start))  # (W,)
    position = {weight.name: i for i, weight in enumerate(world.weights)}

    def moved(terms: Polynomial, swing: Floats) -> Polynomial:
        found = {}
        for names, coefficient in terms.items():
            if not names:  # a level, no response
                found[names] = coefficient
                continue
            i = position[names[0]]
            found[names] = float(coefficient * swing[i] * (wander[i] if len(names) == 1 else 1.0))
        return found

    quantities = tuple(
        msgspec.structs.replace(
            q,
            response=moved(q.response, swing),
            tilts={segment: moved(terms, swing) for segment, terms in q.tilts.items()},
        )
        for q, swing in zip(world.quantities, swings[1:], strict=True)
    )
    return msgspec.structs.replace(world, quantities=quantities, visits=moved(world.visits, swings[0]))


@cache
def _drifts(seed: int, weights: int, quantities: int) -> tuple[Floats, Floats]:
    """Phases of the daily swing in hours (1 + Q, W) and the wanderings' starts in periods (W,)."""
    rng = np.random.default_rng((seed, weights, quantities))
    return rng.uniform(0, 24, (1 + quantities, weights)), rng.random(weights)
