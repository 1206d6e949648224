"""Limits, their margins, and how probably they are kept."""

import numpy as np
import pytest
from scipy import stats

from controller.core.estimate import Metric
from controller.core.goal import TAIL, TOLERANCE, Goal, Limit, goal_of, margins, outermost, p_kept, tolerant
from controller.core.safety import Guardrail


def test_a_goal_is_read_from_the_study() -> None:
    metrics = (Metric("ctr", "clicks", "impressions"), Metric("reports", "reports", "buckets"))
    goal = goal_of(metrics, {"ctr": 2.0}, (Guardrail("reports", max_change=0.01), Guardrail("ctr", min_change=-0.005)))
    assert goal == Goal((2.0, 0.0), (Limit(1, -1, 0.01), Limit(0, 1, -0.005)))
    f = np.array([[0.0, -0.01], [0.0, 0.02]])
    np.testing.assert_allclose(margins(goal, f), [[0.01, -0.01], [0.005, -0.005]])


def test_limits_are_kept_with_the_normal_s_probability() -> None:
    goal = Goal((1.0, 0.0), (Limit(0, 1, -0.01), Limit(1, -1, 0.02)))
    mean, sd = np.array([[0.0], [0.01]]), np.array([[0.02], [0.03]])
    expected = stats.norm.sf(-0.01, 0.0, 0.02) * stats.norm.cdf(0.02, 0.01, 0.03)
    assert p_kept(goal, mean, sd)[0] == pytest.approx(expected)
    assert p_kept(Goal((1.0,), ()), mean, sd).tolist() == [1.0]


def test_between_two_limits_a_metric_can_miss_only_one() -> None:
    band = Goal((1.0, 0.0), (Limit(0, 1, -0.01), Limit(0, -1, 0.01), Limit(1, 1, -0.02), Limit(0, 1, -0.05)))
    mean, sd = np.array([[0.0, 0.004, 0.5], [0.0, 0.01, 0.0]]), np.array([[0.01, 0.05, 0.01], [0.03, 0.02, 0.01]])
    inside = stats.norm.cdf(0.01, mean[0], sd[0]) - stats.norm.cdf(-0.01, mean[0], sd[0])
    assert p_kept(band, mean, sd) == pytest.approx(inside * stats.norm.sf(-0.02, mean[1], sd[1]))


def test_a_limit_met_without_doubt_is_kept_and_one_missed_is_not() -> None:
    goal, sure = Goal((1.0,), (Limit(0, 1, 0.0),)), np.zeros((1, 2))
    assert p_kept(goal, np.array([[0.0, -1e-6]]), sure).tolist() == [1.0, 0.0]


def test_the_tolerance_moves_a_limit_out_by_a_part_of_it() -> None:
    goal = Goal((1.0,), (Limit(0, 1, -0.01), Limit(0, -1, 0.02), Limit(0, 1, 0.01), Limit(0, 1, 0.0)))
    limits = [own.limit for own in tolerant(goal).limits]
    assert limits == pytest.approx(
        [-0.01 * (1 + TOLERANCE), 0.02 * (1 + TOLERANCE), 0.01 * (1 - TOLERANCE), 0.0], abs=1e-12
    )


def test_the_outermost_limits_are_beyond_the_baseline_too() -> None:
    """A rise that is asked for is no reason to bear a fall."""
    goal = Goal((1.0,), (Limit(0, 1, -0.01), Limit(0, -1, 0.02), Limit(0, 1, 0.01), Limit(0, -1, -0.01)))
    assert [own.limit for own in outermost(goal).limits] == pytest.approx([-0.01 - TAIL, 0.02 + TAIL, -TAIL, TAIL])
