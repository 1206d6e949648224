import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from controller.shell import chain
from controller.shell.journal import Entry, Journal, check_chain
from controller.shell.journal_file import (
    Fenced,
    JournalCorrupt,
    JournalFailed,
    JournalRefused,
)
from tests.shell.journals import FILLED, entry, fill

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "feed.journal"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal.open(path, "feed") as journal:
        yield journal


@pytest.fixture
def filled(path: Path) -> Path:
    return fill(path)


# What is written is what is read


def test_a_commit_is_read_back(journal: Journal) -> None:
    head = journal.claim(3, [entry(1)])
    assert (head.seq, journal.epoch(), journal.study()) == (1, 3, "feed")
    head = journal.commit(3, [entry(2), entry(3)], put={"a": b"1", "b": b"2"})
    assert journal.head() == head
    journal.commit(3, put={"c": b""}, drop=["a", "absent"])
    assert journal.checkpoint() == {"b": b"2", "c": b""}
    found = list(journal.entries())
    assert [e.seq for e in found] == [1, 2, 3]
    for recorded in found:
        written = entry(recorded.seq)
        assert (recorded.at_ms, recorded.kind, recorded.data) == (written.at_ms, written.kind, written.data)
        assert recorded.body == written.body
    assert found[-1].hash == head.hash
    assert check_chain(journal.path) is None


def test_entries_are_chosen_by_kind_and_by_seq(journal: Journal) -> None:
    journal.claim(1, [entry(n) for n in range(1, 200)])  # several pages
    assert [e.seq for e in journal.entries()] == list(range(1, 200))
    assert [e.seq for e in journal.entries(kinds=["decided"], after=100)] == list(range(102, 200, 2))
    assert list(journal.entries(kinds=[])) == []


def test_a_dropped_key_that_is_put_again_stays(journal: Journal) -> None:
    journal.claim(1)
    journal.commit(1, put={"a": b"old"})
    journal.commit(1, put={"a": b"new"}, drop=["a"])
    assert journal.checkpoint() == {"a": b"new"}


def test_the_body_is_canonical_and_may_be_a_record(journal: Journal) -> None:
    class Started(msgspec.Struct):
        study: str
        at: tuple[int, ...]

    journal.claim(1, [Entry(0, "a", {"b": 1, "a": 2}), Entry(0, "b", Started("feed", (1, 2)))])
    first, second = journal.entries()
    assert first.json == b'{"a":2,"b":1}'
    assert second.read(Started) == Started("feed", (1, 2))
    with pytest.raises(TypeError, match="JSON object"):
        journal.commit(1, [Entry(0, "c", [1])])  # type: ignore[arg-type]  # the mistake under test
    assert journal.head().seq == 2


def test_the_ledger_refuses_updates_and_deletes(journal: Journal) -> None:
    journal.claim(1, [entry(1)])
    for sql in ("DELETE FROM ledger", "UPDATE ledger SET at_ms = 1", "UPDATE ledger SET seq = 9"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            journal._db.execute(sql)


def test_an_opened_journal_goes_on_where_the_last_process_stopped(filled: Path) -> None:
    with Journal.open(filled, "feed") as journal:
        assert journal.epoch() == 1
        journal.claim(2)
        assert journal.checkpoint()["count"] == b"%d" % FILLED
        assert journal.commit(2, [entry(FILLED + 1)]).seq == FILLED + 1
    assert check_chain(filled) is None


def test_the_file_is_its_owners_alone(journal: Journal) -> None:
    journal.claim(1, [entry(1)])
    for name in (journal.path, Path(f"{journal.path}-wal")):
        assert stat.S_IMODE(name.stat().st_mode) == 0o600, name


def test_a_commit_is_flushed_to_the_disk(journal: Journal) -> None:
    assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)


# Readers and commands beside a running daemon


def test_a_reader_sees_each_commit_and_cannot_write(journal: Journal) -> None:
    journal.claim(1, [entry(1)])
    with Journal.read_only(journal.path) as reader:
        journal.commit(1, [entry(2)], put={"a": b"1"})
        assert (reader.head().seq, reader.checkpoint()) == (2, {"a": b"1"})
        with pytest.raises(JournalFailed, match="readonly"):
            reader.claim(9)
        with reader.snapshot():
            assert len(list(reader.entries())) == 2
            journal.commit(1, [entry(3)], put={"a": b"2"})
            assert (reader.head().seq, reader.checkpoint()) == (2, {"a": b"1"})
        assert reader.head().seq == 3


def test_a_reader_on_a_read_only_medium(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled.parent.chmod(0o500)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere, so the answer is given
    try:
        with Journal.read_only(filled) as reader:
            assert reader.head().seq == FILLED
        assert check_chain(filled) is None
        assert sorted(p.name for p in filled.parent.iterdir()) == [filled.name]
    finally:
        filled.parent.chmod(0o700)


def test_commands_wait_until_a_commit_applies_them(journal: Journal) -> None:
    journal.claim(1)
    with Journal.open(journal.path, None) as operator:
        first = operator.send({"command": "pause"}, at_ms=10)
        second = operator.send({"command": "resume"}, at_ms=11)
    assert [(c.id, c.at_ms, c.command["command"]) for c in journal.inbox()] == [
        (first, 10, "pause"),
        (second, 11, "resume"),
    ]
    journal.commit(1, [entry(1)], applied=[first])
    assert [c.id for c in journal.inbox()] == [second]
    assert (journal.applied(first), journal.applied(second)) == (1, None)


def test_a_command_fences_nobody(journal: Journal) -> None:
    head = journal.claim(1, [entry(1)])
    with Journal.open(journal.path, None) as operator:
        operator.send({"command": "pause"}, at_ms=10)
    assert journal.head() == head
    journal.commit(1, [entry(2)])


# Fencing


def test_the_second_claim_fences_the_first(path: Path) -> None:
    with Journal.open(path, "feed") as old, Journal.open(path, "feed") as new:
        old.claim(1, [entry(1)])
        old.commit(1, put={"a": b"old"})
        new.claim(2)  # takes over from where the file stands, not from where it stood when it was opened
        with pytest.raises(Fenced, match=r"expected epoch 1 at entry 1 .*found epoch 2 at entry 1 "):
            old.commit(1, [entry(2)], put={"a": b"stale"})
        new.commit(2, [entry(2)])
        assert new.checkpoint() == {"a": b"old"}
        with pytest.raises(Fenced, match=r"found epoch 2 at entry 2 "):
            old.commit(1)
    assert check_chain(path) is None


def test_an_epoch_is_claimed_once(path: Path) -> None:
    with Journal.open(path, "feed") as first, Journal.open(path, "feed") as second:
        first.claim(5)
        for epoch in (5, 4):
            with pytest.raises(Fenced, match="found epoch 5"):
                second.claim(epoch)
        with pytest.raises(Fenced, match="expected a claim of epoch 5"):
            second.commit(5, [entry(1)])
        assert first.commit(5, [entry(1)]).seq == 1


def test_a_head_that_somebody_moved_fences(journal: Journal) -> None:
    journal.claim(1, [entry(1)])
    with sqlite3.connect(journal.path) as other:
        row = chain.link(journal.head(), 1, b"decided", b"{}", None)
        other.execute("INSERT INTO ledger VALUES (2, 1, 'decided', '{}', NULL, ?, ?)", (row.prev, row.hash))
        packed = row.head.pack()
        crc = zlib.crc32(packed, zlib.crc32(b"head"))
        other.execute("UPDATE meta SET value = ?, crc = ? WHERE key = 'head'", (packed, crc))
    other.close()
    with pytest.raises(Fenced, match=r"expected epoch 1 at entry 1 .*found epoch 1 at entry 2"):
        journal.commit(1, [entry(2)])


# What is refused


def test_another_study_is_refused(filled: Path) -> None:
    with pytest.raises(JournalRefused, match="belongs to study 'feed', expected 'shop'"):
        Journal.open(filled, "shop")


def test_a_missing_file_is_refused_when_it_is_not_to_be_created(path: Path) -> None:
    for attempt in (lambda: Journal.open(path, None), lambda: Journal.read_only(path), lambda: check_chain(path)):
        with pytest.raises(JournalRefused, match="no such file"):
            attempt()
    assert not path.exists()


def test_another_sqlite_file_is_refused_and_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE t(x)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(JournalRefused, match="no Trimtab journal: application_id 0x0"):
        Journal.open(path, "feed")
    assert path.read_bytes() == before


def test_another_schema_version_is_refused(filled: Path) -> None:
    with sqlite3.connect(filled) as other:
        other.execute("PRAGMA user_version = 2")
    other.close()
    for study in ("feed", None):
        with pytest.raises(JournalRefused, match="has schema version 2, expected 1"):
            Journal.open(filled, study)
    with pytest.raises(JournalRefused, match="has schema version 2, expected 1"):
        Journal.read_only(filled)


def test_a_file_that_is_no_database_is_named(path: Path) -> None:
    path.write_text("study = 'feed'\n" * 100)
    with pytest.raises(JournalCorrupt, match="not a database"):
        Journal.open(path, "feed")
    assert path.read_text().startswith("study")


@pytest.mark.parametrize("use", [lambda path: Journal.open(path, "feed"), Journal.read_only, check_chain])
def test_a_directory_is_no_journal(tmp_path: Path, use: Callable[[Path], object]) -> None:
    with pytest.raises(JournalRefused, match=f"journal {tmp_path}: is a directory, expected the journal's file"):
        use(tmp_path)


@pytest.mark.parametrize("use", [lambda path: Journal.open(path, "feed"), Journal.read_only, check_chain])
def test_a_pipe_is_no_journal(path: Path, use: Callable[[Path], object]) -> None:
    """SQLite would wait for its other end."""
    os.mkfifo(path)
    with pytest.raises(JournalRefused, match=f"journal {path}: is a pipe, socket or device, expected the journal's"):
        use(path)


def test_a_directory_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(JournalFailed, match="No such file or directory"):
        Journal.open(tmp_path / "nowhere" / "feed.journal", "feed")


def test_a_file_replaced_under_an_open_journal_takes_no_commit(journal: Journal) -> None:
    journal.claim(1, [entry(1)])
    journal.path.rename(journal.path.with_suffix(".old"))
    with pytest.raises(JournalFailed, match="removed or replaced"):
        journal.commit(1, [entry(2)])
    shutil.copy(journal.path.with_suffix(".old"), journal.path)
    with pytest.raises(JournalFailed, match="removed or replaced"):
        journal.commit(1, [entry(2)])


def test_a_held_lock_is_waited_for_and_then_named(journal: Journal) -> None:
    journal.claim(1)
    journal._db.execute("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(journal.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalFailed, match="locked"):
        journal.commit(1, [entry(1)])
    other.execute("ROLLBACK")
    other.close()
    assert journal.commit(1, [entry(1)]).seq == 1


def test_several_processes_may_create_it_at_once(path: Path) -> None:
    code = "import sys; from pathlib import Path; from controller.shell.journal import Journal\n"
    code += "Journal.open(Path(sys.argv[1]), 'feed').close()"
    runs = [subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT) for _ in range(4)]
    assert [run.wait(60) for run in runs] == [0] * 4
    assert list(path.parent.glob("*.new")) == []
    assert check_chain(path) is None
