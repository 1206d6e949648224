"""One decision at a time: its outcome, its words, what counts as exposure."""

from collections import Counter
from itertools import pairwise

import msgspec
import numpy as np
import pytest

from controller import assignment
from controller.core import carryover
from controller.core import plan as of_plans
from controller.core.decide import Decision, decide
from controller.core.estimate import usable
from controller.core.evidence import MEMORY, live_evidence
from controller.core.experiment import Experiment, Statistics
from controller.core.plan import Plan
from controller.core.policy import Pick
from controller.core.windows import Cell, Quality
from tests.core.loop import HOUR, PLAN, START, Loop, at_stage, indifferent, same, varied


def seen(loop: Loop, end_ms: int, cells: dict[tuple[int, int], Cell]) -> Statistics:
    return Statistics(end_ms, cells, np.zeros(PLAN.buckets, np.int64), Quality())


def even(loop: Loop, buckets: np.ndarray | None = None) -> Cell:
    """The same in every bucket, or in some."""
    counts = np.ones((1, PLAN.buckets), np.int64)
    if buckets is not None:
        counts[0, ~buckets] = 0
    noise = np.random.default_rng(0).normal(1.0, 0.01, (1, PLAN.buckets, 3))
    sums = np.rint(np.array([1000.0, 100.0, 5000.0]) * noise * counts[..., None] * 1e6)
    return Cell(sums.astype(np.int64), counts)


def once(loop: Loop, cells: dict[tuple[int, int], Cell], act: bool = True) -> tuple[Experiment, Decision]:
    end = START + (loop.hour + 1) * HOUR
    return decide(PLAN, loop.state.experiment, seen(loop, end, cells), end, np.random.default_rng(0), act)


def window(loop: Loop, **cells: Cell) -> dict[tuple[int, int], Cell]:
    end = START + (loop.hour + 1) * HOUR
    return {(end, loop.table.version if name == "current" else int(name[1:])): cell for name, cell in cells.items()}


def test_exploring_says_what_is_dealt_and_what_is_known() -> None:
    loop = Loop()
    loop.windows(3)
    assert loop.story()[0] == "dealt: vectors dealt: 4 initial; none is known to be better and feasible yet"
    assert loop.story()[2].startswith("dealt: vectors dealt: 1 repeat, 3 thompson; best known: gain +")
    assert "P(feasible)" in loop.story()[2]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A plan whose 36 changes in the time to explore are more than the belief holds: vectors stay for two windows."""
    monkeypatch.setattr(of_plans, "MAX_ROWS", 30)
    return varied(rollout={"explore_min_ms": 9 * HOUR, "explore_max_ms": 9 * HOUR})


def test_vectors_stay_while_no_new_ones_are_due_and_their_windows_are_one_deal(slow: Plan) -> None:
    loop = Loop(slow)
    assert [loop.window() for _ in range(6)] == ["dealt", "dealt", "kept", "dealt", "kept", "dealt"]
    assert loop.story()[2].startswith("kept: the vectors stay for 1 more window; best known: gain +")
    arms = [table.arms for table in loop.tables[-6:]]
    assert [one == other for one, other in pairwise(arms)] == [False, True, False, True, False]
    live = live_evidence(slow, loop.state.experiment, loop.state.windows.cells)
    assert len(loop.state.experiment.evidence) + len(live) == 3


def test_vectors_stay_longer_where_what_they_did_carries_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carryover, "found", lambda *_: "carry-over")
    loop = Loop(varied(rollout={"explore_min_ms": 30 * HOUR, "explore_max_ms": 30 * HOUR}))
    outcomes = [loop.window() for _ in range(20)]
    dealt = [window for window, outcome in enumerate(outcomes) if outcome == "dealt"]
    assert np.diff(dealt[-3:]).tolist() == [6, 6]
    stay = [said.split(";")[0] for said in loop.story()[dealt[-2] + 1 : dealt[-1]]]
    assert stay == [
        *(f"kept: the vectors stay for {n} more windows" for n in (5, 4, 3, 2)),
        "kept: the vectors stay for 1 more window",
    ]


def test_other_guardrails_are_followed_at_once_by_vectors_that_would_stay(slow: Plan) -> None:
    loop = Loop(slow)
    loop.windows(2)
    other = loop.clone()
    assert loop.window() == "kept"
    other.replan(varied(slow, guardrails=(msgspec.structs.replace(slow.guardrails[0], min_change=-0.02),)))
    assert other.window() == "dealt"


def test_while_a_guardrail_was_never_measured_nothing_is_recommended_and_exploring_ends_paused() -> None:
    loop = Loop()
    outcomes = [loop.window(lambda row: row._replace(values=(row.values[0], 0.0, row.values[2]))) for _ in range(4)]
    assert outcomes == ["dealt", "dealt", "dealt", "frozen"]  # the first window was still without vectors
    assert loop.story()[2].endswith("none can be told to be better and feasible: no deal has measured ctr yet")
    assert loop.carry.pick is None
    assert "no deal in 3h of exploring could measure ctr" in loop.story()[-1]
    assert set(loop.table.buckets) == {0}
    assert loop.order("resume").said == "stage is explore"
    loop.windows(2)
    assert loop.carry.pick is not None


def test_a_test_says_how_far_it_is_and_a_move_why() -> None:
    loop = at_stage("hold")
    story = "\n".join(loop.story())
    assert "now on fresh data" in story
    assert " at 20%, 1.0 h of traffic, gain +" in story
    assert "dealt: confirmed on fresh data" in story
    assert loop.story()[-1] == "kept: ramped up: holding"
    loop.windows(2)
    assert " at 90%, 2.0 h of traffic, gain +" in loop.story()[-1]


def test_beside_a_test_no_more_is_explored_than_before_it() -> None:
    loop = Loop(varied(traffic={"explore_arms": 1, "explore_share": 0.1}))
    loop.windows(2)
    loop.order("choose", theta={"all": (1.0, 2.0, 0.1)}, objective={"watch": 1.0})
    loop.window()
    count = Counter(loop.table.arms[arm].role for arm in loop.table.buckets)
    assert count["candidate"] == 0.2 * PLAN.buckets
    assert 0 < count["explore"] <= 0.1 * PLAN.buckets


def test_beside_a_test_every_arm_has_buckets_enough_to_be_learnt_from() -> None:
    """Of 240 buckets 48 explore beside a test: five arms would have 9 each, where in explore each has 10."""
    loop = Loop(varied(buckets=240, traffic={"explore_arms": 7, "explore_share": 0.3}))
    loop.windows(2)
    loop.order("choose", theta={"all": (1.0, 2.0, 0.1)}, objective={"watch": 1.0})
    loop.windows(2)
    assert np.bincount(loop.table.buckets).tolist()[1:] == [48, 12, 12, 12, 12]
    newest = live_evidence(loop.plan, loop.state.experiment, loop.state.windows.cells)[-1]
    assert len(newest.thetas) == 5
    assert usable(newest.changes).all()


def test_an_act_publishes_and_a_backlog_does_not() -> None:
    loop = at_stage("confirm")
    cells = window(loop, current=even(loop))
    _, acted = once(loop, cells)
    assert (acted.outcome, acted.table is not None) == ("dealt", True)
    _, passed = once(loop, cells, act=False)
    assert (passed.outcome, passed.table) == ("backlog", None)
    assert same(passed.deal, loop.state.experiment.deals[loop.carry.deal])


def test_a_backlog_s_fault_takes_the_vectors_off_at_once() -> None:
    loop = at_stage("confirm")
    found = msgspec.structs.replace(
        seen(loop, START + (loop.hour + 1) * HOUR, window(loop, current=even(loop))),
        quality=Quality(accepted=1000, misattributed=500),
    )
    frozen, decision = decide(PLAN, loop.state.experiment, found, found.end_ms, np.random.default_rng(0), False)
    assert decision.outcome == "frozen"
    assert decision.table is not None
    assert len(assignment.decode(decision.table).arms) == 1
    assert len(frozen.deals[frozen.carry.deal].arms) == 1  # so neither the breaker nor a restart finds a vector to deal
    _, still = decide(PLAN, frozen, found, found.end_ms, np.random.default_rng(0), False)
    assert (still.outcome, still.table) == ("frozen", None)


def exposed(loop: Loop, cells: dict[tuple[int, int], Cell]) -> bool:
    experiment, _ = once(loop, cells, act=False)
    return experiment.carry.exposed_windows > loop.state.experiment.carry.exposed_windows


def test_exposure_is_traffic_on_every_arm_of_the_stage_s_own_deal() -> None:
    loop = at_stage("confirm")
    arm_of = np.array(loop.table.buckets)
    stale = next(v for v, d in loop.state.experiment.versions.items() if d != loop.carry.deal)
    assert exposed(loop, window(loop, current=even(loop)))
    assert not exposed(loop, {})
    assert not exposed(loop, window(loop, current=even(loop, arm_of == 0)))
    assert not exposed(loop, window(loop, **{f"v{stale}": even(loop)}))
    assert exposed(loop, window(loop, current=even(loop), **{f"v{stale}": even(loop, np.arange(120) < 60)}))
    few = np.arange(120) < 40
    assert not exposed(loop, window(loop, current=even(loop, few), **{f"v{stale}": even(loop)}))


def test_all_on_control_is_no_exposure() -> None:
    loop = Loop()
    assert not exposed(loop, window(loop, current=even(loop)))


def test_a_window_that_froze_the_study_does_not_teach_what_is_usual() -> None:
    loop = at_stage("confirm")
    end = START + (loop.hour + 1) * HOUR
    arm_of = np.array(loop.table.buckets)
    units = np.where(arm_of == 1, 1, 50)
    bad = msgspec.structs.replace(seen(loop, end, window(loop, current=even(loop))), units=units)
    experiment, decision = decide(PLAN, loop.state.experiment, bad, end, np.random.default_rng(0), True)
    assert decision.outcome == "frozen"
    assert "sample ratio" in decision.why
    assert np.array_equal(experiment.people.past, loop.state.experiment.people.past)
    assert experiment.people.last is None


def test_figures_that_are_no_numbers_make_no_pick(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = at_stage("confirm")
    odd = Pick(np.full((1, 2), 0.5), 0.1, 0.01, 1.0, 1.0, float("nan"))
    monkeypatch.setattr("controller.core.policy.recommend", lambda *a, **k: odd)
    experiment, decision = once(loop, window(loop, current=even(loop)))
    assert experiment.carry.pick is None
    assert decision.outcome == "dealt"


def test_where_bans_leave_no_room_fewer_vectors_are_dealt() -> None:
    """One free weight, and vectors banned all along it but for a gap: an arm that is not there gets no bucket."""
    plan = varied(weights=(PLAN.weights[0], PLAN.weights[2]))
    # Bans reach 0.05 and arms keep 0.01 apart: a gap of 0.02 holds three of the four.
    for gap, most in ((0.0, 0), (0.02, 3)):
        loop = Loop(plan, truth=indifferent)
        loop.windows(2)
        edges = (0.8 - 0.05 - gap / 2, 0.8 + 0.05 + gap / 2) if gap else (0.8,)
        grid = [u for u in np.arange(0.0, 1.04, 0.04) if not gap or abs(u - 0.8) >= 0.05 + gap / 2] + list(edges)
        banned = tuple({"all": (1.0, float(2.0 * u - 1.0))} for u in grid)
        carry = msgspec.structs.replace(loop.carry, banned=banned)
        experiment = msgspec.structs.replace(loop.state.experiment, carry=carry)
        loop.state = msgspec.structs.replace(loop.state, experiment=experiment)
        loop.window()
        arms = len(loop.table.arms) - 1
        assert arms <= most
        assert np.bincount(loop.table.buckets).tolist() == [120 - 12 * arms] + [12] * arms
        assert loop.window() in ("dealt", "kept")


def test_a_deal_keeps_the_past_of_its_buckets_from_before_it_began() -> None:
    loop = Loop()
    loop.windows(3)
    first, second = (deal for deal in list(loop.state.experiment.deals.values())[-2:])
    assert first.history is not None
    assert second.history is not None
    cells = loop.state.windows.cells.items()
    served = sum(cell.sums.astype(float) for (end, _), cell in cells if end == loop.carry.decided_through_ms)
    np.testing.assert_allclose(second.history, MEMORY * first.history + served)


def test_the_shares_of_a_ramp_have_the_past_of_the_confirm_test() -> None:
    loop = at_stage("confirm")
    past = loop.state.experiment.deals[loop.carry.deal].history
    assert past is not None
    while loop.carry.stage != "hold":
        loop.window()
        np.testing.assert_array_equal(loop.state.experiment.deals[loop.carry.deal].history, past)


def test_a_test_that_is_begun_anew_has_no_past_that_holds_the_vector() -> None:
    loop = at_stage("confirm")
    loop.order("pause")
    loop.window()
    loop.order("resume")
    loop.windows(2)
    deal = loop.state.experiment.deals[loop.carry.deal]
    assert (deal.stage, deal.arms[1].role, deal.history) == ("confirm", "candidate", None)
