"""Ratios of buckets that differ in size: their variance against the jackknife by brute force, and by calibration."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from controller.core.estimate import Metric, Served, by_past, combined_se, relative_changes, usable

CTR = (Metric("ctr", "clicks", "impressions"),)
COMPONENTS = ("impressions", "clicks")
ARMS = 8
Floats = NDArray[np.float64]


def estimated(shown: Floats, clicks: Floats, arm_of: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Changes (A-1,) and their covariance (A-1, A-1), over all traffic."""
    sums = (np.stack([shown, clicks], axis=-1)[None] * 1e6).round().astype(np.int64)
    found = relative_changes(CTR, COMPONENTS, Served(sums, arm_of, int(arm_of.max()) + 1))
    return found.change[0, 0], found.covariance[0, 0]


def served(shown: Floats, rng: np.random.Generator, spread: float) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Clicks of buckets of these mean sizes that differ in taste, half of them in control; no arm changes anything."""
    arm_of = rng.permutation(np.where(np.arange(len(shown)) % 2 == 0, 0, 1 + np.arange(len(shown)) // 2 % ARMS))
    seen = rng.poisson(shown)
    taste = np.exp(spread * rng.standard_normal(len(shown)) - spread**2 / 2)
    return seen.astype(float), rng.poisson(0.05 * seen * taste).astype(float), arm_of


def sizes(name: str, rng: np.random.Generator) -> Floats:
    """Mean impressions of 1,000 buckets: alike; log-normal; five that have half of all."""
    if name == "alike":
        return np.full(1000, 400.0)
    if name == "log-normal":
        each = np.exp(1.5 * rng.standard_normal(1000))
        return np.asarray(4e5 * each / each.sum())
    return rng.permutation(np.repeat((4e4, 201.0), (5, 995)))


@pytest.mark.parametrize("spread", [0.0, 0.3])
@pytest.mark.parametrize("name", ["alike", "log-normal", "whales"])
def test_intervals_cover_however_buckets_differ_in_size(name: str, spread: float) -> None:
    rng = np.random.default_rng(5)
    z = []
    for _ in range(60):
        change, covariance = estimated(*served(sizes(name, rng), rng, spread))
        z.append(change / np.sqrt(np.diagonal(covariance)))
    assert 0.02 < np.mean(np.abs(z) > 1.96) < 0.075


def errors(shown: Floats, clicks: Floats) -> Floats:
    """What leaving out each bucket does to the sum of clicks at the level of all."""
    without = (clicks.sum() - clicks) / (shown.sum() - shown)
    return np.asarray((1 - 1 / len(shown)) * (clicks.sum() / shown.sum() - without) * shown.sum())


def level(shown: Floats, clicks: Floats) -> float:
    """Of a ratio of sums, without its second-order bias."""
    n, raw = len(shown), clicks.sum() / shown.sum()
    return float(raw + n / (n - 1) * ((clicks - raw * shown) * shown).sum() / shown.sum() ** 2)


def noise(shown: Floats, clicks: Floats) -> Floats:
    """a and b of E e^2 = a D + b D^2, by another solver."""
    squared, shown = errors(shown, clicks)[shown > 0] ** 2, shown[shown > 0]
    weight = 1 / (shown / shown.mean() + (shown / shown.mean()) ** 2)
    terms = np.stack([shown, shown**2], axis=1) / (shown.mean(), shown.mean() ** 2)
    found = lsq_linear(terms * weight[:, None], squared * weight, (0, np.inf), tol=1e-14).x
    return np.asarray(found / (shown.mean(), shown.mean() ** 2))


def test_closed_form_where_sizes_differ() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        shown, clicks, arm_of = served(sizes("log-normal", rng), rng, 0.3)
        sides = [np.array([shown[arm_of == a], clicks[arm_of == a]]) for a in (0, 1)]
        _, covariance = estimated(shown[arm_of <= 1], clicks[arm_of <= 1], arm_of[arm_of <= 1])
        counts, levels, totals = (
            [f(*side) for side in sides] for f in (lambda d, _: len(d), level, lambda d, _: d.sum())
        )
        own = [
            n / (n - 1) * (errors(*side) ** 2).sum() / d**2 for n, d, side in zip(counts, totals, sides, strict=True)
        ]
        a, b = noise(*sides[0])
        foretold = [(a * d + b * (side[0] ** 2).sum()) / d**2 for d, side in zip(totals, sides, strict=True)]
        of_control = max(own[0], foretold[0])
        borrowed = of_control * foretold[1] / foretold[0] / levels[0] ** 2
        of_arm = ((counts[1] - 1) * own[1] / levels[1] ** 2 + 120 * borrowed) / (counts[1] - 1 + 120)
        assert covariance[0, 0] == pytest.approx(of_arm + of_control / levels[0] ** 2, rel=1e-6)


def test_an_arm_that_killed_a_metric_has_the_noise_that_control_foretells() -> None:
    rng = np.random.default_rng(11)
    shown, clicks, arm_of = served(sizes("log-normal", rng), rng, 0.3)
    clicks[arm_of == 1] = 0.0
    change, covariance = estimated(shown, clicks, arm_of)
    assert change[0] == pytest.approx(-1.0)
    control, size = (shown[arm_of == 0], clicks[arm_of == 0]), shown[arm_of == 1]
    a, b = noise(*control)
    foretold = (a * size.sum() + b * (size**2).sum()) / size.sum() ** 2 / level(*control) ** 2
    assert covariance[0, 0] - covariance[0, 1] == pytest.approx(foretold, rel=0.02)


@pytest.mark.parametrize("past", [False, True])
def test_two_metrics_of_the_same_events_err_as_one(past: bool) -> None:
    """The error of a sum holds control's to what its own metric is held to, also beside a past that foretells all."""
    rng = np.random.default_rng(8)
    shown, clicks, arm_of = served(sizes("alike" if past else "whales", rng), rng, 0.3)
    sums = np.stack([shown, clicks, clicks], axis=-1)[None]
    did = Served((sums * 1e6).round().astype(np.int64), arm_of, ARMS + 1, sums if past else None)
    both = (*CTR, Metric("again", "again", "impressions"))
    names = (*COMPONENTS, "again")
    found = relative_changes(both, names, did)
    close = 0.1 if past else 1e-7  # of what the past leaves each takes its part at its own level
    np.testing.assert_allclose(
        combined_se(np.array([1.0, 0.0]), both, names, did) ** 2, np.diagonal(found.covariance[0, 0]), rtol=close
    )
    np.testing.assert_allclose(
        combined_se(np.array([1.0, 1.0]), both, names, did) ** 2, 4 * np.diagonal(found.covariance[0, 0]), rtol=close
    )


@pytest.mark.parametrize("name", ["alike", "log-normal", "whales"])
@pytest.mark.parametrize("total", [20, 50])  # of events on control
def test_intervals_of_a_rare_ratio_cover_however_buckets_differ_in_size(name: str, total: int) -> None:
    rng = np.random.default_rng(3)
    misses = []
    for _ in range(60):
        shown, _, arm_of = served(sizes(name, rng), rng, 0.0)
        events = rng.poisson(total / 2e5 * shown)
        before = rng.poisson(19 * shown)
        past = np.stack([before, rng.poisson(total / 2e5 * before)], axis=-1)[None].astype(np.float64)
        did = Served((np.stack([shown, events], axis=-1)[None] * 1e6).astype(np.int64), arm_of, ARMS + 1, past)
        found = by_past(relative_changes(CTR, COMPONENTS, did), CTR, COMPONENTS, did)
        assert found.control_relative_se[0, 0] < 0.1
        misses.append(np.abs(found.change[0, 0]) > 1.96 * np.sqrt(np.diagonal(found.covariance[0, 0])))
    assert 0.02 < np.mean(misses) < 0.075


def test_an_arm_without_any_denominator_leaves_the_others_their_error() -> None:
    rng = np.random.default_rng(4)
    shown, clicks, arm_of = served(sizes("alike", rng), rng, 0.1)
    shown[arm_of == ARMS], clicks[arm_of == ARMS] = 0.0, 0.0
    sums = (np.stack([shown, clicks], axis=-1)[None] * 1e6).round().astype(np.int64)
    did = Served(sums, arm_of, ARMS + 1)
    se = combined_se(np.ones(1), CTR, COMPONENTS, did)
    np.testing.assert_allclose(se, np.sqrt(np.diagonal(relative_changes(CTR, COMPONENTS, did).covariance[0, 0])))
    assert np.isnan(se).tolist() == [*[False] * (ARMS - 1), True]


def test_a_ratio_that_never_varies_is_known_exactly() -> None:
    rng = np.random.default_rng(6)
    shown, _, arm_of = served(sizes("log-normal", rng), rng, 0.0)
    sums = (np.stack([shown, 10 * shown], axis=-1)[None] * 1e6).round().astype(np.int64)
    did = Served(sums, arm_of, ARMS + 1)
    found = relative_changes(CTR, COMPONENTS, did)
    assert usable(found).tolist() == [True]
    assert not found.change.any()
    assert not found.covariance.any()
    assert not combined_se(np.ones(1), CTR, COMPONENTS, did).any()


def test_buckets_that_are_left_out_take_nothing_from_anyone() -> None:
    rng = np.random.default_rng(9)
    shown, clicks, arm_of = served(sizes("alike", rng), rng, 0.3)
    arm_of[arm_of == ARMS] = -1  # and the last arm has no bucket
    sums = (np.stack([shown, clicks], axis=-1)[None] * 1e6).round().astype(np.int64)
    without = relative_changes(CTR, COMPONENTS, Served(sums[:, arm_of >= 0], arm_of[arm_of >= 0], ARMS + 1))
    found = relative_changes(CTR, COMPONENTS, Served(sums, arm_of, ARMS + 1))
    np.testing.assert_allclose(found.covariance[0, 0], without.covariance[0, 0])
    assert np.isfinite(found.covariance[0, 0, 0, 0])


def test_a_denominator_that_may_be_negative_makes_no_negative_variance() -> None:
    rng = np.random.default_rng(10)
    for _ in range(50):
        arm_of = np.arange(120) % 4
        sums = np.stack([rng.normal(1.0, 2.0, 120), rng.gamma(2.0, 1.0, 120)], axis=-1)
        found = relative_changes(CTR, COMPONENTS, Served((sums[None] * 1e6).round().astype(np.int64), arm_of, 4))
        known = np.isfinite(found.covariance[0, 0]).all()
        assert not known or np.linalg.eigvalsh(found.covariance[0, 0]).min() > -1e-9
