"""The A/A test: a sound pipeline passes however noisy it is, a broken one does not; what it tells of noise is true."""

import numpy as np
import pytest

from controller.core import rollout
from controller.core.aa import ALPHA, difference, noise, p_values
from controller.core.estimate import Metric, Served, relative_changes

B, ARMS, SHARE = 400, 8, 0.4
METRICS = (Metric("ctr", "clicks", "impressions"), Metric("watch", "watch_s", "buckets"))
COMPONENTS = ("impressions", "clicks", "watch_s")


def deals(
    number: int, rng: np.random.Generator, trait: float = 0.1, tail: float = 0.0, broken: float = 0.0
) -> list[Served]:
    """A/A deals of a window each. `tail`: sd of the log of a bucket's luck. `broken`: of arm 3's watch time is lost."""
    trait_of, activity = trait * rng.standard_normal(B), rng.gamma(8.0, 0.125, B)
    history, found = np.zeros((1, B, 3)), []
    for _ in range(number):
        arm_of = rollout.shuffled(B, ARMS, SHARE, rng).astype(np.int64)
        impressions = rng.poisson(500 * activity)
        clicks = rng.binomial(impressions, 0.1)
        luck = np.exp(tail * rng.standard_normal(B)) if tail else 1.0 + 0.1 * rng.standard_normal(B)
        watch = 500.0 * activity * (1.0 + trait_of) * luck * np.where(arm_of == 3, 1.0 - broken, 1.0)
        sums = np.rint(np.stack((impressions, clicks, watch), axis=-1)[None] * 1e6).astype(np.int64)
        found.append(Served(sums, arm_of, ARMS + 1, history))
        history = 0.95 * history + sums
    return found


@pytest.mark.parametrize("tail", [0.0, 1.0])
def test_p_values_of_a_sound_pipeline_are_uniform(tail: float) -> None:
    rng = np.random.default_rng(1)
    p = np.array([p_values(METRICS, COMPONENTS, deals(2, rng, tail=tail)) for _ in range(300)])
    for alpha in (0.3, 0.1, 0.01, 0.001):
        # the arms of a deal are nearly independent
        assert abs((p < alpha).mean() - alpha) < 4 * np.sqrt(alpha * (1 - alpha) / p.size)


def test_p_values_are_uniform_where_most_buckets_have_nothing() -> None:
    """Three of four are alike, so the normal scores of all do not add up to nothing."""
    rng, bought, p = np.random.default_rng(8), (Metric("bought", "bought", "buckets"),), []
    for _ in range(300):
        sums = rng.poisson(0.3, (1, B, 1)) * 10**6
        arm_of = rollout.shuffled(B, ARMS, SHARE, rng).astype(np.int64)
        p.append(p_values(bought, ("bought",), [Served(sums, arm_of, ARMS + 1)])[0])
    for alpha in (0.3, 0.1, 0.01):
        assert abs((np.array(p) < alpha).mean() - alpha) < 4 * np.sqrt(alpha * (1 - alpha) / (300 * (ARMS + 1)))


def test_an_arm_that_loses_some_of_a_metric_is_found() -> None:
    rng = np.random.default_rng(2)
    why = [difference(METRICS, COMPONENTS, deals(4, rng, broken=0.2), looks=4) for _ in range(10)]
    assert all(w is not None and w.startswith("A/A: watch of arm 3 differs") for w in why)


def test_deals_add_up() -> None:
    found = deals(8, np.random.default_rng(3), broken=0.08)
    p = [p_values(METRICS, COMPONENTS, found[:k])[1, 3] for k in (1, 4, 8)]
    assert p[2] < p[1] < p[0]


def test_a_control_that_is_counted_otherwise_is_found() -> None:
    rng, found = np.random.default_rng(6), []
    for deal in deals(3, rng):
        sums = deal.sums.copy()
        sums[0, deal.arm_of == 0, 1] = sums[0, deal.arm_of == 0, 1] * 95 // 100
        found.append(Served(sums, deal.arm_of, deal.arms, deal.history))
    why = difference(METRICS, COMPONENTS, found, looks=3)
    assert why is not None
    assert why.startswith("A/A: ctr of control differs from the others', though all serve the baseline")


def test_a_sound_pipeline_is_not_refused() -> None:
    rng = np.random.default_rng(4)
    assert all(difference(METRICS, COMPONENTS, deals(2, rng, tail=0.5), looks=2) is None for _ in range(60))
    assert ALPHA == 1e-4


def test_what_was_not_measured_is_no_difference() -> None:
    assert difference(METRICS, COMPONENTS, [], 1) is None
    (deal,) = deals(1, np.random.default_rng(7))
    sums = deal.sums.copy()
    sums[..., :2] = 0
    blank = Served(sums, deal.arm_of, deal.arms, deal.history)
    assert (p_values(METRICS, COMPONENTS, [blank])[0] == 1.0).all()
    told = noise(METRICS, COMPONENTS, [blank], (0.4, 0.6), 24)
    assert np.isnan([told[0].arm_se, told[0].test_se]).all()
    assert np.isfinite([told[1].arm_se, told[1].test_se]).all()


def test_the_noise_is_what_repeated_deals_show() -> None:
    found = deals(60, np.random.default_rng(5), trait=0.2)[10:]  # after the past is known
    told = noise(METRICS, COMPONENTS, found[:10], (0.5, 0.5), windows=4)
    for m, figures in enumerate(told):
        measured = [relative_changes(METRICS, COMPONENTS, d) for d in found]
        changes = np.concatenate([changes.change[m, 0] for changes in measured])
        assert figures.arm_se == pytest.approx(changes.std(), rel=0.15)
        one_arm = 1.0 / 20 + 1.0 / 240
        assert figures.test_se == pytest.approx(figures.arm_se / np.sqrt(one_arm) * np.sqrt(4.0 / B / 4))
