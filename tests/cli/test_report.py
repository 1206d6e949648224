"""What is read from a journal: `trimtab status`, `report` and `verify`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from controller.shell.journal import Entry, Journal
from tests.cli.commands import Done
from tests.shell.loop import START_MS


@pytest.mark.parametrize("command", ["report", "verify"])
def test_what_is_no_journal_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("nothing\n" * 200)
    for path, said in ((tmp_path / "absent", "there is no such file"), (tmp_path, "is a directory"), (notes, "not a")):
        done = Done(capsys, command, str(path))
        assert done.status == 1
        assert said in done.out + done.err
        assert "Traceback" not in done.err


def test_status_report_and_verify_of_a_study_that_has_decided_nothing(
    capsys: pytest.CaptureFixture[str], study: Path, journal: Path
) -> None:
    done = Done(capsys, "status", str(study))
    assert (done.status, done.out.splitlines()[0]) == (0, "study quick: explore (the study begins)")
    assert Done(capsys, "status", str(study), "--json").json["stage"] == "explore"
    for named in (journal, study):
        done = Done(capsys, "report", str(named), "--text")
        assert done.status == 0
        assert "daemon started, epoch 1" in done.out
    events = Done(capsys, "report", str(journal), "--json").json["timeline"]
    assert [event["kind"] for event in events] == ["study_started", "daemon_started"]
    done = Done(capsys, "verify", str(journal))
    assert (done.status, done.out.splitlines()[-1]) == (0, "accepted")
    assert Done(capsys, "verify", str(journal), "--json").json["decisions"] == {"exact": 1}


@pytest.mark.parametrize("option", ["--out", "--figures"])
def test_a_report_is_not_written_where_no_folder_is(
    capsys: pytest.CaptureFixture[str], journal: Path, tmp_path: Path, option: str
) -> None:
    place = tmp_path / "none" / "x"
    done = Done(capsys, "report", str(journal), option, str(place))
    assert done.status == 2
    assert f"argument {option}: {place}: there is no folder {place.parent}" in done.err
    assert not place.parent.exists()


def test_a_reason_gives_no_orders_to_a_terminal(capsys: pytest.CaptureFixture[str], journal: Path) -> None:
    why = "\x1b[2J\x1b[31mall is well\r\x9b\u202e"
    with Journal.open(journal, None) as book:
        book.claim(2, [Entry(START_MS, "stage_changed", {"from": "a", "to": "b", "why": why})])
    assert r"a -> b: \x1b[2J\x1b[31mall is well\r\x9b\u202e" in Done(capsys, "report", str(journal), "--text").out


def test_a_report_takes_the_place_of_a_report_alone(
    capsys: pytest.CaptureFixture[str], study: Path, journal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = journal.rename(tmp_path / "quick.html")  # whose report is written to quick.html where nothing else is said
    linked = tmp_path / "linked"
    linked.symlink_to(page)
    before = page.read_bytes(), study.read_bytes()
    for argv in ((str(page),), (str(page), "--out", str(linked)), (str(page), "--out", "./quick.html")):
        done = Done(capsys, "report", *argv)
        assert done.status == 1
        assert "exists and is no report of Trimtab's; name another place by --out" in done.err
    assert Done(capsys, "report", str(page), "--text").status == 0
    page.rename(journal)
    assert Done(capsys, "report", str(study), "--out", str(study)).status == 1
    (tmp_path / "notes.html").write_text("<!doctype html>my notes")
    assert Done(capsys, "report", str(study), "--out", "notes.html").status == 1
    assert (journal.read_bytes(), study.read_bytes()) == before
    assert [Done(capsys, "report", str(study), "--out", "new.html").status for _ in range(2)] == [0, 0]
    assert Done(capsys, "report", str(study)).status == 0


@pytest.mark.parametrize("place", ["", ".", "/"])
def test_a_report_on_a_directory_says_so(capsys: pytest.CaptureFixture[str], place: str) -> None:
    done = Done(capsys, "report", place)
    assert done.status == 1
    assert "is a directory, expected the journal's file" in done.err


def test_figures_get_a_folder_of_their_own(capsys: pytest.CaptureFixture[str], journal: Path, tmp_path: Path) -> None:
    for _ in range(2):  # the second into what is there
        assert Done(capsys, "report", str(journal), "--text", "--figures", str(tmp_path / "figures")).status == 0
    assert (tmp_path / "figures").is_dir()
    done = Done(capsys, "report", str(journal), "--text", "--figures", str(journal))
    assert done.status == 1
    assert done.err == f"trimtab report: {journal}: File exists; name another place by --out or --figures\n"


def test_an_encoding_without_a_sign_for_something_is_no_traceback(journal: Path, tmp_path: Path) -> None:
    with Journal.open(journal, None) as book:
        book.claim(2, [Entry(START_MS, "stage_changed", {"from": "a", "to": "b", "why": "\u2212 \u4e0a"})])
    page, poor = tmp_path / "x.html", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for argv, said in ((["--text"], b"a -> b: ? ?"), (["--out", str(page)], b"x.html"), (["--out", "-"], b"")):
        command = [sys.executable, "-m", "controller", "report", str(journal), *argv]
        done = subprocess.run(command, capture_output=True, env=os.environ | poor, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert said in done.stdout
    assert done.stdout == page.read_bytes()
    assert "\u2212 \u4e0a" in page.read_text("utf-8")
