"""What is said of the files that a study names, before anything is opened."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from controller.shell import config
from controller.shell.access import TOKENS
from controller.shell.checkup import checkup
from controller.shell.journal_file import JournalRefused
from controller.shell.named_files import LITTLE_ROOM, admin_fault, faults, journal_place, require_journal_place
from simulators.catalog import world_named
from simulators.study import study_text


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "quick.toml"
    path.write_text(study_text(world_named("quick")))
    return path


@pytest.mark.parametrize(
    ("path", "found"), [("none/x.journal", "no such folder: "), ("quick.toml/x.journal", "what is no folder: ")]
)
def test_a_journal_that_cannot_be_made_is_named(study: Path, path: str, found: str) -> None:
    study.write_text(study.read_text().replace('path = "quick.journal"', f'path = "{path}"'))
    place = f"journal.path: found {found}{study.parent / path.partition('/')[0]}; "
    accepted = (
        "accepted: a file in a folder that is there and can be written to; relative paths start at the study file"
    )
    assert faults(config.load(study)) == {"journal": place + accepted}


def test_a_folder_that_cannot_be_written_to_holds_no_new_journal(study: Path) -> None:
    study.parent.chmod(0o500)
    try:
        if os.access(study.parent, os.W_OK):
            pytest.skip("root may write everywhere")
        assert "a folder in which no file can be made (Permission denied)" in str(journal_place(config.load(study)))
    finally:
        study.parent.chmod(0o700)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no /proc")
def test_a_folder_that_takes_no_file_whatever_its_rights_holds_no_journal(study: Path) -> None:
    """Not of root either, whom the rights of /proc let in."""
    study.write_text(study.read_text().replace('path = "quick.journal"', 'path = "/proc/quick.journal"'))
    found = faults(config.load(study))["journal"]
    assert found.startswith("journal.path: found a folder in which no file can be made (")
    assert "): /proc; accepted: a file in a folder that is there" in found
    assert checkup(config.load(study), offline=True, now_ms=0).warnings == (), "nor of its room, which is 0"


def test_a_disk_with_little_room_is_told(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = LITTLE_ROOM
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=free))
    assert checkup(config.load(study), offline=True, now_ms=0).warnings == ()
    free -= 100_000_000
    assert checkup(config.load(study), offline=True, now_ms=0).warnings == (
        f"journal.path: 1.9 GB are free in {study.parent}: below 2 GB the alert TrimtabJournalDiskFull fires, "
        "and the daemon ends when nothing is left",
    )
    alerts = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yaml"
    assert f"trimtab_journal_free_bytes < {LITTLE_ROOM:.0e}".replace("e+0", "e") in alerts.read_text()


def test_a_journal_that_cannot_be_written_to_is_named(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, writable = study.parent / "quick.journal", os.access
    journal.touch()
    assert journal_place(config.load(study)) is None
    # as on a read-only file system, for root too
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != journal and writable(path, mode))
    found = f"journal.path: found a journal that cannot be written to: {journal}; accepted: a file that this user may "
    assert faults(config.load(study))["journal"].startswith(found)
    with pytest.raises(JournalRefused, match="cannot be written to"):
        require_journal_place(config.load(study))


def test_files_that_are_not_there_are_named(study: Path) -> None:
    text = study.read_text()
    assert faults(config.load(study)) == {}
    text += '\n[admin]\ntokens_file = "tokens"\n'
    study.write_text(text.replace("[redis]\n", '[redis]\nca_file = "ca.pem"\n').replace('"redis://', '"rediss://'))
    found = faults(config.load(study))
    assert found["admin"] == (
        f"admin.tokens_file: found no such file: {study.parent / 'tokens'}; accepted: a file of tokens "
        "(trimtab token makes a line); relative paths start at the study file"
    )
    assert found["redis"].startswith(f"redis.ca_file: found no such file: {study.parent / 'ca.pem'}; accepted: ")
    (study.parent / "ca.pem").write_text("no certificate")
    assert "holds no certificate in PEM" in faults(config.load(study))["redis"]


def test_what_keeps_everybody_out_is_found_before_the_daemon_starts(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = study_text(world_named("quick")) + '\n[admin]\ntokens_file = "tokens"\n'
    study.write_text(text)
    assert f"{tmp_path / 'tokens'}" in (admin_fault(config.load(study)) or "")
    (tmp_path / "tokens").write_text("ann operator sha256:" + 64 * "0")
    assert admin_fault(config.load(study)) is None
    monkeypatch.setenv(TOKENS, "bob king x")
    assert TOKENS in (admin_fault(config.load(study)) or "")
    monkeypatch.delenv(TOKENS)
    study.write_text(text + 'cert_file = "cert.pem"\nkey_file = "key.pem"\n')
    assert "No such file" in (admin_fault(config.load(study)) or "")
