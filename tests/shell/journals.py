"""A journal with entries in it."""

from pathlib import Path
from random import Random

from controller.shell.journal import Entry, Journal

FILLED = 12  # entries of `fill`


def entry(n: int, size: int = 40) -> Entry:
    data = Random(n).randbytes(size) if n % 2 else None
    return Entry(at_ms=1_700_000_000_000 + n, kind=("decided", "published")[n % 2], body={"n": n, "ä": 0.1}, data=data)


def fill(path: Path) -> Path:
    """A closed journal: all of it in the one file, no WAL beside it."""
    with Journal.open(path, "feed") as journal:
        journal.claim(1, [entry(1)])
        for n in range(2, FILLED + 1):
            journal.commit(1, [entry(n)], put={"count": b"%d" % n, f"cell/{n}": bytes(3000)}, drop=[f"cell/{n - 2}"])
        journal.send({"command": "pause"}, at_ms=5)
    assert not Path(f"{path}-wal").exists()
    return path
