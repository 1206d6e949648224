"""Relative changes: closed forms, calibration against a known world, invariances."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from controller.core.estimate import BUCKETS, BY_LUCK, Changes, Metric, Served, combined_se, relative_changes, usable

COMPONENTS = ("impressions", "clicks", "watch_s")
METRICS = (
    Metric("ctr", "clicks", "impressions"),
    Metric("watch", "watch_s", BUCKETS),
    Metric("shown", "impressions", BUCKETS),
)


def deal(
    rng: np.random.Generator, effects: NDArray[np.float64], per_arm: int = 60, slots: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sums (slots, B, 3) and arm_of (B,) of a world whose ctr and watch change by `effects` (A,)."""
    arm_of = np.repeat(np.arange(len(effects)), per_arm)
    size = (slots, len(arm_of))
    impressions = rng.gamma(8.0, 25.0, size).round() + 1
    rate = np.clip(0.2 + 0.03 * rng.standard_normal(size) + 1e-4 * (impressions - 200), 0.01, 0.9) * (
        1 + effects[arm_of]
    )
    clicks = rng.binomial(impressions.astype(np.int64), np.clip(rate, 0, 1))
    watch = rng.gamma(4.0, 25.0, size) * (1 + effects[arm_of])
    return (np.stack([impressions, clicks, watch], axis=-1) * 1e6).round().astype(np.int64), arm_of


def estimate(sums: NDArray[np.int64], arm_of: NDArray[np.int64], arms: int) -> Changes:
    return relative_changes(METRICS, COMPONENTS, Served(sums, arm_of, arms))


def expected_covariance(r: Any, v: Any, buckets: Any) -> Any:
    """S of the arms' levels r and variances v, control first: at the level in common, with control's beside."""
    ratio, relative = r[1:] / r[0], v / r[0] ** 2
    change, noise = float(np.mean(ratio - 1)), float(np.mean(relative[1:])) / len(ratio) + relative[0]
    level = 1 + change * max(0.0, 1 - 4 * noise / change**2)
    n, control = buckets[1:], relative[0] * buckets[0] / buckets[1:] * level**2
    own = ((n - 1) * relative[1:] * (level / ratio) ** 2 + 120 * control) / (n - 1 + 120)
    return np.diag(own) + level**2 * relative[0]


def test_closed_form_of_a_mean_over_buckets() -> None:
    rng = np.random.default_rng(1)
    sums, arm_of = deal(rng, np.array([0.0, 0.1, -0.1]), per_arm=30)
    changes = estimate(sums, arm_of, 3)
    watch = sums[0, :, 2].reshape(3, 30) / 1e6
    r, v = watch.mean(axis=1), watch.var(axis=1, ddof=1) / 30
    expected = r[1:] / r[0] * (1 - v[0] / r[0] ** 2) - 1
    covariance = expected_covariance(r, v, np.array([30, 30, 30]))
    np.testing.assert_allclose(changes.change[1, 0], expected, rtol=1e-12)
    np.testing.assert_allclose(changes.covariance[1, 0], covariance, rtol=1e-12)
    np.testing.assert_allclose(changes.control[1, 0], r[0])
    np.testing.assert_allclose(changes.control_relative_se[1, 0], np.sqrt(v.mean()) / r.mean())


def test_closed_form_of_a_ratio() -> None:
    sums, arm_of = deal(np.random.default_rng(2), np.array([0.0, 0.2]), per_arm=40)
    changes = estimate(sums, arm_of, 2)
    shown, clicks = (sums[0, :40, i] / 1e6 for i in (0, 1))
    r = clicks.sum() / shown.sum()
    residual = clicks - r * shown
    level = r + np.cov(residual, shown)[0, 1] / 40 / shown.mean() ** 2
    np.testing.assert_allclose(changes.control[0, 0], level, rtol=1e-12)
    everybody = sums[0] / 1e6
    strays = np.concatenate([a[:, 1] - a[:, 1].sum() / a[:, 0].sum() * a[:, 0] for a in np.split(everybody, 2)])
    told = np.sqrt(80 / 78 * (strays**2).sum() * 2) / everybody[:, 1].sum()
    np.testing.assert_allclose(changes.control_relative_se[0, 0], told, rtol=1e-12)


@pytest.mark.parametrize(("others", "times"), [(0.5, BY_LUCK), (0.01, 1 / BY_LUCK)])
def test_what_all_buckets_tell_of_control_s_error_is_bounded_by_its_own(others: float, times: float) -> None:
    rng, arm_of = np.random.default_rng(21), np.repeat([0, 1], [40, 60])
    amounts = 1e8 * (1 + np.where(arm_of == 0, 0.1, others) * rng.standard_normal(100)).clip(0.01)
    watch, control = (Metric("watch", "watch_s", BUCKETS),), amounts[:40]
    found = relative_changes(watch, ("watch_s",), Served(amounts.astype(np.int64)[None, :, None], arm_of, 2))
    own = control.std(ddof=1) / np.sqrt(40) / control.mean()
    assert found.control_relative_se[0, 0] == pytest.approx(times * own)


def test_group_zero_is_all_traffic_and_the_others_are_segments() -> None:
    sums, arm_of = deal(np.random.default_rng(3), np.array([0.0, 0.1]), slots=3)
    changes = estimate(sums, arm_of, 2)
    whole = estimate(sums.sum(axis=0, keepdims=True), arm_of, 2)
    second = estimate(sums[2:3], arm_of, 2)
    np.testing.assert_allclose(changes.change[:, 0], whole.change[:, 0])
    np.testing.assert_allclose(changes.covariance[:, 2], second.covariance[:, 0])
    np.testing.assert_allclose(changes.change[:, 2], second.change[:, 0])


def test_segment_effects_recombine_by_both_sums() -> None:
    """The overall change of a ratio is that of its recombined sums; its own changes by segment do not add up to it.

    A vector that raises the click rate in both segments, and shows more to the segment that clicks less, loses overall.
    """
    rng = np.random.default_rng(18)
    arm_of = np.repeat([0, 1], [6000, 6000])
    shown = rng.gamma(400.0, 0.25, (3, 12_000)) * np.array([[0.1], [1.0], [1.0]])
    shown[2] *= np.where(arm_of == 1, 2.0, 1.0)
    rate = np.array([[0.2], [0.3], [0.05]]) * np.where(arm_of == 1, 1.04, 1.0)
    clicks = shown * rate * (1 + 0.1 * rng.standard_normal((3, 12_000)))
    sums = np.rint(np.stack([shown, clicks], axis=-1) * 1e6).astype(np.int64)
    parts = (METRICS[0], Metric("clicked", "clicks", BUCKETS), METRICS[2])
    changes = relative_changes(parts, ("impressions", "clicks"), Served(sums, arm_of, 2))
    rest = relative_changes(parts, ("impressions", "clicks"), Served(sums[:1], arm_of, 2))  # what belongs to no segment
    y = np.concatenate((rest.change[:, 0], changes.change[:, 1:, 0]), axis=1)  # (M, 3)
    weight = sums[:, arm_of == 0].sum(axis=1) / sums[:, arm_of == 0].sum(axis=(0, 1))  # (3, C) of control's sums
    clicked, impressions = weight[:, 1] @ y[1], weight[:, 0] @ y[2]
    overall = changes.change[:, 0, 0]
    assert overall[1:] == pytest.approx([clicked, impressions], abs=1e-5)
    assert overall[0] == pytest.approx((1 + clicked) / (1 + impressions) - 1, abs=1e-5)
    assert (y[0] > 0.03).all()
    assert overall[0] < -0.15


@pytest.mark.parametrize(("effects", "each"), [((0.0, 0.0), 0.02), ((0.15, -0.1), 0.05)])
def test_bias_covariance_and_coverage_hold_in_a_known_world(effects: tuple[float, float], each: float) -> None:
    """1,500 deals of three arms with 30 buckets each, control noisy (4 % s.e.), noise proportional to the level.

    Arms have the noise of their mean level: where their levels differ, it is one's too little and the other's too much.
    """
    rng = np.random.default_rng(4)
    deals, levels = 1500, 1 + np.array([0.0, *effects])
    watch = Metric("watch", "watch_s", BUCKETS)
    drawn = rng.gamma(20.0, 1.0, (deals, 3, 30)) * levels[:, None] * 1e6
    arm_of = np.repeat(np.arange(3), 30)
    results = [
        relative_changes((watch,), ("watch_s",), Served(d.reshape(1, 90, 1).round().astype(np.int64), arm_of, 3))
        for d in drawn
    ]
    change = np.stack([r.change[0, 0] for r in results])
    covariance = np.stack([r.covariance[0, 0] for r in results])
    error = change - effects
    monte_carlo = change.std(axis=0, ddof=1) / np.sqrt(deals)
    assert (np.abs(error.mean(axis=0)) < 3.5 * monte_carlo).all()
    stated, true = covariance.mean(axis=0), np.cov(change.T)
    assert stated[0, 1] == pytest.approx(true[0, 1], rel=0.15)
    assert np.trace(stated) == pytest.approx(np.trace(true), rel=0.15)
    covered = np.abs(error) <= 1.96 * np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    assert abs(covered.mean() - 0.945) < 0.02
    assert (np.abs(covered.mean(axis=0) - 0.945) < each).all()


def test_an_unlucky_arm_is_no_surer_than_a_lucky_one() -> None:
    """Counts with 6 % noise and no effect: errors and widths must not move together, nor a weighted mean be low.

    With variances at the measured levels 3.4 % of intervals lie below the truth and 1.7 % above, errors and widths have
    a correlation of .66, and the mean weighted by precision is half a point low.
    """
    rng, arm_of = np.random.default_rng(19), np.repeat(np.arange(9), [680, *[40] * 8])
    change, variance = [], []
    for _ in range(400):
        sums = rng.poisson(7.0, (1, 1000, 1)) * 10**6
        found = relative_changes((Metric("hides", "hides", BUCKETS),), ("hides",), Served(sums, arm_of, 9))
        change.append(found.change[0, 0])
        variance.append(np.diagonal(found.covariance[0, 0]))
    y, v = np.array(change), np.array(variance)
    z = y / np.sqrt(v)
    assert ((z < -1.96).mean(), (z > 1.96).mean()) == pytest.approx((0.025, 0.025), abs=0.009)
    assert abs(np.corrcoef(y.ravel(), v.ravel())[0, 1]) < 0.25
    assert abs(np.sum(y / v) / np.sum(1 / v)) < 0.003


def test_an_arm_just_below_zero_is_no_surer_than_one_just_above() -> None:
    """Amounts with refunds: by the sign of its level alone the one arm had a quarter of the other's error."""
    rng, arm_of = np.random.default_rng(20), np.repeat(np.arange(3), [120, 440, 440])
    amounts = rng.normal(1.0, 1.0, 1000)
    for arm, level in ((1, 0.02), (2, -0.02)):
        own = rng.normal(0.0, 1.0, 440)
        amounts[arm_of == arm] = level + (own - own.mean()) / own.std()
    sums = np.rint(amounts * 1e6).astype(np.int64)[None, :, None]
    found = relative_changes((Metric("net", "net", BUCKETS),), ("net",), Served(sums, arm_of, 3))
    assert (found.change[0, 0] + 1.0 > 0.0).tolist() == [True, False]
    one, other = np.sqrt(np.diagonal(found.covariance[0, 0]))
    assert other == pytest.approx(one, rel=0.01)


def test_the_second_order_terms_remove_a_bias_that_can_be_seen() -> None:
    """Ten buckets with a control s.e. of 14 %: the plain ratio is off by about v_c / r_c^2 = 2 %."""
    rng = np.random.default_rng(5)
    metric, arm_of = Metric("watch", "watch_s", BUCKETS), np.repeat([0, 1], [10, 400])
    errors, plain = [], []
    for drawn in rng.gamma(5.0, 1.0, (3000, 410)):
        sums = (drawn * 1e6).round().astype(np.int64).reshape(1, 410, 1)
        errors.append(relative_changes((metric,), ("watch_s",), Served(sums, arm_of, 2)).change[0, 0, 0])
        plain.append(drawn[10:].mean() / drawn[:10].mean() - 1)
    assert np.mean(plain) > 0.012
    assert abs(np.mean(errors)) < 0.25 * np.mean(plain)


def test_the_variance_of_a_ratio_agrees_with_the_bootstrap_over_buckets() -> None:
    rng = np.random.default_rng(6)
    sums, arm_of = deal(rng, np.array([0.0, 0.1]), per_arm=80)
    changes = estimate(sums, arm_of, 2)
    parts = np.split(sums[0] / 1e6, 2)  # (80, 3) each
    draws = [[p[rng.integers(0, 80, 80)].sum(axis=0) for p in parts] for _ in range(2000)]
    totals = np.array(draws)  # (2000, 2, 3)
    ratio = totals[..., 1] / totals[..., 0]
    bootstrap = (ratio[:, 1] / ratio[:, 0]).var() * 80 / 79
    np.testing.assert_allclose(changes.covariance[0, 0, 0, 0], bootstrap, rtol=0.12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_buckets_and_arms_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sums, arm_of = deal(rng, np.array([0.0, 0.1, -0.1, 0.05]), per_arm=12, slots=2)
    base = estimate(sums, arm_of, 4)
    shuffle = rng.permutation(len(arm_of))
    moved = estimate(sums[:, shuffle], arm_of[shuffle], 4)
    np.testing.assert_allclose(moved.change, base.change, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(moved.covariance, base.covariance, rtol=1e-9, atol=1e-15)
    rename = np.concatenate([[0], 1 + rng.permutation(3)])  # arm a is now called rename[a]
    renamed = estimate(sums, rename[arm_of], 4)
    order = rename[1:] - 1
    np.testing.assert_allclose(renamed.change[..., order], base.change, rtol=1e-9)
    np.testing.assert_allclose(renamed.covariance[..., order[:, None], order], base.covariance, rtol=1e-9)


def test_buckets_left_out_do_not_count() -> None:
    sums, arm_of = deal(np.random.default_rng(7), np.array([0.0, 0.1]), per_arm=20)
    out = arm_of.copy()
    out[[3, 25]] = -1
    kept = out >= 0
    np.testing.assert_allclose(estimate(sums, out, 2).change, estimate(sums[:, kept], out[kept], 2).change)


@pytest.mark.parametrize("arms", [2, 3])
def test_nothing_to_say_is_nan_and_not_usable(arms: int) -> None:
    sums, arm_of = deal(np.random.default_rng(8), np.array([0.0, 0.1]), slots=3)
    sums[1] = 0  # an empty segment
    changes = estimate(sums, arm_of, arms)
    assert np.isnan(changes.change[0, 1]).all()
    assert np.isnan(changes.change[:, :, 1:]).all()  # an arm without buckets
    assert np.isfinite(changes.change[:, 2, 0]).all()
    assert not usable(changes, group=1).any()
    assert usable(changes).tolist() == [arms == 2] * 3


def test_one_bucket_has_no_variance_and_is_not_usable() -> None:
    sums, arm_of = deal(np.random.default_rng(9), np.array([0.0, 0.1]))
    out = np.where(np.arange(len(arm_of)) > 60, -1, arm_of)
    assert not usable(estimate(sums, out, 2)).any()


def test_one_bucket_whose_level_is_rounded_has_no_change_either() -> None:
    sums = np.array([[[49, 1, 0]] + [[10 * k, k, 0] for k in range(1, 9)]], np.int64) * 1_000_000
    assert 1 / 49 * 49 != 1.0, "of such a bucket a residual is left, which no bucket beside it divides"
    changes = estimate(sums, np.array([1] + [0] * 8), 2)
    assert np.isnan(changes.change[0, 0, 0])


def test_ten_buckets_an_arm_and_five_percent_are_the_limits() -> None:
    metric, rng = Metric("watch", "watch_s", BUCKETS), np.random.default_rng(10)

    def changes(buckets: int, spread: float) -> Changes:
        values = 1e8 * (1 + spread * rng.standard_normal(40 + buckets))
        arm_of = np.repeat([0, 1], [40, buckets])
        return relative_changes((metric,), ("watch_s",), Served(values.astype(np.int64).reshape(1, -1, 1), arm_of, 2))

    assert usable(changes(10, 0.1)).all()
    assert not usable(changes(9, 0.1)).any()
    assert not usable(changes(10, 0.6)).any()


def test_a_metric_too_noisy_for_control_leaves_the_others_usable() -> None:
    sums, arm_of = deal(np.random.default_rng(11), np.array([0.0, 0.1]))
    sums[0, :, 2] = np.where(np.arange(120) % 60 < 3, sums[0, :, 2], 0)  # watch time in three buckets of sixty
    assert usable(estimate(sums, arm_of, 2)).tolist() == [True, False, True]


TWO = (Metric("ctr", "clicks", "impressions"), Metric("watch", "watch_s", BUCKETS))
TWO_NAMES = ("impressions", "clicks", "watch_s")


def mixed(rng: np.random.Generator, buckets: int = 400) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Clicks and watch time that rise and fall together, over impressions that differ."""
    impressions = 1000.0 * (1.0 + 0.1 * rng.standard_normal(buckets))
    mood = 0.1 * rng.standard_normal(buckets)
    clicks = impressions * 0.1 * (1.0 + mood + 0.02 * rng.standard_normal(buckets))
    watch = 50.0 * impressions * (1.0 + mood + 0.02 * rng.standard_normal(buckets))
    sums = np.rint(np.stack([impressions, clicks, watch], axis=1) * 1e6).astype(np.int64)
    return sums[None], rng.integers(0, 3, buckets)


@pytest.mark.parametrize("m", [0, 1])
def test_the_error_of_one_metric_is_its_own(m: int) -> None:
    sums, arm_of = mixed(np.random.default_rng(13))
    own = relative_changes((TWO[m],), TWO_NAMES, Served(sums, arm_of, 3)).covariance[0, 0]
    se = combined_se(np.array([-2.0]), (TWO[m],), TWO_NAMES, Served(sums, arm_of, 3))
    assert se == pytest.approx(2.0 * np.sqrt(np.diagonal(own)))


def test_the_error_of_a_sum_of_metrics_knows_that_they_move_together() -> None:
    rng = np.random.default_rng(14)
    gains, ses, blind = [], [], []
    for _ in range(600):
        sums, arm_of = mixed(rng)
        changes = relative_changes(TWO, TWO_NAMES, Served(sums, arm_of, 3))
        gains.append(0.5 * changes.change[0, 0] + changes.change[1, 0])
        ses.append(combined_se(np.array([0.5, 1.0]), TWO, TWO_NAMES, Served(sums, arm_of, 3)))
        variance = np.diagonal(changes.covariance[:, 0], axis1=1, axis2=2)
        blind.append(np.sqrt(0.25 * variance[0] + variance[1]))
    true = np.std(gains, axis=0)
    assert np.mean(ses, axis=0) == pytest.approx(true, rel=0.08)
    assert (np.mean(blind, axis=0) < 0.9 * np.mean(ses, axis=0)).all()  # as if they were independent


def test_metrics_that_cancel_leave_little_error() -> None:
    sums, arm_of = mixed(np.random.default_rng(15))
    per_bucket = (Metric("clicks", "clicks", BUCKETS), TWO[1])
    together = combined_se(np.array([1.0, 1.0]), per_bucket, TWO_NAMES, Served(sums, arm_of, 3))
    apart = combined_se(np.array([1.0, -1.0]), per_bucket, TWO_NAMES, Served(sums, arm_of, 3))
    assert (apart < 0.3 * together).all()


def with_traits(
    rng: np.random.Generator, effects: NDArray[np.float64], buckets: int = 400
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """A deal at random over buckets that keep traits of their own, and what they did before it (in other units)."""
    arm_of = np.zeros(buckets, np.int64)
    arm_of[rng.permutation(buckets)[: 40 * (len(effects) - 1)]] = np.repeat(np.arange(1, len(effects)), 40)
    volume, taste, length = np.exp(rng.normal(0.0, [[0.3], [0.15], [0.1]], (3, buckets)))

    def window(hours: int, effect: NDArray[np.float64]) -> NDArray[np.float64]:
        shown = rng.poisson(600 * hours * volume).astype(float)
        clicks = rng.binomial(shown.astype(np.int64), np.minimum(0.2 * taste * (1 + effect), 1.0)).astype(float)
        return np.stack([shown, clicks, rng.gamma(5 * clicks + 1, length)], axis=-1)[None]

    before = window(6, rng.normal(0.0, 0.03, buckets))  # earlier arms had effects of their own
    return np.rint(window(1, effects[arm_of]) * 1e6).astype(np.int64), arm_of, before


def test_the_past_of_the_buckets_takes_noise_away_and_adds_no_bias() -> None:
    rng, effects, runs = np.random.default_rng(12), np.array([0.0, 0.05, 0.0, -0.04]), 400
    errors, widths, plain = np.empty((3, runs, 3, 3))
    for run in range(runs):
        sums, arm_of, before = with_traits(rng, effects)
        reduced = relative_changes(METRICS, COMPONENTS, Served(sums, arm_of, 4, before))
        truth = np.array([effects[1:], effects[1:], np.zeros(3)])
        errors[run] = reduced.change[:, 0] - truth
        widths[run] = np.sqrt(np.diagonal(reduced.covariance[:, 0], axis1=1, axis2=2))
        plain[run] = np.sqrt(np.diagonal(estimate(sums, arm_of, 4).covariance[:, 0], axis1=1, axis2=2))
    assert (np.abs(errors.mean(axis=0)) < 3.5 * errors.std(axis=0) / runs**0.5).all()
    np.testing.assert_allclose(widths.mean(axis=0), errors.std(axis=0), rtol=0.12)
    assert np.abs((np.abs(errors) < 1.96 * widths).mean(axis=(0, 2)) - 0.95).max() < 0.025
    assert (widths.mean(axis=(0, 2)) < np.array([0.6, 0.5, 0.3]) * plain.mean(axis=(0, 2))).all()


def test_the_past_counts_by_its_shape_alone() -> None:
    sums, arm_of, before = with_traits(np.random.default_rng(13), np.array([0.0, 0.1]))
    once, scaled = (relative_changes(METRICS, COMPONENTS, Served(sums, arm_of, 2, k * before)) for k in (1.0, 7.0))
    np.testing.assert_allclose(once.change, scaled.change, rtol=1e-9)
    np.testing.assert_allclose(once.covariance, scaled.covariance, rtol=1e-9)
    nothing = relative_changes(METRICS, COMPONENTS, Served(sums, arm_of, 2, np.zeros_like(before)))
    np.testing.assert_allclose(nothing.change, estimate(sums, arm_of, 2).change)


@pytest.mark.parametrize(("now", "then"), [(50, 1), (1, 50)])
def test_what_the_past_foretells_is_not_learned_from_buckets_left_out(now: int, then: int) -> None:
    sums, arm_of, before = with_traits(np.random.default_rng(20), np.array([0.0, 0.1, -0.05]))
    arm_of[::7] = -1
    loud, loud_before = sums.copy(), before.copy()
    loud[:, arm_of < 0] *= now
    loud_before[:, arm_of < 0] *= then
    quiet = relative_changes(METRICS, COMPONENTS, Served(sums, arm_of, 3, before))
    changes = relative_changes(METRICS, COMPONENTS, Served(loud, arm_of, 3, loud_before))
    np.testing.assert_allclose(changes.change, quiet.change, rtol=1e-9)
    np.testing.assert_allclose(changes.covariance, quiet.covariance, rtol=1e-9)


def test_the_past_of_a_mean_is_a_regression() -> None:
    sums, arm_of, before = with_traits(np.random.default_rng(14), np.array([0.0, 0.1]))
    n, x = sums[0, :, 2] / 1e6, before[0, :, 2] - before[0, :, 2].mean()
    arms = [arm_of == a for a in (0, 1)]
    centred = [np.concatenate([v[arm] - v[arm].mean() for arm in arms]) for v in (n, x)]
    rest = n - centred[0] @ centred[1] / (centred[1] @ centred[1]) * x
    r, v = (np.array([f(rest[arm]) for arm in arms]) for f in (np.mean, lambda y: y.var(ddof=1) / len(y)))
    changes = relative_changes(METRICS, COMPONENTS, Served(sums, arm_of, 2, before))
    np.testing.assert_allclose(changes.change[1, 0, 0], r[1] / r[0] * (1 - v[0] / r[0] ** 2) - 1, rtol=1e-9)
    expected = expected_covariance(r, v, np.array([arm.sum() for arm in arms]))
    np.testing.assert_allclose(changes.covariance[1, 0], expected, rtol=1e-9)


def test_the_combined_error_of_one_metric_is_its_own_with_a_past_too() -> None:
    sums, arm_of, before = with_traits(np.random.default_rng(15), np.array([0.0, 0.1, -0.1]))
    changes = relative_changes(METRICS, COMPONENTS, Served(sums, arm_of, 3, before))
    se = combined_se(np.array([1.0]), METRICS[:1], COMPONENTS, Served(sums, arm_of, 3, before))
    np.testing.assert_allclose(se, np.sqrt(np.diagonal(changes.covariance[0, 0])), rtol=0.02)


def test_the_combined_error_too_knows_a_past_that_is_too_good_and_an_arm_without_events() -> None:
    rng, count = np.random.default_rng(16), 400
    arm_of, trait = np.repeat([0, 0, 1, 2], count // 4), rng.lognormal(0.0, 1.0, count)
    watch = trait * (1.0 + 0.001 * rng.standard_normal(count))
    clicks = rng.poisson(2.0, count) * (arm_of != 1)
    sums = np.rint(np.stack([np.full(count, 100.0), clicks, watch], axis=1)[None] * 1e6).astype(np.int64)
    past = np.stack([np.full(count, 100.0), np.ones(count), trait], axis=1)[None]
    for metric, before, close in ((TWO[1], past, 0.1), (TWO[0], None, 1e-9)):  # of the first each takes its own level
        own = relative_changes((metric,), TWO_NAMES, Served(sums, arm_of, 3, before)).covariance[0, 0]
        se = combined_se(np.array([1.0]), (metric,), TWO_NAMES, Served(sums, arm_of, 3, before))
        assert se == pytest.approx(np.sqrt(np.diagonal(own)), rel=close)


def test_an_arm_without_any_event_takes_control_s_noise_beside_a_past_too() -> None:
    """What the past foretells of its buckets is no noise of the arm: it would be sure of a fall by all."""
    rng, count = np.random.default_rng(18), 1000
    arm_of = np.repeat(np.arange(9), [680, *[40] * 8])
    trait = rng.lognormal(-0.5, 1.0, count)
    clicks = rng.poisson(0.2 * trait) * (arm_of != 1)
    sums = np.rint(np.stack([np.full(count, 100.0), clicks, clicks], axis=1)[None] * 1e6).astype(np.int64)
    past = np.stack([np.full(count, 100.0), trait, trait], axis=1)[None]
    own = relative_changes((TWO[0],), TWO_NAMES, Served(sums, arm_of, 9, past)).covariance[0, 0].diagonal()
    se = combined_se(np.array([1.0]), (TWO[0],), TWO_NAMES, Served(sums, arm_of, 9, past))
    assert 0.9 < own[0] / own[1:].mean() < 1.5
    assert se == pytest.approx(np.sqrt(own), rel=0.05)


@pytest.mark.parametrize("past", [False, True])
def test_against_a_control_of_a_single_event_nothing_can_be_said(past: bool) -> None:
    """Its error exceeds its level: the correction for it told of falls by thousands of percent."""
    sums, arm_of = deal(np.random.default_rng(18), np.array([0.0, 0.1]))
    history = np.random.default_rng(19).poisson(20.0, sums.shape).astype(float) if past else None
    sums[0, arm_of == 0, 1] = 0
    assert np.isnan(relative_changes(METRICS, COMPONENTS, Served(sums, arm_of, 2, history)).change[0]).all()
    sums[0, np.argmin(sums[0, arm_of == 0, 0]), 1] = 1_000_000
    changes = relative_changes(METRICS, COMPONENTS, Served(sums, arm_of, 2, history))
    assert np.isnan(changes.change[0]).all()
    assert usable(changes).tolist() == [False, True, True]


def test_against_a_control_below_zero_nothing_can_be_said() -> None:
    """A loss that shrinks by a fifth would read as a fall by a fifth."""
    rng, arm_of = np.random.default_rng(17), np.repeat([0, 1], 40)
    sums, _ = mixed(rng, 80)
    sums[..., 2] = np.rint(-(5.0 - arm_of + 0.1 * rng.standard_normal(80)) * 1e6)
    changes = relative_changes(TWO, TWO_NAMES, Served(sums, arm_of, 2))
    assert usable(changes).tolist() == [True, False]
    assert np.isnan(changes.change[1]).all()
