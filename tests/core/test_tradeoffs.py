"""A study with two objectives: what it offers, and what comes of a choice."""

import msgspec
import numpy as np
import pytest

from controller.core.replay import replay
from controller.core.step import seeded
from controller.core.tradeoffs import NOW, Tradeoffs, tradeoffs
from tests.core.loop import HOUR, PLAN, START, Loop, journalled, varied

TWO = varied(
    objectives={"engagement": {"watch": 1.0}, "traffic": {"ctr": 2.0}},
    rollout={"explore_min_ms": 4 * HOUR, "explore_max_ms": 8 * HOUR},
)


def torn(theta: tuple[float, ...], segment: str) -> dict[str, float]:
    """p_watch brings watch time, p_share clicks, each with falling returns and at the other's cost."""
    x, y = np.log(theta[1]) / np.log(10.0), theta[2]
    return {"watch_s": 0.2 * x - 0.08 * x * x - 0.04 * y, "clicks": 0.08 * y - 0.03 * y * y - 0.015 * x}


def asked(loop: Loop) -> Tradeoffs:
    rng = seeded(loop.plan.seed)(loop.carry.decided_through_ms)
    return tradeoffs(loop.plan, loop.state.experiment, loop.state.windows.cells, rng)


@pytest.fixture(scope="module")
def explored() -> Loop:
    loop = Loop(TWO, torn)
    loop.windows(4)
    return loop


def test_a_front_of_the_named_objectives_is_offered(explored: Loop) -> None:
    found = asked(explored)
    assert found.decided_through_ms == START + 4 * HOUR
    assert 3 <= len(found.offers) <= 12
    watch, clicks = ([offer.gain[name] for offer in found.offers] for name in ("engagement", "traffic"))
    assert watch == sorted(watch, reverse=True)
    assert clicks == sorted(clicks)
    assert len({offer.label for offer in found.offers}) == len(found.offers)
    for offer in found.offers:
        true = torn(offer.theta["all"], "")
        assert offer.gain["engagement"] == pytest.approx(true["watch_s"], abs=0.02 + 3 * offer.sd["engagement"])
        assert offer.gain["traffic"] == pytest.approx(2 * true["clicks"], abs=0.02 + 3 * offer.sd["traffic"])
        assert sum(map(abs, offer.objective.values())) == pytest.approx(1.0, abs=1e-5)
    assert found == asked(explored), "the same question has the same answer"


def test_where_the_study_stands_is_marked(explored: Loop) -> None:
    now = asked(explored).now
    assert now is not None
    assert (now.label, now.theta, now.objective) == (NOW, explored.carry.pick.theta, {"watch": 1.0})
    assert asked(Loop(TWO, torn)).now is None


def test_without_named_objectives_the_metrics_of_the_objective_are_traded() -> None:
    loop = Loop(varied(objective={"watch": 1.0, "ctr": 2.0}), torn)
    loop.windows(3)
    found = asked(loop)
    assert len(found.offers) >= 3
    assert set(found.offers[0].gain) == {"watch", "ctr"}
    for offer in found.offers:
        true = torn(offer.theta["all"], "")["clicks"]
        assert offer.gain["ctr"] == pytest.approx(true, abs=0.02 + 3 * offer.sd["ctr"]), "a change, whatever its weight"
    fewer = Loop(varied(objective={"watch": 1.0, "ctr": -0.5}), torn)
    fewer.windows(2)
    assert {frozenset(offer.gain) for offer in asked(fewer).offers} == {frozenset({"watch", "-ctr"})}
    single = Loop(PLAN, torn)
    single.windows(3)
    assert len(asked(single).offers) == 1


def test_a_number_means_the_same_trade_off_after_a_choice() -> None:
    loop = Loop(varied(objective={"watch": 1.0, "ctr": 2.0}), torn)
    loop.windows(3)
    before = asked(loop).offers
    loop.order("choose", theta=before[0].theta, objective={"ctr": 0.4, "watch": 0.6})
    after = asked(loop).offers
    assert list(after[0].gain) == list(before[0].gain) == ["watch", "ctr"]
    assert after[0].gain["watch"] > after[-1].gain["watch"]
    assert after[0].gain["ctr"] < after[-1].gain["ctr"]


def test_what_exploring_learns_nothing_of_is_not_traded() -> None:
    slow = tuple(msgspec.structs.replace(metric, response="delayed") for metric in PLAN.metrics)
    loop = Loop(varied(objective={"watch": 1.0, "ctr": 2.0}, metrics=(PLAN.metrics[0], slow[1])), torn)
    loop.windows(3)
    assert {name for offer in asked(loop).offers for name in offer.gain} == {"watch"}
    loop = Loop(varied(metrics=slow), torn)
    loop.windows(2)
    assert asked(loop) == Tradeoffs(START + 2 * HOUR, (), None)


def test_segments_have_weights_of_their_own_in_every_offer() -> None:
    loop = Loop(varied(TWO, segments=("new", "old")), torn)
    loop.windows(4)
    found = asked(loop)
    assert len(found.offers) >= 3
    assert all(set(offer.theta) == {"all", "new", "old"} for offer in found.offers)


def test_the_choice_is_confirmed_ramped_and_held_and_the_study_goes_on_under_its_objective(explored: Loop) -> None:
    loop = explored.clone()
    watch, *_, clicks = asked(loop).offers
    assert clicks.gain["engagement"] < 0.5 * watch.gain["engagement"], "what the study file asks for prefers others"
    loop.order("choose", "growth", theta=clicks.theta, objective=clicks.objective)
    loop.until("hold")
    assert loop.carry.candidate.theta == clicks.theta
    assert torn(loop.table.arms[1].theta["all"], "")["clicks"] > 0.03
    assert torn(loop.carry.pick.theta["all"], "")["clicks"] > 0.03
    assert {checked.outcome for checked in replay(journalled(loop.records))} == {"exact"}


def test_what_was_served_before_the_choice_is_not_held_against_it(explored: Loop) -> None:
    """The vector that was on trial breaks its guardrail in the very window of the choice."""
    loop = explored.clone()
    loop.until("confirm")
    before, chosen = loop.carry.candidate, asked(loop).offers[-1]
    loop.windows(2)
    loop.order("choose", theta=chosen.theta, objective=chosen.objective)
    loop.window(lambda row: row if row.arm == "control" else row._replace(values=(1000.0, 85.0, 5000.0)))
    assert loop.carry.stage == "confirm"
    assert (loop.carry.candidate.theta, loop.carry.banned) == (chosen.theta, ())
    assert loop.carry.candidate.arm != before.arm
    assert loop.carry.exposed_windows == 0


def test_the_study_file_has_the_last_word(explored: Loop) -> None:
    loop = explored.clone()
    chosen = asked(loop).offers[-1]
    loop.order("choose", theta=chosen.theta, objective=chosen.objective)
    loop.replan(varied(TWO, safety={"risk": 0.2}))
    assert loop.carry.objective == chosen.objective, "another part of it says nothing of the choice"
    assert loop.carry.stage == "confirm"
    loop.replan(varied(TWO, objective={"watch": 2.0}))
    assert (loop.carry.objective, loop.carry.stage) == (None, "explore")
