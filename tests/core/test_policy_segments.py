"""Choosing for several segments, each by what it makes of the whole."""

import msgspec
import numpy as np
import pytest

from controller.core import policy
from controller.core.candidates import rms_distance
from controller.core.goal import Goal, Limit, tolerant
from controller.core.kernel import Hyper, kernel
from controller.core.policy import (
    AHEAD_H,
    BANNED_RADIUS,
    MIN_FEASIBLE,
    p_violation,
    propose,
    recommend,
)
from controller.core.posterior import condition, join
from tests.core.beliefs import BASELINE, GOAL, HYPERS, D, linear, observed


def test_a_group_that_kept_the_baseline_had_no_part_in_a_ban() -> None:
    posterior, rng = linear(group=1), np.random.default_rng(9)
    failed = np.array([[[0.9, 0.3, 0.3], BASELINE]])  # (1, 2, D)
    nothing = np.empty((0, 2, D))
    found = propose(posterior, GOAL, (1, 2), 1.0, arms=40, risk=0.25, previous=nothing, banned=failed, rng=rng)
    unit = found.unit
    assert rms_distance(unit[:, 0], failed[:, 0]).min() >= BANNED_RADIUS
    assert rms_distance(unit[:, 1], BASELINE[None]).min() < BANNED_RADIUS


def test_before_anything_is_known_a_group_keeps_off_its_own_bans_and_the_tightest_says_how_many_arms() -> None:
    """Bans leave the first group what lies between .6 and .64, the second everything."""
    hypers, baseline = (Hyper((0.9,), 0.1, 0.03, 200.0, 0.7),) * 2, np.array([0.5])
    posterior = condition(observed(np.empty((0, 1)), np.empty((2, 0))), baseline, hypers)
    edges = np.array([*np.arange(0.25, 0.54, 0.04), 0.55, 0.69, 0.73, 0.77])
    failed = np.stack((edges, np.full(len(edges), 0.5)), axis=1)[..., None]  # (b, 2, 1)
    rng, nothing = np.random.default_rng(3), np.empty((0, 2, 1))
    found = propose(posterior, GOAL, (1, 2), 0.0, arms=8, risk=0.3, previous=nothing, banned=failed, rng=rng)
    assert 0 < len(found.unit) < 8
    assert found.reasons == ("initial",) * len(found.unit)
    assert np.abs(found.unit[:, 0] - 0.62).max() <= 0.02 + 1e-9
    assert np.abs(found.unit[:, 1] - 0.62).max() > 0.1


def test_a_segment_with_little_to_try_leaves_the_arms_to_the_others() -> None:
    """In the first segment little can be borne, in the second all; the first has its safest vector in more arms."""
    moved = np.linspace(-0.2, 0.2, 41)
    changes = [np.stack([0.1 * moved, -12.0 * moved**2]), np.stack([0.1 * moved, 0.0 * moved])]
    seen = join(
        [observed(0.5 + moved[:, None], own, group, se=0.002) for group, own in zip((1, 2), changes, strict=True)]
    )
    posterior = condition(seen, np.array([0.5]), (Hyper((0.3,), 0.3, 1e-6, 200.0, 0.2),) * 2)
    nothing, rng = np.empty((0, 2, 1)), np.random.default_rng(3)
    found = propose(posterior, GOAL, (1, 2), 1.0, arms=8, risk=0.3, previous=nothing, banned=nothing, rng=rng)
    first, second = found.unit[:, 0], found.unit[:, 1]
    assert len(np.unique(second)) == 8
    assert len(np.unique(first)) < 8
    assert "safe" not in found.reasons
    assert p_violation(posterior, GOAL, first, 1, 1.0).sum() <= 8 * 0.3


def test_a_segment_with_nothing_to_try_keeps_the_baseline_beside_the_others() -> None:
    """In the first segment the guardrail's metric falls wherever the weight moves, in the second it stays."""
    moved = np.linspace(-0.5, 0.5, 41)
    changes = [np.stack([0.1 * moved, -2.0 * np.abs(moved)]), np.stack([0.1 * moved, 0.0 * moved])]
    seen = join(
        [observed(0.5 + moved[:, None], own, group, se=0.001) for group, own in zip((1, 2), changes, strict=True)]
    )
    posterior = condition(seen, np.array([0.5]), (Hyper((0.3,), 0.3, 1e-6, 200.0, 0.2),) * 2)
    nothing, rng = np.empty((0, 2, 1)), np.random.default_rng(3)
    found = propose(posterior, GOAL, (1, 2), 1.0, arms=8, risk=0.05, previous=nothing, banned=nothing, rng=rng)
    assert (found.unit[:, 0] == 0.5).all()
    assert len(np.unique(found.unit[:, 1])) == 8
    assert found.reasons == ("thompson",) * 8


def test_a_pick_of_several_segments_is_as_sure_of_the_guardrails_as_one_of_all_traffic() -> None:
    """In each of five segments gain and risk grow with the first weight, and little is known of the guardrail."""
    unit = np.random.default_rng(4).random((40, D))
    moved = unit[:, 0] - BASELINE[0]
    groups = (1, 2, 3, 4, 5)
    seen = join([observed(unit, np.stack([0.3 * moved, -0.04 * moved]), group, se=0.04) for group in groups])
    posterior = condition(seen, BASELINE, (Hyper((0.9,) * D, 0.1, 1e-6, 200.0, 0.1),) * 2)
    both, rng = np.repeat(unit[:, None], 5, axis=1), np.random.default_rng(5)
    pick = recommend(posterior, GOAL, groups, 1.0, candidates=both, rng=rng)
    assert pick is not None
    kept = [
        1.0 - p_violation(posterior, tolerant(GOAL), pick.unit[[j]], group, 1.0)[0] for j, group in enumerate(groups)
    ]
    assert pick.p_feasible == pytest.approx(np.prod(kept))
    assert pick.p_feasible >= MIN_FEASIBLE
    assert kept[0] < 0.99, "the guardrail binds"


def test_the_regret_of_segments_that_are_alike_is_that_of_one_of_all_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "REGRET_DRAWS", 2000)
    unit = np.random.default_rng(4).random((20, D))
    change = np.stack([0.1 * (unit[:, 0] - 0.4), 0.0 * unit[:, 0]])
    posterior = condition(join([observed(unit, change, group, se=0.02) for group in (1, 2)]), BASELINE, HYPERS)
    regrets = []
    for groups in ((1,), (1, 2)):
        rng, both = np.random.default_rng(5), np.repeat(unit[:, None], len(groups), axis=1)
        pick = recommend(posterior, GOAL, groups, 1.0, candidates=both, rng=rng)
        assert pick is not None
        regrets.append(pick.regret)
    assert regrets[1] == pytest.approx(regrets[0], rel=0.25)


def test_a_segment_that_keeps_an_infeasible_baseline_leaves_nothing_to_recommend() -> None:
    """In one segment the guardrail's metric can rise, in the other nothing changes anything."""
    unit = np.random.default_rng(4).random((60, D))
    change = np.stack([0.1 * (unit[:, 0] - 0.4), -0.1 * (unit[:, 1] - 0.5)])
    posterior = condition(join([observed(unit, change, 1), observed(unit, 0.0 * change, 2)]), BASELINE, HYPERS)
    rng, candidates = np.random.default_rng(5), np.repeat(unit[:, None], 2, axis=1)
    for limit, found in ((-0.01, True), (0.02, False)):
        goal = Goal((1.0, 0.0), (Limit(1, 1, limit),))
        assert (recommend(posterior, goal, (1, 2), 1.0, candidates=candidates, rng=rng) is not None) == found


def test_segments_choose_for_themselves() -> None:
    unit = np.random.default_rng(4).random((60, D))
    posterior = condition(
        join(
            [
                observed(unit, np.stack([turn * 0.1 * (unit[:, 0] - 0.4), 0.0 * unit[:, 0]]), group)
                for group, turn in ((1, 1.0), (2, -1.0))
            ]
        ),
        BASELINE,
        (Hyper((0.9,) * D, 0.1, 0.03, 200.0, 0.3),) * 2,
    )
    rng = np.random.default_rng(5)
    before = np.empty((0, 2, D))
    proposal = propose(posterior, GOAL, (1, 2), 1.0, arms=6, risk=0.25, previous=before, banned=before, rng=rng)
    assert proposal.unit.shape == (6, 2, D)
    assert np.median(proposal.unit[:, 0, 0]) > 0.7
    assert np.median(proposal.unit[:, 1, 0]) < 0.2
    pick = recommend(posterior, GOAL, (1, 2), 1.0, candidates=proposal.unit, rng=rng)
    assert pick is not None
    assert pick.unit[0, 0] > 0.8
    assert pick.unit[1, 0] < 0.1
    assert pick.gain_mean == pytest.approx((0.06 + 0.04) / 2, abs=0.02)


def test_what_was_dealt_to_a_group_is_dealt_again_and_recommended_in_that_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first group gains as the first weight rises, the second as it falls."""
    unit = np.random.default_rng(4).random((60, D))
    gains = [np.stack([turn * (unit[:, 0] - 0.4), 0.0 * unit[:, 0]]) for turn in (0.1, -0.1)]
    seen = join([observed(unit, own, group, se=0.001) for group, own in zip((1, 2), gains, strict=True)])
    posterior, rng = condition(seen, BASELINE, HYPERS), np.random.default_rng(5)
    before = np.full((2, 2, D), 0.5)
    before[:, :, 0] = [[0.95, 0.05], [0.85, 0.15]]
    nothing = np.empty((0, 2, D))
    found = propose(posterior, GOAL, (1, 2), 1.0, arms=8, risk=0.25, previous=before, banned=nothing, rng=rng)
    assert found.reasons[:3] == ("repeat", "repeat", "thompson")
    np.testing.assert_array_equal(found.unit[:2], before)
    monkeypatch.setattr(policy, "CLIMBS", 0)
    pick = recommend(posterior, GOAL, (1, 2), 1.0, candidates=before, rng=rng)
    assert pick is not None
    np.testing.assert_array_equal(pick.unit, before[0])


def test_a_gain_over_groups_is_as_sure_as_joint_draws_of_it() -> None:
    """Groups share what they have in common; traffic of no group gains nothing."""
    unit = np.random.default_rng(4).random((30, D))
    change = np.stack([0.1 * (unit[:, 0] - 0.4), 0.05 * (unit[:, 2] - 0.3)])
    seen = join([observed(unit, change, group, se=0.02) for group in (1, 2)])
    hypers = (Hyper((0.9,) * D, 0.1, 0.3, 200.0, 0.7), Hyper((0.5,) * D, 0.05, 0.1, 200.0, 0.9))
    posterior = msgspec.structs.replace(condition(seen, BASELINE, hypers), factors=((0, 1), (1,)))
    goal, shares = Goal((1.0, 0.5), ()), np.array([[0.3, 0.5], [0.1, 0.6]])
    rng, both = np.random.default_rng(5), np.stack([unit, unit], axis=1)
    pick = recommend(posterior, goal, (1, 2), 1.0, candidates=both, rng=rng, shares=shares)
    assert pick is not None
    places = posterior.places(pick.unit, np.array([1, 2]), 1.0, AHEAD_H)
    rng, f = np.random.default_rng(6), []
    for p, hyper in enumerate(hypers):
        mean, V = posterior.project(p, places)
        covariance = kernel(hyper, BASELINE, places, places) - V.T @ V
        f.append(rng.multivariate_normal(mean, covariance, 200_000))
    drawn = np.einsum("m,mg,smg->s", goal.objective, shares, posterior.product(np.stack(f, axis=1)))
    assert pick.gain_mean == pytest.approx(drawn.mean(), rel=0.02)
    assert pick.gain_sd == pytest.approx(drawn.std(), rel=0.02)
    assert pick.p_better == pytest.approx((drawn > 0.0).mean(), abs=0.01)


def test_a_segment_weighs_each_metric_by_what_it_makes_of_it() -> None:
    """Only in the first segment do weights do anything: one metric rises there as fast as the other falls."""
    unit = np.random.default_rng(4).random((60, D))
    rise = 0.1 * (unit[:, 0] - 0.4)
    first, second = np.stack([rise, -rise]), np.stack([0.0 * rise] * 2)
    posterior = condition(join([observed(unit, first, 1), observed(unit, second, 2)]), BASELINE, HYPERS)
    goal, both = Goal((1.0, 1.0), ()), np.repeat(unit[:, None], 2, axis=1)
    for most in (0, 1):  # which metric the first segment makes most of: all traffic gains where that one rises
        shares = np.array([[0.9, 0.1], [0.1, 0.9]])[[most, 1 - most]]
        rng, nothing = np.random.default_rng(5), both[:0]
        pick = recommend(posterior, goal, (1, 2), 1.0, candidates=both, rng=rng, shares=shares)
        assert pick is not None
        assert pick.gain_mean == pytest.approx(0.8 * 0.1 * (0.6, 0.4)[most], abs=0.01)
        assert (pick.unit[0, 0] > 0.8) == (most == 0)
        found = propose(
            posterior, goal, (1, 2), 1.0, arms=8, risk=0.25, previous=nothing, banned=nothing, rng=rng, shares=shares
        )
        assert (np.median(found.unit[:, 0, 0]) > 0.7) == (most == 0)


def test_a_segment_that_makes_nothing_of_the_objective_is_dealt_to_all_the_same() -> None:
    goal, rng, nothing = Goal((1.0, 0.0), ()), np.random.default_rng(5), np.empty((0, 2, D))
    shares = np.array([[1.0, 0.0], [0.5, 0.5]])
    found = propose(
        linear(1), goal, (1, 2), 1.0, arms=4, risk=0.25, previous=nothing, banned=nothing, rng=rng, shares=shares
    )
    assert found.unit.shape == (4, 2, D)
    pick = recommend(linear(1), goal, (1, 2), 1.0, candidates=found.unit, rng=rng, shares=shares)
    assert pick is not None
    np.testing.assert_array_equal(pick.unit[1], BASELINE)
