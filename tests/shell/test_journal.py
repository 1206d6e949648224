import os
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.shell import chain
from controller.shell.journal import Entry, Journal, check_chain
from controller.shell.journal_file import (
    SCHEMA,
    Fenced,
    JournalCorrupt,
    JournalError,
    JournalFailed,
    JournalRefused,
)

ROOT = Path(__file__).parents[2]
FILLED = 12  # entries in `filled`


def entry(n: int, size: int = 40) -> Entry:
    data = Random(n).randbytes(size) if n % 2 else None
    return Entry(at_ms=1_700_000_000_000 + n, kind=("decided", "published")[n % 2], body={"n": n, "ä": 0.1}, data=data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "feed.journal"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal.open(path, "feed") as journal:
        yield journal


@pytest.fixture
def filled(path: Path) -> Path:
    """A closed journal: all of it in the one file, no WAL beside it."""
    with Journal.open(path, "feed") as journal:
        journal.claim(1, [entry(1)])
        for n in range(2, FILLED + 1):
            journal.commit(1, [entry(n)], put={"count": b"%d" % n, f"cell/{n}": bytes(3000)}, drop=[f"cell/{n - 2}"])
        journal.send({"command": "pause"}, at_ms=5)
    assert not Path(f"{path}-wal").exists()
    return path


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
    assert [run.wait(30) for run in runs] == [0] * 4
    assert list(path.parent.glob("*.new")) == []
    assert check_chain(path) is None


# Damage


def tampered(path: Path, sql: str, values: tuple[object, ...] = ()) -> JournalCorrupt | None:
    """What `check_chain` says after somebody who took the triggers away and put them back."""
    db = sqlite3.connect(path, isolation_level=None)
    triggers = [statement for statement in SCHEMA if "TRIGGER" in statement]
    for statement in triggers:
        db.execute(f"DROP TRIGGER {statement.split()[2]}")
    db.execute(sql, values)
    for statement in triggers:
        db.execute(statement)
    db.close()
    return check_chain(path)


def test_the_ledger_refuses_updates_and_deletes(journal: Journal) -> None:
    journal.claim(1, [entry(1)])
    for sql in ("DELETE FROM ledger", "UPDATE ledger SET at_ms = 1", "UPDATE ledger SET seq = 9"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            journal._db.execute(sql)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seq=st.integers(1, FILLED),
    column=st.sampled_from(["kind", "body", "data", "prev", "hash"]),
    where=st.integers(0, 10**6),
    flip=st.integers(1, 255),
)
def test_any_flipped_byte_of_an_entry_is_found(filled: Path, seq: int, column: str, where: int, flip: int) -> None:
    damaged = filled.with_suffix(".damaged")
    shutil.copy(filled, damaged)
    with sqlite3.connect(filled) as db:
        (value,) = db.execute(f"SELECT CAST({column} AS BLOB) FROM ledger WHERE seq = ?", (seq,)).fetchone()
    db.close()
    if value is None:
        return
    at = where % len(value)
    changed = value[:at] + bytes([value[at] ^ flip]) + value[at + 1 :]
    as_stored = "CAST(? AS TEXT)" if column in ("kind", "body") else "?"
    corrupt = tampered(damaged, f"UPDATE ledger SET {column} = {as_stored} WHERE seq = {seq}", (changed,))
    assert corrupt is not None
    assert corrupt.seq == seq
    with pytest.raises(JournalCorrupt) as raised, Journal.open(damaged, "feed") as journal:
        list(journal.entries())
    assert raised.value.seq == seq


@pytest.mark.parametrize(
    ("sql", "seq", "found"),
    [
        ("UPDATE ledger SET at_ms = at_ms + 1 WHERE seq = 4", 4, "not what its hash"),
        ("UPDATE ledger SET at_ms = at_ms + 0.5 WHERE seq = 4", 4, "found real text text"),
        ("UPDATE ledger SET kind = CAST(kind AS BLOB) WHERE seq = 4", 4, "found integer blob text"),
        ("UPDATE ledger SET data = x'' WHERE seq = 4", 4, "not what its hash"),
        ("UPDATE ledger SET data = NULL WHERE seq = 5", 5, "not what its hash"),
        ("UPDATE ledger SET prev = x'00' WHERE seq = 4", 4, "prev of 32 bytes, found 1"),
        ("UPDATE ledger SET seq = 99 WHERE seq = 4", 4, "missing: entry 5 follows entry 3"),
        ("DELETE FROM ledger WHERE seq = 4", 4, "missing: entry 5 follows entry 3"),
        ("DELETE FROM ledger WHERE seq = 1", 1, "missing: entry 2 follows entry 0"),
        ("DELETE FROM ledger WHERE seq = 12", 12, "missing: the ledger ends here"),
        ("DELETE FROM ledger WHERE seq > 7", 8, "missing: the ledger ends here"),
        ("DELETE FROM ledger", 1, "missing: the ledger ends here"),
        ("UPDATE checkpoint SET value = x'31' WHERE key = 'count'", None, "row b'count' of table checkpoint"),
        ("UPDATE meta SET value = x'30' WHERE key = 'epoch'", None, "row b'epoch' of table meta"),
        ("DELETE FROM meta WHERE key = 'head'", None, "no row 'head'"),
        ("DROP TABLE inbox", None, "not as it was created"),
        ("DROP TABLE ledger", None, "no such table"),
    ],
)
def test_tampering_is_named(filled: Path, sql: str, seq: int | None, found: str) -> None:
    if sql == "DROP TABLE ledger":
        db = sqlite3.connect(filled)
        db.execute(sql)
        db.close()
        corrupt = check_chain(filled)
    else:
        corrupt = tampered(filled, sql)
    assert corrupt is not None
    assert corrupt.seq == seq or found == "no such table"
    assert found in corrupt.found
    assert str(filled) in str(corrupt)


def test_an_entry_moved_into_another_place_is_found(filled: Path) -> None:
    """Each of the two is whole in itself: only the chain shows it."""
    sql = "INSERT OR REPLACE INTO ledger SELECT 6, at_ms, kind, body, data, prev, hash FROM ledger WHERE seq = 4"
    corrupt = tampered(filled, sql)
    assert corrupt is not None
    assert corrupt.seq == 6


def test_a_rewritten_entry_breaks_the_next(filled: Path) -> None:
    """Whoever computes the changed entry's hash again must also change all that follow."""
    with sqlite3.connect(filled) as db:
        row = chain.Row(*db.execute(f"{chain.SELECT} WHERE seq = 4").fetchone())
    db.close()
    forged = chain.digest(row._replace(body=b"{}"))
    corrupt = tampered(filled, "UPDATE ledger SET body = '{}', hash = ? WHERE seq = 4", (forged,))
    assert corrupt is not None
    assert (corrupt.seq, "does not follow entry 4" in corrupt.found) == (5, True)


def test_missing_triggers_are_named(filled: Path) -> None:
    with sqlite3.connect(filled) as db:
        db.execute("DROP TRIGGER ledger_keeps_rows")
    db.close()
    corrupt = check_chain(filled)
    assert corrupt is not None
    assert "trigger is not as it was created" in corrupt.found


def test_a_cut_tail_stops_the_next_start(filled: Path) -> None:
    tampered(filled, "DELETE FROM ledger WHERE seq = 12")
    with pytest.raises(JournalCorrupt, match="entry 12: missing: the ledger ends here"):
        Journal.open(filled, "feed")


def read_whole(path: Path) -> tuple[object, ...]:
    with Journal.read_only(path) as journal:
        rows = tuple((e.seq, e.at_ms, e.kind, e.json, e.data) for e in journal.entries())
        return rows, journal.checkpoint(), journal.study(), journal.epoch()


def test_any_damage_of_the_file_is_found_or_harmless(filled: Path) -> None:
    """Bytes flipped anywhere: either it is named, or what is read is what was written (free space, counters)."""
    whole, content, random = filled.read_bytes(), read_whole(filled), Random(7)
    damaged, named = filled.with_suffix(".damaged"), 0
    for _ in range(600):
        data = bytearray(whole)
        at = random.choice([random.randrange(len(data)), random.randrange(600)])  # the header and the schema: often
        for place in range(at, min(len(data), at + random.choice([1, 1, 4, 40]))):
            data[place] ^= random.randrange(1, 256)
        damaged.write_bytes(data)
        try:
            corrupt = check_chain(damaged)
        except JournalRefused:
            corrupt = JournalCorrupt(damaged, None, "refused")
        named += corrupt is not None
        if corrupt is None:
            assert read_whole(damaged) == content, at
        else:
            try:
                read_whole(damaged)
                with Journal.open(damaged, "feed") as journal:
                    journal.claim(9, [entry(99)])
            except JournalError:
                pass  # never anything else
        for extra in ("-wal", "-shm"):
            Path(f"{damaged}{extra}").unlink(missing_ok=True)
    assert 100 < named < 600


@pytest.mark.parametrize("share", [0.1, 0.3, 0.9])
def test_a_cut_file_is_found(filled: Path, share: float) -> None:
    data = filled.read_bytes()
    filled.write_bytes(data[: int(len(data) * share)])
    assert check_chain(filled) is not None


def test_an_emptied_file_does_not_become_a_new_journal(filled: Path) -> None:
    filled.write_bytes(b"")
    for attempt in (lambda: Journal.open(filled, "feed"), lambda: check_chain(filled)):
        with pytest.raises(JournalRefused, match="no Trimtab journal"):
            attempt()
    assert filled.read_bytes() == b""


# Crashes, for real

LOOP = """
import sys
from pathlib import Path
from controller.shell.journal import Entry, Journal

journal = Journal.open(Path(sys.argv[1]), "feed")
epoch = journal.epoch() + 1
journal.claim(epoch, [Entry(0, "started", {"epoch": epoch})])
n = int(journal.checkpoint().get("n", b"0"))
published = open(sys.argv[2], "r+b", buffering=0)
print("up", flush=True)
while True:
    n += 1
    value = b"%d" % n
    cells = {f"cell/{n % 7}/{i}": value * 2000 for i in range(3)}
    journal.commit(epoch, [Entry(n, "decided", {"n": n}, value * 5000)], put={"n": value, **cells})
    published.seek(0)
    published.write(b"%12d" % n)
"""


def test_killed_at_any_moment_the_ledger_and_the_state_agree(path: Path) -> None:
    published, random, last = path.with_suffix(".published"), Random(3), 0
    published.write_bytes(b"%12d" % 0)
    for _ in range(20):
        command = [sys.executable, "-c", LOOP, str(path), str(published)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"up\n"
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(random.uniform(0.0, 0.06))
            child.send_signal(signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
        assert check_chain(path) is None
        with Journal.read_only(path) as journal:
            decided = [e.body["n"] for e in journal.entries(kinds=["decided"])]
            rows = journal.checkpoint()
        assert decided == list(range(1, len(decided) + 1))
        state = int(rows.get("n", b"0"))
        assert state == len(decided) >= int(published.read_bytes())
        assert all(rows[f"cell/{state % 7}/{i}"] == b"%d" % state * 2000 for i in range(3) if state)
        assert state >= last
        last = state
    assert last > 20


FULL = """
import sys
from pathlib import Path
from controller.shell.journal import Entry, Journal
from controller.shell.journal_file import JournalFailed

path = Path(sys.argv[1])
journal = Journal.open(path, "feed")
journal.claim(1)
if len(sys.argv) > 2:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
n = 0
try:
    while n < 10_000:
        journal.commit(1, [Entry(n, "decided", {"n": n + 1, "pad": "x" * 20_000})], put={"n": b"%d" % (n + 1)})
        n += 1
except JournalFailed as error:
    print(n, error)
"""


def committed_until_full(path: Path, *limit: str) -> tuple[int, str]:
    run = [sys.executable, "-c", FULL, str(path), *limit]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    count, message = done.stdout.split(" ", 1)
    assert str(path) in message
    assert check_chain(path) is None
    with Journal.read_only(path) as journal:
        assert journal.head().seq == int(count)
        assert journal.checkpoint() == {"n": count.encode()}
    return int(count), message


def test_a_file_size_limit_stops_the_commit_and_spares_the_file(path: Path) -> None:
    count, message = committed_until_full(path, "2000000")
    assert count > 20
    assert "disk I/O error" in message or "full" in message
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    with Journal.open(path, "feed") as journal:  # with space again it goes on
        journal.claim(2)
        assert journal.commit(2, [entry(1)]).seq == count + 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_stops_the_commit_and_spares_the_file(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", tmp_path], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        count, message = committed_until_full(tmp_path / "feed.journal")
        assert count > 20
        assert "full" in message
    finally:
        subprocess.run(["umount", tmp_path], check=True)
