"""How often the sample-ratio check freezes a sound study, and how soon it sees that an arm loses people.

Units have an activity, hours that they prefer and days on which they do not come at all, so that mostly the same
ones come again; they fall on buckets by chance, so that buckets are unequal. For the losses, which need other sizes
of traffic, a bucket's units come independently.
"""

from functools import partial
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks._calibration_figures import Figure, Spread, share
from controller.core import rollout, safety
from simulators.worlds import Floats, World, volume

RUNS, LOSS_RUNS, BATCH = 3_000, 1_000, 50
HOURS, EXPLORE_H = 72, 36
WORLD = World(name="units", summary="", weights=(), quantities=(), metrics=(), objective={}, guardrails=())
PLAN = safety.SafetyPlan()
PREFERENCE, COMES = 0.8, 0.6  # how much a unit's chance swings over the day; share of days on which it comes
LOSS, WITHIN = 0.05, 2
SIZES = (3_000, 12_000, 50_000, 200_000)  # sampled units that a window has, on average
ARMS = {"explore arm, 4 %": 0.04, "confirm arm, 40 %": 0.4}

Batch = tuple[int, int]  # seed, runs


def measured(runs: int | None, spread: Spread) -> list[Figure]:
    """False alarms in `runs` studies, and the losses found within two windows."""
    found = spread(_alarms, batches(runs or RUNS), "SRM: sound studies")
    alarms = [alarm for batch in found for alarm in batch]
    figures = [share("sound studies of 72 windows", "frozen", alarms, most=0.001)]
    cases = list(product(ARMS, SIZES))
    lost = spread(partial(_losses, runs=runs or LOSS_RUNS), cases, "SRM: losses")
    for (arm, units), hit in zip(cases, lost, strict=True):
        case = f"{arm}, {units} units a window"
        figures.append(share(case, "a loss of 5 % found within two windows", hit, least=0.95))
        figures.append(Figure(case, "the same by a test that knows the arm's share", _bound(ARMS[arm], units), None, 0))
    return figures


def batches(runs: int) -> list[Batch]:
    """The runs, in parts for the processes."""
    return [(first, min(BATCH, runs - first)) for first in range(0, runs, BATCH)]


def _alarms(batch: Batch) -> list[bool]:
    first, runs = batch
    return [_alarmed(np.random.default_rng((first, run))) for run in range(runs)]


def _alarmed(rng: np.random.Generator) -> bool:
    """Whether a sound study is frozen in any of its windows."""
    present = _people(rng)
    history, confirm = np.zeros(WORLD.buckets, np.int64), rollout.nested(WORLD.buckets, 0.4, 0, f"c{rng.integers(99)}")
    alarmed = False
    for hour, units in enumerate(present):
        exploring = hour < EXPLORE_H
        arms = 8 if exploring else 1
        arm_of = rollout.shuffled(WORLD.buckets, arms, 0.32, rng) if exploring else confirm
        alarmed |= safety.sample_ratio(units, history, arm_of, arms + 1) < PLAN.srm_alpha
        history += units
    return alarmed


def _people(rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """(B,) distinct sampled units of every window."""
    n = rng.binomial(WORLD.units, PLAN.unit_sample)
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


def _losses(case: tuple[str, int], runs: int) -> list[bool]:
    """Whether a loss that begins at some hour of the third day is found in its first two windows."""
    arm, units = case
    return [_loss_found(np.random.default_rng((units, run)), ARMS[arm], units) for run in range(runs)]


def _loss_found(rng: np.random.Generator, part: float, units: int) -> bool:
    begin = int(rng.integers(48, 70))
    traffic = _volume(np.arange(begin + WITHIN))
    people = rng.poisson(4.0 * units / WORLD.buckets, WORLD.buckets)  # a quarter of whom come in the mean hour
    seen = rng.binomial(people, np.minimum(traffic[:, None] / 4.0, 0.95))
    arms = round(0.32 / part) if part < 0.32 else 1
    history, found = seen[:begin].sum(axis=0), False
    for units_now in seen[begin:]:
        arm_of = rollout.shuffled(WORLD.buckets, arms, part * arms, rng)
        left = np.where(arm_of == 1, rng.binomial(units_now, 1.0 - LOSS), units_now)
        found |= safety.sample_ratio(left, history, arm_of, arms + 1) < PLAN.srm_alpha
        history += left
    return found


def _bound(part: float, units: int) -> float:
    """Power of one look at a Poisson count of two mean windows, where the arm's share is known, at the same level."""
    noise = np.sqrt((1.0 / part + 1.0 / (1.0 - part)) / (WITHIN * units))
    return float(stats.norm.sf(stats.norm.isf(PLAN.srm_alpha) - LOSS / noise))
