"""A world's traffic as sums per bucket, without its events: one draw for each bucket, segment and quantity.

Sums of events are drawn from their own laws, so they are exact given a rate: visits are Poisson, a count of at least
one per visit is n + Poisson(n (rate - 1)), a part of n is Binomial(n, rate), an amount is a sum of n pieces. Rates are
those of `simulators.events` with two differences: the season stands still within an hour, and a visit's late pieces do
not share the minute of their exposure (a tenth of the variance of what has arrived at the hour's end, nothing later).
`tests/simulators/test_sums.py` holds both, and the closed form, beside one another.

Notation: B buckets, S segments, G1 = 1 + segments (1 without any), Q quantities, C components, A arms.
"""

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from controller.assignment import Arm
from controller.core.events import FIXED_POINT
from controller.core.rollout import Deal
from controller.core.windows import Cell
from simulators.events import LATENESS_H, pieces, population, wildness
from simulators.scenarios import LateAmount
from simulators.worlds import HOUR_MS, Floats, Quantity, World, rate_changes, segment_names, traffic

_TRAFFIC = 101  # stream of randomness, beside those of `simulators.events`


class Audience(msgspec.Struct, frozen=True, eq=False):
    """Everyone of a world, by bucket."""

    share: Floats  # (S, B) of all visits, at the baseline
    traits: tuple[Floats, ...]  # Q times (B,): standard normal, for ever the bucket's
    seed: int


def audience(world: World, seed: int, salt: str) -> Audience:
    """The buckets of the world's population."""
    people = population(world, seed, salt)
    visits = np.bincount(people.lookup, minlength=world.units)
    cell = people.segment.astype(np.int64) * world.buckets + people.bucket
    shape = (len(segment_names(world)), world.buckets)
    share = np.bincount(cell, weights=visits, minlength=shape[0] * shape[1]).reshape(shape)
    return Audience(share / share.sum(), people.traits, seed)


def hour_sums(
    world: World, people: Audience, deal: Deal, weights: tuple[str, ...], components: tuple[str, ...], begin_ms: int
) -> Cell:
    """The sums of the hour from `begin_ms` under a deal whose arms hold these weights, all arrived."""
    return arrivals(world, people, deal, weights, components, begin_ms)[-1]


def arrivals(
    world: World,
    people: Audience,
    deal: Deal,
    weights: tuple[str, ...],
    components: tuple[str, ...],
    begin_ms: int,
    *,
    late: LateAmount | None = None,
    wild: bool = False,
) -> tuple[Cell, ...]:
    """What has arrived of the hour from `begin_ms` at its end and every hour after, until nothing is missing.

    One cell where nothing is `late`; of a `wild` hour see `events.wildness`.
    """
    rng = np.random.default_rng((people.seed, _TRAFFIC, begin_ms))
    log_rates = _log_rates(world, deal, weights)
    effect = np.exp(log_rates)[deal.buckets].transpose(2, 1, 0)  # (1 + Q, S, B)
    middle = np.array([begin_ms + HOUR_MS // 2])
    mean = world.events_per_hour * float(traffic(world, begin_ms + _MINUTES * 60_000.0).mean())
    events = rng.poisson(mean * _share(world, people) * effect[0])
    values: dict[str | None, Floats] = {None: events.astype(np.float64)}
    wildnesses = (
        wildness(world, people.seed, deal.buckets, len(deal.arms), begin_ms)
        if wild
        else np.ones((len(world.quantities), world.buckets))
    )
    tardy: list[Floats] = []  # by age, of the late quantity
    for q, quantity in enumerate(world.quantities):
        trait = np.sqrt(world.trait_share) * people.traits[q]
        trait = trait + np.sqrt(1 - world.trait_share) * rng.standard_normal(world.buckets)
        rate = quantity.rate * np.exp(quantity.spread * trait - quantity.spread**2 / 2) * effect[1 + q] * wildnesses[q]
        rate = rate * float(quantity.season.factor(middle)[0])
        if late is not None and late.quantity == quantity.name:
            tardy = late_sums(quantity, late, rate, values[quantity.of], rng)
            values[quantity.name] = tardy[-1]
        else:
            values[quantity.name] = _drawn(quantity, rate, values[quantity.of], rng)
    ages = [values | {late.quantity: some} for some in tardy] if late is not None else [values]
    return tuple(_cell(world, found, events, components) for found in ages)


def _share(world: World, people: Audience) -> Floats:
    """(S, B) of all visits: people are what they are, surfaces change with the world."""
    if world.segment_by == "unit":
        return people.share
    return np.asarray(np.array(list(world.segments.values()))[:, None] * people.share.sum(axis=0))


def _cell(
    world: World, values: dict[str | None, Floats], events: NDArray[np.int64], components: tuple[str, ...]
) -> Cell:
    nothing = np.zeros(events.shape)
    sums = np.stack([np.round(values.get(name, nothing) * FIXED_POINT) for name in components], axis=-1)
    return Cell(_slots(world, sums.astype(np.int64)), _slots(world, events))


def late_sums(
    quantity: Quantity, late: LateAmount, rate: Floats, parent: Floats, rng: np.random.Generator
) -> list[Floats]:
    """An amount's sums as they have arrived 0, 1, ... LATENESS_H hours after the hour's end."""
    long = rng.binomial(parent.astype(np.int64), 0.5)
    total = [np.zeros(parent.shape) for _ in range(LATENESS_H + 1)]
    for number, size in ((long, 1.0 + late.spread), (parent - long, 1.0 - late.spread)):
        arrived, left, before = np.zeros(parent.shape), number.astype(np.int64), np.zeros(parent.shape)
        for age in range(LATENESS_H + 1):
            share = arrived_share(age, late.mean_h * size * rate / quantity.rate)
            now = rng.binomial(left, np.clip((share - before) / np.maximum(1.0 - before, 1e-12), 0.0, 1.0))
            arrived = arrived + size * rate * pieces(quantity, now.astype(np.float64), rng)
            total[age] = total[age] + arrived
            left, before = left - now, share
    return total


def arrived_share(age: int, mean_h: Floats) -> Floats:
    """Share of an hour's pieces that have arrived so long after its end; exposures are spread over the hour."""

    def until(hours: int) -> Floats:
        return np.asarray(1.0 - np.exp(-hours / mean_h) * mean_h * (1.0 - np.exp(-1.0 / mean_h)))

    return until(age) / until(LATENESS_H)


_MINUTES = np.arange(0.5, 60.0)


def _log_rates(world: World, deal: Deal, weights: tuple[str, ...]) -> Floats:
    """Log changes of the visits and of every rate, (A, S, 1 + Q)."""
    return np.array(
        [
            [rate_changes(world, served_theta(world, arm, weights), segment) for segment in segment_names(world)]
            for arm in deal.arms
        ]
    )


def served_theta(world: World, arm: Arm, weights: tuple[str, ...]) -> Mapping[str, Floats]:
    """An arm's weights by segment in the world's order."""
    order = [weights.index(weight.name) for weight in world.weights]
    return {segment: np.array(theta)[order] for segment, theta in arm.theta.items()}


def _drawn(quantity: Quantity, rate: Floats, parent: Floats, rng: np.random.Generator) -> Floats:
    if quantity.law == "count":
        return np.asarray(parent + rng.poisson(parent * np.maximum(rate - 1.0, 0.0)))
    if quantity.law == "part":
        return np.asarray(rng.binomial(parent.astype(np.int64), np.minimum(rate, 1.0)), dtype=np.float64)
    return rate * pieces(quantity, parent, rng)


def _slots(world: World, by_segment: NDArray[np.int64]) -> NDArray[np.int64]:
    """(G1, B, ...): slot 0 holds what has no segment, which is everything where the world has none."""
    if not world.segments:
        return by_segment
    return np.concatenate((np.zeros_like(by_segment[:1]), by_segment))
