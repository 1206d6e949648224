"""Relative changes of metrics that have few events a deal: without bias, and never sure of what luck did."""

import numpy as np
import pytest

from controller.core.estimate import BUCKETS, Changes, Metric, Served, at_cap, by_past, relative_changes, usable


def with_past(metric: Metric, served: Served) -> Changes:
    """Of one metric, as the belief has it."""
    components = (metric.numerator, metric.denominator)
    return by_past(relative_changes((metric,), components, served), (metric,), components, served)


@pytest.mark.parametrize("total", [1600, 400, 100, 20, 5])  # of events on control: standard errors of 2.5 to 45 %
@pytest.mark.parametrize(("effect", "spread"), [(0.0, 0.0), (0.2, 0.15)])
def test_a_mean_weighted_by_precision_is_unbiased_for_rare_events(total: int, effect: float, spread: float) -> None:
    """Eight arms of 40 buckets; the whole covariance weighs, as it does in the posterior.

    With arms' variances at levels of their own the mean is up to 6 points low at 400, and an arm without events is
    taken to be sure of it at 100. With 20 and 5 nothing would be known by control's level alone.
    """
    rng, reports = np.random.default_rng((total, int(100 * effect))), Metric("report_rate", "reports", "shown")
    weighted, weight, used, past = 0.0, 0.0, 0, np.zeros((1, 1000, 2))
    for _ in range(500):
        arm_of = np.zeros(1000, np.int64)
        arm_of[rng.permutation(1000)[:320]] = np.repeat(np.arange(1, 9), 40)
        true = np.append(0.0, effect + spread * np.clip(rng.normal(size=8), -2.0, 2.0))
        shown = rng.poisson(60.0, 1000)
        events = rng.poisson(total / 680 / 60 * shown * (1.0 + true[arm_of]))
        sums = np.stack([events, shown], axis=-1)[None] * 10**6
        found = with_past(reports, Served(sums, arm_of, 9, past))
        if usable(found)[0]:
            inverse = np.linalg.inv(found.covariance[0, 0])
            weighted += float(inverse.sum(axis=0) @ (found.change[0, 0] - true[1:]))
            weight += float(inverse.sum())
            used += 1
        past = 0.95 * past + sums
    assert used > 470  # the first windows of a metric with five events have no past to be compared with
    assert abs(weighted / weight) < 0.004 + 2.0 * effect / total**0.5 + 3.0 / np.sqrt(weight)


def test_few_events_are_compared_with_the_level_before_the_deal() -> None:
    """Of 600 impressions of control four are reported and of 300 of an arm one, where one in a hundred was."""
    arm_of = np.repeat([0, 1], [60, 30])
    sums = np.stack([np.isin(np.arange(90), [1, 12, 23, 34, 70]), np.full(90, 10)], axis=-1)[None] * 10**6
    past = np.full((1, 90, 2), [1e6, 100e6])
    found = with_past(Metric("reports", "reports", "shown"), Served(sums, arm_of, 2, past))
    variance = 90 / 89 * (5 - 5**2 / 90) / 5**2 * (5 / 900 / 0.01)  # of the level of 90 buckets, were they as before
    assert found.change[0, 0, 0] == pytest.approx((1 / 300 - 4 / 600) / 0.01)
    assert found.covariance[0, 0, 0, 0] == pytest.approx(variance * (90 / 60 + 90 / 30))
    assert usable(found).all()


def test_a_past_at_another_level_is_none_to_compare_with() -> None:
    """Revenue that comes hours late is a tenth of itself in the past: relative to that, arms had changes of 900 %."""
    rng, arm_of = np.random.default_rng(29), np.repeat([0, 1], [600, 400])
    reports, past = Metric("reports", "reports", "shown"), np.full((1, 1000, 2), [0.03e6, 1e6])
    for level, found in ((0.03, True), (0.15, False)):
        sums = np.stack([rng.poisson(level, 1000), np.ones(1000)], axis=-1)[None].astype(np.int64) * 10**6
        own = relative_changes((reports,), ("reports", "shown"), Served(sums, arm_of, 2, past))
        assert usable(with_past(reports, Served(sums, arm_of, 2, past)))[0] == found
        assert not usable(own)[0]


def test_a_control_without_events_is_no_level_to_compare_with() -> None:
    """Corrected by the buckets' past its level of 0 was a little more, in every third deal: arms were 60 times it."""
    rng, arm_of = np.random.default_rng(23), np.repeat([0, 1, 2], [60, 30, 30])
    reports = Metric("reports", "reports", "shown")
    for _ in range(100):
        events = rng.poisson(0.1, 120) * (arm_of > 0)
        sums = np.stack([events, rng.poisson(10, 120) + 1], axis=-1)[None] * 10**6
        past = np.stack([rng.poisson(0.3, 120), np.full(120, 10.0)], axis=-1)[None] * 1e6
        assert not usable(with_past(reports, Served(sums, arm_of, 3, past)))[0]


def test_the_deals_that_are_used_are_not_those_in_which_control_was_lucky() -> None:
    """With 100 events on control half of the deals are used: judged by control's own s.e. arms are 7 % low in them."""
    rng, arm_of = np.random.default_rng(21), np.repeat(np.arange(9), [680, *[40] * 8])
    change = []
    for _ in range(1000):
        sums = np.stack([rng.poisson(100 / 680, 1000), np.full(1000, 5)], axis=-1)[None] * 10**6
        reports = Metric("reports", "reports", "shown")
        found = relative_changes((reports,), ("reports", "shown"), Served(sums, arm_of, 9))
        if usable(found)[0]:
            change.append(found.change[0, 0].mean())
    assert 300 < len(change) < 700
    assert abs(np.mean(change)) < 3.0 * np.std(change) / np.sqrt(len(change))


def test_arms_without_buckets_or_revenue_say_nothing_and_warn_of_nothing() -> None:
    """The last arm has no bucket, and nobody has bought: with a cap too, which revenue's share at it is asked of."""
    arm_of, components = np.repeat([0, 1], [60, 30]), ("revenue", at_cap("revenue"), "shown")
    sums = np.tile(np.array([0, 0, 10**6]), (1, 90, 1))
    metric = (Metric("revenue_rate", "revenue", "shown"),)
    served = Served(sums, arm_of, 3, np.tile([2e6, 1e6, 10e6], (1, 90, 1)))
    found = by_past(relative_changes(metric, components, served), metric, components, served)
    assert not usable(found).any()


def bought(rng: np.random.Generator, slots: int, at: float) -> tuple[Served, Served]:
    """Few purchases an impression in three arms, of which a part is `at` the cap; with the cap and without."""
    arm_of = np.repeat([0, 1, 2], [60, 30, 30])
    level = np.array([[1.0], [0.7], [1.3]])[:slots]
    shown, events = rng.poisson(50.0, (slots, 120)), rng.poisson(np.where(arm_of == 1, 0.5, 0.25) * level)
    sums = np.stack([events, at * events, shown], axis=-1) * 1e6
    before = rng.poisson(30.0 * level, (slots, 120))
    past = np.stack([before, 0.0 * before, np.full((slots, 120), 5000.0)], axis=-1)
    capped = Served(sums.astype(np.int64), arm_of, 3, past)
    return capped, Served(capped.sums[..., ::2], arm_of, 3, past[..., ::2])


def test_what_a_cap_hides_of_few_events_is_added_too() -> None:
    capped, plain = bought(np.random.default_rng(30), 1, 0.25)
    metric, names = (Metric("revenue_rate", "revenue", "shown"),), ("revenue", at_cap("revenue"), "shown")
    found = by_past(relative_changes(metric, names, capped), metric, names, capped)
    blind = with_past(metric[0], plain)
    assert found.control_relative_se[0, 0] == blind.control_relative_se[0, 0] < 0.1, "by the past"
    means = [capped.sums[0, capped.arm_of == a, 0].mean() for a in range(3)]
    hidden = 0.25 / 0.75 * (np.array(means[1:]) / means[0] - 1.0)
    np.testing.assert_allclose(found.covariance[0, 0] - blind.covariance[0, 0], np.diag(hidden**2), atol=1e-12)


def test_every_segment_s_few_events_are_compared_with_its_own_past() -> None:
    _, served = bought(np.random.default_rng(31), 3, 0.0)
    assert served.history is not None
    rate = Metric("revenue_rate", "revenue", "shown")
    found = with_past(rate, served)
    assert (found.control_relative_se < 0.1).all()
    for group, slots in ((0, slice(None)), (1, slice(1, 2)), (2, slice(2, 3))):
        one = [part[slots].sum(axis=0, keepdims=True) for part in (served.sums, served.history)]
        alone = with_past(rate, Served(one[0], served.arm_of, 3, one[1]))
        assert found.control_relative_se[0, group] == pytest.approx(alone.control_relative_se[0, 0])
        np.testing.assert_allclose(found.change[0, group], alone.change[0, 0])
        np.testing.assert_allclose(found.covariance[0, group], alone.covariance[0, 0])


def test_few_events_a_bucket_are_compared_with_control_s_whatever_they_were() -> None:
    """A quiet hour after busy ones, or the other way round, is no change of anybody's."""
    _, served = bought(np.random.default_rng(32), 1, 0.0)
    assert served.history is not None
    served = Served(served.sums, served.arm_of, 3, served.history / 100.0)  # as much as in the deal
    metrics, names = (Metric("rate", "revenue", "shown"), Metric("revenue", "revenue", BUCKETS)), ("revenue", "shown")
    own = relative_changes(metrics, names, served)
    found = by_past(own, metrics, names, served)
    assert (own.control_relative_se > 0.1).all()
    assert (found.control_relative_se[:, 0] < 0.1).tolist() == [True, False]
    np.testing.assert_array_equal(found.change[1], own.change[1])
    np.testing.assert_array_equal(found.covariance[1], own.covariance[1])
