"""Tables, and the state that knows them."""

import msgspec
import numpy as np
import pytest

from controller.assignment import VERSIONS_PER_EPOCH, Arm, decode
from controller.core.experiment import Experiment, Theta, Vector, carrying, ended_ms, initial, issue, moved, tables
from controller.core.rollout import Deal, IllegalMove, nested
from controller.core.windows import Cell
from tests.core.loop import PLAN, START

SHAPE = (1, PLAN.buckets, 3)
THETA: Theta = {"all": (1.0, 2.0, 0.0)}


def cell(value: int = 1, events: int = 1) -> Cell:
    return Cell(np.full(SHAPE, value * 1_000_000), np.full(SHAPE[:2], events))


def deal(id_: int, stage: str = "explore") -> Deal:
    arms = (initial(PLAN).deals[1].arms[0], Arm(f"v{id_}", "explore", THETA))
    return Deal(id_, stage, arms, nested(PLAN.buckets, 0.5, id_, "c1"))  # type: ignore[arg-type]  # a stage


def begun() -> Experiment:
    experiment, _ = issue(PLAN, initial(PLAN), initial(PLAN).deals[1], START)
    return carrying(experiment, started_ms=START)


def test_versions_rise_within_an_epoch_and_with_it() -> None:
    experiment = begun()
    assert experiment.carry.version == 1  # no epoch yet
    experiment, table = issue(PLAN, carrying(experiment, epoch=2), deal(2), START)
    assert decode(table).version == experiment.carry.version == 2 * VERSIONS_PER_EPOCH + 1
    experiment, table = issue(PLAN, experiment, deal(2), START)
    assert decode(table).version == 2 * VERSIONS_PER_EPOCH + 2


def test_events_are_attributed_by_the_table_they_name() -> None:
    experiment, _ = issue(PLAN, begun(), deal(2), START)
    experiment, _ = issue(PLAN, experiment, deal(2), START)
    names = {version: names for version, (names, _) in tables(experiment).items()}
    assert names == {1: ("control",), 2: ("control", "v2"), 3: ("control", "v2")}


def test_a_table_ends_its_validity_after_the_next_one_that_has_a_time() -> None:
    experiment, _ = issue(PLAN, initial(PLAN), initial(PLAN).deals[1], 0)
    experiment, _ = issue(PLAN, experiment, deal(1), 0)  # started again before any event
    assert (set(experiment.replaced_ms), ended_ms(PLAN, experiment)) == ({1}, {})
    experiment, _ = issue(PLAN, experiment, deal(2), START)
    experiment, _ = issue(PLAN, experiment, deal(2), START + 1)
    end = START + PLAN.window.validity_ms
    assert ended_ms(PLAN, experiment) == {1: end, 2: end, 3: end + 1}


def test_another_deal_begins_a_test_anew() -> None:
    experiment, _ = issue(PLAN, begun(), deal(2, "confirm"), START)
    experiment = carrying(experiment, stage="confirm", exposed_windows=9, claim_through_ms=START, ramp_step=1)
    experiment = msgspec.structs.replace(experiment, sample=cell())
    same_deal, _ = issue(PLAN, experiment, experiment.deals[2], START)
    assert (same_deal.carry.exposed_windows, same_deal.carry.claim_through_ms) == (9, START)
    assert same_deal.sample is not None
    other, _ = issue(PLAN, experiment, deal(3, "confirm"), START)
    assert (other.carry.exposed_windows, other.carry.claim_through_ms, other.sample) == (0, None, None)


def test_exploring_goes_on_over_deals() -> None:
    experiment = carrying(begun(), exposed_windows=9)
    assert issue(PLAN, experiment, deal(3), START)[0].carry.exposed_windows == 9


def test_moving_counts_everything_afresh() -> None:
    experiment = carrying(
        begun(), stage="confirm", exposed_windows=3, ramp_step=2, claim_through_ms=5, awaiting_approval=True
    )
    after = moved(msgspec.structs.replace(experiment, sample=cell()), "ramp", "why", 77, candidate=Vector("c", THETA))
    carry = after.carry
    assert (carry.stage, carry.before, carry.stage_since_ms, carry.reason) == ("ramp", "confirm", 77, "why")
    counted = (carry.exposed_windows, carry.ramp_step, carry.claim_through_ms, carry.awaiting_approval)
    assert counted == (0, 0, None, False)
    assert after.sample is None
    assert carry.candidate == Vector("c", THETA)
    with pytest.raises(IllegalMove):
        moved(begun(), "hold", "", 0)


def test_the_fallback_is_always_in_the_table() -> None:
    experiment = carrying(begun(), stage="hold", candidate=Vector("v2", THETA))
    assert decode(issue(PLAN, experiment, deal(2), START)[1]).fallback == "v2"
    assert decode(issue(PLAN, experiment, experiment.deals[1], START)[1]).fallback == "control"
    assert decode(issue(PLAN, experiment, deal(3), START)[1]).fallback == "control"
