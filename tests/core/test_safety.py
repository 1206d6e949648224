"""Guardrails over time, and the alarms: what must stay silent is simulated, what must ring is made to happen."""

from math import comb

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import logsumexp

from controller.core.estimate import Changes, Metric
from controller.core.safety import Guardrail, crossings, excessive, lasting, radius, silent_arm
from controller.core.worst import Look, Looks

LOOKS, RUNS = 72, 4000


def estimates(trait_share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Errors of cumulative estimates (RUNS, LOOKS) and their variances (LOOKS,); part of the error may never fade."""
    looks = np.arange(1, LOOKS + 1)
    noise = rng.standard_normal((RUNS, LOOKS)).cumsum(axis=1) / looks * np.sqrt(1.0 - trait_share)
    trait = rng.standard_normal((RUNS, 1)) * np.sqrt(trait_share)
    return noise + trait, (1.0 - trait_share) / looks + trait_share


@pytest.mark.parametrize("trait_share", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("tight_sd", [0.1, 0.3, 1.0])
def test_a_sequence_ever_misses_the_truth_no_more_often_than_alpha(trait_share: float, tight_sd: float) -> None:
    error, variance = estimates(trait_share, np.random.default_rng(1))
    alpha = 0.1
    missed = (np.abs(error) >= radius(variance, alpha, tight_sd)).any(axis=1).mean()
    assert missed <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / RUNS)


def test_intervals_of_one_look_would_miss_far_more_often() -> None:
    error, variance = estimates(0.0, np.random.default_rng(1))
    assert (np.abs(error) >= 1.645 * np.sqrt(variance)).any(axis=1).mean() > 0.3


def test_a_sequence_is_tightest_where_it_is_tuned_to_be() -> None:
    sds = np.geomspace(0.001, 0.1, 200)
    in_sds = radius(sds**2, 0.01, 0.01) / sds
    assert 0.3 < sds[np.argmin(in_sds)] / 0.01 < 3.0
    assert in_sds.min() > 2.58  # no sequence is tighter than a single look


@pytest.mark.parametrize("alpha", [0.1, 1e-4])
def test_the_radius_is_where_a_mixture_of_likelihood_ratios_says_one_in_alpha(alpha: float) -> None:
    """By quadrature over effects of some spread, which one look tells; no other spread is tighter at the s.e. tuned to.

    The ratio of an effect e to none, given an estimate b of variance v, is exp((e b - e^2 / 2) / v).
    """

    def bound(variance: float, spread: float) -> float:
        e, step = np.linspace(-12.0 * spread, 12.0 * spread, 4001, retstep=True)
        density = -((e / spread) ** 2) / 2 + np.log(step / spread / np.sqrt(2 * np.pi))
        return float(brentq(lambda b: logsumexp((e * b - e**2 / 2) / variance + density) + np.log(alpha), 0.0, 2.0))

    tight, sds = 0.05, np.array([0.02, 0.05, 0.2])
    found = radius(sds**2, alpha, tight)
    spread = float(brentq(lambda s: bound(sds[0] ** 2, s) - found[0], 0.1, 2.0))
    assert [bound(sd**2, spread) for sd in sds[1:]] == pytest.approx(found[1:], rel=1e-6)
    assert found[1] < 1.001 * min(bound(tight**2, s) for s in np.geomspace(0.1, 0.5, 40))


def changes(y: float, sd: float) -> Changes:
    one = np.ones((1, 1))
    return Changes(np.full((1, 1, 1), y), np.full((1, 1, 1, 1), sd**2), one, 0.01 * one, np.array([[50, 50]]))


CTR = (Metric("ctr", "clicks", "impressions"),)
LOSS, RISE = Guardrail("ctr", min_change=-0.01), Guardrail("ctr", max_change=0.01)


@pytest.mark.parametrize(
    ("guardrail", "y", "crossed"),
    [
        (LOSS, -0.03, True),
        (LOSS, -0.011, False),
        (LOSS, 0.0, False),
        (LOSS, 0.03, False),
        (RISE, 0.03, True),
        (RISE, 0.011, False),
        (RISE, -0.03, False),
    ],
)
def test_only_what_lies_surely_on_the_bad_side_of_its_limit_crosses(
    guardrail: Guardrail, y: float, crossed: bool
) -> None:
    found = crossings((guardrail,), CTR, changes(y, 0.002), 0.01)
    assert bool(found) == crossed
    if found:
        assert (found[0].arm, found[0].metric, found[0].change, found[0].limit) == (1, "ctr", y, guardrail.limit)
        assert found[0].radius < 0.02


def test_beyond_moves_the_line_to_the_bad_side() -> None:
    assert crossings((LOSS,), CTR, changes(-0.2, 0.01), 0.01)
    assert not crossings((LOSS,), CTR, changes(-0.2, 0.01), 0.01, beyond=-0.3)
    assert crossings((LOSS,), CTR, changes(-0.5, 0.01), 0.01, beyond=-0.3)
    rise, fall = (crossings((rail,), CTR, changes(y, 0.01), 0.01, -0.3) for rail, y in ((RISE, 0.5), (LOSS, -0.5)))
    assert [crossing.radius for crossing in rise] == [crossing.radius for crossing in fall]


def test_what_is_not_known_does_not_cross() -> None:
    assert not crossings((LOSS,), CTR, changes(np.nan, 0.01), 0.01)
    assert not crossings((LOSS,), CTR, changes(-0.5, np.nan), 0.01)


def test_guardrails_share_the_error_budget() -> None:
    width = [c.radius for c in crossings((LOSS,), CTR, changes(-0.5, 0.01), 0.01)]
    shared = [c.radius for c in crossings((LOSS, LOSS), CTR, changes(-0.5, 0.01), 0.02)]
    assert shared == [*width, *width]


def windows(*change: float) -> Looks:
    return Looks(1, tuple(Look(k, (y,), (1.0,)) for k, y in enumerate(change)))


@pytest.mark.parametrize("rails", [(LOSS, RISE), (RISE, LOSS)], ids=["loss first", "rise first"])
@pytest.mark.parametrize(("y", "broken"), [(0.2, RISE), (-0.2, LOSS)], ids=["rise", "loss"])
def test_what_every_window_says_lasts_on_either_side_of_a_metric_with_two_limits(
    rails: tuple[Guardrail, ...], y: float, broken: Guardrail
) -> None:
    found = crossings(rails, CTR, changes(y, 0.001), 0.01)
    assert [crossing.limit for crossing in found] == [broken.limit]
    assert lasting(found, rails, CTR, changes(y, 0.001), 0.01, windows(*[y] * 5)) == found
    assert lasting(found, rails, CTR, changes(y, 0.001), 0.01, windows(0.0, 0.0, 5 * y, 0.0, 0.0)) == ()
    assert lasting(found, rails, CTR, changes(y, 0.001), 0.01, windows(y)) == (), "a lone window proves nothing"


def test_guardrails_share_the_error_budget_without_the_worst_window_too() -> None:
    """A margin between the two radii: one guardrail's budget would stop it, half of it does not."""
    alone, half = (float(radius(np.array(0.002**2 / 0.8), alpha, 0.01)) for alpha in (0.01, 0.005))
    y = LOSS.limit - (alone + half) / 2
    found = crossings((LOSS, RISE), CTR, changes(y, 0.002), 0.01)
    assert [crossing.limit for crossing in found] == [LOSS.limit]
    assert lasting(found, (LOSS,), CTR, changes(y, 0.002), 0.01, windows(*[y] * 5)) == found
    assert lasting(found, (LOSS, RISE), CTR, changes(y, 0.002), 0.01, windows(*[y] * 5)) == ()


def dealt(rng: np.random.Generator) -> np.ndarray:
    arm_of = np.zeros(400, np.int16)
    arm_of[rng.permutation(400)[:160]] = np.repeat(np.arange(1, 5), 40)
    return arm_of


def test_an_arm_without_any_event_is_silent() -> None:
    arm_of = dealt(np.random.default_rng(6))
    events = np.full(400, 3)
    assert silent_arm(events, arm_of, 5) is None
    events[arm_of == 2] = 0
    assert silent_arm(events, arm_of, 5) == 2


def test_a_silent_control_is_found_too() -> None:
    arm_of = dealt(np.random.default_rng(6))
    assert silent_arm(np.where(arm_of == 0, 0, 3), arm_of, 5) == 0


def test_little_traffic_is_not_silence() -> None:
    """One unit with very many events says no more than one with a single event."""
    arm_of = dealt(np.random.default_rng(6))
    events = np.zeros(400, np.int64)
    events[np.flatnonzero(arm_of == 0)[:20]] = 10_000
    assert silent_arm(events, arm_of, 5) is None
    assert silent_arm(np.zeros(400, np.int64), arm_of, 5) is None


def test_silence_is_called_where_chance_leaves_one_in_a_thousand_million() -> None:
    """Of 360 buckets elsewhere 153 or 154 had events: 40 have none by chance once in .9 or 1.1 thousand million."""
    arm_of, events = np.repeat([0, 1], [360, 40]).astype(np.int16), np.zeros(400, np.int64)
    assert comb(247, 40) / comb(400, 40) > 1e-9 > comb(246, 40) / comb(400, 40) > 0.9e-9
    events[:153] = 3
    assert silent_arm(events, arm_of, 2) is None
    events[:154] = 3
    assert silent_arm(events, arm_of, 2) == 1


@pytest.mark.parametrize(
    ("buckets", "own", "silent"), [(20, 1, False), (1000, 1, False), (1000, 3, False), (1000, 4, True)]
)
def test_that_all_others_had_events_does_not_say_that_every_bucket_must(buckets: int, own: int, silent: bool) -> None:
    """One bucket of 20 without any event was called a fault, though one of them is without in many a window."""
    arm_of = (np.arange(buckets) < own).astype(np.int16)
    assert (silent_arm(np.where(arm_of == 1, 0, 3), arm_of, 2) == 1) == silent


def test_silence_by_chance_is_never_called() -> None:
    rng = np.random.default_rng(7)
    for _ in range(3000):
        active = rng.random(400) < rng.uniform(0.0, 0.3)
        assert silent_arm(active.astype(np.int64) * 100, dealt(rng), 5) is None


def test_a_share_of_few_events_is_no_alarm() -> None:
    assert not excessive(199, 199, 0.02)
    assert not excessive(4, 200, 0.02)
    assert excessive(5, 200, 0.02)


@pytest.mark.parametrize(
    ("rail", "eased"),
    [
        (Guardrail("ctr", min_change=-0.05), Guardrail("ctr", min_change=-0.06)),
        (Guardrail("ctr", max_change=0.05), Guardrail("ctr", max_change=0.06)),
        (Guardrail("ctr", min_change=0.05), Guardrail("ctr", min_change=0.04)),  # it must rise, by less
        (Guardrail("ctr", min_change=0.0), Guardrail("ctr", min_change=0.0)),
    ],
)
def test_a_limit_is_eased_in_the_direction_that_hurts(rail: Guardrail, eased: Guardrail) -> None:
    found = rail.eased(0.2)
    assert found.limit == pytest.approx(eased.limit)
    assert (found.metric, found.sign) == (eased.metric, eased.sign)
