import numpy as np
import pytest

from simulators.catalog import scenario_named
from simulators.drawn import GAIN, SMALLEST, drawn, drawn_named
from simulators.optimum import best_feasible
from simulators.scenarios import Scenario
from simulators.worlds import margins, true_change

SOME = [drawn(n) for n in (2, 11, 14, 24, 27)]


def test_a_number_names_one_world() -> None:
    again, other = drawn.__wrapped__(14), drawn(27)
    assert again.world == drawn(14).world
    assert again.world.quantities != other.world.quantities
    assert scenario_named("drawn-14") is drawn(14)
    assert [drawn_named(name) for name in ("drawn-", "drawn--1", "drawn-x", "14", "quick")] == [None] * 5


def test_the_numbers_mean_what_they_meant() -> None:
    """Figures that were published by number must not change their world."""
    summary = "drawn at random: 5 weights, a guardrail, drift, late amounts"
    assert drawn(24).summary == summary
    assert best_feasible(drawn(24).world).gain == pytest.approx(0.03877, abs=2e-4)


@pytest.mark.parametrize("scenario", SOME, ids=[scenario.name for scenario in SOME])
def test_there_is_something_to_gain_within_limits_that_the_baseline_keeps(scenario: Scenario) -> None:
    world = scenario.world
    assert GAIN[0] <= best_feasible(world).gain <= GAIN[1]
    assert margins(world, true_change(world, world.baseline)).min() > 0
    for rail in world.guardrails:
        assert abs(rail.limit) >= SMALLEST[rail.metric]
        assert rail.metric not in world.objective
    assert 1 <= len(world.guardrails) <= 4


def test_most_worlds_have_a_limit_that_costs_something() -> None:
    cost = [best_feasible(s.world, constrained=False).gain - best_feasible(s.world).gain for s in SOME]
    assert np.mean(np.array(cost) > 1e-4) > 0.5
