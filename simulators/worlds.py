"""Closed-form worlds: products whose true response to every weight vector is known exactly.

A unit visits, sees impressions, and each impression may lead to more. A quantity's rate is

    base x season(hour) x trait(bucket, hour) x exp(g(x)),    x = u(theta) - u(baseline)

with g a polynomial that is zero at the baseline and u the weight vector in the unit cube. Quantities
chain (clicks are a part of impressions, watch seconds an amount per click), so a component's relative
change is the exponential of a sum of g, and a metric's is a ratio of those: no sampling is needed.

Notation: W weights, d free weights, Q quantities, M metrics, S segments (1 when a world has none).
"""

from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from controller.assignment import ALL
from controller.core.estimate import Metric
from controller.core.safety import Guardrail
from controller.core.space import Weight

Floats = NDArray[np.float64]
Polynomial = dict[tuple[str, ...], float]  # product of these weights' x -> its coefficient
Tail = Literal["gamma", "lognormal"]
HOUR_MS = 3_600_000
SATURDAY = 5  # days of the week count from Monday, 0


class Season(msgspec.Struct, frozen=True):
    """A rate over time: `1 + swing cos`, highest at `peak_hour` (UTC), and `weekend` more on Saturday and Sunday."""

    swing: float = 0.0
    peak_hour: float = 0.0
    weekend: float = 0.0

    def factor(self, ts_ms: NDArray[np.int64]) -> Floats:
        """Multiplier of a rate at these times; its mean over a weekday is 1."""
        daily = 1.0 + self.swing * np.cos((hour_of(ts_ms) - self.peak_hour) * (2 * np.pi / 24))
        return daily * (1.0 + self.weekend * (weekday_of(ts_ms) >= SATURDAY)) if self.weekend else daily


class Quantity(msgspec.Struct, frozen=True):
    """A component of the events, and how it comes about.

    `law`: "count" is 1 + Poisson(rate - 1) per visit; "part" is Binomial(parent, rate); "amount" is a sum
    of pieces of mean `rate`, one for each of the parent's, distributed as `tail` says.
    `spread`: standard deviation of the log of its trait per bucket (and hour).
    """

    name: str
    law: Literal["count", "part", "amount"]
    rate: float
    of: str | None = None
    response: Polynomial = {}
    tilts: dict[str, Polynomial] = {}  # segment -> terms on top of `response`
    season: Season = Season()
    spread: float = 0.0
    cv: float = 1.0  # coefficient of variation of one of an amount's pieces
    tail: Tail = "gamma"


class World(msgspec.Struct, frozen=True, kw_only=True):
    """A simulated product, as data.

    `trait_share`: part of a trait's variance that stays with the bucket; the rest is drawn anew every hour.
    """

    name: str
    summary: str
    weights: tuple[Weight, ...]
    quantities: tuple[Quantity, ...]  # parents before children
    visits: Polynomial = {}  # response of the number of events
    metrics: tuple[Metric, ...]
    objective: dict[str, float]
    guardrails: tuple[Guardrail, ...]
    segments: dict[str, float] = {}  # name -> share of units, or of events
    segment_by: Literal["unit", "event"] = "unit"  # tenure is a person's, a surface an event's
    events_per_hour: float = 60_000.0  # mean over the day
    volume_swing: float = 8.0  # busiest hour / quietest hour
    week: tuple[float, ...] = (1.0,) * 7  # traffic of the days from Monday on, as multiples of their mean
    units: int = 200_000
    activity_sd: float = 0.7  # of the log of a unit's activity
    trait_share: float = 0.5
    buckets: int = 1000
    explore_arms: int = 8
    explore_share: float = 0.32  # of the traffic, for the arms of its study together

    @property
    def baseline(self) -> Floats:
        """The weight vector (W,) at which every change is zero."""
        return np.array([weight.baseline for weight in self.weights])

    def index(self, quantity: str) -> int:
        """The position of a quantity by its name."""
        return [q.name for q in self.quantities].index(quantity)


class Aims(Protocol):
    """What a study of a world wants."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """In the order of changes (..., M)."""
        ...

    @property
    def objective(self) -> dict[str, float]:
        """Metric -> coefficient."""
        ...

    @property
    def guardrails(self) -> tuple[Guardrail, ...]:
        """Limits on changes."""
        ...


Theta = ArrayLike | Mapping[str, ArrayLike]  # (..., W) for everyone, or per segment with `all` for the others


def segment_names(world: World) -> tuple[str, ...]:
    """The world's segments; `all` alone when it has none."""
    return tuple(world.segments) or (ALL,)


def weights_of(theta: Theta, segment: str) -> Floats:
    """The weights (..., W) that serve a segment."""
    if isinstance(theta, Mapping):
        theta = theta.get(segment, theta[ALL])
    return np.asarray(theta, dtype=np.float64)


def rate_changes(world: World, theta: Theta, segment: str) -> Floats:
    """Log change of the visits and of every quantity's own rate, (..., 1 + Q); zero at the baseline."""
    vector = weights_of(theta, segment)
    x = {weight.name: _offset(weight, vector[..., i]) for i, weight in enumerate(world.weights)}
    columns = [
        _polynomial(world.visits, x),
        *(_polynomial(q.response, x) + _polynomial(q.tilts.get(segment, {}), x) for q in world.quantities),
    ]
    return np.stack(np.broadcast_arrays(*columns, vector[..., 0])[:-1], axis=-1)


def _offset(weight: Weight, value: Floats) -> Floats:
    """u(value) - u(baseline). The world's own geometry: the truth must not move with the controller's code."""
    scaled = np.log if weight.scale == "log" else np.asarray
    return np.asarray((scaled(value) - scaled(weight.baseline)) / (scaled(weight.high) - scaled(weight.low)))


def recalibrated(world: World, scale: Mapping[str, float]) -> World:
    """The world once each weight's prediction is `scale` times what it was: all weights act as if multiplied by that.

    A weight's coordinate x becomes a x + s, with a = 1, s = log(scale) / log(high / low) on a log scale, and a = scale,
    s = (scale - 1) baseline / (high - low) on a linear one. What this does at the baseline moves the rates; where it
    is a segment's own, it stays in the segment's terms.
    """
    moves = {weight.name: _affine(weight, scale.get(weight.name, 1.0)) for weight in world.weights}
    visits, more = _rated(_expanded(world.visits, moves))
    quantities = []
    for quantity in world.quantities:
        response, level = _rated(_expanded(quantity.response, moves))
        tilts = {segment: _expanded(terms, moves) for segment, terms in quantity.tilts.items()}
        quantities.append(msgspec.structs.replace(quantity, rate=quantity.rate * level, response=response, tilts=tilts))
    return msgspec.structs.replace(
        world, events_per_hour=world.events_per_hour * more, visits=visits, quantities=tuple(quantities)
    )


def _affine(weight: Weight, scale: float) -> tuple[float, float]:
    if weight.scale == "log":
        return 1.0, float(np.log(scale) / np.log(weight.high / weight.low))
    return scale, (scale - 1.0) * weight.baseline / (weight.high - weight.low)


def _expanded(terms: Polynomial, moves: Mapping[str, tuple[float, float]]) -> Polynomial:
    """The polynomial of a x + s, multiplied out."""
    found: Polynomial = {}
    for names, coefficient in terms.items():
        parts: Polynomial = {(): coefficient}
        for name in names:
            a, s = moves[name]
            grown: Polynomial = {}
            for done, c in parts.items():
                grown[(*done, name)] = grown.get((*done, name), 0.0) + a * c
                grown[done] = grown.get(done, 0.0) + s * c
            parts = grown
        for key, c in parts.items():
            found[key] = found.get(key, 0.0) + c
    return {names: coefficient for names, coefficient in found.items() if coefficient}


def _rated(terms: Polynomial) -> tuple[Polynomial, float]:
    """The terms that are zero at the baseline, and the factor that the constant one is."""
    return {names: c for names, c in terms.items() if names}, float(np.exp(terms.get((), 0.0)))


def _polynomial(terms: Polynomial, x: Mapping[str, Floats]) -> Floats:
    total = np.zeros(())
    for names, coefficient in terms.items():
        total = total + coefficient * np.prod([x[name] for name in names], axis=0)
    return total


def component_levels(world: World, theta: Theta, segment: str) -> Floats:
    """Expected components per bucket of a segment, (..., Q), each as a multiple of its own baseline.

    Where a segment's tilt has a constant term: of what the baseline would be without it.
    """
    rates = rate_changes(world, theta, segment)
    log_levels: dict[str | None, Floats] = {None: rates[..., 0]}
    for i, quantity in enumerate(world.quantities):
        log_levels[quantity.name] = log_levels[quantity.of] + rates[..., 1 + i]
    return np.exp(np.stack([log_levels[q.name] for q in world.quantities], axis=-1))


def true_change(world: World, theta: Theta) -> Floats:
    """The exact relative change of every metric against the baseline, (..., M)."""
    shares = world.segments or {ALL: 1.0}
    levels, base = (
        sum(share * component_levels(world, vector, segment) for segment, share in shares.items())
        for vector in (theta, world.baseline)
    )
    level = {q.name: np.asarray(levels / base)[..., i] for i, q in enumerate(world.quantities)}
    changes = [level[m.numerator] / level.get(m.denominator, 1.0) - 1.0 for m in world.metrics]
    return np.stack(changes, axis=-1)


def gain(world: Aims, change: Floats) -> Floats:
    """The objective (...,) of these metric changes (..., M)."""
    coefficients = np.array([world.objective.get(metric.name, 0.0) for metric in world.metrics])
    return np.asarray(change @ coefficients)


def margins(world: Aims, change: Floats) -> Floats:
    """Room left under every guardrail (..., number of guardrails); negative where it is broken."""
    position = {metric.name: i for i, metric in enumerate(world.metrics)}
    columns = []
    for guard in world.guardrails:
        value = change[..., position[guard.metric]]
        columns.append(value - guard.min_change if guard.min_change is not None else (guard.max_change or 0.0) - value)
    return np.stack(columns, axis=-1) if columns else np.zeros((*change.shape[:-1], 0))


def volume(world: World, hour: Floats) -> Floats:
    """Traffic at these hours of the day as a multiple of the daily mean.

    Evening peak, a trough about five in the morning: two harmonics of the logarithm, scaled so that the
    busiest moment has `volume_swing` times the traffic of the quietest.
    """
    if world.volume_swing <= 1.0:
        return np.ones_like(hour)
    grid = np.arange(0.0, 24.0, 1 / 60)
    low, high = _harmonics(grid).min(), _harmonics(grid).max()
    exponent = np.log(world.volume_swing) / (high - low)
    mean = np.exp(exponent * _harmonics(grid)).mean()
    return np.asarray(np.exp(exponent * _harmonics(hour)) / mean)


def traffic(world: World, ts_ms: NDArray[np.int64] | Floats) -> Floats:
    """Traffic at these times as a multiple of the weekly mean: the day's curve and the day of the week."""
    return np.asarray(volume(world, hour_of(ts_ms)) * np.array(world.week)[weekday_of(ts_ms)])


def _harmonics(hour: Floats) -> Floats:
    angle = hour * (2 * np.pi / 24)
    return np.asarray(np.cos(angle - 2 * np.pi * 18 / 24) + 0.45 * np.cos(2 * angle - 4 * np.pi * 11 / 24))


def hour_of(ts_ms: NDArray[np.int64] | Floats) -> Floats:
    """The hour of the day (UTC), with its fraction."""
    return np.asarray((ts_ms % (24 * HOUR_MS)) / HOUR_MS)


def weekday_of(ts_ms: NDArray[np.int64] | Floats) -> NDArray[np.int64]:
    """The day of the week (UTC), 0 for a Monday; the epoch began on a Thursday."""
    return np.asarray((ts_ms // (24 * HOUR_MS)).astype(np.int64) + 3) % 7
