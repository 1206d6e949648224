import getpass
import gzip
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest

from controller import cli
from controller.shell.fingerprint import single_threaded
from controller.shell.journal import Entry, Journal
from controller.shell.publisher import MemoryPublisher
from controller.shell.recorder import Recorder
from simulators.study import WAIVER, Services, study_text
from tests.memory_source import MemoryTopic
from tests.services.process import free_port
from tests.shell.loop import PLAN, START_MS, WORLD, Product, entries
from tests.waiting import wait_until

OWN = (
    "run",
    "check",
    "status",
    "pause",
    "resume",
    "rollback",
    "approve",
    "reject",
    "token",
    "front",
    "choose",
    "report",
    "verify",
)
NOWHERE = Services(bootstrap="127.0.0.1:1", redis_url="redis://127.0.0.1:1/0")  # nobody listens on port 1


class Done:
    """A command that was run in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *argv: str) -> None:
        try:
            self.status: object = cli.main(argv)
        except SystemExit as ended:  # argparse
            self.status = ended.code
        captured = capsys.readouterr()
        self.out, self.err = captured.out, captured.err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def process(*argv: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    command = [sys.executable, "-m", "controller", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "quick.toml"
    path.write_text(study_text(WORLD, NOWHERE))
    return path


@pytest.fixture
def journal(study: Path) -> Path:
    """The journal of a study whose daemon has started and decided nothing."""
    path = study.with_name("quick.journal")
    with Journal.open(path, PLAN.study) as book:
        Recorder.take_over(PLAN, book, MemoryPublisher(), START_MS, "wall")
    return path


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with single_threaded():  # `run` and `verify` leave BLAS on one thread, as a process of their own may
        yield


def test_every_command_is_registered_and_in_the_overview(capsys: pytest.CaptureFixture[str]) -> None:
    registered = {entry.name for entry in entry_points(group="trimtab.commands")}
    assert registered >= set(OWN)
    for argv in (["--help"], ["-h"], ["help"]):
        done = Done(capsys, *argv)
        assert done.status == 0
        assert all(f"  {name} " in done.out for name in registered)
    done = Done(capsys)
    assert (done.status, done.out.splitlines()[0][:21]) == (2, "usage: trimtab COMMAN")


@pytest.mark.parametrize("command", OWN)
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], command: str) -> None:
    done = Done(capsys, command, "--help")
    assert done.status == 0
    assert f"usage: trimtab {command}" in done.out
    (entry,) = entry_points(group="trimtab.commands", name=command)
    assert (entry.load().__doc__ or "?").splitlines()[0] in " ".join(done.out.split())


def test_an_unknown_command_is_answered_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    done = Done(capsys, "stauts")
    assert done.status == 2
    assert done.out == ""
    assert "there is no command 'stauts'; did you mean status?" in done.err
    assert "status" in done.err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    done = Done(capsys, "--version")
    assert (done.status, done.out.split()[0]) == (0, "trimtab")


@pytest.mark.parametrize("command", ["run", "check", "status", "pause"])
def test_a_study_file_that_cannot_be_used_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("study = [")
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('study = "x"\nsede = 1\n')
    for path, said in (
        (tmp_path / "absent.toml", "found no such file"),
        (tmp_path, "found a directory"),
        (broken, "found no TOML"),
        (wrong, "sede"),
    ):
        done = Done(capsys, command, str(path))
        assert (done.status, done.out) == (2, "")
        assert done.err.startswith(f"trimtab {command}: {path}: ")
        assert said in done.err


@pytest.mark.parametrize(("command", "more"), [("status", ()), ("pause", ("--why", "a sale"))])
def test_an_address_without_its_scheme_is_told_how_it_is_written(
    capsys: pytest.CaptureFixture[str], command: str, more: tuple[str, ...]
) -> None:
    done = Done(capsys, command, "127.0.0.1:1", *more)
    assert done.status == 2
    assert "there is no file '127.0.0.1:1'; an address is written http://127.0.0.1:1" in done.err
    assert "no daemon answers at http://127.0.0.1:1" in Done(capsys, command, "http://127.0.0.1:1", *more).err


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--until-idle", "soon", "write it like 10s"),
        ("--listen", "9464", "write it like 127.0.0.1:9464"),
        ("--listen", "host:99999", "write it like 127.0.0.1:9464"),
        ("--clock", "sun", "choose from"),
        ("--from", "middle", "choose from"),
        ("--events", "absent.ndjson", "there is no file 'absent.ndjson'"),
    ],
)
def test_options_say_what_they_accept(
    capsys: pytest.CaptureFixture[str], study: Path, option: str, value: str, said: str
) -> None:
    done = Done(capsys, "run", str(study), option, value)
    assert done.status == 2
    assert said in done.err


def test_check_names_the_services_that_do_not_answer(capsys: pytest.CaptureFixture[str], study: Path) -> None:
    assert Done(capsys, "check", str(study), "--offline").status == 0
    done = process("check", str(study))
    assert done.returncode == 1
    assert "redis: Redis at 127.0.0.1:1 (redis.url): ConnectionError: " in done.stdout
    assert "127.0.0.1:1: no connection (Connection refused)" in done.stdout
    found = Done(capsys, "check", str(study), "--offline", "--json").json
    assert found.pop("seen")["unknown"] == "there is no journal yet; they are told once a first deal has had traffic"
    rails = ["ctr may fall by at most 2 %"]
    assert found == {"study": "quick", "guardrails": rails, "warnings": [], "faults": {}, "edits": [], "demands": []}
    assert "\nguardrail: ctr may fall by at most 2 %\n" in done.stdout


def test_check_says_what_an_edit_would_change_of_a_running_study(
    capsys: pytest.CaptureFixture[str], study: Path, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = study.read_text()
    assert Done(capsys, "check", str(study), "--offline", "--json").json["edits"] == []
    study.write_text(text.replace("min_change = -0.02", "min_change = -0.01"))
    done = Done(capsys, "check", str(study), "--offline")
    assert done.status == 0
    assert "at the next start changes guardrails[0].min_change: -0.02 before, -0.01 now" in done.out
    study.write_text(text.replace("seed = 0", "seed = 1").replace('length = "1h"', 'length = "2h"'))
    done = Done(capsys, "check", str(study), "--offline")
    assert done.status == 1
    assert "journal: the study file was changed where a journal cannot follow: seed: 0 before, 1 now" in done.out
    assert "window.length: 1h before, 2h now; " in done.out
    assert "window.validity: 3h before, 6h now (not in the file: it follows from other keys)" in done.out
    with Journal.open(journal, None) as book:
        Recorder.take_over(PLAN, book, MemoryPublisher(), START_MS, "wall", "topic engagement")
    study.write_text(text.replace('topic = "engagement"', 'topic = "e2"'))
    assert (
        "\njournal: its offsets are those of topic engagement, this run reads topic e2. "
        in Done(capsys, "check", str(study), "--offline").out
    )
    study.write_text(text.replace("seed = 0", "seed = 1"))
    monkeypatch.chdir(study.parent)
    assert "\njournal: the study file was changed" in Done(capsys, "check", study.name, "--offline").out


def test_the_last_word_of_a_check_is_of_its_faults(capsys: pytest.CaptureFixture[str], study: Path) -> None:
    text = study.read_text()
    study.write_text(text.replace('path = "quick.journal"', 'path = "."') + '\n[admin]\ntokens_file = "tokens"\n')
    done = Done(capsys, "check", str(study), "--offline")
    assert (done.status, done.out.splitlines()[-1]) == (1, "2 faults: journal, admin")
    assert "journal: is a directory, expected the journal's file" in done.out
    assert "admin: admin.tokens_file: found no such file: " in done.out
    study.write_text(text.replace('path = "quick.journal"', 'path = "none/j"').replace(f', waiver = "{WAIVER}"', ""))
    done = Done(capsys, "check", str(study), "--offline")
    assert done.out.endswith("1 fault: journal; the file lacks what is asked for\n")
    study.write_text(text)
    assert Done(capsys, "check", str(study), "--offline").out.endswith("\nthe file is sound\n")


def test_a_daemon_whose_journal_cannot_be_made_announces_no_console(
    capsys: pytest.CaptureFixture[str], study: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study.write_text(study.read_text().replace('path = "quick.journal"', 'path = "none/j"'))
    caplog.set_level("INFO")
    done = Done(capsys, "run", str(study), "--listen", "127.0.0.1:0")
    assert done.status == 1
    assert f"trimtab run: journal.path: found no such folder: {study.parent / 'none'}; accepted: " in done.err
    assert "console on" not in caplog.text


def test_check_asks_for_what_a_ratio_needs(capsys: pytest.CaptureFixture[str], study: Path) -> None:
    study.write_text(study.read_text().replace(f', waiver = "{WAIVER}"', ""))
    done = Done(capsys, "check", str(study), "--offline")
    assert done.status == 1
    assert "asked for: metrics.ctr may rise because impressions fall" in done.out
    assert '[[guardrails]]\nmetric = "impressions_per_bucket"' in done.out
    assert done.out.endswith("the file lacks what is asked for\n")


@pytest.mark.parametrize("command", ["report", "verify"])
def test_what_is_no_journal_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("nothing\n" * 200)
    for path, said in ((tmp_path / "absent", "there is no such file"), (tmp_path, "is a directory"), (notes, "not a")):
        done = Done(capsys, command, str(path))
        assert done.status == 1
        assert said in done.out + done.err
        assert "Traceback" not in done.err


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


def test_a_path_that_cannot_be_looked_at_is_named(
    capsys: pytest.CaptureFixture[str], study: Path, tmp_path: Path
) -> None:
    long = tmp_path / ("x" * 300)
    for argv in (("verify", str(long)), ("report", str(long)), ("run", str(study), "--events", str(long))):
        done = Done(capsys, *argv)
        assert done.status == 1
        assert f"{long}: File name too long" in done.err
    done = Done(capsys, "run", str(study), "--events", str(tmp_path))
    assert done.status == 2
    assert "is a directory; expected a file" in done.err
    study.write_text(study.read_text() + '[admin]\ntokens_file = "a\\u0000b"\n')
    assert "admin.tokens_file: found" in Done(capsys, "check", "--offline", str(study)).err


@pytest.mark.parametrize(
    ("argv", "name"), [("verify JOURNAL --json", "verify"), ("--help", "help"), ("--version", "--version")]
)
def test_a_full_disk_is_no_traceback(journal: Path, argv: str, name: str) -> None:
    command = f'"{sys.executable}" -m controller {argv} > /dev/full'.replace("JOURNAL", f'"{journal}"')
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == f"trimtab {name}: standard output: No space left on device\n"
    assert done.returncode == 1


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


def test_a_new_journal_says_whose_study_it_takes_over(
    capsys: pytest.CaptureFixture[str], study: Path, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    study.write_text(study_text(WORLD, Services(bootstrap="127.0.0.1:1", redis_url=redis_url)))
    (study.parent / "none.ndjson").write_bytes(b"")
    run = ("run", str(study), "--events", str(study.parent / "none.ndjson"), "--until-idle", "1s")
    for _ in range(2):
        assert Done(capsys, *run, "--listen", "127.0.0.1:0").status == 0
        assert "takes the study over" not in caplog.text
    study.with_name("quick.journal").unlink()
    assert "warning: study: Redis holds a table of quick that is valid " in Done(capsys, "check", str(study)).out
    assert Done(capsys, *run, "--listen", "127.0.0.1:0").status == 0
    (line,) = [record for record in caplog.records if "takes the study over" in record.message]
    assert line.levelname == "WARNING"


def test_an_order_for_a_journal_that_cannot_be_written_to_says_so(
    capsys: pytest.CaptureFixture[str], study: Path, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writable = os.access  # as on a read-only file system, for root too
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != journal and writable(path, mode))
    done = Done(capsys, "pause", str(study))
    assert done.status == 1
    assert f"trimtab pause: journal.path: found a journal that cannot be written to: {journal}; accepted: " in done.err


def test_a_daemon_replays_a_file_and_ends(capsys: pytest.CaptureFixture[str], study: Path, tmp_path: Path) -> None:
    publisher, topic = MemoryPublisher(), MemoryTopic(2)
    Product(publisher, topic).settle_window()
    events = tmp_path / "events.ndjson"
    events.write_bytes(b"".join(record.value + b"\n" for log in topic.logs.values() for record in log))
    before = signal.getsignal(signal.SIGTERM)
    run = ("run", str(study), "--events", str(events), "--clock", "events")  # from its start, unless told
    done = Done(capsys, *run, "--until-idle", "1s", "--listen", "127.0.0.1:0")
    assert done.status == 0, done.err
    assert signal.getsignal(signal.SIGTERM) is before
    journal = study.with_name("quick.journal")
    kinds = {entry.kind for entry in entries(journal)}
    assert kinds == {"study_started", "daemon_started", "decided"}, "Redis is away: nothing is published"
    assert Done(capsys, "verify", str(journal)).status == 0


def test_events_of_another_format_are_refused(capsys: pytest.CaptureFixture[str], study: Path, tmp_path: Path) -> None:
    (tmp_path / "events.gz").write_bytes(gzip.compress(b"{}\n"))
    done = Done(capsys, "run", str(study), "--events", str(tmp_path / "events.gz"), "--until-idle", "1s",
                "--listen", "127.0.0.1:0")  # fmt: skip
    assert done.status == 1
    assert "events.gz: found gzip; expected lines of JSON" in done.err


def test_a_command_is_answered_by_the_daemon_and_sigterm_ends_it(study: Path, tmp_path: Path) -> None:
    (tmp_path / "events.ndjson").write_bytes(b"junk\n")
    port = free_port()
    command = [sys.executable, "-m", "controller"]
    options = ["--events", str(tmp_path / "events.ndjson"), "--listen", f"127.0.0.1:{port}"]
    log = tmp_path / "log"
    with log.open("wb") as out:
        elsewhere = os.environ | {"TZ": "Elsewhere-9"}
        daemon = subprocess.Popen([*command, "run", str(study), *options], stdout=out, stderr=out, env=elsewhere)
        try:
            wait_until(lambda: b"reading from" in log.read_bytes(), "the daemon reads", 60)
            taken = process("run", str(study), *options)
            assert taken.returncode == 1
            assert f"trimtab run: cannot listen on 127.0.0.1:{port}: Address already in use" in taken.stderr
            for verb, status, said in (("pause", 0, "stage is paused"), ("approve", 1, "refused: nothing awaits")):
                answered = subprocess.run(
                    [*command, verb, str(study), "--wait", "60s"],
                    capture_output=True,
                    text=True,
                    timeout=90,
                    check=False,
                )
                assert (answered.returncode, said in answered.stdout) == (status, True), answered
            daemon.terminate()
            assert daemon.wait(30) == 0, log.read_text()
        finally:
            daemon.kill()
            daemon.wait()
    assert "study quick: epoch 1, stage explore, clock wall" in log.read_text()
    at = datetime.fromisoformat(log.read_text().split(" ", 1)[0])
    assert at.tzinfo is UTC
    assert abs(datetime.now(UTC) - at) < timedelta(hours=1), "the log is in UTC wherever the daemon runs"
    assert "study quick: ended; rows read: 1 rejected as malformed" in log.read_text()


def test_a_reader_that_hangs_up_is_no_traceback(journal: Path) -> None:
    command = f'"{sys.executable}" -m controller report "{journal}" --json | true'
    for _ in range(3):
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
        assert done.stderr == ""


@pytest.mark.parametrize("argv", ["--help", "--version", "status --help"])
def test_a_reader_of_help_that_hangs_up_is_no_traceback(argv: str) -> None:
    command = f'"{sys.executable}" -m controller {argv} | true'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""


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


def test_an_entry_of_the_log_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.Logger("root")
    monkeypatch.setattr(logging, "root", root)
    cli._log_to_stderr()
    root.warning("refused: %s", "c1\n2026-01-01 ERROR trimtab: \x1b[31mforged")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(r"WARNING root: refused: c1\n2026-01-01 ERROR trimtab: \x1b[31mforged")


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


@pytest.mark.parametrize(
    ("argv", "module"),
    [("--version", "numpy"), ("verify none", "uvicorn")],  # of what every command needs; of what tells an error
)
def test_an_interrupt_while_something_is_loaded_is_no_traceback(argv: str, module: str, tmp_path: Path) -> None:
    (tmp_path / f"{module}.py").write_text("raise KeyboardInterrupt")
    path = os.pathsep.join((str(tmp_path), *sys.path))
    command, env = [sys.executable, "-m", "controller", *argv.split()], os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_command_that_lacks_a_module_is_told_to_be_not_installed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lacking_command.py").write_text("import there_is_no_such_module")
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint("lacking", "lacking_command:run", "trimtab.commands")
    monkeypatch.setattr(cli, "entry_points", lambda group: [entry])
    done = Done(capsys, "lacking")
    assert done.status == 1
    assert done.err == "trimtab lacking: not installed: there is no module there_is_no_such_module\n"


def test_addresses() -> None:
    assert cli.address("127.0.0.1:0") == ("127.0.0.1", 0)
    assert cli.address("[::1]:80") == ("::1", 80)
