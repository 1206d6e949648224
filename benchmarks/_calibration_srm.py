"""How often the sample-ratio check freezes a sound study, and how soon it sees that an arm loses people.

Units have an activity, hours that they prefer and days on which they do not come at all, so that mostly the same
ones come again; they fall on buckets by chance, so that buckets are unequal. For the losses, which need other sizes
of traffic, a bucket's units come independently.
"""

from functools import partial
from itertools import product

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks._calibration_figures import Figure, Spread, share
from controller.assignment import Arm
from controller.core import ratio, rollout, safety
from simulators.worlds import Floats, World, volume

RUNS, LOSS_RUNS, BATCH = 3_000, 1_000, 50
HOURS, EXPLORE_H, ARMS = 72, 36, 8
WORLD = World(name="units", summary="", weights=(), quantities=(), metrics=(), objective={}, guardrails=())
PLAN, TRAFFIC = safety.SafetyPlan(), rollout.TrafficPlan()
CONTROL = Arm("control", "control", {"all": ()})
PREFERENCE, COMES = 0.8, 0.6  # how much a unit's chance swings over the day; share of days on which it comes
LOSS, WITHIN = 0.05, 2
BEGINS = (48, 72)  # hours in which a loss may begin: one of every hour of the day
SIZES = (3_000, 12_000, 50_000, 200_000, 1_000_000)  # units that a window has, on average


class Case(msgspec.Struct, frozen=True):
    """Who loses people, from some hour of the third day on."""

    name: str
    share: float  # of the traffic
    lasts: int  # windows that the check may take


CASES = (
    Case("the vector in confirm", TRAFFIC.max_share_at_risk * (1.0 - rollout.BESIDE), WITHIN),
    Case("all vectors in explore", TRAFFIC.explore_share, WITHIN),
    Case("all vectors in explore", TRAFFIC.explore_share, 24),
    Case("one vector of one window of explore", TRAFFIC.explore_share / ARMS, 1),
)

Batch = tuple[int, int]  # seed, runs


def measured(runs: int | None, spread: Spread) -> list[Figure]:
    """False alarms in `runs` studies, and the losses found in time."""
    found = spread(_alarms, batches(runs or RUNS), "SRM: sound studies")
    alarms = [alarm for batch in found for alarm in batch]
    figures = [share(f"sound studies of {HOURS} windows", "frozen", alarms, most=0.001)]
    cases = list(product(CASES, SIZES))
    lost = spread(partial(_losses, runs=runs or LOSS_RUNS), cases, "SRM: losses")
    for (case, units), hit in zip(cases, lost, strict=True):
        where = f"{case.name}, {case.share:.0%}, {units} units a window"
        told = f"a loss of 5 % found within {case.lasts} window{'s' * (case.lasts > 1)}"
        figures.append(share(where, told, hit, least=0.95))
        figures.append(Figure(where, "the same by a test that knows the share", _bound(case, units), None, 0))
    return figures


def batches(runs: int) -> list[Batch]:
    """The runs, in parts for the processes."""
    return [(first, min(BATCH, runs - first)) for first in range(0, runs, BATCH)]


def _alarms(batch: Batch) -> list[bool]:
    first, runs = batch
    return [_alarmed(np.random.default_rng((first, run))) for run in range(runs)]


def _alarmed(rng: np.random.Generator) -> bool:
    """Whether a sound study is frozen in any of its windows."""
    people, alarmed = ratio.People(np.zeros(WORLD.buckets)), False
    trial = _trial(f"c{rng.integers(10**6)}")
    for hour, units in enumerate(_people(rng)):
        window = ratio.counted(people, units, _explored(hour, rng) if hour < EXPLORE_H else _joined(trial, hour, rng))
        alarmed |= ratio.mismatch(people, window).p < PLAN.srm_alpha
        people = ratio.remembered(people, window)
    return alarmed


def _vectors(hour: int) -> tuple[Arm, ...]:
    """Those of an hour, each with a name of its own."""
    return tuple(Arm(f"e{ARMS * hour + k}", "explore", {"all": ()}) for k in range(ARMS))


def _explored(hour: int, rng: np.random.Generator) -> rollout.Deal:
    buckets = rollout.shuffled(WORLD.buckets, ARMS, TRAFFIC.explore_share, rng)
    return rollout.Deal(hour, "explore", (CONTROL, *_vectors(hour)), buckets)


def _trial(name: str) -> rollout.Deal:
    """A candidate at its share in confirm."""
    beside = TRAFFIC.max_share_at_risk * rollout.BESIDE
    share_ = TRAFFIC.max_share_at_risk - beside
    buckets = rollout.nested(WORLD.buckets, share_, 0, name, rollout.room_beside(share_, beside))
    return rollout.Deal(0, "confirm", (CONTROL, Arm(name, "candidate", {"all": ()})), buckets, trial=1)


def _joined(trial: rollout.Deal, hour: int, rng: np.random.Generator) -> rollout.Deal:
    others = _vectors(hour)[: ARMS // 2]
    return rollout.joined(trial, hour, others, len(others), rng)


def _people(rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """(B,) different units of every window."""
    n = WORLD.units
    bucket, activity = rng.integers(WORLD.buckets, size=n), np.exp(WORLD.activity_sd * rng.standard_normal(n))
    each = (WORLD.events_per_hour / WORLD.units / COMES * activity / activity.mean()).astype(np.float32)
    prefers, found = rng.uniform(0, 2 * np.pi, n).astype(np.float32), []
    traffic = _volume(np.arange(HOURS))
    comes = np.zeros(n, np.bool_)
    for hour in range(HOURS):
        if hour % 24 == 0:
            comes = rng.random(n) < COMES
        rate = each * np.float32(traffic[hour]) * (1 + PREFERENCE * np.cos(np.float32(hour * np.pi / 12) - prefers))
        seen = comes & (rng.random(n, dtype=np.float32) < 1.0 - np.exp(-rate))
        found.append(np.bincount(bucket[seen], minlength=WORLD.buckets))
    return found


def _volume(hour: NDArray[np.int64]) -> Floats:
    return volume(WORLD, (hour % 24 + 0.5).astype(np.float64))


def _losses(job: tuple[Case, int], runs: int) -> list[bool]:
    """Whether a loss that begins at some hour of the third day is found in time."""
    case, units = job
    return [_loss_found(np.random.default_rng((units, run)), case, units) for run in range(runs)]


def _loss_found(rng: np.random.Generator, case: Case, units: int) -> bool:
    begin = int(rng.integers(*BEGINS))
    traffic = _volume(np.arange(begin + case.lasts))
    people = rng.poisson(4.0 * units / WORLD.buckets, WORLD.buckets)  # a quarter of whom come in the mean hour
    seen = rng.binomial(people, np.minimum(traffic[:, None] / 4.0, 0.95))
    known, found, trial = ratio.People(np.zeros(WORLD.buckets)), False, _trial("c1")
    for hour, units_there in enumerate(seen):
        confirm = case == CASES[0] and hour >= begin
        deal, left = _joined(trial, hour, rng) if confirm else _explored(hour, rng), units_there
        if hour >= begin:
            hit = deal.buckets > 0 if case.share == TRAFFIC.explore_share else deal.buckets == 1
            left = np.where(hit, rng.binomial(units_there, 1.0 - LOSS), units_there)
        window = ratio.counted(known, left, deal)
        found |= hour >= begin and ratio.mismatch(known, window).p < PLAN.srm_alpha
        known = ratio.remembered(known, window)
    return found


def _bound(case: Case, units: int) -> float:
    """Power of one look at a Poisson count of all the windows, where the share is known, at the same level."""
    hours = np.arange(*BEGINS)[:, None] + np.arange(case.lasts)
    noise = np.sqrt((1.0 / case.share + 1.0 / (1.0 - case.share)) / (units * _volume(hours).sum(axis=1)))
    return float(stats.norm.sf(stats.norm.isf(PLAN.srm_alpha / 2) - LOSS / noise).mean())
