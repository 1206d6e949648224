"""Whole studies at the edges of what a study can be."""

import msgspec
import numpy as np
import pytest

from controller.assignment import Assignment, Stage
from controller.core.estimate import Metric
from controller.core.events import Component
from controller.core.experiment import Carry, Theta
from controller.core.plan import Plan
from controller.core.safety import Guardrail
from tests.core.loop import HOUR, LEVEL, PLAN, START, Loop, Row, at_stage, pleasant, varied

BASELINE = (1.0, 1.0, 0.0)
MINUTE = 60_000


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
    gains = []
    for seed in (7, 8, 9):
        loop = Loop(varied(guardrails=(Guardrail("ctr", min_change=0.03),), seed=seed), costly_clicks)
        loop.until("hold")
        found = costly_clicks(served(loop)["all"], "")
        assert found["clicks"] > 0.03
        gains.append(found["watch_s"])
        assert worse_than_the_baseline(loop) < 0.25, "mostly the first deals, of which nothing was known"
    assert np.median(gains) > 0.09, "of .1 at most"


def test_where_nothing_is_feasible_control_is_served_for_ever() -> None:
    loop = Loop(varied(guardrails=(Guardrail("ctr", min_change=0.5),)), costly_clicks)
    loop.windows(20)
    assert {table.stage for table in loop.tables} == {"explore"}
    assert loop.carry.pick is None
    assert loop.carry.banned == ()
    late = [arm.theta["all"] for table in loop.tables[-8:] for arm in table.arms if arm.role == "explore"]
    assert np.median([theta[2] for theta in late]) > 0.8, "the least violation is looked for"


def test_one_arm_a_window_is_enough() -> None:
    loop = Loop(varied(traffic={"explore_arms": 1, "explore_share": 0.2}))
    loop.until("hold")
    assert {len(table.arms) for table in loop.tables if table.stage == "explore"} == {1, 2}
    assert pleasant(served(loop)["all"], "")["watch_s"] > 0.1


class Empty(Loop):
    """No event is of segment `ghost` before the hour `appears`."""

    appears = 99

    def rows(self, hour: int | None = None, minute: float = 30.0) -> list[Row]:
        ghost = self.plan.segments.index("ghost") + 1
        return [row for row in super().rows(hour, minute) if row.segment != ghost or self.hour >= self.appears]


def ghosts(table: Assignment) -> list[tuple[float, ...]]:
    return [arm.theta.get("ghost", arm.theta["all"]) for arm in table.arms]


def test_a_segment_without_traffic_keeps_the_baseline_and_holds_up_nobody() -> None:
    loop = Empty(varied(segments=("here", "ghost")))
    loop.until("hold")
    assert {ghost for table in loop.tables for ghost in ghosts(table)} == {BASELINE}
    assert pleasant(served(loop)["here"], "")["watch_s"] > 0.1


def test_a_segment_that_gets_traffic_later_is_explored_from_then_on() -> None:
    loop = Empty(varied(segments=("here", "ghost"), rollout={"explore_min_ms": 12 * HOUR}))
    loop.appears = 4
    loop.windows(4)
    assert set(ghosts(loop.table)) == {BASELINE}
    loop.window()
    assert BASELINE not in ghosts(loop.table)[1:]


RATE = Metric("rate", "clicks", "returned")  # nobody returns: a denominator of zero


@pytest.fixture
def nobody_returns(monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setitem(LEVEL, "returned", 0.0)
    return varied(metrics=(*PLAN.metrics, RATE), components=(*PLAN.components, Component("returned")))


def test_a_zero_denominator_nobody_asks_for_disturbs_nothing(nobody_returns: Plan) -> None:
    loop = Loop(nobody_returns)
    loop.until("hold")


def test_with_an_objective_whose_denominator_is_zero_exploring_goes_on_and_says_why(nobody_returns: Plan) -> None:
    loop = Loop(varied(nobody_returns, objective={"rate": 1.0}))
    loop.windows(12)
    assert {table.stage for table in loop.tables} == {"explore"}
    assert "no deal has measured rate yet" in loop.story()[-1]
    assert loop.carry.banned == ()


def test_with_a_guardrail_whose_denominator_is_zero_exploring_ends_paused(nobody_returns: Plan) -> None:
    loop = Loop(varied(nobody_returns, guardrails=(*PLAN.guardrails, Guardrail("rate", min_change=-0.05))))
    loop.until("paused")
    assert loop.hour == PLAN.rollout.explore_min_ms // HOUR + 1
    assert "no deal in 3h of exploring could measure rate, a guardrail" in loop.carry.reason


def test_a_delayed_metric_with_a_zero_denominator_is_refused_by_the_test(nobody_returns: Plan) -> None:
    delayed = msgspec.structs.replace(RATE, response="delayed")
    rails = (*PLAN.guardrails, Guardrail("rate", min_change=-0.05))
    loop = Loop(varied(nobody_returns, metrics=(*PLAN.metrics, delayed), guardrails=rails))
    loop.until("confirm")
    loop.until("explore")
    assert (
        "not confirmed: rate cannot be measured: a denominator is zero, or control's level not above it"
        in loop.carry.reason
    )


def fallback(row: Row) -> Row:
    """As a client serves that has no valid table."""
    return row._replace(version=0, arm="control")


def outcome(loop: Loop) -> str:
    return loop.infos[-1].decisions[-1].outcome


@pytest.mark.parametrize("stage", ["explore", "confirm", "ramp", "hold"])
def test_after_six_hours_without_events_the_study_goes_on_where_it_was(stage: Stage) -> None:
    """Every table has expired meanwhile: what is served before the first decision is served by the fallback."""
    loop = at_stage(stage)
    loop.windows(1)
    before, tables = loop.carry, len(loop.tables)
    loop.hour += 6
    loop.poll([fallback(row) for row in loop.rows(minute=10)])
    assert loop.carry == resumed(before, loop), "missing data decides nothing"
    assert outcome(loop) == "no_data"
    assert len(loop.tables) == tables + 1, "one table over the whole gap"
    assert loop.table.valid_until_ms == START + loop.hour * HOUR + 10 * MINUTE + PLAN.window.validity_ms
    loop.window()
    assert outcome(loop) in ("dealt", "kept")
    loop.until("hold")


def resumed(before: Carry, loop: Loop) -> Carry:
    """The carry that differs by the table that was renewed alone."""
    now, names = loop.carry, ("version", "published_ms", "valid_until_ms", "decided_through_ms", "sealed_through_ms")
    return msgspec.structs.replace(before, **{name: getattr(now, name) for name in names})


@pytest.mark.parametrize("stage", ["explore", "confirm", "ramp", "hold"])
def test_a_backlog_of_six_hours_is_decided_in_order_and_advances_nothing(stage: Stage) -> None:
    """The daemon was away: for three hours its last table was served, then the fallback."""
    loop = at_stage(stage)
    loop.windows(1)
    before, tables, first = loop.carry, len(loop.tables), loop.hour
    for hour in range(first, first + 6):
        rows = loop.rows(hour)
        loop.poll(rows if hour < first + 3 else [fallback(row) for row in rows], backlog=True)
    loop.hour += 6
    assert len(loop.tables) == tables, "only the newest decision publishes"
    assert [d.outcome for info in loop.infos[-6:] for d in info.decisions] == ["backlog"] * 5
    assert (loop.carry.stage, loop.carry.ramp_step, loop.carry.candidate) == (
        before.stage,
        before.ramp_step,
        before.candidate,
    )
    assert loop.carry.exposed_windows - before.exposed_windows <= 3, "what was not served is no exposure"
    loop.begin(2)
    assert set(loop.table.buckets) == {0}, "an expired table is not dealt again"
    loop.until("hold")
