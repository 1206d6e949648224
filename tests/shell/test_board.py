from pathlib import Path

import msgspec
import pytest

from controller.core.operate import Command
from controller.core.plan import digest
from controller.shell.board import MAX_DECISIONS, ORDERS, Board, StudyView, history_entry
from controller.shell.journal import Entry, Journal
from tests.core.loop import PLAN, Loop, at_stage
from tests.shell.loop import World


def shown(loop: Loop, faults: dict[str, str] | None = None) -> StudyView:
    board = Board(PLAN, "events")
    board.show(loop.state, faults or {}, 5)
    assert board.study is not None
    return board.study


@pytest.mark.parametrize("stage", ["explore", "confirm", "ramp", "hold"])
def test_a_view_says_what_traffic_gets(stage: str) -> None:
    loop = at_stage(stage)
    view, table = shown(loop, {"redis": "down"}), loop.table
    assert (view.stage, view.version, view.plan) == (stage, table.version, digest(PLAN))
    assert (view.faults, view.now_ms, view.clock) == ({"redis": "down"}, 5, "events")
    assert [(arm.arm, arm.role, arm.theta) for arm in view.arms] == [(a.arm, a.role, a.theta) for a in table.arms]
    shares = [table.buckets.count(i) / len(table.buckets) for i in range(len(table.arms))]
    assert [arm.share for arm in view.arms] == pytest.approx(shares)
    assert view.arms[0].effects is None
    assert msgspec.json.decode(msgspec.json.encode(view), type=StudyView) == view, "no figure is lost on the way"


def test_arms_are_told_as_soon_as_they_have_traffic() -> None:
    loop = at_stage("explore")
    loop.window()
    before = shown(loop)
    assert all(arm.effects is None for arm in before.arms), "just dealt"
    assert {arm.arm for arm in before.served} != {arm.arm for arm in before.arms}
    assert all(arm.effects is not None for arm in before.served[1:])
    loop.poll(loop.rows())
    after = shown(loop)
    assert all(arm.effects is not None and arm.events > 0 for arm in after.arms[1:])


def test_what_cannot_be_measured_is_shown_as_unknown() -> None:
    """A denominator that is zero everywhere, of the objective and of a guardrail."""
    loop = Loop()
    for _ in range(3):
        loop.window(lambda row: row._replace(values=(0.0, *row.values[1:])))
    view = shown(loop)
    assert view.measured is not None
    assert view.measured.effects.gain.change is None
    assert [margin.state for margin in view.measured.effects.margins] == ["unsure"]
    assert msgspec.json.decode(msgspec.json.encode(view), type=StudyView) == view


def test_an_action_is_possible_exactly_when_an_order_is_followed() -> None:
    for stage in ("explore", "confirm", "ramp", "hold"):
        loop = at_stage(stage)
        possible = {action.command for action in shown(loop).actions if action.possible}
        followed = {verb for verb in ORDERS if not loop.clone().order(verb).said.startswith("refused")}
        assert possible == followed
    loop = at_stage("explore")
    loop.order("pause")
    told = {action.command: action.because for action in shown(loop).actions}
    assert told == {
        "pause": "stage is paused already",
        "resume": "",
        "rollback": "",
        "approve": "nothing awaits approval in stage paused",
        "reject": "nothing awaits approval in stage paused",
    }


def test_the_history_is_bounded_and_tells_of_news() -> None:
    board = Board(PLAN, "wall")
    carry = {"stage": "explore", "pick": None}
    body = {"why": "w", "carry": carry, "window_end_ms": 1, "outcome": "dealt"}
    board.told((i, "decided", body) for i in range(MAX_DECISIONS + 5))
    board.told([(9, "published", {}), (9, "sealed", {})])
    assert board.history.revision == MAX_DECISIONS + 5
    assert len(board.history.decisions) == MAX_DECISIONS
    assert board.history.decisions[-1].at_ms == MAX_DECISIONS + 4
    before = board.history
    board.told([(10, "stage_changed", {"from": "explore", "to": "paused", "why": "x"})])
    assert board.history.events[-1].what == "explore -> paused: x"
    assert before.events == (), "who reads has what he read"


def test_what_only_machines_read_is_left_out() -> None:
    assert history_entry(1, "sealed", {}) is None


def test_a_daemon_that_starts_again_remembers(world: World) -> None:
    rig = world.start()
    for _ in range(3):
        world.product.settle_window()
        rig.settle()
    rig.journal.send(Command("pause", "ann", "because"), 1)
    rig.settle()
    rig.drop()
    again = world.start()
    assert [d.outcome for d in again.board.history.decisions] == [d.outcome for d in rig.board.history.decisions]
    assert [e.what for e in again.board.history.events][: len(rig.board.history.events)] == [
        e.what for e in rig.board.history.events
    ]
    assert again.board.history.events[-1].what == "daemon started, epoch 2"


def test_the_daemon_shows_every_entry_at_once_and_else_now_and_then(world: World) -> None:
    rig = world.start()
    rig.settle()
    first = rig.board.study
    rig.turn(0.01)
    assert rig.board.study is first
    world.product.settle_window()
    rig.settle()
    assert rig.board.study is not None
    assert rig.board.study.history == rig.board.history.revision
    assert rig.board.study.decided_through_ms == world.table.decided_through_ms
    seen = rig.board.study
    rig.turn(1000.0)
    assert rig.board.study is not seen


def test_the_last_entries_of_a_kind_come_oldest_first(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", "quick") as journal:
        journal.claim(1)
        journal.commit(1, [Entry(i, "odd" if i % 2 else "even", {"i": i}) for i in range(10)])
        assert [e.body["i"] for e in journal.last(3, ("odd",))] == [5, 7, 9]
        assert [e.body["i"] for e in journal.last(3, ("odd", "even"))] == [7, 8, 9]
        assert [e.body["i"] for e in journal.last(30, ("even",))] == [0, 2, 4, 6, 8]
        assert list(journal.last(3, ("none",))) == []
