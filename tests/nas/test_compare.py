import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from nas.compare import bootstrap_statistic, paired_gap
from nas.encoding import Coded
from nas.rows import Rows
from nas.workplace import gap


def test_no_difference_is_claimed_about_as_often_as_said() -> None:
    claimed = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        hard, seeds = rng.exponential(1.0, 400), rng.normal(0, 0.02, (2, 5, 1))
        first, second = (hard + effect + rng.normal(0, 0.1, (5, 400)) for effect in seeds)
        claimed += paired_gap(first, second).claimed
    assert 4 <= claimed <= 19  # of 200: 5 % within three standard errors


def test_of_one_training_each_the_interval_is_that_of_a_paired_t_test() -> None:
    rng = np.random.default_rng(7)
    first, second = rng.exponential(1.0, (2, 1, 12))
    found = paired_gap(first, second)
    expected = stats.ttest_rel(first[0], second[0]).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    again = paired_gap(second, first)
    assert (again.low, again.mean, again.high) == pytest.approx((-found.high, -found.mean, -found.low))


def test_where_rows_differ_alike_the_interval_is_welch_s_over_seeds() -> None:
    """By weight, each seed is better on rows of its own, which cancels over the seeds of a model."""
    rng = np.random.default_rng(8)
    hard, weight = rng.exponential(1.0, 30), rng.gamma(1.0, 1.0, 30)
    own = rng.standard_normal((2, 30))
    first = hard + rng.normal(0.0, 0.1, (2, 1)) + np.outer([1.0, -1.0], own[0])
    second = hard + rng.normal(0.5, 1.0, (5, 1)) + np.outer([1.0, -2.0, 0.5, 0.25, 0.25], own[1])
    found = paired_gap(first, second, weight)
    means = [np.average(model, axis=1, weights=weight) for model in (first, second)]
    expected = stats.ttest_ind(*means, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_between_equals_nothing_is_claimed() -> None:
    losses = np.random.default_rng(9).random((3, 20))
    losses[1:] = losses[0]
    gap = paired_gap(losses, losses)
    assert (gap.low, gap.mean, gap.high, gap.claimed) == (0.0, 0.0, 0.0, False)


def test_pairing_finds_a_gap_that_lies_below_the_rows_own_noise() -> None:
    rng = np.random.default_rng(0)
    hard = rng.exponential(1.0, 2000)
    first, second = (hard + shift + rng.normal(0, 0.02, (5, 2000)) for shift in (0.0, 0.01))
    gap = paired_gap(first, second)
    assert gap.mean == pytest.approx(-0.01, abs=0.002)
    assert gap.claimed
    assert gap.low < gap.mean < gap.high


def test_a_gap_by_weight_is_the_one_between_weighted_means_and_as_sure_as_it_varies() -> None:
    rng = np.random.default_rng(2)
    weight = rng.gamma(1.0, 1.0, 400)
    gaps = []
    for _ in range(300):
        second = rng.exponential(1.0, (1, 400))
        first = second + 0.2 + rng.normal(0, 0.3, (1, 400))
        gap = paired_gap(first, second, weight)
        assert gap.mean == pytest.approx(float(np.average(first - second, weights=weight[None])))
        gaps.append((gap.mean, (gap.high - gap.low) / 2 / 1.966))
    means, se = np.array(gaps).T
    assert se.mean() == pytest.approx(means.std(), rel=0.1)
    alike = paired_gap(first, second)
    assert paired_gap(first, second, np.full(400, 3.0)).high == pytest.approx(alike.high)


def test_rows_of_weight_0_make_no_gap_surer() -> None:
    rng = np.random.default_rng(6)
    first, second, person = rng.random((1, 40)), rng.random((1, 40)), np.arange(40) // 2
    weight = np.where(np.arange(40) < 6, rng.random(40), 0.0)
    for group, left in ((None, None), (person, person[:6])):
        found, expected = (
            paired_gap(first, second, weight, group), paired_gap(first[:, :6], second[:, :6], weight[:6], left)
        )  # fmt: skip
        assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))


def test_a_gap_over_people_is_as_sure_as_people_differ() -> None:
    rng = np.random.default_rng(4)
    gaps, told = [], []
    for _ in range(300):
        person = np.repeat(np.arange(150), rng.integers(1, 20, 150))
        second = rng.exponential(1.0, (1, len(person)))
        first = second + rng.normal(0, 0.3, 150)[person] + rng.normal(0, 0.3, (1, len(person)))
        gap = paired_gap(first, second, group=person)
        gaps.append(gap.mean)
        told.append([(one.high - one.low) / 2 / 1.97 for one in (gap, paired_gap(first, second))])
    by_person, by_row = np.mean(told, axis=0)
    assert by_person == pytest.approx(np.std(gaps), rel=0.1)
    assert by_row < by_person / 2
    numbered = paired_gap(first, second, group=7 * person + 3)
    assert (numbered.low, numbered.high) == pytest.approx((gap.low, gap.high), rel=1e-12)
    alone = paired_gap(first, second, group=np.arange(len(person))[::-1])
    assert alone.high == pytest.approx(paired_gap(first, second).high)


def test_the_interval_of_a_mean_is_that_of_theory() -> None:
    values = np.random.default_rng(1).normal(3.0, 1.0, 500)
    gap = bootstrap_statistic(lambda index: float(values[index].mean()), 500)
    half = 1.96 * values.std() / np.sqrt(500)
    assert (gap.low, gap.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)


def test_of_a_statistic_that_some_draws_do_not_have_the_others_tell() -> None:
    values = np.random.default_rng(3).normal(3.0, 1.0, 60)

    def first_sixth(index: NDArray[np.int64]) -> float:
        return float(values[index].mean()) if (index == 0).any() else float("nan")

    gap, other = (bootstrap_statistic(first_sixth, 60, seed) for seed in (1, 2))
    assert gap.mean == other.mean == values.mean()
    assert (gap.low, gap.high) != (other.low, other.high)
    assert gap.low < gap.mean < gap.high
    few: list[int] = []

    def counted(index: NDArray[np.int64]) -> float:
        few.append(len(index))
        return 0.0

    bootstrap_statistic(counted, 60, draws=10)
    assert few == [60] * 11


def test_a_head_that_hardly_any_test_row_has_has_no_gap() -> None:
    n, unknown = 20, np.full((20, 3), np.nan, np.float32)
    labels = unknown.copy()
    labels[:, 0], labels[3, 1], labels[5:7, 2] = np.arange(n) % 2, 1.0, 1.0
    features = Coded(np.zeros((n, 0), np.float32), np.zeros((n, 0), np.int32), ())
    weight = np.ones(n, np.float32)
    rows = Rows(features, labels, unknown, weight, np.arange(n, dtype=np.uint64), np.zeros(n))
    first, second = np.full((n, 3), 0.4), np.linspace(0.1, 0.9, 3 * n).reshape(n, 3)
    assert [gap([first], [second], rows, head) is None for head in range(3)] == [False, True, False]
    weight[5] = 0.0
    assert gap([first], [second], rows, 2) is None
