import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.metrics import auc
from nas.value import FLOOR, Form, ValueModel, loss_weights, value_captured, value_gauc

RATES = np.array([0.46, 0.0185, 0.0005])


def test_linear_weights_follow_the_squared_value_error() -> None:
    found = loss_weights(ValueModel("linear", (1.0, 5.0, -20.0)), RATES, floor=0.0)
    expected = np.array([1, 25, 400]) * RATES * (1 - RATES)
    assert found == pytest.approx(expected / expected.mean())


def test_power_weights_follow_the_squared_relative_error() -> None:
    found = loss_weights(ValueModel("power", (1.0, 0.5, 0.1)), RATES, floor=0.0)
    expected = np.array([1, 0.25, 0.01]) * (1 - RATES) / RATES
    assert found == pytest.approx(expected / expected.mean())


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=3), st.sampled_from(["linear", "power"]))
def test_weights_are_floored_of_mean_one_and_never_negative(weights: list[float], form: str) -> None:
    found = loss_weights(ValueModel(form, tuple(weights)), RATES)  # type: ignore[arg-type]
    assert found.mean() == pytest.approx(1.0)
    assert (found >= FLOOR - 1e-12).all()


def test_what_the_floor_takes_from_a_head_may_bring_it_down_to_the_floor_too() -> None:
    """Of mean 1 the weights would be 0, .0501 and 2.9499: the floor of the first leaves the second .0493."""
    raw = np.sqrt([0.0, 0.0501, 2.9499])
    found = loss_weights(ValueModel("linear", tuple(raw)), np.full(3, 0.5), floor=0.05)
    assert found == pytest.approx([0.05, 0.05, 2.9])


def test_the_weights_are_those_by_which_cross_entropy_is_the_value_error() -> None:
    """With small errors, sum of weight x divergence is proportional to the expected squared value error."""
    rng = np.random.default_rng(0)
    theta = np.array([1.0, 6.0, -30.0])
    for form, gaps in (("linear", 0.02), ("power", 0.02)):
        weights = loss_weights(ValueModel(form, tuple(theta)), RATES, floor=0.0)  # type: ignore[arg-type]
        ratio = []
        for j in range(3):
            q = RATES[j] * (1 + gaps * rng.standard_normal(20000))
            p = RATES[j]
            kl = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
            error = theta[j] * (q - p) if form == "linear" else theta[j] * np.log(q / p)
            ratio.append((error**2).mean() / (weights[j] * kl))
        assert ratio == pytest.approx([ratio[0]] * 3, rel=0.02)


def test_value_captured_by_hand() -> None:
    request = np.array([1, 2, 1, 1, 2, 2, 1, 3], np.uint64)
    true = np.array([1.0, 0.0, 3.0, 2.0, 0.0, 0.0, 4.0, 9.0])
    predicted = np.array([4.0, 0.0, 3.0, 2.0, 0.0, 0.0, 1.0, 9.0])
    # request 1: best two predicted are worth 1 and 3, the best 4 and 3, random 2.5; 2 is flat, 3 has too few rows
    assert value_captured(predicted, true, request, 2) == pytest.approx([(2.0 - 2.5) / (3.5 - 2.5)])
    assert value_captured(true, true, request, 2) == pytest.approx([1.0])


def test_a_request_whose_rows_are_worth_the_same_is_left_out_however_their_mean_is_rounded() -> None:
    rng = np.random.default_rng(0)
    for length in range(6, 30):
        value = np.repeat(rng.random(100), length)
        request = np.repeat(np.arange(100, dtype=np.uint64), length)
        assert not len(value_captured(rng.random(len(value)), value, request, 5))


@given(st.integers(0, 1000))
def test_the_truth_captures_all_and_noise_none(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true, request = rng.random(4000), np.repeat(np.arange(200, dtype=np.uint64), 20)
    assert value_captured(true, true, request, 5) == pytest.approx(np.ones(200))
    assert abs(value_captured(rng.random(4000), true, request, 5).mean()) < 0.12


def test_requests_of_as_many_rows_as_are_taken_tell_nothing() -> None:
    rng = np.random.default_rng(6)
    request, value = np.repeat(np.arange(300, dtype=np.uint64), 7), rng.random(2100)
    assert not len(value_captured(rng.random(2100), value, request, 7))
    assert len(value_captured(rng.random(2100), value, request, 6)) == 300


def test_rows_that_are_predicted_alike_are_taken_in_any_order() -> None:
    rng = np.random.default_rng(5)
    true, predicted = np.sort(rng.random(9))[::-1], np.array([2, 1, 1, 1, 1, 0, 0, 3, 0]) / 7
    request = np.zeros(9, np.uint64)
    orders = [rng.permutation(9) for _ in range(4000)]
    for k in (3, 5):  # as many as tie, or fewer, and more
        drawn = [np.argsort(-predicted[order], kind="stable")[:k] for order in orders]
        best = np.mean([true[order][few].mean() for order, few in zip(orders, drawn, strict=True)])
        share = (best - true.mean()) / (true[:k].mean() - true.mean())
        for order in orders[:3]:
            assert value_captured(predicted[order], true[order], request, k) == pytest.approx([share], abs=0.02)
    assert value_captured(np.full(9, 0.5), true, request, 3) == pytest.approx([0.0])


def test_gauc_against_pairs_one_by_one() -> None:
    rng = np.random.default_rng(3)
    request = rng.integers(0, 8, 60).astype(np.uint64)
    predicted, realised = rng.integers(0, 5, 60) / 5, rng.integers(0, 3, 60).astype(float)
    right = total = 0.0
    for i in range(60):
        for j in range(60):
            if request[i] == request[j] and realised[i] > realised[j]:
                gap = realised[i] - realised[j]
                total += gap
                right += gap * (0.5 if predicted[i] == predicted[j] else float(predicted[i] > predicted[j]))
    assert value_gauc(predicted, realised, request) == pytest.approx(right / total)
    assert np.isnan(value_gauc(predicted, np.ones(60), request))
    nothing = np.empty(0)
    assert np.isnan(value_gauc(nothing, nothing, nothing.astype(np.uint64)))
    assert not len(value_captured(nothing, nothing, nothing.astype(np.uint64), 2))


def test_a_long_request_is_compared_in_little_memory() -> None:
    rng = np.random.default_rng(4)
    n = 5000
    predicted, realised = rng.random(n), rng.integers(0, 2, n).astype(float)
    tracemalloc.start()
    found = value_gauc(predicted, realised, np.zeros(n, np.uint64))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == pytest.approx(auc(predicted, realised))
    assert peak < 2.5e8  # all pairs at once take 2e8 in each of four arrays


def test_values_of_both_forms() -> None:
    q = np.array([[0.5, 0.25]])
    assert ValueModel("linear", (1.0, -2.0)).of(q) == pytest.approx([0.0])
    assert ValueModel("power", (1.0, 0.5)).of(q) == pytest.approx([0.25])
    nothing = np.array([[0.0, 0.25]])  # counts as 1e-9, as in serving
    assert ValueModel("power", (-1.0, 0.5)).of(nothing) == pytest.approx([0.5e9])


def test_heads_whose_labels_are_all_alike_have_weights_too() -> None:
    forms: tuple[Form, ...] = ("linear", "power")
    for form in forms:
        found = loss_weights(ValueModel(form, (1.0, 1.0, 1.0)), np.array([0.0, 0.5, 1.0]))
        assert np.isfinite(found).all()
        assert found.min() == pytest.approx(FLOOR)
