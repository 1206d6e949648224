"""Commands that give an order, and what is refused before one is given."""

import getpass
import os
from pathlib import Path

import pytest

from controller.shell.journal import Journal
from tests.cli.commands import Done


def test_status_before_the_first_daemon_says_how_to_start_one(capsys: pytest.CaptureFixture[str], study: Path) -> None:
    for command in ("status", "pause"):
        done = Done(capsys, command, str(study))
        assert done.status == 1
        assert f"there is no such file: trimtab run {study} makes it" in done.err


def test_a_journal_of_another_study_is_refused(capsys: pytest.CaptureFixture[str], study: Path, journal: Path) -> None:
    study.write_text(study.read_text().replace('study = "quick"', 'study = "slow"'))
    for command in ("status", "pause"):
        done = Done(capsys, command, str(study))
        assert done.status == 1
        assert "belongs to study 'quick', expected 'slow'" in done.err
    with Journal.read_only(journal) as book:
        assert book.inbox() == ()


def test_there_is_nothing_to_choose_from_before_the_first_decision(
    capsys: pytest.CaptureFixture[str], study: Path, journal: Path
) -> None:
    for command in (("front", str(study)), ("choose", str(study), "1")):
        done = Done(capsys, *command)
        assert (done.status, done.out) == (1, "")
        assert f"trimtab {command[0]}: journal {journal}: nothing was decided yet" in done.err


def test_a_choice_waits_for_a_daemon(capsys: pytest.CaptureFixture[str], study: Path, journal: Path) -> None:
    done = Done(capsys, "choose", str(study), "file", "--who", "me", "--wait", "0s")
    assert "choose: waits in the inbox" in done.out
    assert "\n  goes on under the study file's own objective\n" in done.out
    with Journal.read_only(journal) as book:
        assert [waiting.command for waiting in book.inbox()] == [{"command": "choose", "who": "me"}]


@pytest.mark.parametrize("verb", ["pause", "resume", "rollback", "approve"])
def test_without_a_daemon_a_command_waits_and_says_so(
    capsys: pytest.CaptureFixture[str], study: Path, journal: Path, verb: str
) -> None:
    done = Done(capsys, verb, str(study), "--why", "tests", "--who", "me", "--wait", "0s")
    assert done.status == 1
    assert "no daemon has taken it yet" in done.out
    with Journal.read_only(journal) as book:
        assert [waiting.command for waiting in book.inbox()] == [{"command": verb, "who": "me", "why": "tests"}]


def test_a_reason_of_another_encoding_keeps_no_pause_from_being_given(
    capsys: pytest.CaptureFixture[str], study: Path, journal: Path
) -> None:
    assert "no daemon" in Done(capsys, "pause", str(study), "--why", "d\udce9p", "--wait", "0s").out
    with Journal.read_only(journal) as book:
        assert book.inbox()[0].command["why"] == "d?p"
    refused = Done(capsys, "approve", str(study), "--candidate", "\udcff")
    assert refused.status == 2
    assert "argument --candidate: found '\\udcff'; expected a name in UTF-8" in refused.err


def test_a_reason_of_another_encoding_keeps_no_choice_from_being_given(
    capsys: pytest.CaptureFixture[str], study: Path, journal: Path
) -> None:
    done = Done(capsys, "choose", str(study), "file", "--who", "ren\udce9", "--why", "d\udce9p", "--wait", "0s")
    assert "choose: waits in the inbox" in done.out
    with Journal.read_only(journal) as book:
        assert book.inbox()[0].command == {"command": "choose", "who": "ren?", "why": "d?p"}


def test_a_user_without_a_name_can_command(
    capsys: pytest.CaptureFixture[str], study: Path, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54_321)  # who has no passwd entry
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    assert "no daemon" in Done(capsys, "pause", str(study), "--wait", "0s").out
    with Journal.read_only(journal) as book:
        assert book.inbox()[0].command["who"] == "uid 54321"


def test_an_order_for_a_journal_that_cannot_be_written_to_says_so(
    capsys: pytest.CaptureFixture[str], study: Path, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writable = os.access  # as on a read-only file system, for root too
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != journal and writable(path, mode))
    done = Done(capsys, "pause", str(study))
    assert done.status == 1
    assert f"trimtab pause: journal.path: found a journal that cannot be written to: {journal}; accepted: " in done.err
