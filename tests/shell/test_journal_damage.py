"""A ledger that somebody changed, or a disk: what is found, and what is said of it."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.shell import chain
from controller.shell.journal import Journal, check_chain
from controller.shell.journal_file import (
    SCHEMA,
    JournalCorrupt,
    JournalError,
    JournalRefused,
)
from tests.shell.journals import FILLED, entry, fill


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    return fill(tmp_path / "feed.journal")


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
        ('INSERT INTO inbox(at_ms, command) VALUES (1, \'{"verb": "pau\')', None, "order 2 of the inbox"),
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


def first_unreadable(path: Path) -> int | None:
    """The first entry that is broken, read one by one."""
    head = chain.NOTHING
    with closing(sqlite3.connect(path)) as db:
        try:
            for row in map(chain.Row._make, db.execute(f"{chain.SELECT} ORDER BY seq")):
                if row.seq != head.seq + 1 or chain.fault_after(head, row):
                    break
                head = row.head
            else:
                return None
        except sqlite3.Error:
            pass
    return head.seq + 1


def test_the_first_entry_of_a_destroyed_page_is_named(tmp_path: Path) -> None:
    path = tmp_path / "feed.journal"
    with Journal.open(path, "feed") as journal:
        journal.claim(1)
        for k in range(60):
            journal.commit(1, [entry(k, 1500)])
    whole, named = path.read_bytes(), set()
    for at in range(2 * 4096, len(whole), 4096):
        path.write_bytes(whole[:at] + Random(at).randbytes(4096) + whole[at + 4096 :])
        first, corrupt = first_unreadable(path), check_chain(path)
        if first is not None:
            assert corrupt is not None
            assert corrupt.seq == first
            named.add(first)
    assert len(named) > 5, "not the first entry of all that are read at a time"


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
