import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from controller.core import checkpoint
from controller.core.plan import Plan, digest
from controller.shell import findings as module
from controller.shell.effects import effect
from controller.shell.findings import Findings, findings
from controller.shell.journal import Entry, Journal
from controller.shell.journal_file import JournalRefused
from controller.shell.publisher import MemoryPublisher
from controller.shell.recorder import Recorder
from controller.shell.report import text
from controller.shell.verdict import interval
from tests.core.loop import PLAN as HAND
from tests.core.loop import Loop, at_stage, indifferent, varied
from tests.shell.loop import PLAN, START_MS, World


def journalled(loop: Loop, path: Path) -> Path:
    """A journal as a daemon would have written it, of a run by hand: its ledger and its newest state."""
    with Journal.open(path, loop.plan.study) as journal:
        journal.claim(1)
        rows, _ = checkpoint.changes(None, loop.state)
        records = [Entry(r.at_ms, r.kind, _told(loop.plan, r.body), r.data) for r in loop.records]
        journal.commit(1, records, rows.put, rows.drop)
    return path


def _told(plan: Plan, body: dict[str, object]) -> dict[str, object]:
    return body | {"digest": digest(plan)} if "plan" in body else body


def test_a_journal_that_no_daemon_has_used(tmp_path: Path) -> None:
    Journal.open(tmp_path / "j", "feed").close()
    found = findings(tmp_path / "j")
    assert (found.verdict.answer, found.plan, found.decided) == ("not begun", None, 0)


def test_a_study_that_has_decided_nothing(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", PLAN.study) as journal:
        Recorder.take_over(PLAN, journal, MemoryPublisher(), START_MS, "wall")
    found = findings(tmp_path / "j")
    assert found.verdict.headline == "This study has decided nothing yet."
    assert (found.plan, found.plan_digest, found.started) == (PLAN, digest(PLAN), 1)
    assert found.starts[0].about["version"]


@pytest.mark.parametrize(
    ("stage", "answer", "said"),
    [("confirm", "in progress", "is being tested"), ("ramp", "promoted", "is being ramped up"),
     ("hold", "promoted", "was promoted and is held")],
)  # fmt: skip
def test_the_answer_is_what_the_stage_is(tmp_path: Path, stage: str, answer: str, said: str) -> None:
    loop = at_stage(stage)
    loop.windows(2)
    found = findings(journalled(loop, tmp_path / "j"))
    assert found.verdict.answer == answer
    assert said in found.verdict.headline
    assert loop.carry.candidate.arm in found.verdict.headline
    assert found.theta == loop.carry.candidate.theta
    if found.measured is None:  # a share that is new: what was measured at the last one is told
        assert found.verdict.gain == found.steps[-1].gain
    else:
        assert found.verdict.gain == found.measured.effects.gain
        assert "The guardrail on ctr (at least −5.00%) is kept" in " ".join(found.verdict.sentences)
    assert found.verdict.gain is not None
    assert found.verdict.gain.low is not None
    shares = {"confirm": [0.20], "ramp": [0.20, 0.1, 0.5], "hold": [0.20, 0.1, 0.5, 0.9]}[stage]
    assert [step.share for step in found.steps][: len(shares)] == pytest.approx(shares, abs=0.01)
    assert found.surface is not None
    assert len(found.surface.slices) == 4
    assert found.decided == len(loop.decisions()) == sum(found.outcomes.values())
    assert [d.what for d in found.decisions] == [r.body["why"] for r in loop.decisions()]
    assert msgspec.json.decode(msgspec.json.encode(found), type=Findings) == found


def test_a_study_that_found_nothing_says_so_plainly(tmp_path: Path) -> None:
    loop = Loop(truth=indifferent, noise=0.05)
    loop.windows(8)
    assert loop.carry.stage == "explore", "a vector that luck has put to a test would be in progress"
    found = findings(journalled(loop, tmp_path / "j"))
    assert found.verdict.answer == "nothing"
    assert any(s in found.verdict.headline for s in ("has found nothing", "No vector is surely better yet"))
    worse = Loop(truth=lambda theta, _: {"watch_s": -0.3 * abs(theta[2]) - 0.3 * abs(theta[1] - 1.0)})
    worse.windows(10)
    found = findings(journalled(worse, tmp_path / "k"))
    assert found.verdict.answer == "nothing"
    if worse.carry.pick is None:
        assert found.verdict.headline.startswith("This study has found nothing")
        assert "vectors were dealt" in found.verdict.sentences[0]


def test_a_paused_study_says_who_and_why(tmp_path: Path) -> None:
    loop = at_stage("ramp")
    loop.order("pause", "a sale")
    found = findings(journalled(loop, tmp_path / "j"))
    assert found.verdict.answer == "stopped"
    assert "pause by test: a sale" in found.verdict.sentences[0]


def test_a_step_of_a_ramp_that_was_resumed_is_not_the_confirm_test(tmp_path: Path) -> None:
    loop = at_stage("ramp")
    (proven,) = loop.carry.shares
    loop.window()
    loop.order("pause", "a sale")
    loop.order("resume")
    while len(loop.carry.shares) < 1 or loop.carry.stage != "ramp":
        loop.window()
    (resumed,) = loop.carry.shares
    found = findings(journalled(loop, tmp_path / "j"))
    assert [step.share for step in found.steps if step.confirm] == [proven.share]
    assert [step.share for step in found.steps[:2]] == [proven.share, resumed.share]
    (said,) = (s for s in found.verdict.sentences if s.startswith("In its confirm test"))
    assert f"it gained {interval(effect(proven.gain, proven.se))}." in said


def test_a_confirm_test_that_begins_afresh_does_not_know_the_one_before(tmp_path: Path) -> None:
    loop = Loop(varied(rollout={"require_approval": True}))
    while not loop.carry.awaiting_approval:
        loop.window()
    loop.order("pause")
    loop.order("resume")
    loop.windows(2)
    assert (loop.carry.stage, loop.carry.shares) == ("confirm", ())
    found = findings(journalled(loop, tmp_path / "j"))
    assert found.measured is not None
    assert [(step.gain, step.confirm) for step in found.steps] == [(found.measured.effects.gain, True)]


def test_a_vector_that_has_not_served_is_not_credited_with_the_one_before(tmp_path: Path) -> None:
    loop = Loop(varied(segments=("new", "old")))
    loop.until("hold")
    loop.windows(2)
    loop.order("choose", "growth", theta=dict.fromkeys(("all", "new", "old"), (1.0, 2.0, 0.0)),
               objective={"watch": 1.0})  # fmt: skip
    found = findings(journalled(loop, tmp_path / "j"))
    assert f"{loop.carry.candidate.arm} is being tested on fresh data" in found.verdict.headline
    assert found.verdict.headline.endswith("nothing is measured of it yet.")
    assert (found.steps, found.segments, found.verdict.gain) == ((), (), None)
    assert not any(said.startswith("In its confirm test") for said in found.verdict.sentences)
    loop.windows(2)
    assert len(findings(journalled(loop, tmp_path / "k")).steps) == 1


def test_the_objective_that_gains_are_in_is_told(tmp_path: Path) -> None:
    loop = at_stage("explore")
    loop.windows(3)
    before = findings(journalled(loop, tmp_path / "j"))
    assert before.objective == {"watch": 1.0}
    assert "Gains are in the objective +1 watch." in before.verdict.sentences[-2]
    chosen = {"watch": 0.5, "ctr": 0.5}
    loop.order("choose", "growth", theta={"all": (1.0, 2.0, 0.0)}, objective=chosen)
    loop.window()
    after = findings(journalled(loop, tmp_path / "k"))
    assert after.objective == chosen
    assert "in the objective +0.5 watch +0.5 ctr, as an operator chose." in after.verdict.sentences[-2]
    assert after.events[-2].what == "choose by test (growth), for +0.5 ctr +0.5 watch: stage is confirm"


def test_a_study_without_guardrails_is_told_to_have_none(tmp_path: Path) -> None:
    loop = Loop(varied(guardrails=()))
    loop.until("confirm")
    loop.windows(2)
    assert "The study has no guardrail." in findings(journalled(loop, tmp_path / "j")).verdict.sentences


def test_segments_are_told_apart(tmp_path: Path) -> None:
    loop = Loop(varied(segments=("new", "old")))
    loop.until("confirm")
    loop.windows(2)
    found = findings(journalled(loop, tmp_path / "j"))
    assert [one.segment for one in found.segments] == ["new", "old"]
    assert found.segments[0].effects.metrics[0].effect != found.segments[1].effects.metrics[0].effect


def test_data_quality_adds_up(world: World, tmp_path: Path) -> None:
    rig = world.start()
    for hour in range(9):
        world.product.settle_window()
        if hour == 3:
            world.topic.append(0, b"no event")
        rig.settle()
    found = findings(world.path)
    sealed = [e for e in world.kinds() if e == "sealed"]
    assert sum(day.sealed for day in found.days) == len(sealed) > 0
    assert sum(sum(day.decisions.values()) for day in found.days) == found.decided == 9
    assert sum(day.rejected for day in found.days) == 1
    assert sum(day.accepted for day in found.days) > 0


def test_a_year_is_bounded_and_its_counts_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, most in (
        ("MAX_DECISIONS", 50),
        ("MAX_EVENTS", 20),
        ("MAX_DAYS", 30),
        ("MAX_POINTS", 40),
        ("MAX_STARTS", 5),
    ):
        monkeypatch.setattr(module, name, most)
    loop = at_stage("explore")
    loop.windows(2)
    decided = loop.decisions()[-1]
    with Journal.open(journalled(loop, tmp_path / "j"), None) as journal:
        journal.claim(2)
        end_ms, more = decided.body["window_end_ms"], []
        for hour in range(1, 1001):
            body = decided.body | {"window_end_ms": end_ms + hour * 3_600_000}
            more.append(Entry(1, "decided", body, decided.data))
            more.append(Entry(1, "stage_changed", {"from": "a", "to": "b", "why": "c"}))
        journal.commit(2, more)
    seen: list[tuple[int, int]] = []
    found = findings(tmp_path / "j", lambda done, total: seen.append((done, total)))
    assert found.decided == 1000 + len(loop.decisions())
    assert found.happened >= 1000
    assert (len(found.decisions), len(found.events), len(found.days)) == (50, 20, 30)
    assert 40 <= len(found.curve) <= 81
    ends = [point.window_end_ms for point in found.curve]
    assert ends == sorted(ends, key=lambda end: end or 0)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_checkpoint_of_another_version_leaves_the_ledgers_story(tmp_path: Path) -> None:
    loop = at_stage("ramp")
    loop.window()
    with Journal.open(journalled(loop, tmp_path / "j"), None) as journal:
        journal.claim(2)
        journal.commit(2, put={"control": b"of another time"})
    found = findings(tmp_path / "j")
    assert "its checkpoint is not of this version of Trimtab" in found.lacks
    assert any(found.lacks in line for line in text(found))
    assert (found.verdict.answer, found.surface, found.measured) == ("promoted", None, None)
    assert found.decided == len(loop.decisions())
    carry = loop.carry
    assert (found.decided_through_ms, found.sealed_through_ms) == (carry.decided_through_ms, carry.sealed_through_ms)
    assert (found.vectors, found.banned, found.notice) == (carry.arms, len(carry.banned), carry.notice)
    assert (found.theta, found.objective) == (carry.candidate.theta, {"watch": 1.0})
    assert [step.share for step in found.steps] == [step.share for step in carry.shares] != []
    assert found.verdict.gain == found.steps[-1].gain
    assert found.verdict.basis.endswith("what is measured since is not told here")
    assert not any("is measured" in said for said in found.verdict.sentences)


@pytest.mark.parametrize(("kind", "body"), [("plan_changed", {"plan": {}, "digest": "", "changed": []}),
                                            ("decided", {"why": "", "window_end_ms": 1, "outcome": "kept",
                                                         "carry": {"stage": "asleep"}})])  # fmt: skip
def test_a_ledger_of_another_version_is_refused(tmp_path: Path, kind: str, body: dict[str, object]) -> None:
    path = journalled(at_stage("explore"), tmp_path / "j")
    with Journal.open(path, None) as journal:
        journal.claim(2, [Entry(1, kind, body)])
    with pytest.raises(JournalRefused, match=r"its ledger is not of this version of Trimtab \(.*version that wrote it"):
        findings(path)


def test_what_the_newest_state_knows_stands_in_the_ledger_too(tmp_path: Path) -> None:
    loop = at_stage("hold")
    loop.windows(2)
    path = journalled(loop, tmp_path / "j")
    whole = findings(path)
    with Journal.open(path, None) as journal:
        journal.claim(2)
        journal.commit(2, put={"control": b"of another time"})
    alone = findings(path)
    for name in ("decided_through_ms", "sealed_through_ms", "theta", "vectors", "banned", "notice", "objective"):
        assert getattr(alone, name) == getattr(whole, name)
    assert alone.steps == whole.steps[: len(alone.steps)]
    assert len(alone.steps) == 3, "the last is not in it: the stage that began then has none behind it"


def test_a_broken_ledger_is_said(tmp_path: Path) -> None:
    loop = at_stage("explore")
    loop.windows(2)
    path = journalled(loop, tmp_path / "j")
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DROP TRIGGER ledger_keeps_rows")
        db.execute("DELETE FROM ledger WHERE seq = 3")
    assert "entry 3: missing" in findings(path).chain


def test_an_edit_of_the_plan_is_told(tmp_path: Path) -> None:
    loop = at_stage("explore")
    loop.replan(varied(objective={"watch": 2.0}))
    loop.window()
    found = findings(journalled(loop, tmp_path / "j"))
    assert found.plan == loop.plan
    assert [change.changed for change in found.plan_changes] == [("objective.watch: 1.0 before, 2.0 now",)]
    assert HAND.objective == {"watch": 1.0}
