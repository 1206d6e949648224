"""`trimtab run`."""

import gzip
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controller import cli
from controller.shell.publisher import MemoryPublisher
from simulators.study import Services, study_text
from tests.cli.commands import Done, process
from tests.memory_source import MemoryTopic
from tests.services.process import free_port
from tests.shell.loop import WORLD, Product, entries
from tests.waiting import wait_until


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


def test_a_daemon_whose_journal_cannot_be_made_announces_no_console(
    capsys: pytest.CaptureFixture[str], study: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study.write_text(study.read_text().replace('path = "quick.journal"', 'path = "none/j"'))
    caplog.set_level("INFO")
    done = Done(capsys, "run", str(study), "--listen", "127.0.0.1:0")
    assert done.status == 1
    assert f"trimtab run: journal.path: found no such folder: {study.parent / 'none'}; accepted: " in done.err
    assert "console on" not in caplog.text


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
            assert daemon.wait(60) == 0, log.read_text()
        finally:
            daemon.kill()
            daemon.wait()
    assert "study quick: epoch 1, stage explore, clock wall" in log.read_text()
    at = datetime.fromisoformat(log.read_text().split(" ", 1)[0])
    assert at.tzinfo is UTC
    assert abs(datetime.now(UTC) - at) < timedelta(hours=1), "the log is in UTC wherever the daemon runs"
    assert "study quick: ended; rows read: 1 rejected as malformed" in log.read_text()


def test_addresses() -> None:
    assert cli.address("127.0.0.1:0") == ("127.0.0.1", 0)
    assert cli.address("[::1]:80") == ("::1", 80)
