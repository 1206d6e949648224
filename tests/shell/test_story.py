from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controller.core.operate import Command
from controller.core.rollout import MOVES, TESTS
from controller.shell.board import Board
from controller.shell.effects import measured
from controller.shell.findings import findings
from controller.shell.journal import Entry, Journal
from controller.shell.publisher import MemoryPublisher
from controller.shell.recorder import Recorder
from controller.shell.story import (
    answer,
    current,
    in_utc,
    interval,
    lines,
    live,
    moment,
    pulse,
    silence,
    spread,
    timeline,
    under_test,
)
from tests.core.loop import Loop, at_stage, varied
from tests.shell.loop import PLAN, START_MS, World
from tests.shell.test_findings import journalled


def test_a_journal_that_no_daemon_has_used_says_so(tmp_path: Path) -> None:
    path = tmp_path / "j"
    Journal.open(path, "feed").close()
    found = current(path)
    assert lines(found) == ["study feed: no daemon has run yet"]
    assert timeline(path) == []
    assert msgspec.json.decode(msgspec.json.encode(found)) == found


def test_a_study_that_has_decided_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal.open(path, PLAN.study) as journal:
        Recorder.take_over(PLAN, journal, MemoryPublisher(), START_MS, "wall")
    told = lines(current(path))
    assert told[0] == "study quick: explore (the study begins)"
    assert "decided through nothing yet" in told[1]
    assert [event["kind"] for event in timeline(path)] == ["study_started", "daemon_started"]


def test_where_a_study_stands_is_its_newest_choice(world: World) -> None:
    rig = world.start()
    rig.settle()
    for _ in range(4):
        world.product.settle_window()
        rig.settle()
    found = current(world.path)
    assert found["study"] == "quick"
    assert found["stage"] == world.table.stage
    assert found["version"] == world.table.version
    assert found["decided_through_ms"] == world.table.decided_through_ms
    assert found["windows_decided"] == 4
    assert f"decided through {moment(world.table.decided_through_ms)} UTC, 4 windows" in lines(found)[1]
    assert found["head"] == rig.journal.head().hash.hex()
    (best,) = (line for line in lines(found) if line.startswith("best known: all ("))
    values = zip(PLAN.weights, found["pick"]["theta"]["all"], strict=True)
    assert f"all ({', '.join(f'{weight.name} {value:.4g}' for weight, value in values)})" in best


def test_the_newest_choice_is_found_without_reading_the_ledger(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal.open(path, PLAN.study) as journal:
        recorder, _ = Recorder.take_over(PLAN, journal, MemoryPublisher(), START_MS, "wall")
        journal.commit(recorder.epoch, [Entry(START_MS, "decided", {"no": "carry"})] * 3)
        carry = {"stage": "hold", "reason": "because", "version": 9}
        journal.commit(recorder.epoch, [Entry(START_MS, "decided", {"carry": carry})])
        journal.commit(recorder.epoch, [Entry(START_MS, "published", {"version": 9})] * 100)
    assert current(path)["stage"] == "hold", "an entry that could not be read was not read"


@pytest.mark.parametrize("stage", list(MOVES))
def test_every_stage_can_be_told(tmp_path: Path, stage: str) -> None:
    path = tmp_path / "j"
    theta = {"all": [1.0, 2.5]}
    carry = {
        "stage": stage,
        "reason": "so",
        "version": 7,
        "decided_through_ms": START_MS,
        "awaiting_approval": stage == "confirm",
        "candidate": {"arm": "c3", "theta": theta},
        "pick": {"theta": theta, "gain_mean": 0.031, "gain_sd": None, "p_feasible": 0.9, "p_better": 1, "regret": 0},
        "banned": [theta],
    }
    with Journal.open(path, "feed") as journal:
        journal.claim(1)
        journal.commit(1, [Entry(0, "decided", {"carry": carry})])
        journal.send(Command("pause", "me"), 0)
    told = "\n".join(lines(current(path)))
    assert f"study feed: {stage} (so)" in told
    assert "c3: all (1, 2.5)" in told
    assert "best known, the same vector: all (1, 2.5)" in told
    assert ("nothing is measured of c3 yet" in told) == (stage in TESTS)
    assert "expected gain +3.10% (how surely is unknown), P(keeps every guardrail) 90%" in told
    assert ("approval is awaited" in told) == (stage == "confirm")
    assert "commands that wait for a daemon: 1" in told


def test_the_story_tells_starts_stages_commands_and_losses(world: World) -> None:
    rig = world.start()
    rig.settle()
    rig.journal.send(Command("pause", "ann", "a holiday"), START_MS)
    rig.turn()
    rig.journal.send({"command": "dance"}, START_MS)
    rig.turn()
    world.product.serve(0.5)
    world.topic.trim(0, world.topic.latest[0] - 1)
    rig.settle()
    told = [event["what"] for event in timeline(world.path)]
    assert told[1] == "daemon started, epoch 1"
    assert "pause by ann (a holiday): stage is paused" in told
    assert "explore -> paused: pause by ann: a holiday" in told
    assert any(what.startswith("a command was refused: ") for what in told)
    assert any(what.startswith("partition 0: records were lost: offset 0 was asked for") for what in told)


def test_an_answer_is_that_of_the_command_also_when_more_followed(world: World) -> None:
    rig = world.start()
    rig.settle()
    wait: Callable[[object], str] = lambda command: _answered(world, command)  # noqa: E731
    assert wait(Command("pause", "me")) == "stage is paused"
    assert wait(Command("pause", "me")) == "refused: stage is paused already"
    assert wait({"command": "dance"}).startswith("refused: ")
    assert wait(Command("resume", "me")) == "stage is explore"


def _answered(world: World, command: object) -> str:
    rig = world.rigs[-1]
    id_ = rig.journal.send(command, START_MS)  # type: ignore[arg-type]  # a record or a dict
    rig.turn()
    seq = rig.journal.applied(id_)
    assert seq is not None
    return answer(rig.journal, seq)


def test_what_clients_serve_is_told() -> None:
    arms = [{"arm": "control", "share": 0.6}, {"arm": "e1", "share": 0.4}]
    seen = {"arms": arms, "faults": {}, "behind": 0, "fallback": "control", "now_ms": START_MS}
    for until in (None, START_MS, START_MS + 1):
        assert pulse(seen | {"valid_until_ms": until})[1] == "traffic: control 60%, e1 40%"
    expired = pulse(seen | {"valid_until_ms": START_MS - 1})[1]
    assert expired == f"traffic: the table expired at {moment(START_MS - 1)} UTC: clients serve control"


def test_a_table_of_a_daemon_that_is_silent_is_told_on_the_wall_clock_alone() -> None:
    table = {"version": 7, "valid_until_ms": START_MS, "fallback": "c3"}
    found = {"clock": "wall", "table": table}
    until = f"{moment(START_MS)} UTC"
    assert silence(found, "why", START_MS) == ["why", f"the table holds until {until}, then clients serve c3"]
    assert silence(found, "why", START_MS + 1) == ["why", f"the table expired at {until}: clients serve c3"]
    for unknown in ({"clock": "events"}, {"table": None}, {"table": table | {"valid_until_ms": None}}):
        assert silence(found | unknown, "why", START_MS + 1) == ["why"]


def test_the_last_table_is_that_of_the_last_entry_with_one(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal.open(path, PLAN.study) as journal:
        recorder, _ = Recorder.take_over(PLAN, journal, MemoryPublisher(), START_MS, "wall")
        journal.commit(recorder.epoch, [Entry(START_MS, "decided", {"table": None, "carry": {"stage": "hold"}})] * 2)
    found = current(path)
    valid_ms = START_MS + PLAN.window.validity_ms
    assert found["table"] == {"version": 1_000_001, "valid_until_ms": valid_ms, "fallback": "control"}
    assert found["clock"] == "wall"


def test_a_candidates_own_gain_and_guardrails_are_told(tmp_path: Path) -> None:
    loop = at_stage("confirm")
    loop.windows(2)
    found = current(journalled(loop, tmp_path / "j"))
    seen = measured(loop.plan, loop.state.experiment, loop.state.windows.cells)
    assert seen is not None
    assert found["measured"] == msgspec.to_builtins(seen)
    told, name = lines(found), loop.carry.candidate.arm
    gain = interval(found["measured"]["effects"]["gain"])
    assert f"{name} gains {gain} in the objective, against control ({seen.events:,} events)" in told
    (rail,) = (line for line in told if line.startswith("guardrail "))
    ctr = found["measured"]["effects"]["margins"][0]["effect"]
    assert rail == f"guardrail ctr (at least -5.00%): kept, {interval(ctr)}"
    board = Board(loop.plan, "events")
    board.show(loop.state, {}, 5)
    view = live(msgspec.to_builtins(board.study))
    assert under_test(found) == view[3:5], "the interface says the same"
    assert view[2] in lines(found)
    assert ": all (p_click 1, p_watch " in view[2]


def test_what_no_deal_has_measured_is_told_by_the_newest_decision(tmp_path: Path) -> None:
    loop = Loop(varied(guardrails=()))
    for _ in range(4):  # names of values that are not the study's
        loop.window(lambda row: row._replace(values=(0.0, 0.0, 0.0)))
    path = journalled(loop, tmp_path / "j")
    (told,) = (line for line in lines(current(path)) if line.startswith("newest decision: "))
    assert told.endswith("no deal has measured watch yet")
    board = Board(loop.plan, "events")
    board.committed(loop.records)
    board.show(loop.state, {}, 5)
    seen = msgspec.to_builtins(board.study)
    assert told in live(seen), "the interface says the same"
    noticed = live(seen | {"decision": f"{seen['decision']}; carry-over", "notice": "carry-over"})
    assert [line for line in noticed if "carry-over" in line] == ["notice: carry-over"], "once"
    assert f"The newest decision: {loop.decisions()[-1].body['why']}." in findings(path).verdict.sentences


def test_a_share_that_is_new_is_told_by_the_one_before() -> None:
    seen: dict[str, Any] = {"stage": "ramp", "candidate": {"arm": "c3"}, "measured": None, "steps": []}
    assert under_test(seen) == ["nothing is measured of c3 yet"]
    (told,) = under_test(seen | {"steps": [{"share": 0.2, "gain": 0.03, "se": 0.01}]})
    assert told.startswith("c3 gained +3.00% (95 % interval +1.04% to +4.96%) in the objective at 20% of the traffic; ")
    assert under_test(seen | {"untold": "another version"}) == ["what c3 gains is not told here: another version"]
    assert under_test(seen | {"stage": "paused"}) == []


def test_a_guardrail_is_told_as_it_stands() -> None:
    effect = {"change": 0.01, "low": -0.01, "high": 0.03}
    rails = [
        {"metric": "ctr", "side": "max", "limit": 0.02, "state": s, "effect": effect} for s in ("unsure", "broken")
    ]
    found: dict[str, Any] = {"arm": "c3", "events": 1000, "effects": {"gain": effect, "margins": rails}}
    seen = {"stage": "hold", "candidate": {"arm": "c3"}, "measured": found}
    assert under_test(seen)[1:] == [
        "guardrail ctr (at most +2.00%): not sure, +1.00% (95 % interval -1.00% to +3.00%)",
        "guardrail ctr (at most +2.00%): broken, +1.00% (95 % interval -1.00% to +3.00%)",
    ]
    found["effects"]["margins"] = []
    assert under_test(seen)[1:] == ["the study has no guardrail"]


def test_an_interval_is_called_one() -> None:
    assert spread(0.0871, 0.0227) == "+8.71% (95 % interval +4.26% to +13.16%)"
    assert spread(None, 0.1) == "unknown (how surely is unknown)"


def test_times_are_told_with_their_zone() -> None:
    assert in_utc(None) == in_utc(0) == "nothing yet"
    assert in_utc(1_700_000_000_000) == "2023-11-14 22:13:20 UTC"


def test_moments_are_for_people() -> None:
    assert moment(None) == moment(0) == "nothing yet"
    assert moment(1_700_000_000_000) == "2023-11-14 22:13:20"
    assert moment(10**17) == "100000000000000000 ms"
