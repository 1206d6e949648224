"""`trimtab check`."""

from pathlib import Path

import pytest

from controller.shell.journal import Journal
from controller.shell.publisher import MemoryPublisher
from controller.shell.recorder import Recorder
from simulators.study import WAIVER
from tests.cli.commands import Done, process
from tests.shell.loop import PLAN, START_MS


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


def test_check_asks_for_what_a_ratio_needs(capsys: pytest.CaptureFixture[str], study: Path) -> None:
    study.write_text(study.read_text().replace(f', waiver = "{WAIVER}"', ""))
    done = Done(capsys, "check", str(study), "--offline")
    assert done.status == 1
    assert "asked for: metrics.ctr may rise because impressions fall" in done.out
    assert '[[guardrails]]\nmetric = "impressions_per_bucket"' in done.out
    assert done.out.endswith("the file lacks what is asked for\n")
