"""Whole studies at the edges of what a study can be."""

import numpy as np

from controller.core.safety import Guardrail
from tests.core.loop import Loop, Theta, varied


def costly_clicks(theta: tuple[float, ...], segment: str) -> dict[str, float]:
    """Clicks rise with p_share alone, by 6 % at most; so does watch time with p_watch, which costs some clicks."""
    x = np.log(theta[1]) / np.log(10.0)
    return {"watch_s": 0.1 * x, "clicks": 0.06 * theta[2] - 0.01 * x}


def worse_than_the_baseline(loop: Loop) -> float:
    """The share of explore arms whose clicks truly fall."""
    thetas = [arm.theta["all"] for table in loop.tables for arm in table.arms if arm.role == "explore"]
    return float(np.mean([costly_clicks(theta, "")["clicks"] < -0.002 for theta in thetas]))


def served(loop: Loop) -> Theta:
    return loop.table.arms[-1].theta


def test_from_an_infeasible_baseline_a_study_finds_the_feasible_region_and_holds_its_best() -> None:
    loop = Loop(varied(guardrails=(Guardrail("ctr", min_change=0.03),)), costly_clicks)
    loop.until("hold")
    assert costly_clicks(served(loop)["all"], "")["clicks"] > 0.03
    assert costly_clicks(served(loop)["all"], "")["watch_s"] > 0.07
    assert worse_than_the_baseline(loop) < 0.25, "mostly the first deals, of which nothing was known"


def test_where_nothing_is_feasible_control_is_served_for_ever() -> None:
    loop = Loop(varied(guardrails=(Guardrail("ctr", min_change=0.5),)), costly_clicks)
    loop.windows(20)
    assert {table.stage for table in loop.tables} == {"explore"}
    assert loop.carry.pick is None
    assert loop.carry.banned == ()
    late = [arm.theta["all"] for table in loop.tables[-8:] for arm in table.arms if arm.role == "explore"]
    assert np.median([theta[2] for theta in late]) > 0.8, "the least violation is looked for"
