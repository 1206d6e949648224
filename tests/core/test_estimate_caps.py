"""Changes under a cap: what it hides, and intervals that cover the uncapped change."""

import numpy as np
import pytest
from numpy.typing import NDArray

from controller.core.estimate import BUCKETS, Changes, Metric, Served, at_cap, relative_changes

HEAVY = Metric("watch", "watch_s", BUCKETS)


def heavy(rng: np.random.Generator, effects: NDArray[np.float64], cap: float | None) -> Changes:
    """A deal whose events have a log-normal amount with a spread of 1.7: the largest of 1000 is 36 times the mean."""
    arm_of = np.repeat(np.arange(len(effects)), [160, *[40] * (len(effects) - 1)])
    bucket = np.repeat(np.arange(len(arm_of)), rng.poisson(60, len(arm_of)))
    amount = 30 * np.exp(rng.normal(0.0, 1.7, len(bucket)) - 1.7**2 / 2) * (1 + effects[arm_of[bucket]])
    top = np.inf if cap is None else cap
    kept = [np.bincount(bucket, v, len(arm_of)) for v in (np.minimum(amount, top), np.where(amount > top, top, 0.0))]
    sums = np.rint(np.stack(kept, axis=-1)[None] * 1e6).astype(np.int64)
    names = ("watch_s",) if cap is None else ("watch_s", at_cap("watch_s"))
    return relative_changes((HEAVY,), names, Served(sums[..., : len(names)], arm_of, len(effects)))


def test_a_cap_keeps_the_intervals_of_the_uncapped_change() -> None:
    """1,600 arm-deals under the 99.9 % quantile as cap: half the noise, and every tail as it should be."""
    rng, effects = np.random.default_rng(16), np.array([0.0, 0.1, -0.1, 0.2, 0.02])
    cap = 30 * np.exp(3.09 * 1.7 - 1.7**2 / 2)
    found = [(heavy(rng, effects, cap), heavy(rng, effects, None)) for _ in range(400)]
    change, free = (np.array([f[i].change[0, 0] for f in found]) for i in (0, 1))
    se, free_se = (np.sqrt([np.diagonal(f[i].covariance[0, 0]) for f in found]) for i in (0, 1))
    z = (change - effects[1:]) / se
    assert 0.93 < (np.abs(z) < 1.96).mean() < 0.97
    assert (z < -1.96).mean() < 0.045
    assert (z > 1.96).mean() < 0.035
    assert np.median(se) < 0.85 * np.median(free_se)
    assert (np.abs((free - effects[1:]) / free_se) < 1.96).mean() < (np.abs(z) < 1.96).mean() + 0.01


def test_what_a_cap_hides_is_its_share_of_the_sum_times_the_change() -> None:
    """The derivative of log E min(y X, c) in log y is one less the share of the sum that is at the cap."""
    rng, effects = np.random.default_rng(17), np.array([0.0, 0.03])
    amount, arm_of = 10 * (1 + rng.pareto(1.8, (2, 40_000))) * (1 + effects)[:, None], np.repeat([0, 1], 40_000)
    kept, over = np.minimum(amount, 60.0).ravel(), np.where(amount > 60.0, 60.0, 0.0).ravel()
    sums = np.rint(np.stack([kept, over], axis=-1)[None] * 1e6).astype(np.int64)
    capped = relative_changes((HEAVY,), ("watch_s", at_cap("watch_s")), Served(sums, arm_of, 2))
    blind = relative_changes((HEAVY,), ("watch_s",), Served(sums[..., :1], arm_of, 2))
    share = over[:40_000].sum() / kept[:40_000].sum()
    added = capped.covariance[0, 0, 0, 0] - blind.covariance[0, 0, 0, 0]
    assert 0.1 < share < 0.3
    assert np.sqrt(added) == pytest.approx(share / (1 - share) * capped.change[0, 0, 0], rel=0.01)
    same = np.minimum(amount[0] * 1.03, 60.0).mean() / np.minimum(amount[0], 60.0).mean() - 1
    assert same == pytest.approx(0.03 * (1 - share), rel=0.03)


@pytest.mark.parametrize("quantile", [1.282, 0.674])
def test_under_a_low_cap_intervals_cover_the_uncapped_change(quantile: float) -> None:
    """Events at the cap make up .26 and .45 of the sum: most of the interval is what they hide."""
    rng, cap, misses = np.random.default_rng(19), np.exp(quantile), 0
    arm_of, effects = np.repeat([0, 1], 400), np.array([1.0, 1.05])
    for _ in range(100):
        amount = np.exp(rng.normal(0.0, 1.0, (2, 400, 100))) * effects[:, None, None]
        kept, over = np.minimum(amount, cap).sum(axis=2), np.where(amount > cap, cap, 0.0).sum(axis=2)
        sums = np.rint(np.stack([kept.ravel(), over.ravel()], axis=-1)[None] * 1e6).astype(np.int64)
        found = relative_changes((HEAVY,), ("watch_s", at_cap("watch_s")), Served(sums, arm_of, 2))
        misses += int(abs(found.change[0, 0, 0] - 0.05) > 1.96 * np.sqrt(found.covariance[0, 0, 0, 0]))
    assert misses <= 8


def test_caps_on_both_sides_of_a_ratio_add_what_each_hides() -> None:
    rng, names = np.random.default_rng(20), ("revenue", at_cap("revenue"), "watch_s", at_cap("watch_s"))
    arm_of, rate = np.repeat([0, 1, 2], [60, 30, 30]), (Metric("revenue_rate", "revenue", "watch_s"),)
    sums = (rng.gamma(30.0, 1.0, (120, 4)) * [4.0, 1.0, 5.0, 2.0] * (1 + 0.2 * arm_of[:, None]) * 1e6).astype(np.int64)
    capped = relative_changes(rate, names, Served(sums[None], arm_of, 3))
    blind = relative_changes(rate, names[::2], Served(sums[None, :, ::2], arm_of, 3))
    hidden = np.zeros(2)
    for total, at in (sums.T[:2], sums.T[2:]):
        share = at[arm_of == 0].sum() / total[arm_of == 0].sum()
        change = np.array([total[arm_of == a].mean() for a in (1, 2)]) / total[arm_of == 0].mean() - 1
        hidden += (share / (1 - share) * change) ** 2
    assert (hidden > 1e-3).all()
    np.testing.assert_allclose(capped.covariance[0, 0] - blind.covariance[0, 0], np.diag(hidden), atol=1e-12)
