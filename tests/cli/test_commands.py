"""What every command has in common."""

import logging
import os
import subprocess
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest

from controller import cli
from tests.cli.commands import Done

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


def test_an_entry_of_the_log_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.Logger("root")
    monkeypatch.setattr(logging, "root", root)
    cli._log_to_stderr()
    root.warning("refused: %s", "c1\n2026-01-01 ERROR trimtab: \x1b[31mforged")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(r"WARNING root: refused: c1\n2026-01-01 ERROR trimtab: \x1b[31mforged")


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
