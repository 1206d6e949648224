import msgspec
import numpy as np
import pytest

from controller.core.experiment import Theta
from controller.core.space import Space
from simulators.catalog import SCENARIOS
from simulators.handmade import JUMP_HOUR, QUICK
from simulators.scenarios import PERIOD_H, Drift, Scenario, drifted
from simulators.truth import best_gain, optimum, truth
from simulators.worlds import gain, margins, true_change, volume

DRIFT = Drift(swing=0.3, wander=0.5, seed=1)
SCENARIO = Scenario(name="quick", summary="", world=QUICK, drift=DRIFT)
THETA: Theta = {"all": (1.0, 1.4, -3.5)}


def test_the_truth_is_the_mean_over_the_next_day_by_volume() -> None:
    hour = 7
    by_hand, total = np.zeros(2), 0.0
    for h in range(hour, hour + 24):
        share = float(volume(QUICK, np.array(h % 24 + 0.5)))
        by_hand += share * true_change(drifted(QUICK, DRIFT, h + 0.5), THETA)
        total += share
    assert truth(SCENARIO, hour, [None, THETA]) == pytest.approx(np.array([[0.0, 0.0], by_hand / total]), abs=1e-12)


def test_a_response_swings_once_a_day_around_a_peak_that_wanders() -> None:
    def terms(hour: float) -> tuple[float, float]:
        response = drifted(QUICK, DRIFT, hour).quantities[2].response
        return response[("p_watch",)], response[("p_watch", "p_watch")]

    squares = np.array([terms(h)[1] for h in range(24)]) / -0.35
    assert squares.mean() == pytest.approx(1.0)
    assert (squares.min(), squares.max()) == pytest.approx((0.7, 1.3), abs=0.01)
    peaks = np.array([terms(h)[0] / terms(h)[1] / (0.40 / -0.35) for h in range(int(PERIOD_H))])
    assert peaks.mean() == pytest.approx(1.0)
    assert (peaks.min(), peaks.max()) == pytest.approx((0.5, 1.5), abs=0.01)
    assert np.abs(np.diff(peaks)).max() < 0.015  # of the way, an hour
    assert drifted(QUICK, Drift(0.0, 0.0, 1), 5.5) == QUICK


def test_nobody_foresees_a_jump() -> None:
    jump = SCENARIOS["jump"]
    drifting = msgspec.structs.replace(jump, drift=DRIFT)
    theta = {"all": tuple(w.baseline + 0.2 * (w.high - w.baseline) for w in jump.world.weights)}
    for scenario in (jump, drifting):
        still = msgspec.structs.replace(scenario, jump_hour=None)
        turned = msgspec.structs.replace(still, world=jump.later)
        before, after = (truth(scenario, h, [theta]) for h in (JUMP_HOUR - 1, JUMP_HOUR))
        assert before.tolist() == truth(still, JUMP_HOUR - 1, [theta]).tolist()
        assert after.tolist() == truth(turned, JUMP_HOUR, [theta]).tolist()


@pytest.mark.parametrize("name", ["drift", "rails", "eight"])
@pytest.mark.parametrize("hour", [0, 40])
def test_the_best_is_feasible_and_nothing_near_it_is_better(name: str, hour: int) -> None:
    scenario = SCENARIOS[name]
    best = optimum(scenario, hour, common=True)
    change = truth(scenario, hour, [best.theta])[0]
    assert gain(scenario.world, change) == pytest.approx(best.gain, rel=2e-3)
    assert margins(scenario.world, change).min() > -1e-4
    rng = np.random.default_rng(0)
    space, at = Space(scenario.world.weights), np.array(best.theta["all"])
    near = space.to_theta(space.to_unit(at) + 0.05 * rng.standard_normal((2000, space.d)))
    tried = truth(scenario, hour, [{"all": tuple(v)} for v in near])
    feasible = (margins(scenario.world, tried) >= 0).all(axis=1)
    assert feasible.any()
    assert gain(scenario.world, tried)[feasible].max() <= best.gain * 1.002


def test_the_best_by_segment_of_a_drifting_world_is_worth_what_the_day_says() -> None:
    """The segments' own terms drift too."""
    tenure = msgspec.structs.replace(SCENARIOS["tenure"], drift=DRIFT)
    for hour in (0, 15):
        best = optimum(tenure, hour, common=False)
        found = truth(tenure, hour, [best.theta])[0]
        assert gain(tenure.world, found) == pytest.approx(best.gain, rel=5e-3)
        assert margins(tenure.world, found).min(initial=0.0) > -1e-4


def test_between_knots_the_best_gain_is_a_straight_line() -> None:
    scenario = SCENARIOS["drift"]
    exact = [optimum(scenario, h, common=True).gain for h in (0, 2, 6, 46, 47)]
    assert [best_gain(scenario, h, common=True) for h in (0, 2, 6, 46, 47)] == pytest.approx(exact, rel=2e-3)
    assert exact[0] != exact[2]


def test_of_vectors_by_segment_each_segment_has_its_own() -> None:
    tenure = SCENARIOS["tenure"]
    theta: Theta = {"all": tuple(tenure.world.baseline), "returning": (1.0, 1.5, -5.0)}
    found = truth(tenure, 0, [None, theta, {"all": (1.0, 1.5, -5.0)}])
    assert found[0] == pytest.approx(0.0)
    assert found[1] == pytest.approx(true_change(tenure.world, theta))
    assert not np.allclose(found[1], found[2])


def test_the_best_gain_is_that_of_the_world_that_is_known() -> None:
    jump = msgspec.structs.replace(SCENARIOS["jump"], drift=None)
    before, after = (best_gain(jump, hour, common=True) for hour in (JUMP_HOUR - 1, JUMP_HOUR))
    assert before != after
    assert best_gain(jump, JUMP_HOUR + 3, common=True, seen=JUMP_HOUR - 1) == before
    assert best_gain(jump, JUMP_HOUR - 1, common=True, seen=JUMP_HOUR) == after


def test_the_corner_and_the_trap() -> None:
    rails, trap = (optimum(SCENARIOS[name], 0, common=True) for name in ("rails", "trap"))
    world = SCENARIOS["rails"].world
    room = margins(world, np.array([rails.change[m.name] for m in world.metrics]))
    assert len(room) == 4
    assert (room < 1e-6).sum() == 2
    assert 0 < trap.gain < 0.002
    far = true_change(SCENARIOS["trap"].world, (2.0, 0.5, 0.5, 0.5))
    assert gain(SCENARIOS["trap"].world, far) > 0.1  # the lure
    assert margins(SCENARIOS["trap"].world, far)[0] < -0.2
