"""What a stage has to show before the next one follows."""

import re

import msgspec
import numpy as np
import pytest

from controller.assignment import Arm
from controller.core.advance import advanced, measured_gain
from controller.core.belief import Believed, believe
from controller.core.experiment import Choice, Experiment, Statistics, Theta, Vector, carrying, initial, issue
from controller.core.plan import Plan
from controller.core.rollout import Deal, nested
from controller.core.trend import Step, falling
from controller.core.windows import Cell, Quality
from controller.core.worst import Look, Looks
from tests.core.loop import HOUR, PLAN, START, varied

AT = Statistics(START + 99 * HOUR, {}, np.zeros(PLAN.buckets, np.int64), Quality())
THETA: Theta = {"all": (1.0, 2.0, 0.1)}
GOOD = Choice(THETA, gain_mean=0.1, gain_sd=0.01, p_feasible=0.99, p_better=1.0, regret=0.01)


def after(plan: Plan, experiment: Experiment) -> Experiment:
    nothing: Believed = believe(plan, experiment, (), 1.0)
    return advanced(plan, experiment, AT, nothing)


def exploring(windows: int, pick: Choice | None = GOOD) -> Experiment:
    return carrying(initial(PLAN), started_ms=START, exposed_windows=windows, pick=pick)


def test_a_good_pick_is_put_to_the_test_after_enough_exploring() -> None:
    assert after(PLAN, exploring(2)).carry.stage == "explore"
    carry = after(PLAN, exploring(3)).carry
    assert carry.stage == "confirm"
    assert carry.candidate == Vector("c1", THETA)
    assert carry.arms == 1
    assert "expected gain +10.00%, P(feasible) 99%" in carry.reason


@pytest.mark.parametrize("changed", [{"p_better": 0.94}, {"gain_mean": 0.02, "regret": 0.01}, {"regret": 0.03}])
def test_a_pick_that_is_not_sure_or_can_still_be_bettered_is_not(changed: dict[str, float]) -> None:
    assert after(PLAN, exploring(3, msgspec.structs.replace(GOOD, **changed))).carry.stage == "explore"


def test_without_a_pick_exploring_goes_on_for_ever() -> None:
    assert after(PLAN, exploring(99, None)).carry.stage == "explore"


def test_what_can_be_bettered_is_tested_once_the_time_is_up() -> None:
    regretted = msgspec.structs.replace(GOOD, regret=0.05)
    assert after(PLAN, exploring(5, regretted)).carry.stage == "explore"
    assert after(PLAN, exploring(6, regretted)).carry.stage == "confirm"
    unsure = msgspec.structs.replace(GOOD, p_better=0.9)
    assert after(PLAN, exploring(99, unsure)).carry.stage == "explore"


def sums(watch: float = 0.1, clicks: float = 0.0, noise: float = 0.01) -> tuple[Deal, Cell]:
    """A deal with half of the buckets on its vector, and what came of it."""
    arm_of = nested(PLAN.buckets, 0.5, 0, "c1")
    rng = np.random.default_rng(0)
    base = np.array([1000.0, 100.0, 5000.0]) * (1.0 + noise * rng.standard_normal((PLAN.buckets, 3)))
    base[arm_of == 1] *= [1.0, 1.0 + clicks, 1.0 + watch]
    arms = (initial(PLAN).deals[1].arms[0], Arm("c1", "candidate", THETA))
    deal = Deal(2, "confirm", arms, arm_of, trial=2)
    return deal, Cell(np.rint(base[None] * 1e6).astype(np.int64), np.ones((1, PLAN.buckets), np.int64))


def confirming(deal: Deal, sample: Cell | None, **carry: object) -> Experiment:
    experiment, _ = issue(PLAN, carrying(initial(PLAN), started_ms=START), deal, START)
    known: dict[str, object] = {"stage": "confirm", "candidate": Vector("c1", THETA), "claim_through_ms": START}
    return carrying(msgspec.structs.replace(experiment, trial=deal, sample=sample), **(known | carry))


def believed_feasible(plan: Plan) -> Plan:
    """Without evidence nothing is believed to be feasible: wide limits leave the word to the sample."""
    return varied(plan, guardrails=(msgspec.structs.replace(plan.guardrails[0], min_change=-0.9),))


def test_a_sample_that_shows_the_gain_confirms() -> None:
    assert after(believed_feasible(PLAN), confirming(*sums())).carry.stage == "ramp"


@pytest.mark.parametrize(
    ("deal", "plan", "why"),
    [
        (sums(watch=0.0), believed_feasible(PLAN), "not confirmed: gain .* is not surely above zero"),
        (sums(watch=-0.1), believed_feasible(PLAN), "not confirmed: gain -"),
        (sums(clicks=-0.2), PLAN, "not confirmed: ctr changes by -.*, the limit is -5.00%"),
        (
            sums(),
            varied(PLAN, guardrails=(msgspec.structs.replace(PLAN.guardrails[0], min_change=-0.0001),)),
            "not conf",
        ),
    ],
)
def test_one_that_does_not_sends_the_study_back(deal: tuple[Deal, Cell], plan: Plan, why: str) -> None:
    carry = after(plan, confirming(*deal)).carry
    assert carry.stage == "explore"
    assert carry.banned == ((THETA,) if "surely" in carry.reason else ())
    assert carry.candidate is None
    assert re.match(why, carry.reason)


@pytest.mark.parametrize(("clicks", "stage"), [(-0.053, "ramp"), (-0.054, "explore")])
def test_a_sample_may_be_beyond_a_limit_by_the_tolerance(clicks: float, stage: str) -> None:
    """6 % and 8 % of the limit; what is believed of it is left out."""
    experiment = confirming(*sums(clicks=clicks, noise=1e-5))
    assert advanced(PLAN, experiment, AT, believe(believed_feasible(PLAN), experiment, (), 1.0)).carry.stage == stage


def test_what_cannot_be_measured_is_not_confirmed() -> None:
    deal, cell = sums()
    cell.sums[:, :, 1] = 0
    plan = believed_feasible(PLAN)
    assert "not confirmed: ctr cannot be measured" in after(plan, confirming(deal, cell)).carry.reason
    cell.sums[:, :, 0] = 0
    assert "not confirmed: the objective cannot be measured" in after(plan, confirming(deal, cell)).carry.reason


def test_nothing_is_put_to_a_test_that_one_of_its_metrics_cannot_pass() -> None:
    experiment = exploring(99)
    blind = msgspec.structs.replace(believe(PLAN, experiment, (), 1.0), unmeasured=("watch",))
    assert advanced(PLAN, experiment, AT, blind) is experiment


def test_a_guardrail_that_no_deal_could_measure_while_exploring_pauses_the_study() -> None:
    blind = msgspec.structs.replace(believe(PLAN, exploring(2), (), 1.0), unmeasured=("watch", "ctr"))
    assert advanced(PLAN, exploring(2), AT, blind).carry.stage == "explore"
    for pick in (GOOD, None):
        carry = advanced(PLAN, exploring(3, pick), AT, blind).carry
        assert carry.stage == "paused"
        assert carry.reason.startswith("no deal in 3h of exploring could measure ctr, a guardrail")


def test_the_posterior_has_a_word_too() -> None:
    """The sample is fine; all evidence together (here: none) leaves the guardrail in doubt."""
    plan = varied(PLAN, guardrails=(msgspec.structs.replace(PLAN.guardrails[0], min_change=-0.001),))
    carry = after(plan, confirming(*sums(clicks=0.01))).carry
    assert carry.stage == "explore"
    assert "P(every guardrail is kept) is" in carry.reason


def test_the_sample_is_waited_for() -> None:
    deal, cell = sums()
    waiting = confirming(deal, None)
    assert after(PLAN, waiting) is waiting
    young = confirming(deal, None, claim_through_ms=None, exposed_windows=2)
    assert after(PLAN, young) is young
    complete = after(PLAN, confirming(deal, cell, claim_through_ms=None, exposed_windows=3))
    assert complete.carry.claim_through_ms == START + 99 * HOUR
    assert complete.carry.stage == "confirm"
    assert "waiting until it is sealed" in complete.carry.reason


def test_a_person_may_have_the_last_word() -> None:
    plan = varied(believed_feasible(PLAN), rollout={"require_approval": True})
    asked = after(plan, confirming(*sums()))
    assert (asked.carry.stage, asked.carry.awaiting_approval) == ("confirm", True)
    assert after(plan, asked) is asked


@pytest.mark.parametrize(
    ("watch", "stage", "waits"), [(0.45, "ramp", False), (0.55, "confirm", True)], ids=["just below", "just above"]
)
def test_a_gain_above_what_weights_can_do_waits_for_a_person(watch: float, stage: str, waits: bool) -> None:
    assert PLAN.safety.implausible_change == 0.5
    carry = after(believed_feasible(PLAN), confirming(*sums(watch=watch))).carry
    assert (carry.stage, carry.awaiting_approval) == (stage, waits)
    assert ("for it changes watch by +5" in carry.reason) == waits


def test_what_is_said_of_a_claim_is_the_same_in_whatever_order_the_objective_is_written() -> None:
    """The ledger holds the plan with its keys sorted, and what it says must come out again to the letter."""
    written = varied(PLAN, objective={"watch": 1.0, "ctr": 0.5})
    held = varied(PLAN, objective={"ctr": 0.5, "watch": 1.0})
    told = [after(believed_feasible(p), confirming(*sums(watch=0.6, clicks=0.7))).carry.reason for p in (written, held)]
    assert "for it changes watch by +6" in told[0]
    assert told[0] == told[1]


def test_the_ramp_climbs_by_exposure_and_ends_in_hold() -> None:
    experiment = confirming(*sums(), stage="ramp", exposed_windows=0)
    assert after(PLAN, experiment) is experiment
    for step in (1, 2):
        experiment = after(PLAN, carrying(experiment, exposed_windows=1))
        carry = experiment.carry
        assert (carry.stage, carry.ramp_step, carry.exposed_windows) == ("ramp", step, 0)
    assert after(PLAN, carrying(experiment, exposed_windows=1)).carry.stage == "hold"


def test_a_ramp_that_got_shorter_meanwhile_ends() -> None:
    experiment = confirming(*sums(), stage="ramp", exposed_windows=1, ramp_step=2)
    assert after(varied(PLAN, rollout={"ramp_shares": (0.1,)}), experiment).carry.stage == "hold"


@pytest.mark.parametrize("stage", ["hold", "paused", "rolled_back"])
def test_other_stages_do_not_move_by_themselves(stage: str) -> None:
    experiment = confirming(*sums(), stage=stage, exposed_windows=99)
    assert after(PLAN, experiment) is experiment


def test_the_measured_gain_is_the_objective_s() -> None:
    deal, cell = sums(watch=0.1, clicks=-0.04)
    gain, se = measured_gain(varied(PLAN, objective={"watch": 1.0, "ctr": 0.5}), deal, cell)
    assert gain == pytest.approx(0.08, abs=3 * se)
    assert 0.0 < se < 0.01
    alone, narrower = measured_gain(PLAN, deal, cell)
    assert alone == pytest.approx(0.1, abs=3 * narrower)
    assert narrower < se


def climbing(*gains: float) -> tuple[Plan, Experiment, Statistics]:
    """A ramp whose shares' gains are these, the last one just measured; the confirm sample's comes first."""
    shares = (0.24, 0.1, 0.5, 0.9)
    deal, cell = sums(watch=gains[-1])
    map_ = nested(PLAN.buckets, shares[len(gains) - 1], 1, "c1")
    deal = msgspec.structs.replace(deal, stage="ramp", buckets=map_, trial=7, id=7)
    rng = np.random.default_rng(3)
    luck = 1.0 + 0.01 * rng.standard_normal((1, PLAN.buckets, 3))
    luck[..., 2] *= 1.0 + gains[-1] * map_
    cell = Cell(np.rint(np.array([1000.0, 100.0, 5000.0]) * luck * 1e6).astype(np.int64), cell.events)
    steps = tuple(Step(share, gain, 0.002) for share, gain in zip(shares, gains[:-1], strict=False))
    experiment = carrying(
        initial(PLAN),
        stage="ramp",
        candidate=Vector("c1", THETA),
        exposed_windows=1,
        ramp_step=len(gains) - 2,
        shares=steps,
        started_ms=START,
    )
    experiment = msgspec.structs.replace(
        experiment,
        trial=deal,
        deals={7: deal},
        versions={1: 7},
        carry=msgspec.structs.replace(experiment.carry, deal=7),
    )
    return PLAN, experiment, msgspec.structs.replace(AT, cells={(AT.end_ms, 1): cell})


@pytest.mark.parametrize(
    ("gains", "stage"),
    [
        ((0.05, 0.05), "ramp"),
        ((0.05, 0.05, 0.05), "ramp"),
        ((0.05, 0.05, 0.04, 0.05), "hold"),
        ((0.05, 0.06, 0.01), "explore"),
        ((0.05, 0.05, 0.05, -0.02), "explore"),
        ((0.02, 0.03, 0.04, 0.05), "hold"),
    ],
)
def test_a_gain_that_falls_as_the_share_grows_stops_the_ramp(gains: tuple[float, ...], stage: str) -> None:
    plan, experiment, seen = climbing(*gains)
    carry = advanced(plan, experiment, seen, believe(plan, experiment, (), 1.0)).carry
    assert carry.stage == stage
    if stage == "explore":
        assert "the gain falls as the share grows: +5.00% +- 0.20% at 24%" in carry.reason
        assert carry.banned == (THETA,)
        assert carry.candidate is None
        assert carry.shares == ()
    if stage == "ramp":
        assert len(carry.shares) == len(gains)
        assert carry.shares[-1].gain == pytest.approx(gains[-1], abs=0.01)


def test_a_fall_that_would_be_sure_if_asked_once_is_not_where_it_is_asked_at_every_share() -> None:
    plan, experiment, seen = climbing(0.05, 0.006)
    carry = advanced(plan, experiment, seen, believe(plan, experiment, (), 1.0)).carry
    assert carry.stage == "ramp"
    assert falling(carry.shares, looks=1) is not None
    assert falling(carry.shares, looks=len(plan.rollout.ramp_shares)) is None


USUAL = tuple(Look(START - k * HOUR, (0.11 + 0.001 * (k % 3), 0.0), (1.0, 1.0)) for k in range(1, 10))


def test_a_bad_hour_is_left_out_of_the_claim_and_said() -> None:
    deal, cell = sums(watch=0.1)
    wild = Look(START, (-0.2, 0.0), (1.0, 1.0))
    experiment = msgspec.structs.replace(confirming(deal, cell), looks=Looks(deal.id, (*USUAL, wild)))
    carry = after(believed_feasible(PLAN), experiment).carry
    assert carry.stage == "ramp"
    gain, se = measured_gain(PLAN, deal, cell)
    assert carry.shares[0].gain == pytest.approx((gain + 0.02) / 0.9)
    assert carry.shares[0].se == pytest.approx(se / np.sqrt(0.9))
    assert f"without a window like no other, which ends at {wild.end_ms} (gain {gain:+.2%}" in carry.reason
    plain = msgspec.structs.replace(experiment, looks=Looks(deal.id, USUAL))
    assert after(believed_feasible(PLAN), plain).carry.shares[0].gain == pytest.approx(gain)


def test_a_bad_hour_after_the_sample_changes_nothing_of_the_claim() -> None:
    deal, cell = sums(watch=0.1)
    wild = Look(START + HOUR, (-0.2, 0.0), (1.0, 1.0))
    seen, unseen = (
        after(believed_feasible(PLAN), msgspec.structs.replace(confirming(deal, cell), looks=Looks(deal.id, windows)))
        for windows in ((*USUAL, wild), USUAL)
    )
    assert seen.carry.stage == "ramp"
    assert seen.carry.shares == unseen.carry.shares
    assert seen.carry.reason == unseen.carry.reason


@pytest.mark.parametrize("weight", [(1.0, 3.0), (3.0, 1.0)])
def test_without_a_bad_hour_the_claim_is_as_unsure_as_its_metric_that_lost_most(weight: tuple[float, float]) -> None:
    plan = varied(believed_feasible(PLAN), objective={"watch": 1.0, "ctr": 0.5})
    deal, cell = sums(watch=0.1)
    wild = Look(START, (-0.2, 0.0), weight)
    experiment = msgspec.structs.replace(confirming(deal, cell), looks=Looks(deal.id, (*USUAL, wild)))
    (step,) = after(plan, experiment).carry.shares
    assert step.se == pytest.approx(measured_gain(plan, deal, cell)[1] / np.sqrt(1.0 - 3.0 / 12.0))
