"""The journal's file: its schema, how it is opened, what is refused, and how damage is named.

`ledger` is append-only and hash-chained (`chain`). `checkpoint` is the newest state. `inbox` is where
operator commands wait. `meta` holds the study, the fencing epoch, and a second copy of the chain's head, against which
a cut tail shows. Rows of `checkpoint` and `meta` carry a checksum.
"""

import os
import sqlite3
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import msgspec

from controller.shell import chain
from controller.shell.chain import Head, Row

APPLICATION_ID = 0x54524D54  # "TRMT": tells a journal from any other SQLite file
SCHEMA_VERSION = 1
WAIT_S = 4.0  # how long a write waits for another process's transaction
PAGE = 64  # ledger rows read at a time: a slow reader must not keep a snapshot that stops the WAL from shrinking
WAL_LIMIT = 64 << 20  # bytes; what the WAL is cut back to after a long read made it grow

SCHEMA = (
    "CREATE TABLE ledger(seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, kind TEXT NOT NULL,"
    " body TEXT NOT NULL, data BLOB, prev BLOB NOT NULL, hash BLOB NOT NULL)",
    # A rowid table: with values of 50 KB it writes a third faster than WITHOUT ROWID.
    "CREATE TABLE checkpoint(key TEXT PRIMARY KEY, value BLOB NOT NULL, crc INTEGER NOT NULL)",
    "CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB NOT NULL, crc INTEGER NOT NULL)",
    # applied: the ledger's seq when the command took effect; NULL while it waits
    "CREATE TABLE inbox(id INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, command TEXT NOT NULL,"
    " applied INTEGER)",
    "CREATE TRIGGER ledger_keeps_rows BEFORE DELETE ON ledger"
    " BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
    "CREATE TRIGGER ledger_keeps_values BEFORE UPDATE ON ledger"
    " BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
)

# SQLITE_ERROR is what a damaged schema leads to: a table that is not there, a statement that does not parse.
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


class JournalError(Exception):
    """What went wrong with a journal; the message names the file."""


class JournalFailed(JournalError):
    """The file cannot be read or written (disk full, read-only, locked, replaced); nothing was recorded."""


class JournalRefused(JournalError):
    """The file is no journal, not this study's, or of another schema version: the operator's to mend."""


class JournalCorrupt(JournalError):
    """The file is damaged. `seq`: the first broken ledger entry; None when the damage is elsewhere."""

    def __init__(self, path: Path, seq: int | None, found: str) -> None:
        super().__init__(f"journal {path}: {'' if seq is None else f'entry {seq}: '}{found}")
        self.path, self.seq, self.found = path, seq, found


class Fenced(JournalError):
    """Another process has taken the journal over; nothing was written, and this process must end."""

    def __init__(self, path: Path, expected: str, found: str) -> None:
        super().__init__(
            f"journal {path}: another process took it over: expected {expected}, found {found}. Run one daemon a study."
        )
        self.path, self.expected, self.found = path, expected, found


def inode(path: Path) -> tuple[int, int] | None:
    """Which file stands at `path`; None when there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def connect(path: Path, options: str) -> sqlite3.Connection:
    """A connection in autocommit mode. `options`: the mode parameters of SQLite's URI."""
    if path.exists() and not path.is_file():  # SQLite calls a directory a disk I/O error, and waits at a pipe for ever
        kind = "a directory" if path.is_dir() else "a pipe, socket or device"
        raise JournalRefused(f"journal {path}: is {kind}, expected the journal's file (journal.path of the study)")
    with named_failures(path):
        uri = f"{path.as_uri()}?mode={options}"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=WAIT_S)
        db.execute("PRAGMA trusted_schema = OFF")
        db.execute("PRAGMA cell_size_check = ON")
    return db


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection that cannot write; works beside a writer and on a read-only medium."""
    if not path.exists():
        raise JournalRefused(f"journal {path}: there is no such file")
    # On a read-only medium SQLite cannot put its shared memory beside the file; a copy at rest needs none.
    at_rest = not os.access(path.parent, os.W_OK) and not Path(f"{path}-wal").exists()
    return connect(path, "ro&immutable=1" if at_rest else "ro")


def create(path: Path, study: str) -> None:
    """Lay out a new journal (mode 0600) beside `path` and put it there whole, unless another process was first.

    So a process that is killed here leaves no half a journal, and an empty file at `path` is one that was damaged.
    """
    try:
        handle, new = tempfile.mkstemp(".new", f"{path.name}.", path.parent)
        os.close(handle)
        try:
            with closing(connect(Path(new), "rw")) as db:
                _lay_out(db, study)
            with suppress(FileExistsError):
                os.link(new, path)
        finally:
            os.unlink(new)
        _flush_directory(path.parent)
    except OSError as error:
        raise JournalFailed(f"journal {path}: cannot be created: {error.strerror}") from error


def _lay_out(db: sqlite3.Connection, study: str) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    with immediate(db):
        for statement in SCHEMA:
            db.execute(statement)
        put(db, "meta", {"study": study.encode(), "epoch": b"0", "head": chain.NOTHING.pack()})
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _flush_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_identity(path: Path, db: sqlite3.Connection, study: str | None) -> None:
    """Raise `JournalRefused` for a file that is not a journal this program reads, or not of `study`."""
    if (found := _pragma(db, "application_id")) != APPLICATION_ID:
        expected = f"expected {APPLICATION_ID:#x}"
        raise JournalRefused(f"journal {path}: is no Trimtab journal: application_id {found:#x}, {expected}")
    if (found := _pragma(db, "user_version")) != SCHEMA_VERSION:
        raise JournalRefused(f"journal {path}: has schema version {found}, expected {SCHEMA_VERSION}")
    held = meta(path, db, "study").decode()
    if study is not None and held != study:
        raise JournalRefused(f"journal {path}: belongs to study {held!r}, expected {study!r}")


def last_head(path: Path, db: sqlite3.Connection) -> Head:
    """The head that the ledger's last row, whole in itself, gives."""
    last = db.execute(f"{chain.SELECT} ORDER BY seq DESC LIMIT 1").fetchone()
    if last is None:
        return chain.NOTHING
    row = Row._make(last)
    if (found := chain.fault(row)) is not None:
        raise JournalCorrupt(path, row.seq, found)
    return row.head


def check_head(path: Path, found: Head, expected: Head) -> None:
    """The ledger's last entry must be the one that `meta` names."""
    if found.seq < expected.seq:
        raise JournalCorrupt(path, found.seq + 1, f"missing: the ledger ends here, its head names {expected}")
    if found != expected:
        raise JournalCorrupt(path, found.seq, f"the ledger ends with {found}, its head names {expected}")


def check_rest(path: Path, db: sqlite3.Connection) -> None:
    """Raise `JournalCorrupt` for damage outside of the ledger's rows."""
    for table in ("meta", "checkpoint"):
        for _ in checked_rows(path, db, table):
            pass
    schema = "SELECT CAST(sql AS BLOB) FROM sqlite_master WHERE sql IS NOT NULL AND name != 'sqlite_sequence'"
    found = [sql for (sql,) in db.execute(f"{schema} ORDER BY rowid")]
    if found != [statement.encode() for statement in SCHEMA]:
        raise JournalCorrupt(path, None, "a table or a trigger is not as it was created")
    for number, order in db.execute("SELECT id, CAST(command AS BLOB) FROM inbox ORDER BY id"):
        try:
            msgspec.json.decode(order)
        except msgspec.DecodeError as error:
            raise JournalCorrupt(path, None, f"order {number} of the inbox: {error}") from error
    problem = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if problem != "ok":
        raise JournalCorrupt(path, None, problem)


def ledger_rows(
    path: Path, db: sqlite3.Connection, after: int = 0, kinds: tuple[str, ...] | None = None
) -> Iterator[Row]:
    """Raw rows with seq > `after`, in order, a page at a time; what can be read of one comes before its error."""
    of_kinds = "" if kinds is None else f" AND kind IN ({', '.join('?' * len(kinds))})"
    page = f"{chain.SELECT} WHERE seq > ?{of_kinds} ORDER BY seq LIMIT {PAGE}"
    while True:
        rows, error = _read(db.execute(page, (after, *(kinds or ()))))
        for row in rows:
            if row.seq <= after:  # a damaged tree can hand out rows in a circle
                raise JournalCorrupt(path, after + 1, f"missing: entry {row.seq} stands in its place")
            after = row.seq
            yield row
        if error is not None:
            raise error
        if not rows:
            return


def _read(found: sqlite3.Cursor) -> tuple[list[Row], sqlite3.Error | None]:
    """The rows up to the first that cannot be read, and why it cannot."""
    rows: list[Row] = []
    try:
        rows.extend(map(Row._make, found))
    except sqlite3.Error as error:
        return rows, error
    return rows, None


def stored_head(path: Path, db: sqlite3.Connection) -> Head:
    """The head as `meta` names it."""
    return Head.unpack(meta(path, db, "head"))


def meta(path: Path, db: sqlite3.Connection, key: str) -> bytes:
    """One value of the table `meta`."""
    with named_failures(path):
        rows = dict(checked_rows(path, db, "meta"))
    if key not in rows:
        raise JournalCorrupt(path, None, f"table meta has no row {key!r}")
    return rows[key]


def checked_rows(path: Path, db: sqlite3.Connection, table: str) -> Iterator[tuple[str, bytes]]:
    """Rows of `meta` or `checkpoint`; raises `JournalCorrupt` at one that its checksum does not match."""
    for key, value, crc in db.execute(f"SELECT CAST(key AS BLOB), value, crc FROM {table}"):
        if not isinstance(key, bytes) or not isinstance(value, bytes) or _crc(key, value) != crc:
            raise JournalCorrupt(path, None, f"row {key!r} of table {table} does not match its checksum")
        yield key.decode(), value


def put(db: sqlite3.Connection, table: str, rows: Mapping[str, bytes]) -> None:
    """Write rows of `meta` or `checkpoint`."""
    values = ((key, value, _crc(key.encode(), value)) for key, value in rows.items())
    db.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)", values)


@contextmanager
def immediate(db: sqlite3.Connection) -> Iterator[None]:
    """A write transaction: committed when the block ends, rolled back on any error."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # after most I/O errors SQLite has rolled back by itself
            db.execute("ROLLBACK")
        raise


@contextmanager
def named_failures(path: Path) -> Iterator[None]:
    """Turns the errors of SQLite and of decoding into the journal's own, with the file's name."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise  # a bug of the caller: a closed connection, another thread's
    except sqlite3.Error as error:
        if is_damage(error):
            raise JournalCorrupt(path, None, str(error)) from error
        raise JournalFailed(f"journal {path}: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, zlib.error) as error:
        raise JournalCorrupt(path, None, f"a value does not parse: {error}") from error


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error says that the file's content is broken, not that the world around it is."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)  # absent: text that is no UTF-8
    return code & 0xFF in _DAMAGE


def _crc(key: bytes, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(key))


def _pragma(db: sqlite3.Connection, name: str) -> int:
    value: int = db.execute(f"PRAGMA {name}").fetchone()[0]
    return value
