"""Without the window that speaks most against it, a change is what the others make of it."""

import numpy as np
import pytest

from controller.core.worst import Look, without_worst


def looks(changes: list[float], shares: list[float] | None = None) -> list[Look]:
    parts = shares or [1.0 / len(changes)] * len(changes)
    return [Look(k, y, f) for k, (y, f) in enumerate(zip(changes, parts, strict=True))]


def test_a_bad_hour_is_left_out() -> None:
    windows = looks([0.01, 0.01, -0.29, 0.01])
    change, variance, worst = without_worst(-0.065, 0.003, windows, sign=1)
    assert change == pytest.approx(0.01)
    assert variance == pytest.approx(0.004)
    assert worst is windows[2]


def test_on_the_other_side_a_rise_is_the_worst() -> None:
    windows = looks([0.01, 0.3, -0.2])
    assert without_worst(0.0367, 0.001, windows, sign=-1)[2] is windows[1]
    assert without_worst(0.0367, 0.001, windows, sign=1)[2] is windows[2]


def test_the_rest_is_the_mean_of_the_others_by_share() -> None:
    rng = np.random.default_rng(1)
    y, f = rng.normal(0, 0.05, 9), rng.dirichlet(np.ones(9))
    change, _, worst = without_worst(float(y @ f), 1.0, looks(y.tolist(), f.tolist()), sign=1)
    rest = [np.delete(y, k) @ np.delete(f, k) / (1.0 - f[k]) for k in range(9)]
    assert change == pytest.approx(max(rest))
    assert worst is not None
    assert worst.end_ms == int(np.argmax(rest))


def test_what_all_windows_say_stands() -> None:
    change, variance, _ = without_worst(-0.05, 0.0001, looks([-0.05] * 5), sign=1)
    assert change == pytest.approx(-0.05)
    assert variance == pytest.approx(0.000125)


def test_a_lone_window_proves_nothing() -> None:
    assert without_worst(-0.5, 1e-6, looks([-0.5]), sign=1)[1] == float("inf")
    assert without_worst(-0.5, 1e-6, [], sign=1)[1:] == (float("inf"), None)
