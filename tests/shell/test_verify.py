import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from controller.core.operate import Command
from controller.core.safety import Guardrail
from controller.shell.fingerprint import fingerprint
from controller.shell.journal import Entry, Journal, check_chain
from controller.shell.journal_file import JournalRefused
from controller.shell.publisher import MemoryPublisher
from controller.shell.recorder import Recorder
from controller.shell.verify import verify
from tests.shell.loop import PLAN, START_MS, World

WINDOWS = 12
TIGHTER = msgspec.structs.replace(PLAN, guardrails=(Guardrail("ctr", min_change=-0.015),), objective={"watch": 2.0})


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """The journal of a study with restarts, a plan that was changed, commands, decisions and sealed windows."""
    world = World(tmp_path_factory.mktemp("good"))
    rig = world.start()
    rig.settle()
    for window in range(WINDOWS):
        world.product.settle_window()
        rig.settle()
        if window == 3:
            rig.drop()
            rig = world.start(plan=TIGHTER)
            rig.settle()
        if window in (5, 6):
            rig.journal.send(Command("pause" if window == 5 else "resume", "me"), START_MS)
            rig.turn()
    rig.drop()
    with closing(sqlite3.connect(world.path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return world.path


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(good, tmp_path / "copy.journal"))


def test_what_a_daemon_enters_meanwhile_is_left_to_the_next_check(copy: Path, one_thread: None) -> None:
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        if not seen:
            with Journal.open(copy, None) as journal:
                Recorder.take_over(TIGHTER, journal, MemoryPublisher(), START_MS, "events")
        seen.append((done, total))

    verdict = verify(copy, progress)
    assert verdict.ok, verdict
    assert max(done for done, _ in seen) <= verdict.entries < verify(copy).entries


def test_a_good_journal_is_accepted_exactly(good: Path, one_thread: None) -> None:
    seen: list[tuple[int, int]] = []
    verdict = verify(good, lambda done, total: seen.append((done, total)))
    assert verdict.ok, verdict
    assert (verdict.chain, verdict.same_fingerprint, verdict.first) == ("whole", True, "")
    assert set(verdict.decisions) == {"exact"}
    assert verdict.decisions["exact"] >= WINDOWS + 4 + 5 + 1
    assert seen[-1][1] == verdict.entries
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def without_triggers(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        schema = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in schema:
            db.execute(f"DROP TRIGGER {name}")
        db.execute(statement, values)
        for _, sql in schema:
            db.execute(sql)


@pytest.mark.parametrize("column", ["body", "data", "hash", "prev"])
def test_a_flipped_byte_names_the_entry(copy: Path, column: str) -> None:
    with closing(sqlite3.connect(copy)) as db:
        seq, value = db.execute(f"SELECT seq, {column} FROM ledger WHERE kind = 'decided' ORDER BY seq").fetchall()[4]
    raw = bytearray(value.encode() if isinstance(value, str) else value)
    raw[len(raw) // 2] ^= 1
    changed = raw.decode() if isinstance(value, str) else bytes(raw)
    without_triggers(copy, f"UPDATE ledger SET {column} = ? WHERE seq = ?", changed, seq)
    verdict = verify(copy)
    assert not verdict.ok
    assert f"entry {seq}: " in verdict.chain
    assert verdict.decisions == {}


def forged(good: Path, path: Path, change: dict[int, Entry]) -> None:
    """A journal with a whole chain, but other entries."""
    with Journal.read_only(good) as old, Journal.open(path, old.study()) as new:
        new.claim(1)
        for entry in old.entries():
            new.commit(1, [change.get(entry.seq, Entry(entry.at_ms, entry.kind, entry.body, entry.data))])


def test_a_decision_that_this_code_would_not_have_made_is_refused(good: Path, tmp_path: Path) -> None:
    with Journal.read_only(good) as journal:
        entry = list(journal.entries(("decided",)))[2]
    table = json.loads(entry.body["table"])
    table["arms"][1]["theta"]["all"][1] *= 1.5
    body = entry.body | {"table": json.dumps(table, separators=(",", ":"))}
    path = tmp_path / "forged.journal"
    forged(good, path, {entry.seq: Entry(entry.at_ms, entry.kind, body, entry.data)})
    assert check_chain(path) is None
    verdict = verify(path)
    assert not verdict.ok
    assert verdict.first.startswith(f"entry {entry.seq} (decided) is different: table.arms[1].theta.all[1]: ")


def test_rounding_is_refused_under_the_same_fingerprint_and_equivalent_under_another(
    good: Path, tmp_path: Path, one_thread: None
) -> None:
    with Journal.read_only(good) as journal:
        started = next(iter(journal.entries(("daemon_started",))))
        entry = next(e for e in journal.entries(("decided",)) if e.body["carry"]["pick"])
    carry = entry.body["carry"]
    body = entry.body | {"carry": carry | {"pick": carry["pick"] | {"gain_sd": carry["pick"]["gain_sd"] * (1 + 1e-9)}}}
    nudged = {entry.seq: Entry(entry.at_ms, entry.kind, body, entry.data)}
    forged(good, tmp_path / "same.journal", nudged)
    verdict = verify(tmp_path / "same.journal")
    assert not verdict.ok
    assert f"entry {entry.seq} (decided) is equivalent" in verdict.first
    assert verdict.first.endswith("the fingerprint is the same, so it should be exact")

    about = started.body["about"] | {"blas": "another 1.0"}
    nudged[started.seq] = Entry(started.at_ms, started.kind, started.body | {"about": about}, started.data)
    forged(good, tmp_path / "other.journal", nudged)
    verdict = verify(tmp_path / "other.journal")
    assert verdict.ok, verdict
    assert not verdict.same_fingerprint
    assert verdict.decisions["equivalent"] == 1


@pytest.mark.parametrize("kind", ["decided", "daemon_started", "operator", "sealed"])
def test_entries_that_make_no_sense_are_named(good: Path, tmp_path: Path, kind: str) -> None:
    with Journal.read_only(good) as journal:
        entry = next(iter(journal.entries((kind,))))
    path = tmp_path / "forged.journal"
    forged(good, path, {entry.seq: Entry(entry.at_ms, kind, {"window_end_ms": "soon", "carry": []})})
    verdict = verify(path)
    assert not verdict.ok
    assert f"entry {entry.seq} ({kind})" in verdict.first


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a journal\n" * 100)
    with pytest.raises(JournalRefused):
        verify(tmp_path / "absent")
    verdict = None
    try:
        verdict = verify(path)
    except JournalRefused:
        return
    assert not verdict.ok


def in_a_process(path: Path, **environment: str) -> tuple[int, dict[str, object]]:
    command = [sys.executable, "-m", "controller", "verify", str(path), "--json"]
    env = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, check=False)
    found: dict[str, object] = json.loads(done.stdout)
    return done.returncode, found


@pytest.mark.parametrize("kernel", ["Prescott", "Haswell"])
def test_under_another_processor_kernel_decisions_are_equivalent(good: Path, kernel: str) -> None:
    if kernel in fingerprint()["blas"]:
        pytest.skip(f"this machine's kernel is {kernel}")
    status, verdict = in_a_process(good, OPENBLAS_CORETYPE=kernel)
    assert status == 0, verdict
    assert verdict["same_fingerprint"] is False
    assert verdict["decisions"].keys() <= {"exact", "equivalent"}  # type: ignore[attr-defined]  # a dict


def test_threads_that_the_environment_asks_for_are_not_used(good: Path) -> None:
    status, verdict = in_a_process(good, OPENBLAS_NUM_THREADS="2", OMP_NUM_THREADS="2")
    assert status == 0, verdict
    assert verdict["same_fingerprint"] is True, "decisions are made on one thread, whatever the environment says"
    assert list(verdict["decisions"]) == ["exact"]  # type: ignore[call-overload]  # a dict
