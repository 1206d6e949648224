"""Without the window that speaks most against it, a change is what the others make of it."""

import msgspec
import numpy as np
import pytest

from controller.core.estimate import BUCKETS, Metric, Served, relative_changes
from controller.core.worst import Look, Looks, bad, without, without_worst


def looks(changes: list[float], weights: list[float] | None = None) -> Looks:
    parts = weights or [1.0] * len(changes)
    return Looks(1, tuple(Look(k, (y,), (w,)) for k, (y, w) in enumerate(zip(changes, parts, strict=True))))


def one(value: float) -> np.ndarray:
    return np.array([value])


def test_a_bad_hour_is_left_out() -> None:
    change, variance = without_worst(one(-0.065), one(0.003), looks([0.01, 0.01, -0.29, 0.01]), 0, sign=1)
    assert change == pytest.approx(0.01)
    assert variance == pytest.approx(0.004)


def test_on_the_other_side_a_rise_is_the_worst() -> None:
    windows = looks([0.01, 0.3, -0.2])
    assert without_worst(one(0.11 / 3), one(1.0), windows, 0, sign=-1)[0] == pytest.approx(-0.095)
    assert without_worst(one(0.11 / 3), one(1.0), windows, 0, sign=1)[0] == pytest.approx(0.155)


def test_the_rest_is_the_mean_of_the_others_by_weight() -> None:
    rng = np.random.default_rng(1)
    y, w = rng.normal(0, 0.05, 9), rng.gamma(2.0, 50.0, 9)
    windows, mean = looks(y.tolist(), w.tolist()), one(y @ w / w.sum())
    rest = [np.delete(y, k) @ np.delete(w, k) / np.delete(w, k).sum() for k in range(9)]
    assert [without(mean, windows, look)[0] for look in windows.windows] == pytest.approx(rest)
    assert without_worst(mean, one(1.0), windows, 0, sign=1)[0] == pytest.approx(max(rest))


def test_what_all_windows_say_stands() -> None:
    change, variance = without_worst(one(-0.05), one(0.0001), looks([-0.05] * 5), 0, sign=1)
    assert change == pytest.approx(-0.05)
    assert variance == pytest.approx(0.000125)


def test_a_lone_window_proves_nothing() -> None:
    assert without_worst(one(-0.5), one(1e-6), looks([-0.5]), 0, sign=1)[1] == float("inf")
    assert without_worst(one(-0.5), one(1e-6), Looks(), 0, sign=1)[1] == float("inf")


def test_one_window_like_no_other_is_bad_and_two_are_not() -> None:
    rng = np.random.default_rng(2)
    usual = rng.normal(0.03, 0.01, 24)
    wild = usual.copy()
    wild[7] = -0.25
    assert bad(looks(wild.tolist()), [0]) == looks(wild.tolist()).windows[7]
    wild[9] = 0.3
    assert bad(looks(wild.tolist()), [0]) is None
    assert bad(looks(usual.tolist()), [0]) is None
    assert bad(looks([0.0, 0.0, 0.0, 0.9]), [0]) is None  # four say nothing of each other


def test_where_most_windows_say_exactly_the_same_none_is_bad() -> None:
    assert bad(looks([0.0] * 12 + [0.01]), [0]) is None


def test_a_quiet_hour_is_allowed_more_noise() -> None:
    rng = np.random.default_rng(3)
    weight = np.where(np.arange(24) == 5, 1.0, 100.0)
    y = 0.03 + 0.01 * rng.standard_normal(24)
    y[5] = 0.03 + 0.1
    assert bad(looks(y.tolist(), weight.tolist()), [0]) is None
    assert bad(looks(y.tolist()), [0]) is not None


def test_busy_and_quiet_hours_are_each_held_against_their_own_noise() -> None:
    """2,000 tests of a day whose every other hour has a hundred times the traffic; one quiet hour, ten s.d. away."""
    rng, weight = np.random.default_rng(7), np.tile([1.0, 100.0], 12)
    drawn = 0.03 + 0.01 * rng.standard_normal((2000, 24)) / np.sqrt(weight)
    assert sum(bad(looks(y.tolist(), weight.tolist()), [0]) is not None for y in drawn) <= 20
    drawn[:, 6] = 0.03 + 0.1
    found = [bad(looks(y.tolist(), weight.tolist()), [0]) for y in drawn[:200]]
    assert np.mean([window is not None and window.end_ms == 6 for window in found]) > 0.9


def test_no_window_is_bad_by_luck_nor_by_the_hour_of_the_day() -> None:
    """2,000 tests of a day, effects swinging by a third, at noise from much to almost none."""
    rng = np.random.default_rng(4)
    swing = 1.0 + 0.35 * np.cos(np.arange(24) / 24 * 2 * np.pi)
    found = sum(
        bad(looks((0.05 * np.roll(swing, rng.integers(24)) + sd * rng.standard_normal(24)).tolist()), [0]) is not None
        for sd in (0.02, 0.005, 0.0005)
        for _ in range(667)
    )
    assert found <= 2


def test_no_window_is_bad_for_one_huge_amount() -> None:
    """100 tests of a day without any effect, amounts of a log-normal spread of 2: each window knows its own error."""
    rng, arm_of, names = np.random.default_rng(6), np.repeat([0, 1], [600, 200]), ("watch",)
    found, blind = 0, 0
    for _ in range(100):
        windows = []
        for k in range(24):
            amount = rng.lognormal(0.0, 2.0, (800, 3)).sum(axis=1)
            sums = np.rint(amount * 1e6).astype(np.int64)[None, :, None]
            said = relative_changes((Metric("watch", "watch", BUCKETS),), names, Served(sums, arm_of, 2))
            y, se = said.change[0, 0, 0], np.sqrt(said.covariance[0, 0, 0, 0])
            windows.append(Look(k, (float(y),), (float(amount[:600].sum()),), (float(se),)))
        found += bad(Looks(1, tuple(windows)), [0]) is not None
        blind += bad(Looks(1, tuple(msgspec.structs.replace(k, se=()) for k in windows)), [0]) is not None
    assert found <= 1
    assert blind >= 5


def test_looks_through_an_end() -> None:
    assert [look.end_ms for look in looks([0.0] * 5).through(2).windows] == [0, 1, 2]


def test_windows_that_are_not_remembered_keep_their_weight() -> None:
    rng = np.random.default_rng(5)
    y, w = rng.normal(0, 0.05, 9), rng.gamma(2.0, 50.0, 9)
    windows, mean = looks(y.tolist(), w.tolist()), one(y @ w / w.sum())
    few = windows.newest(6).newest(4)
    assert few.windows == windows.windows[-4:]
    assert few.through(7).older == few.older
    assert [without(mean, few, look)[0] for look in few.windows] == pytest.approx(
        [without(mean, windows, look)[0] for look in few.windows]
    )
    assert windows.newest(9) is windows
