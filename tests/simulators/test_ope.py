"""Off-policy estimates against the truth, by calibration, and beside the Open Bandit Pipeline's."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.ope import made_up, obp_values
from simulators import ope
from simulators.ope import Estimate, Floats, Log
from simulators.reward_log import Columns, read_logs

ACTIONS, CONTEXTS = 5, 3
OBD = Columns("click", "propensity_score", "item_id", ("position",))

# obp 0.4.1 on the same rows with the same predicted rewards: InverseProbabilityWeighting,
# SelfNormalizedInverseProbabilityWeighting, DoublyRobust
OBP_SYNTHETIC = (0.1399501240883113, 0.14231977631337975, 0.14264597142081778)
OBP_OBD = {  # Open Bandit Dataset, small release (Saito et al. 2020, CC BY 4.0): logged by, campaign
    ("bts", "men"): (0.003008626327256482, 0.0031894231622774027, 0.003220389504321897),
    ("bts", "women"): (0.00743757754192316, 0.0023730461434477677, -0.0021939791927457646),
    ("random", "men"): (0.005656266700835461, 0.005739864701951365, 0.005652039296585522),
    ("random", "women"): (0.0058056917829497874, 0.005833036087191038, 0.005854133784375976),
}


def bandit(seed: int, n: int = 4000) -> tuple[Log, Floats, float]:
    """A log, a target policy and its true value."""
    return made_up(seed, n, ACTIONS, CONTEXTS)


def values(found: list[Estimate]) -> list[float]:
    return [each.value for each in found]


def test_estimates_equal_the_open_bandit_pipelines() -> None:
    log, target, _ = bandit(0)
    assert values(ope.evaluate(log, target)[0]) == pytest.approx(OBP_SYNTHETIC, rel=1e-12)


def test_estimates_equal_an_installed_open_bandit_pipelines() -> None:
    pytest.importorskip("obp.ope", exc_type=ImportError)
    for seed in range(5):
        log, target, _ = bandit(seed)
        assert values(ope.evaluate(log, target)[0]) == pytest.approx(obp_values(log, target), rel=1e-12)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    covered, strays = [], []
    for seed in range(400):
        log, target, truth = bandit(seed, n=1500)
        found, _ = ope.evaluate(log, target)
        covered.append([each.low <= truth <= each.high for each in found])
        strays.append([(each.value - truth) / each.se for each in found])
    assert np.mean(covered, axis=0).min() > 0.92  # 0.95 - 3 standard errors of 400 runs
    assert np.abs(np.mean(strays, axis=0)).max() < 3.5 / np.sqrt(400)
    assert np.std(strays, axis=0) == pytest.approx(np.ones(3), abs=0.12)


def test_of_the_three_the_doubly_robust_errs_least_where_rewards_can_be_predicted() -> None:
    errors = []
    for seed in range(100):
        log, target, truth = bandit(seed)
        errors.append(np.array(values(ope.evaluate(log, target)[0])) - truth)
    ips, snips, dr = np.sqrt(np.mean(np.square(errors), axis=0))
    assert dr < snips
    assert dr < ips


def test_the_policy_that_made_the_log_has_weights_of_one() -> None:
    log, _, _ = bandit(1)
    w = np.ones(len(log.reward))
    assert ope.weights(w) == ope.Weights(4000, 4000.0, 1.0, 1.0, 0.0)
    assert ope.ips(log.reward, w).value == ope.snips(log.reward, w).value == log.reward.mean()
    own = ope.on_policy(log.reward)
    assert own.se == pytest.approx(log.reward.std(ddof=1) / np.sqrt(4000))
    assert own.high - own.value == pytest.approx(1.959964 * own.se, rel=1e-6)


def test_few_rows_speak_for_a_policy_that_the_log_hardly_tried() -> None:
    w = np.concatenate([np.full(9_900, 0.01), np.full(100, 100.0)])
    assert ope.weights(w).effective == pytest.approx(102, abs=1)


def test_what_the_log_never_shows_is_missed_and_moves_the_mean_weight() -> None:
    """A third of what the target does, the log never did: no interval holds, however many rows count."""
    rng = np.random.default_rng(3)
    reward, action, context = (
        rng.binomial(1, 0.3, 4000).astype(float),
        rng.integers(0, 2, 4000),
        np.zeros(4000, np.int64),
    )
    log = Log(reward, np.full(4000, 0.5), action, context, 3, 1)
    about = ope.evaluate(log, np.full((1, 3), 1 / 3))[1]
    assert about.missed == pytest.approx(1 / 3)
    assert about.mean == pytest.approx(2 / 3)
    assert about.effective > 3999
    assert not about.enough
    assert ope.evaluate(log, np.array([[0.4, 0.6, 0.0]]))[1].enough
    assert not ope.weights(np.zeros(4000)).enough


def test_intervals_are_trusted_where_enough_rows_count_with_a_mean_of_one_and_nothing_is_missed() -> None:
    w = np.tile([0.5, 1.5], 200)
    found = ope.weights(w, missed=0.01)
    assert (found.n, found.mean, found.largest) == (400, 1.0, 1.5)
    assert found.effective == pytest.approx(400**2 / (200 * (0.5**2 + 1.5**2)))
    assert found.mean_se == pytest.approx(stats.sem(w))
    assert found.enough
    assert not ope.weights(w, missed=0.011).enough
    assert not ope.weights(w[:100]).enough  # of 100 rows 80 count
    assert [ope.weights(w * mean).enough for mean in (0.85, 0.95, 1.05, 1.15)] == [False, True, True, False]


def test_a_self_normalised_estimate_has_the_jackknife_s_error_whatever_the_weights_add_up_to() -> None:
    rng = np.random.default_rng(4)
    w, r = rng.gamma(2.0, 0.5, 3000), rng.binomial(1, 0.3, 3000).astype(float)
    left_out = ((w * r).sum() - w * r) / (w.sum() - w)
    for scale in (1.0, 3.0):
        found = ope.snips(r, scale * w)
        assert found.value == pytest.approx(float(np.average(r, weights=w)))
        assert found.se == pytest.approx(np.sqrt(2999 * np.var(left_out)), rel=0.01)


def test_what_a_policy_does_and_misses_by_hand() -> None:
    log = Log(np.zeros(4), np.full(4, 0.5), np.array([0, 1, 0, 1]), np.array([0, 0, 0, 1]), 3, 3)
    target = np.array([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    assert ope.missed(log, target) == pytest.approx((3 * 0.25 + 0.7) / 4)
    assert ope.evaluate(log, target)[1].missed == ope.missed(log, target)
    expected = [[2 / 3, 1 / 3, 0.0], [0.0, 1.0, 0.0], [1 / 3, 1 / 3, 1 / 3]]
    assert ope.allocation(log) == pytest.approx(np.array(expected))


def test_an_interval_is_as_wide_as_its_level_asks_and_of_one_row_without_end() -> None:
    log, target, _ = bandit(6)
    for each in ope.evaluate(log, target, level=0.5)[0]:
        assert (each.high - each.value, each.value - each.low) == pytest.approx([stats.norm.ppf(0.75) * each.se] * 2)
    one = Log(np.ones(1), np.full(1, 0.5), np.zeros(1, np.int64), np.zeros(1, np.int64), 2, 1)
    found, _ = ope.evaluate(one, np.array([[0.25, 0.75]]))
    assert [each.value for each in found[:2]] == [0.5, 1.0]
    assert [(each.low, each.high) for each in found] == [(-np.inf, np.inf)] * 3


def test_a_rows_own_reward_does_not_predict_it() -> None:
    log, _, _ = bandit(2, n=50)
    before = ope.rewards(log)
    reward = log.reward.copy()
    reward[7] = 1_000.0
    after = ope.rewards(Log(reward, log.propensity, log.action, log.context, ACTIONS, CONTEXTS))
    assert np.array_equal(after[7], before[7])
    assert not np.array_equal(after, before)


@pytest.mark.skipif("TRIMTAB_DATA" not in os.environ, reason="TRIMTAB_DATA does not name the shared data")
@pytest.mark.parametrize("campaign", ["men", "women"])
def test_the_open_bandit_data_say_of_one_policy_what_the_other_earned(campaign: str) -> None:
    folder = Path(os.environ["TRIMTAB_DATA"]) / "obd_small"
    random, bts = read_logs([folder / policy / campaign / f"{campaign}.csv" for policy in ("random", "bts")], OBD)
    assert (len(random.reward), len(bts.reward), random.contexts) == (10_000, 10_000, 3)
    for log, target, other, name in (
        (bts, ope.uniform(bts), random, "bts"),
        (random, ope.allocation(bts), bts, "random"),
    ):
        found, about = ope.evaluate(log, target)
        assert values(found) == pytest.approx(OBP_OBD[name, campaign], rel=1e-12)
        earned = ope.on_policy(other.reward)
        for each in found:
            assert abs(each.value - earned.value) < 1.96 * np.hypot(each.se, earned.se)
        assert (about.effective < 100) == (name == "bts" and campaign == "women")
