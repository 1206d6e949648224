"""The journal: what was decided, the state it led to and the offsets it consumed, in one file.

One transaction writes the ledger's entries and the checkpoint rows, so a process that dies anywhere leaves the
two in agreement; every transaction checks that no other process has taken the journal over.
"""

import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from controller.shell import chain, journal_file
from controller.shell.chain import Head
from controller.shell.journal_file import (
    Fenced,
    JournalCorrupt,
    JournalFailed,
    JournalRefused,
    named_failures,
)

T = TypeVar("T")


class Entry(msgspec.Struct, frozen=True):
    """What to record. Non-finite floats in `body` become null: exact arrays belong into `data`."""

    at_ms: int
    kind: str
    body: Mapping[str, object] | msgspec.Struct  # becomes a canonical JSON object
    data: bytes | None = None  # stored compressed


class Recorded(msgspec.Struct, frozen=True):
    """A ledger entry as it stands in the file; `data` is decompressed again."""

    seq: int
    at_ms: int
    kind: str
    json: bytes
    data: bytes | None
    hash: bytes

    @property
    def body(self) -> dict[str, Any]:
        """The body as plain JSON values."""
        return self.read(dict[str, Any])

    def read(self, kind: type[T]) -> T:
        """The body as a typed record; raises `msgspec.ValidationError` when it is not one."""
        return msgspec.json.decode(self.json, type=kind)


class Waiting(msgspec.Struct, frozen=True):
    """An operator's command that waits in the inbox. Whether it is one at all is for the daemon to say."""

    id: int
    at_ms: int
    command: Any  # a JSON value


class Journal:
    """An open journal. A writer calls `claim` once, reads `checkpoint()` after it, and then commits.

    Bound to the thread that opened it; other threads open their own with `read_only`.
    """

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self.path = path
        self._db = db
        self._inode = journal_file.inode(path)
        self._claimed: int | None = None
        with named_failures(path), self.snapshot():
            self._head = journal_file.stored_head(path, db)
            journal_file.check_head(path, journal_file.last_head(path, db), self._head)

    @classmethod
    def open(cls, path: Path, study: str | None) -> Self:
        """Open for writing, created with mode 0600 when absent and `study` is given.

        Raises `JournalRefused` for a file of another type, schema version or study, `JournalCorrupt` when the
        last entry is not the one that the head names, `JournalFailed` when the file cannot be opened.
        """
        path = Path(path).absolute()
        if not path.exists():
            if study is None:
                raise JournalRefused(f"journal {path}: there is no such file")
            journal_file.create(path, study)
        db = journal_file.connect(path, "rw")
        try:
            with named_failures(path):
                journal_file.check_identity(path, db, study)
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")
                db.execute(f"PRAGMA journal_size_limit = {journal_file.WAL_LIMIT}")
            return cls(path, db)
        except BaseException:
            db.close()
            raise

    @classmethod
    def read_only(cls, path: Path) -> Self:
        """Open for reading, also while a daemon writes. Raises as `open` does."""
        path = Path(path).absolute()
        db = journal_file.connect_to_read(path)
        try:
            with named_failures(path):
                journal_file.check_identity(path, db, None)
            return cls(path, db)
        except BaseException:
            db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read inside is of one moment, whatever a daemon writes meanwhile. Not for writing."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def study(self) -> str:
        """The study this journal belongs to."""
        return journal_file.meta(self.path, self._db, "study").decode()

    def epoch(self) -> int:
        """The epoch of the last process that claimed the journal; 0 before the first."""
        return int(journal_file.meta(self.path, self._db, "epoch"))

    def head(self) -> Head:
        """The last entry in the file now, whoever wrote it."""
        return journal_file.stored_head(self.path, self._db)

    def claim(self, epoch: int, entries: Sequence[Entry] = ()) -> Head:
        """Take the journal for a new epoch, above the stored one, and record `entries`, in one transaction.

        From here on every other process's commit raises `Fenced`; so the state to go on from is what
        `checkpoint()` returns after this call, not before. Raises `Fenced` when the stored epoch is not below
        `epoch`, otherwise as `commit`.
        """
        with self._transaction():
            stored = self.epoch()
            if epoch <= stored:
                raise Fenced(self.path, f"an epoch below {epoch}", f"epoch {stored}")
            head = self._append(self.head(), entries)
            journal_file.put(self._db, "meta", {"epoch": b"%d" % epoch})
        self._claimed, self._head = epoch, head
        return head

    def commit(
        self,
        epoch: int,
        entries: Sequence[Entry] = (),
        put: Mapping[str, bytes] | None = None,
        drop: Iterable[str] = (),
        applied: Iterable[int] = (),
    ) -> Head:
        """Record entries and the checkpoint rows they lead to, in one durable transaction.

        On any error the file is as it was (after an I/O error of the very last flush: as it was, or with the
        whole commit; a retry then raises `Fenced`).

        Args:
            epoch: what this journal was claimed with.
            entries: what to append to the ledger, in order.
            put: checkpoint rows to write.
            drop: checkpoint keys to remove, before the rows are written.
            applied: ids of the inbox commands that took effect with this commit.

        Raises:
            Fenced: epoch or head are not what this process left behind.
            JournalFailed: disk full, read-only, I/O error, locked for `WAIT_S`, or the file was replaced.
            JournalCorrupt: SQLite found the file damaged.
        """
        with self._transaction():
            self._check_fence(epoch)
            head = self._append(self._head, entries)
            self._db.executemany("DELETE FROM checkpoint WHERE key = ?", ((key,) for key in drop))
            journal_file.put(self._db, "checkpoint", put or {})
            done = ((head.seq, command) for command in applied)
            self._db.executemany("UPDATE inbox SET applied = ? WHERE id = ? AND applied IS NULL", done)
        self._head = head
        return head

    def checkpoint(self) -> dict[str, bytes]:
        """All checkpoint rows. Raises `JournalCorrupt` naming a row whose checksum is wrong."""
        with named_failures(self.path):
            return dict(journal_file.checked_rows(self.path, self._db, "checkpoint"))

    def entries(self, kinds: Iterable[str] | None = None, after: int = 0) -> Iterator[Recorded]:
        """Entries with seq > `after`, in order; raises `JournalCorrupt` at one whose own hash is wrong.

        Whether the entries also follow each other is `check_chain`'s matter.
        """
        chosen = None if kinds is None else tuple(kinds)
        with named_failures(self.path):
            for row in journal_file.ledger_rows(self.path, self._db, after, chosen):
                if (found := chain.fault(row)) is not None:
                    raise JournalCorrupt(self.path, row.seq, found)
                data = None if row.data is None else zlib.decompress(row.data)
                yield Recorded(row.seq, row.at_ms, row.kind.decode(), row.body, data, row.hash)

    def last(self, count: int, kinds: tuple[str, ...]) -> Iterator[Recorded]:
        """The newest entries of these kinds, at most so many, oldest first."""
        marks = ", ".join("?" * len(kinds))
        before = f"SELECT seq FROM ledger WHERE kind IN ({marks}) ORDER BY seq DESC LIMIT 1 OFFSET ?"
        with named_failures(self.path):
            first = self._db.execute(before, (*kinds, count)).fetchone()
        return self.entries(kinds, after=0 if first is None else first[0])

    def newest(self, kinds: tuple[str, ...], through: int | None = None) -> Recorded | None:
        """The last entry of these kinds (with seq <= `through`), or None; reads no other entry's body."""
        marks = ", ".join("?" * len(kinds))
        last = f"SELECT max(seq) FROM ledger WHERE kind IN ({marks}) AND seq <= ?"
        with named_failures(self.path):
            seq = self._db.execute(last, (*kinds, 2**62 if through is None else through)).fetchone()[0]
        return None if seq is None else next(self.entries(kinds, after=seq - 1))

    def count(self, kind: str) -> int:
        """How many entries are of a kind."""
        with named_failures(self.path):
            found: int = self._db.execute("SELECT count(*) FROM ledger WHERE kind = ?", (kind,)).fetchone()[0]
        return found

    def inbox(self) -> tuple[Waiting, ...]:
        """The commands that wait, oldest first."""
        waiting = "SELECT id, at_ms, CAST(command AS BLOB) FROM inbox WHERE applied IS NULL ORDER BY id"
        with named_failures(self.path):
            return tuple(
                Waiting(number, at_ms, msgspec.json.decode(body))
                for number, at_ms, body in self._db.execute(waiting).fetchall()
            )

    def send(self, command: Mapping[str, object] | msgspec.Struct, at_ms: int) -> int:
        """Leave a command for the daemon, which applies it at its next poll; returns the command's id.

        Touches nothing but the inbox, so it needs no claim and fences nobody.
        """
        insert = "INSERT INTO inbox(at_ms, command) VALUES (?, ?)"
        with self._transaction():
            return self._db.execute(insert, (at_ms, _json(command).decode())).lastrowid or 0

    def knows(self, command: int) -> bool:
        """Whether a command with this id was ever left in the inbox."""
        with named_failures(self.path):
            return self._db.execute("SELECT 1 FROM inbox WHERE id = ?", (command,)).fetchone() is not None

    def applied(self, command: int) -> int | None:
        """The ledger's seq when the command took effect; None while it waits."""
        with named_failures(self.path):
            row = self._db.execute("SELECT applied FROM inbox WHERE id = ?", (command,)).fetchone()
        return None if row is None else row[0]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with named_failures(self.path):
            # Without this SQLite would go on writing to a file that nobody can find.
            if journal_file.inode(self.path) != self._inode:
                raise JournalFailed(f"journal {self.path}: was removed or replaced while it was open")
            with journal_file.immediate(self._db):
                yield

    def _check_fence(self, epoch: int) -> None:
        stored, head = self.epoch(), self.head()
        if (epoch, epoch, self._head) != (self._claimed, stored, head):
            claim = "epoch" if epoch == self._claimed else "a claim of epoch"
            raise Fenced(self.path, f"{claim} {epoch} at {self._head}", f"epoch {stored} at {head}")

    def _append(self, head: Head, entries: Sequence[Entry]) -> Head:
        for entry in entries:
            data = None if entry.data is None else zlib.compress(entry.data, 1)
            row = chain.link(head, entry.at_ms, entry.kind.encode(), _json(entry.body), data)
            values = (row.seq, row.at_ms, entry.kind, row.body.decode(), data, row.prev, row.hash)
            self._db.execute("INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?)", values)
            head = row.head
        journal_file.put(self._db, "meta", {"head": head.pack()})
        return head


def _json(body: Mapping[str, object] | msgspec.Struct) -> bytes:
    encoded = msgspec.json.encode(body, order="sorted")
    if not encoded.startswith(b"{"):
        raise TypeError(f"expected what becomes a JSON object, found {encoded[:40]!r}")
    return encoded


def check_chain(path: Path) -> JournalCorrupt | None:
    """The first thing that is broken in the file, or None; works while a daemon writes.

    Every hash is computed again from the raw rows; then come the copy of the head, the checksums of the
    checkpoint, the schema (with the triggers that guard the ledger) and SQLite's own structures. Raises
    `JournalRefused` when the file says that it is no journal, `JournalFailed` when it cannot be read.
    """
    path = Path(path).absolute()
    try:
        with closing(journal_file.connect_to_read(path)) as db, named_failures(path):
            journal_file.check_identity(path, db, None)
            db.execute("BEGIN")  # one moment, whatever a daemon writes meanwhile
            _check_entries(path, db)
            journal_file.check_rest(path, db)
    except JournalCorrupt as corrupt:
        return corrupt
    return None


def _check_entries(path: Path, db: sqlite3.Connection) -> None:
    head = chain.NOTHING
    try:
        for row in journal_file.ledger_rows(path, db):
            if row.seq != head.seq + 1:
                raise JournalCorrupt(path, head.seq + 1, f"missing: entry {row.seq} follows entry {head.seq}")
            if (found := chain.fault_after(head, row)) is not None:
                raise JournalCorrupt(path, row.seq, found)
            head = row.head
    except sqlite3.Error as error:
        if not journal_file.is_damage(error):
            raise
        raise JournalCorrupt(path, head.seq + 1, f"cannot be read: {error}") from error
    journal_file.check_head(path, head, journal_file.stored_head(path, db))
