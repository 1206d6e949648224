import sqlite3
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import msgspec
import pytest

from controller import assignment
from controller.core import checkpoint, rollout
from controller.core import step as core
from controller.core.clock import PartitionState
from controller.core.experiment import issue
from controller.core.ledger import Record
from controller.core.operate import Command
from controller.core.plan import Plan
from controller.core.safety import Guardrail
from controller.core.step import Publish
from controller.shell.journal import Journal
from controller.shell.journal_file import Fenced, JournalFailed, JournalRefused
from controller.shell.publisher import MemoryPublisher, PublisherUnavailable, Stored
from controller.shell.recorder import PlanRefused, Recorder, Superseded, edits
from tests.core.loop import HOUR, at_stage, varied
from tests.shell.loop import PLAN, START_MS, entries


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "quick.journal", PLAN.study) as book:
        yield book


def table_of(publisher: MemoryPublisher) -> assignment.Assignment:
    assert publisher.table is not None
    return assignment.decode(publisher.table)


def waits(recorder: Recorder) -> bool:
    return recorder.pending


def kinds(journal: Journal) -> list[str]:
    return [entry.kind for entry in journal.entries()]


def replaced(plan: Plan, **changes: object) -> Plan:
    return msgspec.structs.replace(plan, **changes)


def pause(recorder: Recorder, state: core.State, now_ms: int) -> core.State:
    state, effects, _ = core.command(PLAN, state, Command("pause", "me"), now_ms)
    return recorder.commit(state, effects)


class Asking:
    """A publisher that looks into the journal, by a connection of its own, at every publication."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inner = MemoryPublisher()
        self.held: list[bool] = []

    def publish(self, table: bytes, version: int) -> Stored:
        tables = [entry.body.get("table") for entry in entries(self.path)]
        self.held.append(table.decode() in tables)
        return self.inner.publish(table, version)

    def stored(self) -> tuple[int, int] | None:
        return self.inner.stored()


def test_first_start_enters_the_study_and_puts_all_on_control(journal: Journal) -> None:
    publisher = MemoryPublisher()
    recorder, state = Recorder.take_over(PLAN, journal, publisher, START_MS, "wall")
    assert publisher.announced == [], "nothing is published before the caller says so"
    assert waits(recorder)
    recorder.publish(START_MS)
    assert not waits(recorder)
    table = table_of(publisher)
    assert (table.epoch, table.version) == (1, 1_000_001)
    assert [arm.arm for arm in table.arms] == ["control"]
    assert set(table.buckets) == {0}
    assert table.published_ms == START_MS
    assert table.valid_until_ms == START_MS + PLAN.window.validity_ms
    assert table.decided_through_ms == 0
    assert kinds(journal) == ["study_started", "daemon_started", "published"]
    assert state.experiment.carry.epoch == 1


def test_on_the_clock_of_events_the_first_table_never_expires(journal: Journal) -> None:
    publisher = MemoryPublisher()
    recorder, _ = Recorder.take_over(PLAN, journal, publisher, START_MS, "events")
    recorder.publish(0)
    table = table_of(publisher)
    assert (table.published_ms, table.valid_until_ms) == (0, None)
    assert [entry.at_ms for entry in journal.entries()] == [0, 0, 0], "one clock in the whole ledger"


def test_every_table_is_in_the_ledger_when_it_is_published(journal: Journal) -> None:
    publisher = Asking(journal.path)
    recorder, state = Recorder.take_over(PLAN, journal, publisher, START_MS, "wall")
    recorder.publish(START_MS)
    pause(recorder, state, START_MS + 1)
    recorder.publish(START_MS + 1)
    assert publisher.held == [True, True]


def test_what_the_journal_refused_is_never_published(journal: Journal) -> None:
    publisher = MemoryPublisher()
    recorder, state = Recorder.take_over(PLAN, journal, publisher, START_MS, "wall")
    recorder.publish(START_MS)
    journal.path.rename(journal.path.with_suffix(".moved"))
    with pytest.raises(JournalFailed, match="removed or replaced"):
        pause(recorder, state, START_MS + 1)
    assert not waits(recorder)
    recorder.publish(START_MS + 2)
    assert publisher.announced == [1_000_001]


def test_the_answer_is_entered(journal: Journal) -> None:
    publisher = MemoryPublisher()
    recorder, _ = Recorder.take_over(PLAN, journal, publisher, START_MS, "wall")
    recorder.publish(START_MS + 5)
    last = journal.newest(("published",))
    assert last is not None
    assert last.at_ms == START_MS + 5
    assert last.body == {"version": 1_000_001, "accepted": True, "stored_version": 1_000_001}


def test_without_redis_the_newest_table_waits(journal: Journal) -> None:
    down = MemoryPublisher()
    down.fault = "gone"
    recorder, state = Recorder.take_over(PLAN, journal, down, START_MS, "wall")
    with pytest.raises(PublisherUnavailable):
        recorder.publish(START_MS)
    pause(recorder, state, START_MS + 1)
    with pytest.raises(PublisherUnavailable):
        recorder.publish(START_MS + 1)
    assert "published" not in kinds(journal)
    down.fault = None
    recorder.publish(START_MS + 2)
    assert down.announced == [1_000_002], "only the newest"


@pytest.mark.parametrize("lost", ["flushed", "older"])
def test_a_table_that_redis_does_not_hold_is_put_again(journal: Journal, lost: str) -> None:
    publisher = MemoryPublisher()
    recorder, state = Recorder.take_over(PLAN, journal, publisher, START_MS, "wall")
    recorder.publish(START_MS)
    older = publisher.table
    pause(recorder, state, START_MS + 1)
    recorder.publish(START_MS + 1)
    newest = publisher.table
    recorder.check_stored()
    assert not waits(recorder), "Redis holds it"
    publisher.table = None if lost == "flushed" else older
    recorder.check_stored()
    assert waits(recorder)
    recorder.publish(START_MS + 2)
    assert publisher.table == newest


def test_a_restart_goes_on_with_the_last_deal_under_the_next_epoch(tmp_path: Path) -> None:
    publisher, path = MemoryPublisher(), tmp_path / "j"
    for start in range(1, 4):
        with Journal.open(path, PLAN.study) as journal:
            recorder, state = Recorder.take_over(PLAN, journal, publisher, START_MS + start, "wall")
            recorder.publish(START_MS + start)
            assert table_of(publisher).version == start * 1_000_000 + 1
            assert journal.epoch() == start
    assert sorted(state.experiment.versions) == [1_000_001, 2_000_001, 3_000_001], "no version's table is forgotten"


def test_the_epoch_is_above_that_of_redis_too(journal: Journal) -> None:
    publisher = MemoryPublisher()
    publisher.publish(b'{"version": 7000003, "epoch": 7}', 7_000_003)
    recorder, _ = Recorder.take_over(PLAN, journal, publisher, START_MS, "wall")
    assert recorder.epoch == 8
    recorder.publish(START_MS)


def test_a_version_that_leaves_no_epoch_is_refused_and_leaves_the_journal_alone(journal: Journal) -> None:
    publisher = MemoryPublisher()
    publisher.table = b'{"version": 9007199254740000}'
    with pytest.raises(Superseded, match=f"Delete the key {assignment.key(PLAN.study)}"):
        Recorder.take_over(PLAN, journal, publisher, START_MS, "wall")
    assert journal.epoch() == 0
    publisher.table = None
    assert Recorder.take_over(PLAN, journal, publisher, START_MS, "wall")[0].epoch == 1


def test_an_expired_last_table_becomes_all_control(tmp_path: Path) -> None:
    path, publisher = tmp_path / "j", MemoryPublisher()
    dealt = assignment.Arm("e1", "explore", {"all": tuple(weight.baseline for weight in PLAN.weights)})
    with Journal.open(path, PLAN.study) as journal:
        recorder, state = Recorder.take_over(PLAN, journal, publisher, START_MS, "wall")
        deal = state.experiment.deals[1]
        two = rollout.Deal(2, "explore", (*deal.arms, dealt), rollout.nested(PLAN.buckets, 0.5, 1, "c1"))
        experiment, table = issue(PLAN, state.experiment, two, START_MS)
        after = msgspec.structs.replace(state, experiment=experiment)
        recorder.commit(after, (Publish(experiment.carry.version, table),))
    still_valid, expired = START_MS + PLAN.window.validity_ms - 1, START_MS + PLAN.window.validity_ms
    for now_ms, arms in ((still_valid, ["control", "e1"]), (expired + PLAN.window.validity_ms, ["control"])):
        with Journal.open(path, PLAN.study) as journal:
            recorder, _ = Recorder.take_over(PLAN, journal, publisher, now_ms, "wall")
            recorder.publish(now_ms)
        assert [arm.arm for arm in table_of(publisher).arms] == arms


def test_a_changed_guardrail_is_entered_and_the_study_goes_on(tmp_path: Path) -> None:
    path, publisher = tmp_path / "j", MemoryPublisher()
    other = replaced(PLAN, guardrails=(Guardrail("ctr", min_change=-0.01),))
    for plan in (PLAN, other, other, PLAN):
        with Journal.open(path, PLAN.study) as journal:
            Recorder.take_over(plan, journal, publisher, START_MS, "wall")
    told = [entry for entry in entries(path) if entry.kind in ("study_started", "plan_changed")]
    assert [entry.kind for entry in told] == ["study_started", "plan_changed", "plan_changed"]
    assert told[1].body["changed"] == ["guardrails[0].min_change: -0.02 before, -0.01 now"]
    assert msgspec.convert(told[1].body["plan"], Plan) == other


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("seed", 99, "seed: 0 before, 99 now"),
        ("buckets", 400, "traffic.buckets: 200 before, 400 now"),
        ("weights", PLAN.weights[:2], "weights: 3 of them before, 2 of them now"),
        ("metrics", PLAN.metrics[:1], "metrics: "),
        ("salt", "x:", "traffic.salt: 'quick:' before, 'x:' now"),
    ],
)
def test_a_plan_that_makes_the_past_meaningless_is_refused_by_name(
    tmp_path: Path, name: str, value: object, told: str
) -> None:
    path, publisher = tmp_path / "j", MemoryPublisher()
    with Journal.open(path, PLAN.study) as first:
        recorder, state = Recorder.take_over(PLAN, first, publisher, START_MS, "wall")
        before = first.head()
        with Journal.open(path, PLAN.study) as second, pytest.raises(PlanRefused) as refusal:
            Recorder.take_over(replaced(PLAN, **{name: value}), second, publisher, START_MS, "wall")
        assert told in str(refusal.value)
        assert "Change it back, or name a new study's journal in journal.path" in str(refusal.value)
        assert (first.head(), first.epoch()) == (before, 1), "the refusal wrote nothing"
        pause(recorder, state, START_MS + 1)  # so a daemon that was running is not fenced off by it


def test_a_checkpoint_of_another_version_is_refused_with_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal.open(path, PLAN.study) as journal:
        recorder, _ = Recorder.take_over(PLAN, journal, MemoryPublisher(), START_MS, "wall")
        journal.commit(recorder.epoch, put={"step": b"\x01"})
    with (
        Journal.open(path, PLAN.study) as journal,
        pytest.raises(JournalRefused, match=r"not of this version .* wrote it \("),
    ):
        Recorder.take_over(PLAN, journal, MemoryPublisher(), START_MS, "wall")
    with pytest.raises(JournalRefused, match=r"not of this version .* wrote it \("):  # `trimtab check` tells beforehand
        edits(PLAN, path)


def test_a_version_that_cannot_read_the_checkpoint_leaves_the_daemon_alone_that_can(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal.open(path, PLAN.study) as one, Journal.open(path, PLAN.study) as two:
        recorder, state = Recorder.take_over(PLAN, one, MemoryPublisher(), START_MS, "wall")
        one.commit(recorder.epoch, put={"step": b"\x01"})  # as a newer one would write it
        before = one.head()
        with pytest.raises(JournalRefused, match=r"not of this version"):
            Recorder.take_over(PLAN, two, MemoryPublisher(), START_MS, "wall")
        assert (one.head(), one.epoch()) == (before, 1), "the refusal wrote nothing"
        pause(recorder, state, START_MS + 1)


def test_a_second_daemon_on_the_journal_fences_the_first(tmp_path: Path) -> None:
    path, publisher = tmp_path / "j", MemoryPublisher()
    with Journal.open(path, PLAN.study) as one, Journal.open(path, PLAN.study) as two:
        older, state = Recorder.take_over(PLAN, one, publisher, START_MS, "wall")
        newer, _ = Recorder.take_over(PLAN, two, publisher, START_MS, "wall")
        newer.publish(START_MS)
        with pytest.raises(Fenced, match="epoch 1"):
            older.commit(state, ())
        with pytest.raises(Fenced):
            older.publish(START_MS)
    assert publisher.announced == [2_000_001]


def test_a_daemon_on_another_journal_supersedes_at_redis(tmp_path: Path) -> None:
    publisher = MemoryPublisher()
    with Journal.open(tmp_path / "a", PLAN.study) as one, Journal.open(tmp_path / "b", PLAN.study) as two:
        older, _ = Recorder.take_over(PLAN, one, publisher, START_MS, "wall")
        older.publish(START_MS)
        newer, _ = Recorder.take_over(PLAN, two, publisher, START_MS, "wall")
        newer.publish(START_MS)
        older.check_stored()
        assert older.pending, "a later table in Redis is noticed without waiting for the next decision"
        with pytest.raises(Superseded, match=r"version 2000001 of epoch 2, this daemon is of epoch 1"):
            older.publish(START_MS)
        answer = one.newest(("published",))
        assert answer is not None
        assert answer.body == {"version": 1_000_001, "accepted": False, "stored_version": 2_000_001}
    assert table_of(publisher).epoch == 2


def test_the_checkpoint_of_a_start_is_that_of_its_state(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal.open(path, PLAN.study) as journal:
        Recorder.take_over(PLAN, journal, MemoryPublisher(), START_MS, "wall")
    with Journal.open(path, PLAN.study) as journal:
        _, state = Recorder.take_over(PLAN, journal, MemoryPublisher(), START_MS + 1, "wall")
        restored = core_restored(journal)
    assert restored.experiment.carry == state.experiment.carry
    assert restored.experiment.versions == state.experiment.versions


def core_restored(journal: Journal) -> core.State:
    return checkpoint.restore(journal.checkpoint())


def row_numbers(journal: Journal) -> dict[str, int]:
    """Which a row that is written again changes."""
    with closing(sqlite3.connect(journal.path)) as db:
        return dict(db.execute("SELECT key, rowid FROM checkpoint"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rollout": {"confirm_ms": HOUR}}, None),
        ({"traffic": {"max_share_at_risk": 0.3}}, "the confirm test's shares: it begins anew, without what it has"),
        (
            {"objective": {"watch": 1.0, "ctr": 2.0}},
            "the stage: confirm before, explore then (the study file changed: ",
        ),
    ],
)
def test_what_becomes_of_a_test_is_told_before_an_edit_is_followed(
    tmp_path: Path, changes: dict[str, object], told: str | None
) -> None:
    loop = at_stage("confirm")
    loop.window()
    with Journal.open(tmp_path / "j", loop.plan.study) as journal:
        recorder, _ = Recorder.take_over(loop.plan, journal, MemoryPublisher(), START_MS, "wall")
        recorder.commit(loop.state, ())
    found = edits(varied(loop.plan, **changes), tmp_path / "j")
    assert len(found) == (1 if told is None else 2)
    assert told is None or found[-1].startswith(told)
    assert edits(loop.plan, tmp_path / "j") == ()


def test_only_rows_that_changed_are_written(journal: Journal) -> None:
    recorder, state = Recorder.take_over(PLAN, journal, MemoryPublisher(), START_MS, "wall")
    before = row_numbers(journal)
    moved = msgspec.structs.replace(state.windows, partitions={0: PartitionState(None, 17)})
    state = recorder.commit(msgspec.structs.replace(state, windows=moved), ())
    assert core_restored(journal).windows.partitions[0].next_offset == 17
    after = row_numbers(journal)
    assert after["control"] == before["control"]
    assert after["windows"] != before["windows"]
    pause(recorder, state, START_MS + 1)
    assert row_numbers(journal)["control"] != before["control"]


def test_a_commit_marks_the_commands_it_obeyed(journal: Journal) -> None:
    recorder, state = Recorder.take_over(PLAN, journal, MemoryPublisher(), START_MS, "wall")
    id_ = journal.send(Command("pause", "me"), START_MS)
    assert journal.applied(id_) is None
    recorder.commit(state, (Record(START_MS, "operator_refused", {"said": "no"}),), (id_,))
    assert journal.applied(id_) == journal.head().seq


def test_entries_keep_their_arrays(journal: Journal) -> None:
    recorder, state = Recorder.take_over(PLAN, journal, MemoryPublisher(), START_MS, "wall")
    recorder.commit(state, (Record(START_MS, "sealed", {"a": 1}, b"\x00\xff"), Record(START_MS, "other", {})))
    assert [(e.kind, e.data) for e in journal.entries(after=2)] == [("sealed", b"\x00\xff"), ("other", None)]


def test_a_topic_that_would_be_refused_is_told_before(tmp_path: Path) -> None:
    for source, told in (("topic engagement", True), ("file events.ndjson", False)):
        path = tmp_path / source
        with Journal.open(path, PLAN.study) as journal:
            Recorder.take_over(PLAN, journal, MemoryPublisher(), START_MS, "wall", source)
        assert edits(PLAN, path, source="topic engagement") == ()
        with pytest.raises(PlanRefused, match="reads topic e2") if told else nullcontext():
            edits(PLAN, path, source="topic e2")


def test_the_offsets_of_one_source_are_not_used_in_another(tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    for source in ("topic engagement", "topic engagement", ""):
        with Journal.open(path, PLAN.study) as journal:
            Recorder.take_over(PLAN, journal, MemoryPublisher(), START_MS, "wall", source)
    with Journal.open(path, PLAN.study) as journal:
        Recorder.take_over(PLAN, journal, MemoryPublisher(), START_MS, "wall", "file events.ndjson")
    with Journal.open(path, PLAN.study) as journal:
        head = journal.head()
        with pytest.raises(PlanRefused, match=r"those of file events\.ndjson, this run reads topic engagement"):
            Recorder.take_over(PLAN, journal, MemoryPublisher(), START_MS, "wall", "topic engagement")
        assert journal.head() == head
