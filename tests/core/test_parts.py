"""Taking a metric per bucket apart: which parts, and that their product is the metric, whatever the weights move."""

import numpy as np
import pytest

from controller.core.estimate import Metric, Served, relative_changes
from controller.core.parts import exposures, is_exposures, measured, parts

WATCH, SHARES, CTR = (
    Metric("watch", "watch_s", "buckets"),
    Metric("shares", "shares", "buckets"),
    Metric("ctr", "clicks", "impressions"),
)


def test_exposures_are_what_ratios_are_divided_by() -> None:
    assert exposures((WATCH, CTR)) == "impressions"
    assert exposures((WATCH, Metric("depth", "seconds", "sessions"), CTR, Metric("hides", "hides", "impressions"))) == (
        "impressions"
    )
    assert exposures((WATCH, SHARES)) is None


def test_metrics_per_bucket_share_their_exposures() -> None:
    metrics = (WATCH, CTR, SHARES)
    names = [(m.numerator, m.denominator) for m in measured(metrics)]
    assert measured(metrics)[:3] == metrics
    assert names[3:] == [("impressions", "buckets"), ("watch_s", "impressions"), ("shares", "impressions")]
    assert [parts(metrics, m) for m in range(3)] == [(3, 4), (1,), (3, 5)]
    assert [is_exposures(metrics, place) for place in range(6)] == [False, False, False, True, False, False]


def test_a_part_that_is_a_metric_of_the_study_is_not_measured_twice() -> None:
    metrics = (Metric("clicks", "clicks", "buckets"), CTR, Metric("shown", "impressions", "buckets"))
    assert measured(metrics) == metrics
    assert [parts(metrics, m) for m in range(3)] == [(2, 1), (1,), (2,)]


@pytest.mark.parametrize("metrics", [(WATCH, SHARES), (CTR,), (Metric("back", "back", "buckets", "delayed"), CTR)])
def test_what_has_no_exposures_or_answers_late_stays_whole(metrics: tuple[Metric, ...]) -> None:
    assert measured(metrics) == metrics
    assert [parts(metrics, m) for m in range(len(metrics))] == [(m,) for m in range(len(metrics))]


def test_the_parts_multiply_to_the_metric_with_less_noise() -> None:
    """People come as they like, what they are shown holds: most of the noise per bucket is in how often they come."""
    rng, buckets, metrics = np.random.default_rng(1), 4000, (WATCH, CTR)
    arm_of = np.repeat([0, 1], buckets // 2)
    shown = rng.poisson(3.0, buckets) * 10.0
    clicks = rng.binomial(shown.astype(np.int64), 0.4)
    watch = clicks * 9.0 * np.where(arm_of == 1, 1.1, 1.0)
    sums = (np.stack([shown, clicks, watch], axis=1)[None] * 1e6).astype(np.int64)
    found = relative_changes(measured(metrics), ("impressions", "clicks", "watch_s"), Served(sums, arm_of, 2))
    change, sd = found.change[:, 0, 0], np.sqrt(found.covariance[:, 0, 0, 0])
    product = np.prod([1.0 + change[place] for place in parts(metrics, 0)]) - 1.0
    assert product == pytest.approx(change[0], abs=1e-3)
    assert sd[parts(metrics, 0)[1]] < 0.5 * sd[0]
