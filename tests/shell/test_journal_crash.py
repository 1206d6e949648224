"""Processes that are killed and disks that are full, for real."""

import os
import resource
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from random import Random

import pytest

from controller.shell.journal import Journal, check_chain
from tests.shell.journals import entry
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "feed.journal"


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


def reached(published: Path, count: int) -> bool:
    return int(published.read_bytes()) >= count


def test_killed_at_any_moment_the_ledger_and_the_state_agree(path: Path) -> None:
    published, random, last = path.with_suffix(".published"), Random(3), 0
    published.write_bytes(b"%12d" % 0)
    for life in range(20):
        command = [sys.executable, "-c", LOOP, str(path), str(published)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"up\n"
            if life % 2:  # in every other life it gets somewhere first, however slow the disk
                wait_until(partial(reached, published, last + 3), "three commits")
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
