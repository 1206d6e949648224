"""The parts of a choice, each against what can be reckoned by hand."""

import msgspec
import numpy as np
import pytest

from controller.core import policy
from controller.core.goal import Goal, Limit
from controller.core.kernel import Floats, Places, kernel
from controller.core.policy import AHEAD_H, CAUTION, MIN_FEASIBLE, SCREENED, UNSURE, p_violation, worth
from controller.core.posterior import Posterior, condition
from tests.core.beliefs import BASELINE, GOAL, HYPERS, D, ask, linear, observed, unseen


def test_the_error_of_an_objective_is_that_of_a_weighted_sum() -> None:
    mean, sd = np.array([[0.1], [0.04]]), np.array([[0.01], [0.06]])
    expected = 2.0 * 0.1 - 0.5 * 0.04 - CAUTION * np.hypot(2.0 * 0.01, 0.5 * 0.06)
    assert worth(Goal((2.0, -0.5), ()), mean, sd, MIN_FEASIBLE) == pytest.approx([expected])


def test_of_several_limits_the_violations_add_up() -> None:
    goal = Goal((1.0, 0.0), (Limit(0, 1, -0.01), Limit(1, -1, 0.02), Limit(1, 1, 0.0)))
    mean, sd = np.array([[-0.03, 0.0, 0.1], [0.05, 0.03, -0.04]]), np.full((2, 3), 0.01)
    assert policy._believed(goal, mean, sd).violation == pytest.approx([0.02 + 0.03, 0.01, 0.04])


def test_however_much_may_be_risked_what_probably_breaks_a_limit_is_not_dealt_again() -> None:
    """Along the second weight the guardrail's metric falls: at .605 it is as probably broken as not, not by far."""
    rng = np.random.default_rng(2)
    unit = rng.random((60, D))
    change = np.stack([0.1 * (unit[:, 0] - 0.4), -0.1 * (unit[:, 1] - 0.5)])
    still = tuple(msgspec.structs.replace(hyper, drift=1e-9) for hyper in HYPERS)
    posterior = condition(observed(unit, change, se=0.001), BASELINE, still)
    for second, dealt_again in ((0.55, True), (0.605, False)):
        before = np.array([[0.9, second, 0.3]])
        p = p_violation(posterior, GOAL, before, 0, 1.0)[0]
        assert (p < 0.3) if dealt_again else (UNSURE < p < 0.6)
        assert ("repeat" in ask(posterior, risk=0.9, previous=before[:, None])[1]) == dealt_again


def regret(limits: tuple[Limit, ...], unit: Floats, posterior: Posterior) -> float:
    """Of the first of some points."""
    view = policy._view(posterior, Goal((1.0, 0.0), limits), 0, 1.0)
    return policy._regret(view, unit[0], unit, view.believe(unit), np.random.default_rng(1))


def test_regret_is_what_the_best_of_several_gains_is_above_the_pick_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """E max(0, X, Y) of normals around 0 is the sum of the three differences' standard deviations / sqrt(8 pi)."""
    monkeypatch.setattr(policy, "REGRET_DRAWS", 100_000)
    unit = np.array([[0.7, 0.5, 0.3], [0.1, 0.9, 0.5]])
    places = Places(unit, np.zeros(2, np.int64), np.ones(2), AHEAD_H)
    K = kernel(HYPERS[0], BASELINE, places, places)
    sds = np.sqrt([K[0, 0], K[1, 1], K[0, 0] + K[1, 1] - 2 * K[0, 1]])
    assert regret((), unit, unseen()) == pytest.approx(sds.sum() / np.sqrt(8 * np.pi), rel=0.02)
    assert regret((Limit(1, 1, 9.0),), unit, unseen()) == 0.0, "what is not feasible gains nothing"
    known = np.array([[0.5, 0.3, 0.3], [0.9, 0.3, 0.3]])  # gains of .01 and .05
    assert regret((), known, linear()) == pytest.approx(0.04, abs=0.005)
    assert regret((), known[::-1], linear()) == pytest.approx(0.0, abs=0.005)


def test_every_draw_gets_what_it_likes_best_of_what_is_left_and_can_be_paid_for() -> None:
    unit = np.array([[0.1], [0.2], [0.3], [0.4], [0.405]])
    risk = np.array([0.3, 0.1, 0.1, 0.0, 0.0])
    gain = np.array([[5.0, 4.0, 3.0, 2.0, 9.0], [5.0, 4.0, 3.0, 2.0, 1.0], [5.0, 4.0, 3.0, 2.0, 2.5], [1.0] * 5])
    violation = np.zeros((4, 5))
    violation[0, 4] = 0.1  # what the first draw would like best breaks a limit in it
    drawn = policy._Drawn(unit, risk, gain, violation)
    assert policy._thompson(drawn, unit[:0], 0.45)[:, 0].tolist() == [0.1, 0.2, 0.405]  # .4 is too near to it
    assert policy._thompson(drawn, unit[:0], 0.35)[:, 0].tolist() == [0.1, 0.4]  # and .405 to this
    assert policy._thompson(drawn, unit[1:2], 0.2)[:, 0].tolist() == [0.2, 0.3, 0.4]


def test_arms_that_are_left_over_have_the_safest_again_as_long_as_the_risk_pays() -> None:
    view, unit = policy._view(linear(), GOAL, 0, 1.0), np.array([[0.9, 0.55, 0.3], [0.8, 0.5, 0.3]])
    risky, safe = 1.0 - view.believe(unit).feasible
    assert risky > 2 * safe > 0.001
    for pays, more in ((0.5, 0), (2.5, 2), (9.5, 3)):
        found, reasons = policy._padded(view, unit, ["thompson"] * 2, 5, risky + safe + pays * safe)
        assert found.tolist() == [*unit.tolist(), *[unit[1].tolist()] * more]
        assert reasons == ["thompson"] * 2 + ["repeat"] * more


def test_of_a_long_history_the_best_are_dealt_again() -> None:
    """The gain grows with the first weight; the guardrail's metric falls with the second."""
    rng = np.random.default_rng(2)
    before = np.concatenate((rng.uniform(0.0, 0.5, (4 * SCREENED, D)), [[0.9, 0.3, 0.3], [0.85, 0.3, 0.3]]))
    unit, reasons = ask(linear(), previous=rng.permutation(before)[:, None])
    assert reasons[:3] == ("repeat", "repeat", "thompson")
    np.testing.assert_array_equal(unit[:2], before[-2:])
