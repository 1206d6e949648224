"""What a person types: `trimtab COMMAND ...`. Each package registers its commands by entry point."""

import argparse
import difflib
import errno
import io
import json
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal

import msgspec
from prometheus_client import CollectorRegistry

from controller.shell import config
from controller.shell.config import ConfigError, Study
from controller.shell.fingerprint import code_version

Run = Callable[[list[str]], int]

FAILED, MISUSED = 1, 2
# Control characters but tab and line end, and those that turn the direction of what follows.
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
EITHER = "its file, or the address of its daemon (http://HOST:PORT; the token from TRIMTAB_ADMIN_TOKEN)"


class Unwritable(Exception):
    """A file that cannot be written where a person wants it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 failed, 2 misused. `controller.__main__` calls it."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal of another encoding shows "?" for what it has no sign for
    args = list(sys.argv[1:] if argv is None else argv)
    commands = {entry.name: entry for entry in entry_points(group="trimtab.commands")}
    if not args or args[0] in ("-h", "--help", "help"):
        return _carried_out("help", lambda _: _said(_overview(commands), 0 if args else MISUSED), args)
    if args[0] == "--version":
        return _carried_out("--version", lambda _: _said(f"trimtab {code_version()}", 0), args)
    if args[0] not in commands:
        close = difflib.get_close_matches(args[0], commands, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        print(f"trimtab: there is no command {args[0]!r}{hint}\n\n{_overview(commands)}", file=sys.stderr)
        return MISUSED
    return _carried_out(args[0], lambda rest: _run(commands[args[0]], rest), args[1:])


def _run(entry: EntryPoint, args: list[str]) -> int:
    try:
        command: Run = entry.load()  # some bring in what takes seconds
    except ModuleNotFoundError as error:
        print(f"trimtab {entry.name}: not installed: there is no module {error.name}", file=sys.stderr)
        return FAILED
    return command(args)


def _said(what: str, status: int) -> int:
    print(what)
    return status


def _carried_out(name: str, command: Run, args: list[str]) -> int:
    try:
        try:
            status = command(args)
        finally:
            sys.stdout.flush()  # here, where a pipe that was closed can still be answered
    except ConfigError as error:
        print(f"trimtab {name}: {error}", file=sys.stderr)
        return MISUSED
    except SystemExit:  # help, or arguments that were refused; to name the errors below loads all of the daemon
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python's last flush fails again
        return FAILED
    except _foreseen() as error:
        print(f"trimtab {name}: {error}", file=sys.stderr)
        return FAILED
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        print(f"trimtab {name}: {error.filename or 'standard output'}: {error.strerror}", file=sys.stderr)
        if error.filename is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return status


def run(argv: list[str]) -> int:
    """Run a study's daemon."""
    parser = command_parser(run)
    parser.add_argument("study", type=Path, metavar="STUDY.toml")
    parser.add_argument("--clock", choices=("wall", "events"), default="wall", help="whose time counts (wall)")
    parser.add_argument("--from", dest="start_at", choices=("earliest", "latest"),
                        help="where a study without offsets begins (latest; a file: earliest)")  # fmt: skip
    parser.add_argument("--until-idle", type=seconds, metavar="10s", help="end when nothing new came for so long")
    parser.add_argument(
        "--events", metavar="FILE", help="read newline-separated events from a file (- is stdin), not Kafka"
    )
    parser.add_argument("--listen", type=address, metavar="HOST:PORT",
                        help="where the console, its interface, /livez, /readyz and /metrics are "
                        "(admin.listen, else 127.0.0.1:9464; port 0 picks one)")  # fmt: skip
    args = parser.parse_args(argv)
    if args.events not in (None, "-") and not Path(args.events).exists():
        parser.error(f"argument --events: there is no file {args.events!r}")
    if args.events not in (None, "-") and Path(args.events).is_dir():
        parser.error(f"argument --events: {args.events!r} is a directory; expected a file, or - for stdin")
    usual: Literal["earliest", "latest"] = "earliest" if args.events else "latest"  # a file's end holds no event
    study = config.load(args.study)
    _log_to_stderr()
    from controller.shell.assemble import run_daemon
    from controller.shell.named_files import require_journal_place

    require_journal_place(study)  # before the console opens
    registry = CollectorRegistry()
    with _stopped_by_signals() as stop:
        run_daemon(
            study,
            clock=args.clock,
            start_at=args.start_at or usual,
            until_idle_s=args.until_idle,
            events=args.events,
            listen=args.listen,
            stop=stop,
            registry=registry,
        )
    return 0


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; the second signal of a kind acts as it did before."""
    stop = threading.Event()
    before: dict[int, Any] = {}  # number -> handler

    def stopped(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, before[number])

    for number in (int(signal.SIGTERM), int(signal.SIGINT)):
        before[number] = signal.getsignal(number)
        signal.signal(number, stopped)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def check(argv: list[str]) -> int:
    """Check a study file, what its ratios need, and whether its journal, Kafka and Redis go with it."""
    parser = command_parser(check, json_too=True)
    parser.add_argument("study", type=Path, metavar="STUDY.toml")
    parser.add_argument("--offline", action="store_true", help="only the file, and the files that it names")
    args = parser.parse_args(argv)
    study = config.load(args.study)
    from controller.shell import checkup

    found = checkup.checkup(study, args.offline, time.time_ns() // 1_000_000)
    show(args.json, msgspec.to_builtins(found), checkup.lines(study, found, args.offline))
    return FAILED if found.faults or found.demands else 0


def status(argv: list[str]) -> int:
    """Show what a study is doing: its daemon's word where one answers, else its journal's."""
    parser = command_parser(status, json_too=True)
    parser.add_argument("study", type=either, metavar="STUDY", help=EITHER)
    args = parser.parse_args(argv)
    from controller.shell import story
    from controller.shell.client import Remote, live_view

    if is_url(args.study):
        seen = Remote(args.study, os.environ).study()
        show(args.json, seen, story.live(seen))
        return 0
    study = config.load(Path(args.study))
    require_own_journal(study)
    found = story.current(study.journal)
    live, silent = live_view(study.journal, study.plan.study)
    more = story.silence(found, silent, time.time_ns() // 1_000_000) if live is None else story.pulse(live)
    show(args.json, found | {"live": live, "silent": silent}, story.lines(found) + more)
    return 0


def token(argv: list[str]) -> int:
    """Make a token for the admin interface; prints it once, and the line that lets its bearer in."""
    parser = command_parser(token, json_too=True)
    parser.add_argument("name", help="whose it is: it enters the ledger with every order")
    parser.add_argument("--role", choices=("viewer", "operator"), default="viewer", help="(viewer)")
    args = parser.parse_args(argv)
    from controller.shell.access import TOKENS, new_token

    made, line = new_token(args.name, args.role)
    show(args.json, {"name": args.name, "role": args.role, "token": made, "line": line}, [
        f"token, for {args.name} alone, shown this once:  {made}",
        f"line for admin.tokens_file (or {TOKENS}):  {line}",
    ])  # fmt: skip
    return 0


def report(argv: list[str]) -> int:
    """Write what a study found, and how, from its journal: one HTML file."""
    parser = command_parser(report, json_too=True)
    parser.add_argument("journal", type=Path, metavar="JOURNAL", help="its file, or the study file that names it")
    parser.add_argument(
        "--out", type=_placed, metavar="FILE", help="where the HTML goes (JOURNAL's name with .html, here; - is stdout)"
    )
    parser.add_argument("--figures", type=_placed, metavar="DIR", help="write the figures there too, as SVG")
    parser.add_argument("--text", action="store_true", help="print it as text instead")
    args = parser.parse_args(argv)
    from controller.shell import findings, fingerprint, story
    from controller.shell import report as pages

    fingerprint.single_threaded()
    journal = _journal(args.journal)
    out = args.out or Path(f"{journal.stem}.html")
    quiet = args.json or not sys.stderr.isatty()
    if not (args.text or args.json):
        _spared(out)
    found = findings.findings(journal, (lambda done, total: None) if quiet else _reading)
    if args.figures is not None:
        _write_figures(args.figures, pages.drawn(found))
    if args.text or args.json:
        as_data = {"timeline": story.timeline(journal), "findings": msgspec.to_builtins(found)}
        show(args.json, story.current(journal) | as_data, pages.text(found))
        return 0
    page = pages.page(found)
    if out == Path("-"):
        sys.stdout.buffer.write(page.encode())  # it says of itself that it is UTF-8
        return 0
    _written(out, page)
    print(f"{out} ({len(page.encode()) / 1024:.0f} KB): {found.verdict.headline}")
    return 0


def _placed(text: str) -> Path:
    """What is to be written, in a folder that there is; as an argument of `report`."""
    folder = Path(text).absolute().parent
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: there is no folder {folder}")
    return Path(text)


def _spared(out: Path) -> None:
    """Raise `Unwritable` where a report would take the place of anything but a report."""
    with suppress(OSError):  # what cannot be read cannot be written, which is told then
        there = out.read_bytes() if out.is_file() else b""
        if there and not (there.startswith(b"<!doctype html>") and b"Trimtab report" in there):
            raise Unwritable(f"{out}: exists and is no report of Trimtab's; name another place by --out")


def _write_figures(folder: Path, figures: dict[str, str]) -> None:
    with _unwritable(folder):
        folder.mkdir(exist_ok=True)
    for name, figure in figures.items():
        _written(folder / name, figure)


def _written(path: Path, text: str) -> None:
    with _unwritable(path):
        path.write_text(text, encoding="utf-8")


@contextmanager
def _unwritable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unwritable(f"{path}: {error.strerror}; name another place by --out or --figures") from error


def verify(argv: list[str]) -> int:
    """Check a journal's hash chain and make every decision again."""
    parser = command_parser(verify, json_too=True)
    parser.add_argument("journal", type=Path, metavar="JOURNAL", help="its file, or the study file that names it")
    args = parser.parse_args(argv)
    from controller.shell import fingerprint
    from controller.shell import verify as verifier

    fingerprint.single_threaded()
    quiet = args.json or not sys.stderr.isatty()
    verdict = verifier.verify(_journal(args.journal), (lambda done, total: None) if quiet else _progress)
    made = ", ".join(f"{count} {outcome}" for outcome, count in sorted(verdict.decisions.items())) or "none"
    whole = verdict.chain == "whole"
    kernel = "the same" if verdict.same_fingerprint else "another"
    show(args.json, msgspec.to_builtins(verdict), [
        f"chain: {verdict.chain}" + (f", {verdict.entries} entries" if whole else ""),
        *([f"made again: {made} ({kernel} fingerprint)"] if whole else []),
        *([verdict.first] if verdict.first else []),
        "accepted" if verdict.ok else "REFUSED",
    ])  # fmt: skip
    return 0 if verdict.ok else FAILED


def _journal(path: Path) -> Path:
    """The journal that a person named, by itself or by its study file."""
    return config.load(path).journal if path.suffix == ".toml" else path


def require_own_journal(study: Study) -> None:
    """Raise `JournalRefused` when the study's journal is not there, or another study's."""
    from controller.shell.journal import Journal
    from controller.shell.journal_file import JournalRefused

    try:
        with Journal.read_only(study.journal) as journal:
            held = journal.study()
    except JournalRefused as error:
        if study.journal.exists():
            raise
        raise JournalRefused(f"{error}: trimtab run {study.path} makes it") from error
    if held != study.plan.study:
        raise JournalRefused(f"journal {study.journal}: belongs to study {held!r}, expected {study.plan.study!r}")


def _foreseen() -> tuple[type[Exception], ...]:
    """Errors whose message is all that a person needs; anything else is a bug and shows its traceback."""
    from controller.shell.access import TokensRefused
    from controller.shell.admin import CertificateRefused, PortTaken
    from controller.shell.assemble import ClientMissing
    from controller.shell.client import Refused, Unreachable
    from controller.shell.journal_file import JournalError
    from controller.shell.offers import NoSuchOffer
    from controller.shell.recorder import PlanRefused, Superseded
    from controller.shell.sources_ndjson import CannotResume, NotNdjson
    from controller.shell.tls import CannotConnect

    return (
        CannotConnect, CannotResume, CertificateRefused, ClientMissing, JournalError, NoSuchOffer, NotNdjson,
        PlanRefused, PortTaken, Refused, Superseded, TokensRefused, Unreachable, Unwritable,
    )  # fmt: skip


def command_parser(command: Run, json_too: bool = False) -> argparse.ArgumentParser:
    """Of a command, which its function names and describes."""
    parser = argparse.ArgumentParser(prog=f"trimtab {command.__name__}", description=command.__doc__)
    if json_too:
        parser.add_argument("--json", action="store_true", help="print data instead of text")
    return parser


def _overview(commands: dict[str, EntryPoint]) -> str:
    width = max((len(name) for name in commands), default=0)
    lines = ["usage: trimtab COMMAND ...   (trimtab COMMAND --help tells more)", ""]
    lines += [f"  {name:<{width}}  {_summary(entry)}" for name, entry in sorted(commands.items())]
    return "\n".join(lines)


def _summary(entry: EntryPoint) -> str:
    try:
        return (entry.load().__doc__ or "").partition("\n")[0]
    except ModuleNotFoundError as error:  # the command of an extra that is not installed
        return f"(not installed: {error.name})"


def show(as_json: bool, found: dict[str, Any], lines: Sequence[str]) -> None:
    """Print what a command found, as data or as text."""
    print(json.dumps(found, indent=2) if as_json else _harmless("\n".join(lines)))


def _harmless(text: str) -> str:
    """What no terminal obeys: a reason, typed by anybody with a token, could hide what stands beside it."""
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


class _OneLine(logging.Formatter):
    """An entry of the log is a line, whatever stands in its reasons and names; but for a traceback."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # of its base
        """As its base does."""
        return _harmless(super().formatMessage(record).replace("\n", "\\n"))


def _reading(done: int, total: int) -> None:
    end = "\n" if done == total else "\r"
    print(f"reading entry {done} of {total}", end=end, file=sys.stderr, flush=True)


def _progress(done: int, total: int) -> None:
    end = "\n" if done == total else "\r"
    print(f"making decisions again: entry {done} of {total}", end=end, file=sys.stderr, flush=True)


def _log_to_stderr() -> None:
    told = _OneLine("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    told.converter = time.gmtime  # UTC, as every time in its lines
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(told)
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # readiness says what matters, once


def is_url(study: str) -> bool:
    """Whether a person named a daemon's address instead of a study's file."""
    return study.startswith(("http://", "https://"))


def either(text: str) -> str:
    """A study's file or its daemon's address, as a command's argument."""
    from controller.shell import access

    if not is_url(text) and access.address(text) is not None and not Path(text).exists():
        raise argparse.ArgumentTypeError(f"there is no file {text!r}; an address is written http://{text}")
    return text


def seconds(text: str) -> float:
    """A duration, as a command's argument."""
    from controller.shell.toml_records import parse_duration

    try:
        return parse_duration(text) / 1000
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write it like 10s or 5m") from error


def address(text: str) -> tuple[str, int]:
    """Host and port to listen on, as a command's argument."""
    from controller.shell import access

    found = access.address(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no address; write it like 127.0.0.1:9464")
    return found
