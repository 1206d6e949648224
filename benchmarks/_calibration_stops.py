"""How often the guardrail sequences of confirm and ramp stop a harmless vector, and how soon one that does harm.

Bucket sums of a click rate and of a report rate are drawn hour by hour as Gaussians with the arena's noise: visits
by a daily curve, unequal buckets, a trait of each bucket half of which stays for ever. Estimates and sequences are the
production code's. A batch of runs is estimated at once, each in the place of a segment.
"""

from functools import partial
from itertools import product
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks._calibration_figures import Figure, Spread, share
from controller.core import rollout, safety
from controller.core.estimate import Changes, Metric, Served, relative_changes
from controller.core.events import FIXED_POINT
from controller.core.safety import Guardrail
from simulators.worlds import Floats, World, volume

LOOKS, BUCKETS, RUNS, BATCH, PAST_H = 72, 1000, 2_000, 50, 24
WORLD = World(name="sums", summary="", weights=(), quantities=(), metrics=(), objective={}, guardrails=())
COMPONENTS = ("impressions", "clicks", "reports")
METRICS = (Metric("ctr", "clicks", "impressions"), Metric("report_rate", "reports", "impressions"))
RAILS = (Guardrail("ctr", min_change=-0.01), Guardrail("report_rate", max_change=0.08))
LIMITS = (-0.01, 0.08)
VISITS = {"60,000 visits an hour": 60.0, "6,000": 6.0}  # of a bucket in the mean hour
IMPRESSIONS = 10.0  # of a visit
RATES, SPREADS = np.array([0.386, 0.012]), np.array([0.01, 0.05])
SEQUENCES = 6  # confirm, four shares of the ramp, hold: what a vector's budget is divided by
ALPHA = safety.SafetyPlan().stop_alpha
SHARES, STEP_H, CONFIRM_H = rollout.RolloutPlan(0, 0, 0, 0).ramp_shares, 2, 30  # the test, until its sample is sealed
CONFIRM_SHARE = rollout.TrafficPlan().max_share_at_risk * (1.0 - rollout.BESIDE)  # the rest of it explores beside

Course = Literal["one map, no past known", "one map", "confirm, ramp and hold"]
COURSES: tuple[Course, ...] = ("one map, no past known", "one map", "confirm, ramp and hold")
HARMLESS = {"at both limits": LIMITS, "without effect": (0.0, 0.0)}
BROKEN = (0.01, 0.02, 0.05)  # of the click rate, beyond its limit


class Job(msgspec.Struct, frozen=True):
    """A batch of runs of the same vector."""

    course: Course
    change: tuple[float, float]  # true relative changes
    visits: float
    seed: int
    runs: int


class Stops(msgspec.Struct, frozen=True, eq=False):
    """When each run was stopped, and how well its click rate was known."""

    look: NDArray[np.int64]  # (R,) looks until then; LOOKS + 1: never
    sd: Floats  # (LOOKS,) standard error of the estimate, as estimated, mean over runs


def measured(runs: int | None, spread: Spread) -> list[Figure]:
    """Harmless vectors stopped, per course; harmful ones' times beside the best of one look."""
    count = runs or RUNS
    figures = []
    for course, (name, change) in product(COURSES, HARMLESS.items()):
        found = _played(Job(course, change, 60.0, 0, count), spread)
        case = f"{course}; {name}"
        figures.append(share(case, "harmless vectors stopped in 72 looks", (found.look <= LOOKS).tolist(), most=0.01))
    for (size, visits), beyond in product(VISITS.items(), BROKEN):
        found = _played(Job("one map", (LIMITS[0] - beyond, 0.0), visits, 0, max(count // 4, 1)), spread)
        figures += _times(f"one map, {size}; {beyond:.0%} beyond the limit", found, beyond)
    return figures


def _played(whole: Job, spread: Spread) -> Stops:
    jobs = [
        msgspec.structs.replace(whole, seed=first, runs=min(BATCH, whole.runs - first))
        for first in range(0, whole.runs, BATCH)
    ]
    parts = spread(stops, jobs, f"stops: {whole.course}")
    return Stops(np.concatenate([part.look for part in parts]), np.mean([part.sd for part in parts], axis=0))


def _times(case: str, found: Stops, beyond: float) -> list[Figure]:
    """When half of the runs are stopped, and shares by some looks, beside a 1 % test that looks only then."""
    bound = stats.norm.sf(stats.norm.isf(ALPHA) - beyond / found.sd)
    half = int(np.argmax(bound >= 0.5)) + 1 if bound.max() >= 0.5 else LOOKS + 1
    median = float(np.median(found.look))
    figures = [Figure(case, f"looks until half are stopped (the best test of one look: {half})", median, None, 0)]
    for look in (1, 6, 24, LOOKS):
        what = f"stopped by look {look} (a test of that look alone: {bound[look - 1]:.2f})"
        figures.append(share(case, what, (found.look <= look).tolist()))
    return figures


def stops(job: Job) -> Stops:
    """Play a batch."""
    rng = np.random.default_rng((job.seed, *job.course.encode()))
    size = np.exp(0.056 * rng.standard_normal(BUCKETS))
    traits = rng.standard_normal((job.runs, BUCKETS, 2)) * SPREADS
    begins = int(rng.integers(24))
    hour_of_day: Floats = np.array([(begins + t) % 24 + 0.5 for t in range(-PAST_H, LOOKS)])
    traffic = volume(WORLD, hour_of_day)
    each = partial(_hour, size=job.visits * size, traits=traits, rng=rng)
    unmoved = np.zeros(BUCKETS, np.int16)
    past: Floats = np.sum([each(v, unmoved, job.change) for v in traffic[:PAST_H]], axis=0).astype(np.float64)
    known = None if job.course == COURSES[0] else np.concatenate((np.zeros_like(past[:1]), past))
    look, sd = np.full(job.runs, LOOKS + 1), np.full(LOOKS, np.nan)
    total, arm_of = np.zeros((job.runs, BUCKETS, 3), np.int64), unmoved
    for t, visits in enumerate(traffic[PAST_H:]):
        dealt = rollout.nested(BUCKETS, _share(job.course, t), job.seed, "c")
        if not np.array_equal(dealt, arm_of):
            total, arm_of = np.zeros_like(total), dealt
        total += each(visits, arm_of, job.change)
        changes = estimated(total, arm_of, known)
        sd[t] = float(np.sqrt(np.diagonal(changes.covariance[0, 0])).mean())
        crossed = safety.crossings(RAILS, METRICS, changes, ALPHA / SEQUENCES)
        stopped = [crossing.arm - 1 for crossing in crossed]
        look[stopped] = np.minimum(look[stopped], t + 1)
    return Stops(look, sd)


def _share(course: Course, t: int) -> float:
    if course != COURSES[2] or t < CONFIRM_H:
        return CONFIRM_SHARE
    return SHARES[min((t - CONFIRM_H) // STEP_H, len(SHARES) - 1)]


def _hour(
    traffic: float,
    arm_of: NDArray[np.int16],
    change: tuple[float, float],
    size: Floats,  # mean visits
    traits: Floats,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """(R, B, 3) sums of an hour."""
    runs = len(traits)
    visits = traffic * size
    impressions = IMPRESSIONS * (visits + np.sqrt(visits) * rng.standard_normal((runs, BUCKETS)))
    impressions = np.maximum(impressions, IMPRESSIONS)[..., None]
    fresh = rng.standard_normal((runs, BUCKETS, 2)) * SPREADS
    rate = RATES * np.exp(np.sqrt(0.5) * (traits + fresh) - SPREADS**2 / 2) * (1.0 + np.outer(arm_of, change))
    noise = np.sqrt(impressions * RATES * (1.0 - RATES)) * rng.standard_normal((runs, BUCKETS, 2))
    sums = np.concatenate((impressions, impressions * rate + noise), axis=-1)
    return np.round(sums * FIXED_POINT).astype(np.int64)


def estimated(total: NDArray[np.int64], arm_of: NDArray[np.int16], past: Floats | None) -> Changes:
    """The estimates of all runs, as if they were arms of one deal."""
    nowhere = np.zeros_like(total[:1])
    served = Served(np.concatenate((nowhere, total)), arm_of.astype(np.int64), 2, past)
    found = relative_changes(METRICS, COMPONENTS, served)
    variance = found.covariance[:, 1:, 0, 0]
    return msgspec.structs.replace(
        found,
        change=found.change[:, None, 1:, 0],
        covariance=(variance[..., None] * np.eye(variance.shape[1]))[:, None],
    )
