"""An operator who edits the study file in mid-study."""

import msgspec
import numpy as np
import pytest

from controller.core import replan
from controller.core.decide import keeps_test
from controller.core.estimate import Metric
from controller.core.experiment import Experiment, Vector, carrying, initial
from controller.core.kernel import Hyper, Jump
from controller.core.learn import RESPONSE
from controller.core.plan import Plan
from controller.core.posterior import prior
from controller.core.replay import replay
from controller.core.rollout import TrafficPlan
from controller.core.safety import Guardrail
from controller.core.space import Weight
from tests.core.loop import HOUR, PLAN, START, Loop, at_stage, journalled, varied

WIDE = (Guardrail("ctr", min_change=-0.2),)
TIGHT = (Guardrail("ctr", min_change=-0.005),)  # the vector that PLAN promotes costs 1 to 2 %


def bounded(name: str, **bounds: float) -> Plan:
    """The plan with other bounds of a weight."""
    return varied(weights=tuple(msgspec.structs.replace(w, **bounds) if w.name == name else w for w in PLAN.weights))


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (varied(guardrails=TIGHT), "guardrails[0].min_change: -0.05 before, -0.005 now"),
        (varied(guardrails=(*PLAN.guardrails, *TIGHT)), "guardrails: 1 of them before, 2 of them now"),
        (varied(guardrails=(Guardrail("watch", max_change=0.1),)), "guardrails[0].metric: 'ctr' before, 'watch' now"),
        (varied(objective={"ctr": 1.0}), "objective: {'watch': 1.0} before, {'ctr': 1.0} now"),
        (varied(safety={"risk": 0.1}), "safety.risk: 0.3 before, 0.1 now"),
        (varied(traffic={"explore_arms": 2}), "traffic.explore_arms: 4 before, 2 now"),
        (varied(rollout={"confirm_ms": 24 * HOUR}), "rollout.confirm: 3h before, 1d now"),
        (bounded("p_watch", high=5.0), "weights[1].high: 10.0 before, 5.0 now"),
    ],
)
def test_what_keeps_the_past_s_meaning_may_change(plan: Plan, told: str) -> None:
    changed = replan.differences(PLAN, plan)
    assert told in changed
    assert replan.refused(changed) == ()


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (varied(weights=PLAN.weights[:2]), "weights: 3 of them before, 2 of them now"),
        (bounded("p_watch", baseline=2.0), "weights[1].baseline: 1.0 before, 2.0 now"),
        (varied(weights=(*PLAN.weights[:2], Weight("other", -1.0, 1.0, 0.0))), "weights[2].name: 'p_share' before"),
        (varied(window={"length_ms": 2 * HOUR}), "window.length: 1h before, 2h now"),
        (varied(salt="x:"), "traffic.salt: 'hand:' before, 'x:' now"),
        (varied(buckets=60), "traffic.buckets: 120 before, 60 now"),
        (varied(segments=("a",)), "segments.values: 0 of them before, 1 of them now"),
        (varied(metrics=PLAN.metrics[::-1]), "metrics[0].name: 'watch' before, 'ctr' now"),
        (varied(seed=8), "seed: 7 before, 8 now"),
    ],
)
def test_what_would_give_the_past_another_meaning_is_refused_by_its_place(plan: Plan, told: str) -> None:
    changed = replan.differences(PLAN, plan)
    assert any(line.startswith(told) for line in replan.refused(changed)), changed


def test_a_metric_s_name_is_no_key_of_the_study_file() -> None:
    names = ("salty", "load_ms")
    metrics = tuple(Metric(name, "watch_s", "impressions") for name in names)
    plan = varied(metrics=metrics, objective=dict.fromkeys(names, -1.0), guardrails=())
    changed = replan.differences(plan, varied(plan, objective=dict.fromkeys(names, -2.0)))
    assert changed == ("objective.salty: -1.0 before, -2.0 now", "objective.load_ms: -1.0 before, -2.0 now")
    assert replan.refused(changed) == ()


def test_nothing_changed_is_nothing_to_follow() -> None:
    experiment = at_stage("ramp").state.experiment
    assert replan.differences(PLAN, varied()) == ()
    assert replan.follow(PLAN, varied(), experiment, START).carry == experiment.carry


def test_new_guardrails_are_put_to_the_candidate_at_the_next_decision() -> None:
    loop = at_stage("hold")
    loop.replan(varied(guardrails=(Guardrail("ctr", min_change=-0.013),)))  # it costs 1.6 %, known to 0.9 %
    assert loop.carry.stage == "hold", "nobody knows yet"
    held = loop.carry.candidate.arm
    loop.window()
    assert loop.carry.stage == "explore"
    assert loop.carry.reason.startswith(f"the study file changed: {held} does not suit the new guardrails: P(every")
    assert loop.carry.candidate is None
    assert loop.carry.banned == (), "it was not at fault"
    assert loop.carry.pick is None or loop.carry.pick.p_feasible > 0.6
    loop.until("hold")
    assert held not in [arm.arm for arm in loop.table.arms]


@pytest.mark.parametrize("stage", ["confirm", "ramp", "hold"])
def test_a_candidate_that_suits_the_new_guardrails_stays(stage: str) -> None:
    loop = at_stage(stage)
    held = loop.carry.candidate
    loop.replan(varied(guardrails=WIDE))
    loop.window()
    assert (loop.carry.candidate, loop.carry.recheck) == (held, False)
    loop.until("hold")


@pytest.mark.parametrize("stage", ["confirm", "ramp", "hold"])
def test_a_candidate_outside_the_new_bounds_leaves_traffic_at_once(stage: str) -> None:
    loop = at_stage(stage)
    assert loop.carry.candidate.theta["all"][1] > 3.0
    loop.replan(bounded("p_watch", high=3.0))
    assert loop.carry.stage == "explore"
    assert "lies outside the new bounds" in loop.carry.reason
    assert set(loop.table.buckets) == {0}
    loop.until("hold")
    assert {arm.theta["all"][1] <= 3.0 for arm in loop.table.arms} == {True}


def test_an_exploring_arm_outside_the_new_bounds_leaves_traffic_at_once() -> None:
    loop = Loop()
    loop.windows(2)
    before = [arm.theta["all"][1] for arm in loop.table.arms[1:]]
    bound = sorted(before)[2]
    loop.replan(bounded("p_watch", high=bound))
    assert sorted(arm.theta["all"][1] for arm in loop.table.arms[1:]) == sorted(before)[:3]
    assert loop.carry.stage == "explore"


def test_evidence_outside_narrower_bounds_still_counts_and_wider_ones_are_explored() -> None:
    loop = Loop(bounded("p_watch", high=3.0))
    loop.windows(3)
    evidence = loop.state.experiment.evidence
    loop.replan(PLAN)
    assert loop.state.experiment.evidence is evidence
    assert (loop.carry.stage, loop.carry.exposed_windows) == ("explore", 0)
    loop.until("hold")
    assert loop.carry.candidate.theta["all"][1] > 5.0


def test_what_was_fitted_is_told_in_the_new_cube_and_for_the_metrics_judged_now() -> None:
    """Half of the range of p_watch's logarithm, so twice the sides."""
    fitted = (Hyper((0.5, 0.6), 0.1, 0.3, 90.0, 0.8, (Jump(3.0, 0.5),)), Hyper((0.7, 0.8), 0.2, 0.3, 95.0, 0.7))
    experiment = carrying(initial(PLAN), hypers=fitted)
    half = bounded("p_watch", low=10.0**-0.5, high=10.0**0.5)
    told = replan.follow(PLAN, half, experiment, START).carry.hypers
    assert told is not None
    assert told[0].lengthscale == pytest.approx((1.0, 0.6))
    assert msgspec.structs.replace(told[0], lengthscale=(0.5, 0.6)) == fitted[0]
    ctr_only = replan.follow(PLAN, varied(objective={"ctr": 1.0}), experiment, START).carry.hypers
    assert ctr_only == fitted[1:]
    narrow = carrying(experiment, hypers=fitted[1:])
    both = replan.follow(varied(objective={"ctr": 1.0}), PLAN, narrow, START).carry.hypers
    assert both == (*prior(2, (RESPONSE,)), fitted[1])


@pytest.mark.parametrize("stage", ["confirm", "ramp", "hold"])
def test_what_was_chosen_for_another_objective_is_given_up(stage: str) -> None:
    loop = at_stage(stage)
    loop.replan(varied(objective={"watch": 1.0, "ctr": 8.0}))
    assert loop.carry.stage == "explore"
    assert "was chosen for another objective" in loop.carry.reason
    loop.window()
    assert loop.infos[-1].decisions[-1].outcome == "dealt"
    assert loop.table.stage == "explore"


@pytest.mark.parametrize("plan", [bounded("p_watch", high=3.0), varied(objective={"ctr": 1.0})])
def test_a_paused_study_stays_paused_and_resumes_to_explore(plan: Plan) -> None:
    loop = at_stage("ramp")
    loop.order("pause")
    loop.replan(plan)
    assert loop.carry.stage == "paused"
    loop.order("resume")
    assert loop.carry.stage == "explore"


def test_a_paused_candidate_is_judged_by_the_new_guardrails_once_it_is_resumed() -> None:
    loop = at_stage("ramp")
    loop.order("pause")
    loop.replan(varied(guardrails=TIGHT))
    loop.order("resume")
    assert loop.carry.stage == "ramp"
    loop.window()
    assert loop.carry.stage == "explore"


@pytest.mark.parametrize("stage", ["explore", "confirm", "ramp"])
def test_traffic_rollout_and_safety_may_change_in_any_stage(stage: str) -> None:
    loop = at_stage(stage)
    before = loop.carry.candidate
    loop.replan(
        varied(
            traffic=msgspec.structs.asdict(TrafficPlan(2, 0.2, 0.3)),
            rollout={"ramp_shares": (0.2, 0.9)},
            safety={"risk": 0.1, "stop_alpha": 0.001},
        )
    )
    assert (loop.carry.stage, loop.carry.candidate) == (stage, before)
    loop.until("hold")


@pytest.mark.parametrize(
    ("traffic", "goes_on"), [({"max_share_at_risk": 0.3}, False), ({"explore_arms": 2}, True), ({}, True)]
)
def test_a_test_of_other_shares_begins_anew(traffic: dict[str, object], goes_on: bool) -> None:
    loop = at_stage("confirm")
    loop.window()
    trial = loop.state.experiment.trial
    assert keeps_test(PLAN, loop.state.experiment)
    plan = varied(traffic=traffic)
    assert keeps_test(plan, replan.follow(PLAN, plan, loop.state.experiment, 0)) == goes_on
    loop.replan(plan)
    loop.window()
    assert loop.carry.stage == "confirm"
    assert (loop.state.experiment.trial is trial) == goes_on


def test_there_is_no_test_to_go_on_with_while_exploring() -> None:
    assert not keeps_test(PLAN, at_stage("explore").state.experiment)


def test_a_held_vector_climbs_to_a_further_step_of_the_ramp() -> None:
    loop = at_stage("ramp")
    for shares in ((0.1, 0.5), (0.1, 0.5, 0.95)):
        loop.replan(varied(rollout={"ramp_shares": shares, "ramp_step_ms": 2 * HOUR}))
        if len(shares) == 2:
            loop.until("hold")
    loop.window()
    assert (loop.carry.stage, loop.carry.ramp_step) == ("ramp", 1)
    assert "the ramp goes on from 50%" in loop.carry.reason
    assert np.mean(np.array(loop.table.buckets) == 1) == 0.5
    loop.window()
    assert np.mean(np.array(loop.table.buckets) == 1) == 0.95
    assert [round(step.share, 2) for step in loop.carry.shares] == [0.5]  # what a trend is seen against
    loop.until("hold")
    assert {checked.outcome for checked in replay(journalled(loop.records))} == {"exact"}


def test_a_ramp_goes_on_from_the_share_that_it_has_come_to() -> None:
    loop = at_stage("ramp")
    loop.window()
    assert loop.carry.ramp_step == 1  # 50 %
    for shares, step in (((0.1, 0.9), 0), ((0.2, 0.3, 0.5, 0.9), 1), ((0.6, 0.9), 0)):
        clone = loop.clone()
        clone.replan(varied(rollout={"ramp_shares": shares}))
        assert clone.carry.ramp_step == step


def test_bans_outlive_the_change() -> None:
    loop = at_stage("ramp")
    loop.order("rollback")
    loop.order("resume")
    banned = loop.carry.banned
    loop.replan(varied(guardrails=WIDE))
    assert loop.carry.banned == banned != ()


def test_every_span_is_made_again_under_its_own_plan() -> None:
    loop = at_stage("hold")
    for plan in (varied(guardrails=TIGHT), bounded("p_watch", high=3.0), varied(objective={"ctr": 1.0}), PLAN):
        loop.replan(plan)
        loop.windows(2)
    made = list(replay(journalled(loop.records)))
    assert {checked.outcome for checked in made} == {"exact"}
    assert [checked.kind for checked in made].count("plan_changed") == 4


def test_the_input_is_left_alone() -> None:
    experiment: Experiment = at_stage("hold").state.experiment
    held = carrying(experiment, candidate=Vector("c1", {"all": (1.0, 99.0, 0.0)}))
    before = held.carry
    replan.follow(PLAN, bounded("p_watch", high=3.0), held, START)
    assert held.carry is before
