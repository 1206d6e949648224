import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr

from nas.metrics import BINS, EDGE, auc, calibration_error, head_metrics, row_kl, row_logloss


@given(st.integers(0, 10_000))
def test_auc_is_the_share_of_pairs_in_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, y = rng.integers(0, 6, 30) / 6.0, np.r_[0.0, 1.0, rng.integers(0, 2, 28)]
    pairs = scores[y == 1][:, None] - scores[y == 0]
    assert auc(scores, y) == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def test_a_row_of_weight_three_counts_as_three() -> None:
    rng = np.random.default_rng(1)
    q, y, weight = rng.integers(1, 6, 60) / 6.0, rng.integers(0, 2, 60).astype(float), rng.integers(1, 4, 60)
    thrice = np.repeat(np.arange(60), weight)
    counted = head_metrics("click", q, y, np.full(60, np.nan), weight.astype(float))
    repeated = head_metrics("click", q[thrice], y[thrice], np.full(len(thrice), np.nan), np.ones(len(thrice)))
    assert (counted.auc, counted.logloss) == pytest.approx((repeated.auc, repeated.logloss))
    one, seven = weight.astype(float), 7.0 * weight.astype(float)
    assert calibration_error(q, y, one) == pytest.approx(calibration_error(q, y, seven))


def test_every_metric_is_of_observed_rows_and_by_their_weight() -> None:
    """One in three rows is not observed; a row of weight 2 tells what two rows of weight 1 do."""
    rng = np.random.default_rng(2)
    q, p, weight = rng.random(90), rng.random(90), rng.integers(0, 3, 90)
    y = np.where(rng.random(90) < 1 / 3, np.nan, rng.integers(0, 2, 90))
    found = head_metrics("click", q, y, p, weight.astype(float))
    seen = np.flatnonzero(~np.isnan(y))
    rows = np.repeat(seen, weight[seen])
    assert (found.rows, found.positives) == (len(seen), np.nansum(y))
    pairs = q[rows][y[rows] == 1][:, None] - q[rows][y[rows] == 0]
    assert found.auc == pytest.approx((pairs > 0).mean())
    assert found.logloss == pytest.approx(-np.log(np.where(y == 1, q, 1 - q)[rows]).mean())
    assert found.calibration == pytest.approx(q[rows].sum() / y[rows].sum())
    assert found.kl == pytest.approx((rel_entr(p, q) + rel_entr(1 - p, 1 - q))[rows].mean())
    ranked = seen[np.argsort(q[seen])]
    off = [abs((weight * (q - y))[bin_].sum()) for bin_ in np.array_split(ranked, BINS)]
    assert found.calibration_error == pytest.approx(sum(off) / len(rows))
    p[seen[5]] = np.nan
    assert head_metrics("click", q, y, p, weight.astype(float)).kl is None


def test_where_only_one_answer_was_observed_there_is_no_auc() -> None:
    for y in (np.zeros(4), np.ones(4)):
        assert head_metrics("click", np.array([0.1, 0.2, 0.3, 0.4]), y, y, np.ones(4)).auc is None


def test_probabilities_of_0_and_1_are_taken_as_nearly_so() -> None:
    sure = np.array([0.0, 1.0])
    assert row_logloss(sure, 1.0 - sure) == pytest.approx([-np.log(EDGE)] * 2)
    assert row_kl(1.0 - sure, sure) == pytest.approx([np.log(1 / EDGE)] * 2, rel=1e-5)


def test_a_calibrated_forecast_has_no_error_and_a_doubled_one_half_the_rate() -> None:
    rng = np.random.default_rng(0)
    q = rng.random(200_000) * 0.5
    y = (rng.random(200_000) < q).astype(float)
    assert calibration_error(q, y) < 0.005
    assert calibration_error(2 * q, y) == pytest.approx(0.25, abs=0.01)


def test_divergence_is_zero_at_the_truth_only() -> None:
    p = np.array([0.2, 0.5, 0.0])
    assert row_kl(p, p) == pytest.approx([0, 0, 0])
    assert (row_kl(p, p + 0.1) > 0).all()


def test_only_observed_rows_count() -> None:
    q, y, p = np.array([0.2, 0.9, 0.5]), np.array([0.0, 1.0, np.nan]), np.array([0.1, 0.8, 0.5])
    found = head_metrics("click", q, y, p, np.ones(3))
    assert (found.rows, found.positives, found.auc) == (2, 1, 1.0)
    assert found.logloss == pytest.approx(-(np.log(0.8) + np.log(0.9)) / 2)
    assert found.calibration == pytest.approx(1.1)
    assert found.kl == pytest.approx(row_kl(p[:2], q[:2]).mean())
    nothing = head_metrics("click", q, y, p, np.zeros(3))
    assert np.isnan(nothing.logloss)
    assert (nothing.auc, nothing.calibration, nothing.kl) == (None, None, None)
    assert head_metrics("click", q, np.zeros(3), np.full(3, np.nan), np.ones(3)).auc is None
