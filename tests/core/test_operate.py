"""Commands, in every stage."""

from typing import get_args

import msgspec
import pytest

from controller.assignment import VERSIONS_PER_EPOCH, Arm, Assignment, Stage, decode
from controller.core.experiment import Experiment, Theta, Vector, carrying, initial, issue, moved, tuned
from controller.core.operate import Command, Verb, apply, begin
from controller.core.rollout import FROZEN, RESUMED, Deal, nested
from tests.core.loop import HOUR, PLAN, START, at_stage, same

THETA: Theta = {"all": (1.0, 2.0, 0.1)}
STAGES: tuple[Stage, ...] = get_args(Stage)
VERBS: tuple[Verb, ...] = get_args(Verb)
ACCEPTED: dict[Verb, frozenset[Stage]] = {
    "pause": frozenset(STAGES) - {"paused"},
    "freeze": frozenset(STAGES) - {"paused"},
    "rollback": frozenset(STAGES) - {"rolled_back"},
    "resume": FROZEN,
    "approve": frozenset(),
    "reject": frozenset(),
    "choose": frozenset(),  # of the study file's objective, which holds already
}


def at(stage: Stage, candidate: bool = True, before: Stage = "explore") -> Experiment:
    """A study in a stage, its candidate on a tenth of the buckets."""
    experiment, _ = issue(PLAN, initial(PLAN), initial(PLAN).deals[1], START)
    role = "candidate" if stage == "confirm" else "promoted"
    arms = (experiment.deals[1].arms[0], Arm("c9", role, THETA))
    tested = stage in ("confirm", "ramp", "hold")
    deal = Deal(2, stage, arms, nested(PLAN.buckets, 0.1, 0, "c9")) if tested else experiment.deals[1]
    carry = msgspec.structs.replace(
        experiment.carry,
        stage=stage,
        before=before,
        candidate=Vector("c9", THETA) if candidate else None,
        decided_through_ms=START,
        epoch=3,
    )
    return issue(PLAN, msgspec.structs.replace(experiment, carry=carry), deal, START)[0]


def table_of(table: bytes | None) -> Assignment:
    assert table is not None
    return decode(table)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("verb", VERBS)
def test_a_command_is_carried_out_or_changes_nothing(stage: Stage, verb: Verb) -> None:
    before = at(stage)
    after, answer = apply(PLAN, before, Command(verb, "ann", "because"), START + HOUR)
    if stage not in ACCEPTED[verb]:
        assert after is before
        assert answer.table is None
        assert answer.said.startswith("refused: ")
        assert stage in answer.said
        return
    table = table_of(answer.table)
    assert table.stage == after.carry.stage
    assert table.version == after.carry.version > before.carry.version
    assert "because" in after.carry.reason
    if after.carry.stage in FROZEN:
        assert set(table.buckets) == {0}
        assert [arm.arm for arm in table.arms] == ["control"]
        assert table.fallback == "control"


@pytest.mark.parametrize("before", RESUMED)
def test_a_pause_remembers_what_resume_goes_back_to(before: Stage) -> None:
    paused, _ = apply(PLAN, at(before), Command("pause", "ann"), START + HOUR)
    again, _ = apply(PLAN, paused, Command("resume", "ann"), START + 2 * HOUR)
    assert (paused.carry.stage, again.carry.stage) == ("paused", RESUMED[before])
    assert (again.carry.exposed_windows, again.carry.ramp_step, again.carry.claim_through_ms) == (0, 0, None)


def test_a_pause_on_top_of_a_pause_does_not_forget_the_stage() -> None:
    once, _ = apply(PLAN, at("ramp"), Command("pause", "ann"), START + HOUR)
    twice, _ = apply(PLAN, once, Command("freeze", "trimtab", "offsets lost"), START + HOUR)
    assert twice is once


def test_traffic_comes_back_at_the_next_decision_only() -> None:
    paused, _ = apply(PLAN, at("hold"), Command("pause", "ann"), START + HOUR)
    _, answer = apply(PLAN, paused, Command("resume", "ann"), START + 2 * HOUR)
    assert set(table_of(answer.table).buckets) == {0}


def test_a_rolled_back_vector_is_banned_and_exploration_begins_again() -> None:
    back, _ = apply(PLAN, at("ramp"), Command("rollback", "ann"), START + HOUR)
    again, _ = apply(PLAN, back, Command("resume", "ann"), START + 2 * HOUR)
    assert back.carry.banned == (THETA,)
    assert back.carry.candidate is None
    assert again.carry.stage == "explore"


def test_a_paused_rollback_resumes_to_explore() -> None:
    experiment = at("ramp")
    for verb in ("rollback", "pause", "resume"):
        experiment, _ = apply(PLAN, experiment, Command(verb, "ann"), START + HOUR)
    assert experiment.carry.stage == "explore"


def test_an_approval_is_asked_for_before_it_is_taken() -> None:
    waiting = at("confirm")
    refused, answer = apply(PLAN, waiting, Command("approve", "ann"), START + HOUR)
    assert refused is waiting
    assert "nothing awaits approval in stage confirm" in answer.said
    waiting = msgspec.structs.replace(waiting, carry=msgspec.structs.replace(waiting.carry, awaiting_approval=True))
    approved, _ = apply(PLAN, waiting, Command("approve", "ann"), START + HOUR)
    assert approved.carry.stage == "ramp"
    assert not approved.carry.awaiting_approval
    paused = moved(waiting, "paused", "", START)
    assert apply(PLAN, paused, Command("approve", "ann"), START + HOUR)[0] is paused


def awaiting() -> Experiment:
    return carrying(at("confirm"), awaiting_approval=True)


def test_a_rejected_vector_loses_its_traffic_at_once_and_is_not_dealt_again() -> None:
    rejected, answer = apply(PLAN, awaiting(), Command("reject", "ann", "editors object"), START + HOUR)
    carry, table = rejected.carry, table_of(answer.table)
    assert (carry.stage, carry.candidate, carry.banned, carry.awaiting_approval) == ("explore", None, (THETA,), False)
    assert carry.reason == "reject by ann: editors object"
    assert ([arm.arm for arm in table.arms], set(table.buckets)) == (["control"], {0})
    assert apply(PLAN, at("ramp"), Command("reject", "ann"), START + HOUR)[1].said.startswith("refused: ")


@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_an_answer_to_another_candidate_is_refused(verb: Verb) -> None:
    waiting = awaiting()
    same, answer = apply(PLAN, waiting, Command(verb, "ann", candidate="c8"), START + HOUR)
    assert same is waiting
    assert answer.said == "refused: c9 awaits approval, not c8"
    assert apply(PLAN, waiting, Command(verb, "ann", candidate="c9"), START + HOUR)[1].table is not None


CHOICE = Command("choose", "ann", "growth", {"all": (1.0, 3.0, 0.5)}, {"watch": 0.4, "ctr": 0.6})


@pytest.mark.parametrize("stage", ["explore", "confirm", "ramp", "hold"])
def test_a_chosen_vector_is_tested_under_its_own_objective(stage: Stage) -> None:
    before = at(stage, candidate=stage != "explore")
    after, answer = apply(PLAN, before, CHOICE, START + HOUR)
    assert answer.said == "stage is confirm"
    assert after.carry.stage == "confirm"
    assert after.carry.candidate == Vector(f"c{before.carry.arms + 1}", {"all": (1.0, 3.0, 0.5)})
    assert tuned(PLAN, after.carry).objective == CHOICE.objective
    assert "choose by ann: growth" in after.carry.reason
    assert after.carry.banned == (), "the vector before it was not at fault"
    back, answer = apply(PLAN, after, Command("choose", "ann"), START + 2 * HOUR)
    assert answer.said == "stage is explore"
    assert (back.carry.stage, back.carry.candidate) == ("explore", None)
    assert tuned(PLAN, back.carry) == PLAN


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"theta": None}, "names a vector and the objective"),
        ({"objective": None}, "names a vector and the objective"),
        ({"theta": {"all": (1.0, 3.0)}}, "not of this study's segments and weights"),
        ({"theta": {"all": (1.0, 3.0, 0.5), "new": (1.0, 3.0, 0.5)}}, "not of this study's segments and weights"),
        ({"theta": {"all": (1.0, 11.0, 0.5)}}, "outside the bounds"),
        ({"theta": {"all": (1.0, float("nan"), 0.5)}}, "outside the bounds"),
        ({"theta": THETA}, "stopped or not confirmed before"),
        ({"objective": {"likes": 1.0}}, "the objective is to be of ctr, watch"),
        ({"objective": {"ctr": float("inf")}}, "with coefficients other than 0"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(choice: dict[str, object], said: str) -> None:
    experiment = carrying(at("explore"), banned=(THETA,))
    after, answer = apply(PLAN, experiment, msgspec.structs.replace(CHOICE, **choice), START + HOUR)
    assert after is experiment
    assert answer.said.startswith("refused: ")
    assert said in answer.said


def test_control_stays_where_the_baseline_itself_failed_its_test() -> None:
    """A choice may name the baseline, which then is not confirmed, and banned like any other vector."""
    loop = at_stage("explore")
    loop.windows(3)
    base = {"all": tuple(weight.baseline for weight in PLAN.weights)}
    assert loop.order("choose", theta=base, objective={"watch": 1.0}).table
    loop.until("explore")
    assert loop.carry.banned == (base,)
    before = loop.table
    assert loop.order("choose").table
    assert (loop.table.arms, loop.table.buckets) == (before.arms, before.buckets)
    assert loop.table.arms[0].arm == "control"


def test_nothing_is_chosen_while_frozen() -> None:
    paused = at("paused")
    assert "choose when it is resumed" in apply(PLAN, paused, CHOICE, START + HOUR)[1].said


def test_a_start_publishes_the_last_deal_under_the_new_epoch() -> None:
    experiment = at("ramp")
    after, table = begin(PLAN, experiment, 4, START + HOUR)
    assert decode(table).version == 4 * VERSIONS_PER_EPOCH + 1
    assert decode(table).buckets == tuple(experiment.deals[2].buckets.tolist())
    assert decode(table).valid_until_ms == START + HOUR + PLAN.window.validity_ms
    assert after.carry.deal == experiment.carry.deal
    assert after.versions[experiment.carry.version] == 2  # events of the last epoch's table still come in


@pytest.mark.parametrize("stage", ["confirm", "ramp", "hold"])
def test_a_table_that_expired_meanwhile_becomes_all_control(stage: Stage) -> None:
    experiment = at(stage)
    expiry = experiment.carry.valid_until_ms
    assert expiry is not None
    experiment = msgspec.structs.replace(
        experiment, carry=msgspec.structs.replace(experiment.carry, exposed_windows=5, claim_through_ms=START)
    )
    after, table = begin(PLAN, experiment, 4, expiry)
    assert set(decode(table).buckets) == {0}
    assert decode(table).fallback == "control"
    assert after.carry.stage == stage
    # The test begins anew: what is dealt next is another deal, and no sample of the last one may judge it.
    assert (after.carry.exposed_windows, after.carry.claim_through_ms) == (0, None)


def test_a_first_start_on_the_wall_clock_has_an_expiry() -> None:
    _, table = begin(PLAN, initial(PLAN), 1, START)
    assert (decode(table).published_ms, decode(table).decided_through_ms) == (START, 0)
    assert decode(table).valid_until_ms == START + PLAN.window.validity_ms


def test_a_first_start_on_the_clock_of_events_has_none() -> None:
    after, table = begin(PLAN, initial(PLAN), 1, 0)
    assert (decode(table).published_ms, decode(table).decided_through_ms) == (0, 0)
    assert decode(table).valid_until_ms is None
    assert set(decode(table).buckets) == {0}
    _, again = begin(PLAN, after, 2, 0)
    assert decode(again).valid_until_ms is None


def test_commands_leave_their_input_alone() -> None:
    experiment, copy = at("ramp"), at("ramp")
    for verb in VERBS:
        apply(PLAN, experiment, Command(verb, "ann"), START + HOUR)
    begin(PLAN, experiment, 9, START)
    assert same(experiment, copy)
