"""Catastrophes within a window."""

import msgspec
import numpy as np
import pytest

from controller.assignment import Stage
from controller.core.breaker import FORGIVEN, tripped
from controller.core.estimate import MIN_BUCKETS
from controller.core.experiment import Statistics, carrying
from controller.core.replay import replay
from controller.core.safety import Guardrail
from controller.core.windows import Cell, Quality
from tests.core.loop import HOUR, PLAN, START, Loop, Row, Theta, at_stage, journalled, varied


def explored(windows: int = 2) -> Loop:
    loop = Loop()
    loop.windows(windows)
    assert len(loop.table.arms) == 5
    return loop


def broken(row: Row, arm: str, factor: float = 0.05) -> Row:
    """The same event, its clicks gone where the arm served it."""
    return row._replace(values=(row.values[0], row.values[1] * factor, row.values[2])) if row.arm == arm else row


def test_a_catastrophe_is_stopped_within_its_window() -> None:
    loop = explored()
    bad = loop.table.arms[2]
    loop.poll([broken(row, bad.arm) for row in loop.rows(minute=20)])
    assert loop.records[-2].kind == "breaker_tripped"
    assert loop.records[-1].kind == "guardrail_tripped"
    assert loop.records[-1].body["arm"] == bad.arm
    assert bad.arm not in [arm.arm for arm in loop.table.arms]
    assert len(loop.table.arms) == 4
    assert loop.carry.banned == (bad.theta,)
    assert bad.arm in loop.carry.reason
    assert loop.carry.stage == "explore"
    assert loop.infos[-1].decisions == ()


def test_from_an_infeasible_baseline_a_miss_of_the_limit_is_no_catastrophe() -> None:
    """Clicks must rise by half: nothing does that, and everything is more than `breaker_change` below it."""
    loop = Loop(varied(guardrails=(Guardrail("ctr", min_change=0.5),)))
    loop.windows(2)
    bad = loop.table.arms[2].arm
    loop.poll([broken(row, bad, 0.9) for row in loop.rows(minute=20)])
    assert "breaker_tripped" not in [record.kind for record in loop.records]
    loop.poll([loop.settles()])
    loop.hour += 1
    bad = loop.table.arms[2].arm
    loop.poll([broken(row, bad) for row in loop.rows(minute=20)])
    assert [record.body["arm"] for record in loop.records if record.kind == "guardrail_tripped"] == [bad]


def test_its_buckets_go_to_control_and_no_others_move() -> None:
    loop = explored()
    before, bad = loop.table, loop.table.arms[2].arm
    loop.poll([broken(row, bad) for row in loop.rows(minute=20)])
    for old, new in zip(before.buckets, loop.table.buckets, strict=True):
        name = before.arms[old].arm
        assert loop.table.arms[new].arm == ("control" if name == bad else name)


def test_the_vector_is_not_dealt_again() -> None:
    loop = explored()
    bad = loop.table.arms[2]
    loop.poll([broken(row, bad.arm) for row in loop.rows(minute=20)])
    loop.poll([loop.settles()])
    loop.hour += 1
    for _ in range(3):
        assert all(_far(arm.theta["all"], bad.theta["all"]) for arm in loop.table.arms[1:])
        loop.window()


def _far(a: Theta, b: Theta) -> bool:
    ends = np.array([[0.1, 10.0], [-1.0, 1.0]])
    u, v = ((np.log(t[1] / 0.1) / np.log(ends[0, 1] / ends[0, 0]), (t[2] + 1.0) / 2.0) for t in (a, b))
    return bool(np.sqrt(np.mean((np.array(u) - np.array(v)) ** 2)) >= 0.05)


def test_a_candidate_that_breaks_sends_the_study_back_to_explore() -> None:
    loop = at_stage("ramp")
    arm = loop.table.arms[1]
    loop.poll([broken(row, arm.arm) for row in loop.rows(minute=20)])
    assert loop.carry.stage == "explore"
    assert loop.carry.candidate is None
    assert loop.carry.banned == (arm.theta,)
    assert arm.arm not in {own.arm for own in loop.table.arms}


@pytest.mark.parametrize("stage", ["explore", "confirm"])
def test_a_vector_that_was_chosen_and_not_served_yet_is_not_at_fault(stage: Stage) -> None:
    """Until the next table the one before is in force: what breaks in it is another vector."""
    loop = explored() if stage == "explore" else at_stage(stage)
    assert loop.order("choose", theta={"all": (1.0, 2.5, 0.3)}, objective={"watch": 1.0, "ctr": 0.1}).table
    chosen, bad = loop.carry.candidate, loop.table.arms[1]
    assert chosen is not None
    loop.poll([broken(row, bad.arm) for row in loop.rows(minute=20)])
    assert bad.theta in loop.carry.banned
    assert (loop.carry.stage, loop.carry.candidate) == ("confirm", chosen)
    loop.poll([loop.settles()])
    loop.hour += 1
    assert chosen.arm in [arm.arm for arm in loop.table.arms]


def test_a_vector_that_was_chosen_and_breaks_as_an_exploring_arm_is_given_up() -> None:
    loop = explored()
    bad = loop.table.arms[1]
    assert loop.order("choose", theta=bad.theta, objective={"watch": 1.0}).table
    loop.poll([broken(row, bad.arm) for row in loop.rows(minute=20)])
    assert (loop.carry.stage, loop.carry.banned, loop.carry.candidate) == ("explore", (bad.theta,), None)
    loop.poll([loop.settles()])
    loop.hour += 1
    assert bad.theta not in [arm.theta for arm in loop.table.arms]
    assert all(checked.outcome == "exact" for checked in replay(journalled(loop.records)))


def test_an_arm_of_the_baseline_that_breaks_after_a_choice_pauses_the_study_and_bans_nothing() -> None:
    """The choice ends the A/A stage, but its arms go on until the next table."""
    loop = Loop(varied(rollout={"verify_ms": 4 * HOUR}))
    loop.window()
    assert loop.order("choose", theta={"all": (1.0, 2.5, 0.3)}, objective={"watch": 1.0}).table
    chosen, arm = loop.carry.candidate, loop.table.arms[1].arm
    loop.poll([broken(row, arm) for row in loop.rows(minute=20)])
    assert (loop.carry.stage, loop.carry.banned) == ("paused", ())
    assert loop.carry.reason.startswith(f"A/A: {arm} changes ctr by -9")
    loop.order("resume")
    assert (loop.carry.stage, loop.carry.candidate) == ("confirm", chosen)
    assert all(checked.outcome == "exact" for checked in replay(journalled(loop.records)))


def break_one(loop: Loop) -> str:
    """One hour in which the newest vector's clicks vanish; the arm's name."""
    arm = loop.table.arms[-1].arm
    loop.window(lambda row: broken(row, arm))
    return arm


def test_breaks_in_four_windows_pause_the_study_and_say_what_to_look_at() -> None:
    loop = explored()
    for count in range(1, 4):
        break_one(loop)
        assert (loop.carry.stage, loop.carry.breaks) == ("explore", count)
    arm = loop.table.arms[-1].arm
    loop.poll([broken(row, arm) for row in loop.rows(minute=20)])
    assert (loop.carry.stage, len(loop.table.arms)) == ("paused", 1)
    assert loop.carry.reason.startswith(f"breaker: {arm} changes ctr by -9")
    assert "after others in 3 windows before: look whether the arms' events are counted" in loop.carry.reason
    assert [record.body["to"] for record in loop.records if record.kind == "stage_changed"][-1] == "paused"
    loop.order("resume")
    loop.window()
    break_one(loop)
    assert (loop.carry.stage, loop.carry.breaks) == ("explore", 1)
    assert len(loop.carry.banned) == 5
    assert all(checked.outcome == "exact" for checked in replay(journalled(loop.records)))


@pytest.mark.parametrize("stage", ["confirm", "ramp", "hold"])
def test_a_candidate_that_breaks_in_the_fourth_window_is_not_served_again(stage: Stage) -> None:
    loop = at_stage(stage)
    loop.window()
    bad = loop.table.arms[1]
    # Others broke in three windows before.
    experiment = carrying(loop.state.experiment, breaks=3, broke_ms=loop.carry.decided_through_ms)
    loop.state = msgspec.structs.replace(loop.state, experiment=experiment)
    loop.poll([broken(row, bad.arm) for row in loop.rows(minute=20)])
    assert (loop.carry.stage, loop.carry.banned, loop.carry.candidate) == ("paused", (bad.theta,), None)
    loop.order("resume")
    assert loop.carry.stage == "explore"
    loop.poll([loop.settles()])
    loop.hour += 1
    loop.window()
    assert bad.theta not in [arm.theta for arm in loop.table.arms]


def test_two_vectors_that_break_in_one_window_count_once() -> None:
    loop = explored()
    for minute in (20, 40):
        arm = loop.table.arms[-1].arm
        loop.poll([broken(row, arm) for row in loop.rows(minute=minute)])
    assert len(loop.carry.banned) == 2
    assert loop.carry.breaks == 1


def test_a_break_long_ago_is_forgiven() -> None:
    loop = explored()
    break_one(loop)
    loop.hour += FORGIVEN
    loop.windows(2)
    break_one(loop)
    assert loop.carry.breaks == 1


def test_what_was_good_for_long_does_not_hide_a_catastrophe() -> None:
    loop = at_stage("hold")
    loop.windows(12)
    arm = loop.table.arms[1].arm
    loop.poll([broken(row, arm) for row in loop.rows(minute=20)])
    assert loop.carry.stage == "explore"


def test_a_bad_arm_that_is_no_catastrophe_is_left_to_the_posterior() -> None:
    loop = explored()
    loop.poll([broken(row, loop.table.arms[2].arm, factor=0.9) for row in loop.rows(minute=20)])
    assert len(loop.table.arms) == 5


def test_one_event_alone_trips_nothing_however_large() -> None:
    plan = varied(guardrails=(Guardrail("watch", max_change=0.01),))
    for many in (False, True):
        loop = Loop(plan)
        loop.windows(2)
        rows = loop.rows(minute=20)
        arm = loop.table.arms[2].arm
        own = [k for k, row in enumerate(rows) if row.arm == arm]
        for k in own if many else own[:1]:
            impressions, clicks, watched = rows[k].values
            rows[k] = rows[k]._replace(values=(impressions, clicks, watched * 100.0))
        loop.poll(rows)
        tripped_by = [record.body["arm"] for record in loop.records if record.kind == "guardrail_tripped"]
        assert tripped_by == ([arm] if many else [])


def test_one_event_alone_trips_nothing_where_a_fall_is_bad() -> None:
    """One bucket's impressions, a thousand times as many, leave its arm nearly no clicks for each."""
    for many in (False, True):
        loop = explored()
        rows = loop.rows(minute=20)
        arm = loop.table.arms[2].arm
        own = [k for k, row in enumerate(rows) if row.arm == arm]
        for k in own if many else own[:1]:
            impressions, clicks, watched = rows[k].values
            rows[k] = rows[k]._replace(values=(impressions * 1000.0, clicks, watched))
        loop.poll(rows)
        tripped_by = [record.body["arm"] for record in loop.records if record.kind == "guardrail_tripped"]
        assert tripped_by == ([arm] if many else [])


def test_it_sees_what_only_the_newest_window_and_the_one_before_show_together() -> None:
    """An arm's events are in half of its buckets in one window and in the other half in the next: too few in each."""
    loop = explored()
    experiment, newest = loop.state.experiment, START + (loop.hour + 1) * HOUR
    arm_of, rng = experiment.deals[loop.carry.deal].buckets, np.random.default_rng(1)
    sums = np.array([1000.0, 100.0, 5000.0]) * (1.0 + 0.01 * rng.standard_normal((1, PLAN.buckets, 3)))
    sums[:, arm_of == 2, 1] *= 0.05
    own = np.flatnonzero(arm_of == 2)
    assert len(own) // 2 < MIN_BUCKETS < len(own) - 1

    def shown(silent: np.ndarray) -> Cell:
        served = np.isin(np.arange(PLAN.buckets), silent, invert=True)[None]
        return Cell(np.rint(sums * served[..., None] * 1e6).astype(np.int64), served.astype(np.int64))

    def found(ago: int) -> list[int]:
        version = loop.table.version
        cells = {(newest - ago * HOUR, version): shown(own[::2]), (newest, version): shown(own[1::2])}
        seen = Statistics(newest, cells, np.zeros(PLAN.buckets, np.int64), Quality())
        return [crossing.arm for crossing in tripped(PLAN, experiment, seen)]

    assert found(1) == [2]
    assert found(2) == [], "what was two windows ago is none of it"


def test_it_looks_once_a_minute() -> None:
    loop = explored()
    bad = loop.table.arms[2].arm
    rows = loop.rows(minute=20)
    loop.poll(rows[:10])
    loop.poll([broken(row, bad)._replace(ts_ms=row.ts_ms + 59_000) for row in rows[10:]])
    assert len(loop.table.arms) == 5
    loop.poll([loop.beat(rows[0].ts_ms + 61_000)])
    assert len(loop.table.arms) == 4


def test_it_looks_after_the_clock_was_set_back() -> None:
    loop = explored()
    rows = loop.rows(minute=20)
    loop.poll(rows[:10], now_ms=START + 1000 * HOUR)
    loop.poll([broken(row, loop.table.arms[2].arm) for row in rows[10:]], now_ms=rows[0].ts_ms)
    assert len(loop.table.arms) == 4


def test_few_buckets_and_harmless_noise_never_trip() -> None:
    """A sparse metric: few clicks in few buckets, nothing is wrong, and it looks at every minute."""
    plan = varied(PLAN, buckets=60, traffic={"explore_arms": 2})
    loop = Loop(plan, noise=0.9)
    loop.windows(1)
    for seed in range(40):
        loop.seed = seed
        rng = np.random.default_rng(seed)
        rows = [r._replace(values=(r.values[0], float(rng.poisson(0.3)), r.values[2])) for r in loop.rows(minute=20)]
        kept = loop.state
        for k, row in enumerate(rows):
            loop.poll([row._replace(ts_ms=row.ts_ms + 61_000 * (k // 10))])
        assert not any(record.kind == "breaker_tripped" for record in loop.records)
        loop.state = kept


def test_no_traffic_and_no_arms_trip_nothing() -> None:
    loop = Loop()
    nothing = Statistics(START + HOUR, {}, np.zeros(PLAN.buckets, np.int64), Quality())
    assert tripped(PLAN, loop.state.experiment, nothing) == ()
