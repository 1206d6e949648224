"""A world's traffic: exposures of a span of time under one table, as columns.

The same (world, seed, span, table) gives the same rows. Every column has a random stream of its own, so who visits
when does not depend on what they are shown.

Notation: n rows, Q quantities, B buckets, A arms, S segments, H the hours that a span touches.
"""

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from controller.unit_hash import buckets_of, unit_hashes
from simulators.scenarios import LateAmount
from simulators.worlds import (
    HOUR_MS,
    Floats,
    Quantity,
    World,
    rate_changes,
    segment_names,
    traffic,
)

ID_BYTES = 16
_MINUTE_MS = 60_000
_ROW_BITS = 23  # an id is (span's begin in ms, row) mixed: 41 + 23 bits
_LOOKUP = 2**20  # entries of the table that draws a unit by its activity
LATENESS_H = 6  # of the study that `simulators.study` writes: by then everything has arrived
WILD_EFFECT, WILD_SD = 0.3, 0.5

# Streams of randomness, each keyed with the seed (and the span).
_ACTIVITY, _SEGMENT, _TRAIT, _HOUR, _VISITS, _THINNING, _DELIVERY, _BEAT, _QUANTITY, _SURFACE, _LATE = range(11)
_WILD = 102


class Delivery(msgspec.Struct, frozen=True):
    """How events travel: some arrive late (exponential), some twice."""

    late_share: float = 0.02
    late_mean_ms: int = 180_000
    duplicate_share: float = 0.002


class Population(msgspec.Struct, frozen=True, eq=False):
    """The units of a world, numbered 0..; `lookup[uniform integer]` draws one by its activity."""

    names: NDArray[np.bytes_]
    unit_hash: NDArray[np.uint64]
    bucket: NDArray[np.int32]
    segment: NDArray[np.int16]  # index into the world's segments, where these are people's
    partition: NDArray[np.int32]  # where all events of the unit travel
    lookup: NDArray[np.int32]
    traits: tuple[Floats, ...]  # Q times (B,): standard normal, for ever the bucket's
    seed: int


class Served(msgspec.Struct, frozen=True, eq=False):
    """What the product serves by: the echo, each bucket's arm, each arm's weights per segment."""

    version: int
    names: tuple[str, ...]  # A
    arm_of: NDArray[np.integer]  # (B,)
    theta: tuple[Mapping[str, ArrayLike], ...]  # A


class Rows(msgspec.Struct, frozen=True, eq=False):
    """Events in order of arrival."""

    ids: NDArray[np.bytes_]  # (n,) 16 hexadecimal characters
    ts_ms: NDArray[np.int64]  # (n,)
    arrival_ms: NDArray[np.int64]  # (n,)
    unit: NDArray[np.int32]  # (n,) index into the population
    segment: NDArray[np.int16]  # (n,) index into the world's segments
    version: NDArray[np.int64]  # (n,)
    arm: NDArray[np.int32]  # (n,) index into names
    names: tuple[str, ...]
    values: Floats  # (n, Q)

    def __len__(self) -> int:
        """Number of events."""
        return len(self.ts_ms)


def population(world: World, seed: int, salt: str, partitions: int = 1) -> Population:
    """The people of a world. Raises `ValueError` when a partition would have nobody."""
    names = np.array([b"u%d" % unit for unit in range(world.units)])
    hashes = unit_hashes(names, salt)
    shares = np.array(list(world.segments.values()) or [1.0])
    activity = np.exp(world.activity_sd * _rng(seed, _ACTIVITY).standard_normal(world.units))
    edges = np.round(np.concatenate([[0.0], np.cumsum(activity)]) / activity.sum() * _LOOKUP).astype(np.int64)
    return Population(
        names=names,
        unit_hash=hashes,
        bucket=buckets_of(hashes, world.buckets),
        segment=_rng(seed, _SEGMENT).choice(len(shares), world.units, p=shares).astype(np.int16),
        partition=partition_of(hashes, partitions, world.name),
        lookup=np.repeat(np.arange(world.units, dtype=np.int32), np.diff(edges)),
        traits=tuple(_rng(seed, _TRAIT, q).standard_normal(world.buckets) for q in range(len(world.quantities))),
        seed=seed,
    )


def partition_of(hashes: NDArray[np.uint64], partitions: int, world: str) -> NDArray[np.int32]:
    """Each unit's partition, by the high bits of its hash: the bucket takes the low ones.

    Raises `ValueError` when a partition would have nobody.
    """
    partition = (hashes >> np.uint64(32)).astype(np.int64) % partitions
    if len(np.unique(partition)) < partitions:
        raise ValueError(f"world {world!r} has {len(hashes)} units: too few for {partitions} partitions")
    return partition.astype(np.int32)


def exposures(
    world: World,
    people: Population,
    served: Served,
    begin_ms: int,
    end_ms: int,
    delivery: Delivery | None = None,
    *,
    late: LateAmount | None = None,
    wild: bool = False,
) -> Rows:
    """All events whose exposure lies in [begin, end), served by one table; copies and late ones included.

    What is `late` of an exposure follows in events of its own; a `wild` span lies within one hour (`wildness`). Raises
    `ValueError` when the span would hold more events than ids can tell apart (4 million, late ones included).
    """
    effects = _effects(world, served)  # (A, S, 1 + Q)
    ts_ms, unit = _visits(world, people, begin_ms, end_ms, float(effects[..., 0].max()))
    segment = _segments(world, people, unit, begin_ms)
    kept = _thinned(world, people, served, effects[..., 0], unit, segment, begin_ms)
    ts_ms, unit, segment = ts_ms[kept], unit[kept], segment[kept]
    _refuse_beyond_ids(len(ts_ms))
    rates = _rates(world, people, served, effects[..., 1:], ts_ms, unit, segment)
    if wild:
        noise = wildness(world, people.seed, served.arm_of, len(served.theta), begin_ms // HOUR_MS * HOUR_MS)
        rates *= noise[:, people.bucket[unit]]
    values = _values(world, people.seed, rates, begin_ms)
    ids = event_ids(people.seed, begin_ms, np.arange(len(ts_ms)))
    rows = _rows(people, served, ts_ms, unit, segment, values, ids)
    if late:
        rows = _followed_up(world, people.seed, late, rows, rates, begin_ms)
    return delivered(rows, delivery, _rng(people.seed, _DELIVERY, begin_ms)) if delivery else rows


def heartbeats(world: World, people: Population, served: Served, at_ms: int, partitions: int) -> Rows:
    """One ordinary event at `at_ms` on every partition, which lets its watermark pass that time."""
    rng = _rng(people.seed, _BEAT, at_ms)
    unit = np.array(
        [rng.choice(np.flatnonzero(people.partition == partition)) for partition in range(partitions)], np.int32
    )
    ts_ms = np.full(partitions, at_ms, np.int64)
    segment = _segments(world, people, unit, at_ms)
    rates = _rates(world, people, served, _effects(world, served)[..., 1:], ts_ms, unit, segment)
    values = _values(world, people.seed, rates, at_ms)
    ids = event_ids(people.seed, at_ms, 2**_ROW_BITS - 1 - np.arange(partitions))
    return _rows(people, served, ts_ms, unit, segment, values, ids)


def joined(*parts: Rows) -> Rows:
    """All of them, one after the other, over one list of arm names."""
    names = tuple(dict.fromkeys(name for part in parts for name in part.names))
    codes = [np.array([names.index(name) for name in part.names] or [0], np.int32) for part in parts]
    arm = np.concatenate([code[part.arm] for code, part in zip(codes, parts, strict=True)])
    columns = {c: np.concatenate([getattr(part, c) for part in parts]) for c in _COLUMNS if c != "arm"}
    return Rows(**columns, arm=arm, names=names)


def taken(rows: Rows, at: NDArray[np.bool_] | NDArray[np.intp]) -> Rows:
    """The rows at these positions, in that order."""
    return Rows(**{column: getattr(rows, column)[at] for column in _COLUMNS}, names=rows.names)


def arrived(rows: Rows, before_ms: int) -> tuple[Rows, Rows]:
    """Those that arrive before a time, in order of arrival; and those still on their way."""
    due = rows.arrival_ms < before_ms
    order = np.argsort(rows.arrival_ms[due], kind="stable")
    return taken(rows, np.flatnonzero(due)[order]), taken(rows, ~due)


_COLUMNS = tuple(field for field in Rows.__struct_fields__ if field != "names")


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


def _effects(world: World, served: Served) -> Floats:
    """Multiplier of the visits and of every rate, (A, S, 1 + Q)."""
    arms = [[rate_changes(world, theta, segment) for segment in segment_names(world)] for theta in served.theta]
    return np.asarray(np.exp(np.array(arms)))


def _visits(
    world: World, people: Population, begin_ms: int, end_ms: int, boost: float
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Times, in order, and units of a Poisson process that follows the volume curve, `boost` times as many."""
    grid = np.linspace(begin_ms, end_ms, max(2, (end_ms - begin_ms) // _MINUTE_MS + 1))
    density = traffic(world, grid)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(grid) / HOUR_MS)])
    rng = _rng(people.seed, _VISITS, begin_ms)
    n = int(rng.poisson(mass[-1] * world.events_per_hour * boost))
    ts = np.interp(np.sort(rng.random(n)) * mass[-1], mass, grid)
    unit = people.lookup[rng.integers(0, len(people.lookup), n)]
    return np.minimum(ts.astype(np.int64), end_ms - 1), unit


def _segments(world: World, people: Population, unit: NDArray[np.int32], begin_ms: int) -> NDArray[np.int16]:
    """The segment of every visit (n,)."""
    if world.segment_by == "unit":
        return people.segment[unit]
    edges = np.cumsum(list(world.segments.values()))[:-1]
    return np.searchsorted(edges, _rng(people.seed, _SURFACE, begin_ms).random(len(unit))).astype(np.int16)


def _thinned(
    world: World,
    people: Population,
    served: Served,
    effect: Floats,
    unit: NDArray[np.int32],
    segment: NDArray[np.int16],
    begin_ms: int,
) -> NDArray[np.bool_]:
    """Which visits take place (n,), given each arm's and segment's multiplier (A, S) of them."""
    if not world.visits:
        return np.ones(len(unit), np.bool_)
    chance = effect[served.arm_of[people.bucket[unit]], segment] / effect.max()
    return np.asarray(_rng(people.seed, _THINNING, begin_ms).random(len(unit)) < chance)


def _rates(
    world: World,
    people: Population,
    served: Served,
    effects: Floats,
    ts_ms: NDArray[np.int64],
    unit: NDArray[np.int32],
    segment: NDArray[np.int16],
) -> Floats:
    """Every quantity's rate at every visit (Q, n)."""
    rates = np.empty((len(world.quantities), len(ts_ms)))
    first_hour = int(ts_ms.min()) // HOUR_MS if len(ts_ms) else 0
    hours = (int(ts_ms.max()) // HOUR_MS - first_hour + 1) if len(ts_ms) else 1
    cell = (ts_ms // HOUR_MS - first_hour) * world.buckets + people.bucket[unit]
    cell = cell * effects.shape[1] + segment
    for q, quantity in enumerate(world.quantities):
        table = _rate_table(world, people, q, first_hour, hours) * effects[served.arm_of, :, q]  # (H, B, S)
        rates[q] = table.reshape(-1)[cell] * quantity.season.factor(ts_ms)
    return rates


def _values(world: World, seed: int, rates: Floats, begin_ms: int) -> Floats:
    """Draw every quantity, parents first -> (n, Q)."""
    values = np.empty(rates.shape[::-1])
    for q, quantity in enumerate(world.quantities):
        parent = values[:, world.index(quantity.of)] if quantity.of else None
        values[:, q] = _draw(quantity, rates[q], parent, _rng(seed, _QUANTITY, q, begin_ms))
    return values


def wildness(world: World, seed: int, arm_of: NDArray[np.integer], arms: int, hour_ms: int) -> Floats:
    """Factors (Q, B) of the rates in an hour that means nothing.

    WILD_EFFECT more or less in about half of the arms, and WILD_SD of noise in every bucket.
    """
    rng = np.random.default_rng((seed, _WILD, hour_ms))
    shape = (len(world.quantities), arms)
    effect = np.where(rng.random(shape) < 0.5, WILD_EFFECT * np.where(rng.random(shape) < 0.5, -1.0, 1.0), 0.0)
    noise = WILD_SD * rng.standard_normal((shape[0], world.buckets))
    return np.asarray((1.0 + effect)[:, arm_of] * np.exp(noise - WILD_SD**2 / 2))


def _followed_up(world: World, seed: int, late: LateAmount, rows: Rows, rates: Floats, begin_ms: int) -> Rows:
    """The late quantity in events that follow their exposure: one for each of its pieces, half of them long."""
    q = world.index(late.quantity)
    quantity, rng = world.quantities[q], _rng(seed, _LATE, begin_ms)
    number = rows.values[:, world.index(str(quantity.of))].astype(np.int64)
    _refuse_beyond_ids(len(rows) + int(number.sum()))
    visit = np.repeat(np.arange(len(rows)), number)  # of every piece
    rate = rates[q, visit] * np.where(rng.random(len(visit)) < 0.5, 1.0 + late.spread, 1.0 - late.spread)
    amount = np.round(rate * pieces(quantity, np.ones(len(visit)), rng), 3)
    until_h = ((rows.ts_ms // HOUR_MS + 1 + LATENESS_H) - rows.ts_ms / HOUR_MS)[visit]
    mean_h = late.mean_h * rate / quantity.rate
    delay_h = -mean_h * np.log1p(-rng.random(len(visit)) * -np.expm1(-until_h / mean_h))  # exponential, cut off
    here = np.arange(len(world.quantities)) == q
    more = msgspec.structs.replace(
        taken(rows, visit),
        ids=event_ids(seed, begin_ms, len(rows) + np.arange(len(visit))),
        arrival_ms=rows.ts_ms[visit] + (delay_h * HOUR_MS).astype(np.int64),
        values=amount[:, None] * here,
    )
    return joined(msgspec.structs.replace(rows, values=rows.values * ~here), taken(more, amount > 0))


def _refuse_beyond_ids(rows: int) -> None:
    if rows >= 2 ** (_ROW_BITS - 1):  # heartbeats are numbered from the other end
        raise ValueError(f"{rows} events in one span: use shorter spans")


def _rate_table(world: World, people: Population, q: int, first_hour: int, hours: int) -> Floats:
    """A quantity's rate by hour and bucket (H, B, 1): the bucket's own trait, and one drawn anew every hour."""
    quantity = world.quantities[q]
    fresh = np.stack([_rng(people.seed, _HOUR, q, first_hour + h).standard_normal(world.buckets) for h in range(hours)])
    normal = np.sqrt(world.trait_share) * people.traits[q] + np.sqrt(1 - world.trait_share) * fresh
    table = quantity.rate * np.exp(quantity.spread * normal - quantity.spread**2 / 2)
    return np.asarray(table[..., None])


def _draw(quantity: Quantity, rate: Floats, parent: Floats | None, rng: np.random.Generator) -> Floats:
    if parent is None:  # a count per visit, at least one
        return np.asarray(1.0 + rng.poisson(np.maximum(rate - 1.0, 0.0)))
    if quantity.law == "part":
        return rng.binomial(parent.astype(np.int64), np.minimum(rate, 1.0)).astype(np.float64)
    return np.round(rate * pieces(quantity, parent, rng), 3)


def pieces(quantity: Quantity, number: Floats, rng: np.random.Generator) -> Floats:
    """Sums of so many of an amount's pieces, each of mean 1."""
    if quantity.tail == "gamma":  # a sum of gamma variables is one
        shape = 1.0 / quantity.cv**2
        return np.asarray(rng.standard_gamma(number * shape) / shape)
    sigma = np.sqrt(np.log1p(quantity.cv**2))
    each = np.exp(sigma * rng.standard_normal(int(number.sum())) - sigma**2 / 2)
    ends = np.cumsum(number.reshape(-1)).astype(np.int64)
    total = np.concatenate(([0.0], np.cumsum(each)))[np.concatenate(([0], ends))]
    return np.diff(total).reshape(number.shape)


def _rows(
    people: Population,
    served: Served,
    ts_ms: NDArray[np.int64],
    unit: NDArray[np.int32],
    segment: NDArray[np.int16],
    values: Floats,
    ids: NDArray[np.bytes_],
) -> Rows:
    arm = served.arm_of[people.bucket[unit]].astype(np.int32)
    version = np.full(len(ts_ms), served.version, np.int64)
    return Rows(ids, ts_ms, ts_ms, unit, segment, version, arm, served.names, values)


def event_ids(seed: int, begin_ms: int, row: NDArray[np.integer]) -> NDArray[np.bytes_]:
    """Distinct ids for every (span, row) of a seed: SplitMix64's finaliser is a bijection."""
    x = np.uint64(begin_ms << _ROW_BITS) + row.astype(np.uint64)
    x ^= _rng(seed).integers(0, 2**63, dtype=np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    nibbles = (x[:, None] >> np.arange(60, -1, -4, dtype=np.uint64)) & np.uint64(15)
    characters = np.frombuffer(b"0123456789abcdef", np.uint8)[nibbles]
    return np.asarray(characters.view(f"S{ID_BYTES}").reshape(-1))


def delivered(rows: Rows, delivery: Delivery, rng: np.random.Generator) -> Rows:
    """Delay some rows, on top of when they are sent, and send some twice; a copy takes its own way."""
    n = len(rows)
    late, twice = rng.random(n) < delivery.late_share, rng.random(n) < delivery.duplicate_share
    delay, again = (rng.exponential(delivery.late_mean_ms, n).astype(np.int64) for _ in range(2))
    once = msgspec.structs.replace(rows, arrival_ms=rows.arrival_ms + late * delay)
    copies = msgspec.structs.replace(once, arrival_ms=once.arrival_ms + again)
    return joined(once, taken(copies, twice))
