"""Carry-over: with none nothing is ever reported, also where buckets have traits and visits run over; a real one is."""

import numpy as np
import pytest

from controller.core import rollout
from controller.core.carryover import ALPHA, TIGHT_SD, Carryover, found, learned, observed
from controller.core.estimate import Metric, Served
from controller.core.safety import radius

B, ARMS, SHARE = 400, 8, 0.4
METRICS = (Metric("ctr", "clicks", "impressions"), Metric("watch", "watch_s", "buckets"))
COMPONENTS = ("impressions", "clicks", "watch_s")


def windows(
    number: int, kappa: float, rng: np.random.Generator, spill: float = 0.0, trait: float = 0.1, effect: float = 0.05
) -> list[Served]:
    """Deals of a window each, whose arms change watch by `effect` (sd) and leave `kappa` of it behind.

    `spill`: how much of a bucket's luck is there in the next window too.
    """
    trait_of, activity = trait * rng.standard_normal(B), rng.gamma(8.0, 0.125, B)
    history, before, luck, served = np.zeros((1, B, 3)), np.zeros(B), np.zeros(B), []
    for _ in range(number):
        arm_of = rollout.shuffled(B, ARMS, SHARE, rng).astype(np.int64)
        now = np.append(0.0, effect * rng.standard_normal(ARMS))[arm_of]
        luck = spill * luck + np.sqrt(1.0 - spill**2) * 0.1 * rng.standard_normal(B)
        impressions = rng.poisson(2000 * activity)
        clicks = rng.binomial(impressions, 0.1)
        watch = 500.0 * activity * (1.0 + trait_of) * (1.0 + now + kappa * before) * (1.0 + luck)
        sums = np.rint(np.stack((impressions, clicks, watch), axis=-1)[None] * 1e6).astype(np.int64)
        served.append(Served(sums, arm_of, ARMS + 1, history))
        history, before = 0.95 * history + sums, now
    return served


def study(number: int, kappa: float, rng: np.random.Generator, spill: float = 0.0) -> tuple[Carryover, int | None]:
    """What is known at the end, and after how many windows it was first reported."""
    known, first = Carryover(), None
    served = windows(number, kappa, rng, spill)
    for k in range(1, number):
        known = learned(known, METRICS, COMPONENTS, served[k - 1], served[k])
        if first is None and found(known, METRICS):
            first = k
    return known, first


@pytest.mark.parametrize("spill", [0.0, 0.5])
def test_without_carry_over_a_deal_s_score_is_standard_normal(spill: float) -> None:
    rng, z = np.random.default_rng(1), []
    for _ in range(60):
        served = windows(7, 0.0, rng, spill)
        for k in (2, 3, 4, 5, 6):
            score, information = observed(METRICS, COMPONENTS, served[k - 1], served[k])
            z.append(score / np.sqrt(information))
    z_ = np.array(z)  # (300, M)
    assert np.abs(z_.mean(axis=0)).max() < 3 / np.sqrt(len(z_))
    assert np.abs(z_.std(axis=0) - 1.0).max() < 0.15


def test_where_there_is_none_none_is_reported() -> None:
    rng = np.random.default_rng(2)
    assert not any(study(25, 0.0, rng, spill=0.5)[1] for _ in range(20))


def test_half_of_an_effect_left_behind_is_found_within_a_day() -> None:
    rng = np.random.default_rng(3)
    firsts = [study(24, 0.5, rng)[1] for _ in range(8)]
    assert all(first is not None and first <= 24 for first in firsts)


def test_what_is_found_names_metric_share_and_remedy() -> None:
    known, _ = study(24, 0.5, np.random.default_rng(4))
    why = found(known, METRICS)
    assert why is not None
    assert "to watch still shows" in why
    assert "vectors stay 6 times as long" in why
    kappa = known.score[1] / known.information[1]
    assert 0.2 < kappa < 0.6  # the arms' effects are measured with noise, so it is told as somewhat less


def test_an_opposite_effect_is_found_too() -> None:
    known, first = study(24, -0.5, np.random.default_rng(5))
    assert first is not None
    assert known.score[1] < 0.0


def test_an_arm_that_goes_on_says_nothing() -> None:
    """What a bucket's arm does now cannot be told from what it did before where the arm is the same."""
    before, now = windows(2, 0.0, np.random.default_rng(6))
    same = Served(now.sums, before.arm_of, ARMS + 1, now.history)
    score, information = observed(METRICS, COMPONENTS, before, same)
    assert np.abs(score).max() < 1e-6 * max(information.max(), 1.0)


def test_a_metric_without_data_says_nothing_and_spoils_nothing() -> None:
    before, now = windows(2, 0.0, np.random.default_rng(7))
    sums = before.sums.copy()
    sums[..., :2] = 0
    score, information = observed(METRICS, COMPONENTS, Served(sums, before.arm_of, ARMS + 1, before.history), now)
    assert (score[0], information[0]) == (0.0, 0.0)
    assert information[1] > 0.0
    assert found(Carryover(tuple(score), tuple(information)), METRICS) is None
    assert found(Carryover(), METRICS) is None


def test_arms_of_one_bucket_and_amounts_that_cancel_are_nothing_to_warn_of() -> None:
    """Infinite, a change or an influence would give numpy's warning in the sums, which is an error in the tests."""
    arm_of = np.array([0] * 8 + [1, 1] + [2] * 8)  # of arm 1 a bucket in either half
    sums = np.full((1, 18, 2), 4_000_000)
    sums[0, :, 1] = (np.arange(18) % 5 + 1) * 1_000_000
    alone = sums.copy()
    alone[0, 8:10] = (49_000_000, 1_000_000)  # 1 / 49 * 49 is not 1
    cancelled = sums.copy()
    cancelled[0, :, 1] *= np.where(np.arange(18) % 6 < 3, 1, -1)
    cancelled[0, ::3, 1] = np.array([1, -1] * 3) * 1_000_000  # arm 0 now
    now_of = np.arange(18) % 3
    metrics = (Metric("ratio", "n", "d"),)
    for before, now in ((Served(alone, arm_of, 3), sums), (Served(sums, np.repeat([0, 1, 2], 6), 3), cancelled)):
        score, information = observed(metrics, ("d", "n"), before, Served(now, now_of, 3))
        assert (score[0], information[0]) == (0.0, 0.0)


def test_metrics_share_the_error_budget() -> None:
    """A share between the two radii: one metric's budget would report it, half of it does not."""
    information = 2000.0
    alone, half = (float(radius(np.array(1.0 / information), alpha, TIGHT_SD)) for alpha in (ALPHA, ALPHA / 2))
    known = Carryover(((alone + half) / 2 * information, 0.0), (information, information))
    assert found(known, METRICS[:1]) is not None
    assert found(known, METRICS) is None


@pytest.mark.parametrize(("kappa", "named"), [((0.9, -0.6), "ctr"), ((0.6, -0.9), "watch"), ((-0.9, 0.6), "ctr")])
def test_of_several_metrics_the_one_that_carries_over_most_is_named(kappa: tuple[float, float], named: str) -> None:
    known = Carryover((1000.0 * kappa[0], 1000.0 * kappa[1]), (1000.0, 1000.0))
    why = found(known, METRICS)
    assert why is not None
    assert f"did to {named} still shows" in why
