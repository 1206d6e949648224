"""`trimtab demo` and `trimtab simulate`."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from controller.cli import address
from controller.shell.config import ConfigError, load
from controller.shell.journal_file import JournalError
from simulators import closed_loop, processes, view
from simulators.arguments import moment, positive, random_seed, world_name
from simulators.catalog import DRAWN, PRODUCTS, product_named
from simulators.cli_feed import ranking_log
from simulators.closed_loop import START_MS
from simulators.faults import FAULTS, Fault, faulty, parse, summary
from simulators.feed.product import Feed
from simulators.feed.shipped import FEEDS
from simulators.kinds import AnyScenario, AnyWorld, optimum
from simulators.processes import Job, ProcessFailed, scenario_of
from simulators.produce import NoAnswer, Progress
from simulators.report import Report, report, report_lines
from simulators.serving import fixed_table, served
from simulators.sinks import ENDINGS, SinkFailed
from simulators.study import Services, mismatches, study_of, study_text
from simulators.worlds import HOUR_MS

FAILED, MISUSED, INTERRUPTED = 1, 2, 130


def demo(argv: list[str]) -> int:
    """Watch the closed loop tune a simulated feed; no services needed."""
    parser = argparse.ArgumentParser(prog="trimtab demo", description=demo.__doc__)
    parser.add_argument("--hours", type=positive, default=72, metavar="N", help="simulated hours (72)")
    parser.add_argument("--seed", type=random_seed, default=0, help="of the world and of the study (0)")
    parser.add_argument("--world", type=world_name, default="feed", metavar="WORLD", help="see simulate --list")
    parser.add_argument("--fault", action="append", default=[], metavar="NAME[:ARGS]", help="see simulate --list")
    parser.add_argument("--journal", type=Path, metavar="PATH", help="a new file (one in a new temporary folder)")
    parser.add_argument("--json", action="store_true", help="print data instead of text")
    parser.add_argument("--plain", action="store_true", help="a line a window instead of the live view")
    args = parser.parse_args(argv)
    scenario = product_named(args.world)
    faults = _faults(parser, args.fault, scenario.world)
    journal = args.journal or Path(tempfile.mkdtemp(prefix="trimtab-demo-")) / f"{scenario.name}.journal"
    if journal.exists():
        return _say("demo", f"--journal {journal}: exists already; name a new file", MISUSED)
    if not journal.parent.is_dir():
        return _say("demo", f"--journal {journal}: there is no folder {journal.parent}", MISUSED)
    try:
        found = _closed_loop(scenario, args.seed, args.hours, journal, faults, plain=args.plain, quiet=args.json)
    except (JournalError, OSError, ValueError) as error:
        return _say("demo", str(error), FAILED)
    except KeyboardInterrupt:
        return _say("demo", f"stopped; its journal and study file stay in {journal.parent}", INTERRUPTED)
    print(json.dumps(msgspec.to_builtins(found), indent=2) if args.json else "\n".join(report_lines(found)))
    return 0


def simulate(argv: list[str]) -> int:
    """Produce a world's events: to Kafka, served by the table in Redis, or to files."""
    parser = _simulate_parser()
    args = parser.parse_args(argv)
    if args.list:
        _list(args.json)
        return 0
    if args.world is None:
        parser.error(f"name a WORLD: {', '.join(PRODUCTS)}, or {DRAWN}")
    job = _job(args)
    _faults(parser, args.fault, scenario_of(job).world)
    if args.write_study:
        return _write_study(scenario_of(job).world, args)
    if args.ranking_log is not None:
        return _ranking_log(parser, job, args)
    if args.study is None and args.out is None:
        parser.error(
            "name where the events go: --study STUDY.toml for Kafka (--write-study FILE makes one), or --out FILE"
        )
    if args.realtime and args.study is None:
        parser.error("--realtime needs --study STUDY.toml: files without a daemon are written as fast as can be")
    wrong = [] if args.study is None else mismatches(scenario_of(job).world, load(args.study))
    if wrong:
        return _say("simulate", f"{args.study} does not fit the world {args.world}:\n  " + "\n  ".join(wrong), MISUSED)
    return _produce(job, args)


def _produce(job: Job, args: argparse.Namespace) -> int:
    tell = _Teller(args.world if args.study is None else load(args.study).plan.study, args.json, args.out == "-")
    try:
        processes.run(job, args.processes, tell)
    except (NoAnswer, SinkFailed, ProcessFailed, ValueError) as error:
        return _say("simulate", str(error), FAILED)
    except KeyboardInterrupt:
        tell.end()
        return INTERRUPTED
    tell.end()
    return 0


def _ranking_log(parser: argparse.ArgumentParser, job: Job, args: argparse.Namespace) -> int:
    """Under the same fixed table of random vectors as files of events."""
    feed = scenario_of(job).world
    if not isinstance(feed, Feed):
        parser.error(f"--ranking-log: {args.world} has no candidates; the feeds are {', '.join(FEEDS)}")
    beside = [flag for flag, given in (("--out", args.out), ("--study", args.study), ("--fault", args.fault)) if given]
    if beside:
        parser.error(f"--ranking-log goes without {', '.join(beside)}: it holds candidates as they were, not events")
    plan = study_of(feed, args.seed).plan
    begin_ms = START_MS if args.start_ms is None else args.start_ms
    bounds = (begin_ms, begin_ms + args.hours * HOUR_MS)
    table = served(feed, fixed_table(plan, args.seed), begin_ms)
    return ranking_log(feed, args.seed, table, plan.salt, bounds, args.ranking_log, as_json=args.json)


def _job(args: argparse.Namespace) -> Job:
    return Job(
        world=args.world,
        study=None if args.study is None else str(args.study),
        out=args.out,
        realtime=args.realtime,
        hours=args.hours,
        start_ms=args.start_ms,
        events_per_hour=args.events_per_hour,
        events_per_record=args.events_per_record,
        arrow=args.arrow,
        seed=args.seed,
        partitions=args.partitions,
        wait_s=args.wait,
        listen=args.listen,
        faults=tuple(args.fault),
    )


def _closed_loop(
    scenario: AnyScenario, seed: int, windows: int, journal: Path, faults: Sequence[Fault], *, plain: bool, quiet: bool
) -> Report:
    truly, world = faulty(scenario, faults), scenario.world
    study = journal.with_suffix(".toml")
    if not study.exists():
        study.write_text(study_text(world, Services(journal=journal.name), seed))
    plan = study_of(world, seed).plan
    shown: view.View
    if quiet:
        shown = view.Silent()
    elif plain or not sys.stdout.isatty():
        shown = view.Lines(plan, windows, lambda line: print(line, file=sys.stderr, flush=True))
    else:
        shown = view.Screen(plan, truly, windows, Console())
    last: list[closed_loop.Turn] = []

    def watch(turn: closed_loop.Turn) -> None:
        last[:] = [turn]
        shown(turn)

    began_s = time.monotonic()
    with shown:
        closed_loop.run(plan, scenario, windows, seed, journal, watch, faults=faults)
    spent_s = time.monotonic() - began_s
    best = optimum(truly, windows, common=False, seen=windows - 1)
    return report(truly, seed, windows, last[0], spent_s, best, str(journal), str(study))


def _simulate_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trimtab simulate", description=simulate.__doc__)
    parser.add_argument("world", nargs="?", type=world_name, metavar="WORLD", help="see --list")
    parser.add_argument("--list", action="store_true", help="say what worlds and faults there are")
    parser.add_argument("--study", type=Path, metavar="STUDY.toml", help="whose topic and table are used")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--lockstep", action="store_true", help="wait for every decision: days in minutes (default)")
    mode.add_argument("--realtime", action="store_true", help="traffic on the wall clock")
    parser.add_argument("--hours", type=positive, default=72, metavar="N", help="how much traffic (72)")
    parser.add_argument(
        "--start-ms", type=moment, metavar="MS", help="begin of the first window, in lockstep and in files"
    )
    parser.add_argument("--events-per-hour", type=_rate, metavar="N", help="mean over the day (the world's)")
    parser.add_argument("--events-per-record", type=positive, default=20, metavar="N", help="together (20)")
    parser.add_argument("--arrow", action="store_true", help="records to Kafka are Arrow streams, not lines of JSON")
    parser.add_argument("--seed", type=random_seed, default=0, help="of the world (0)")
    parser.add_argument(
        "--fault", action="append", default=[], metavar="NAME[:ARGS]", help="what goes wrong; repeatable, see --list"
    )
    parser.add_argument(
        "--partitions", type=positive, metavar="N", help="of a topic that is made new (4), of files (1)"
    )
    parser.add_argument("--processes", type=positive, default=1, metavar="N", help="that share the partitions (1)")
    parser.add_argument("--wait", type=float, default=120.0, metavar="S", help="seconds to wait for a decision (120)")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help=f"files instead of Kafka; the ending names the format ({', '.join(ENDINGS)}; - is NDJSON on stdout). "
        "Without --study one fixed table of random vectors serves, written beside them",
    )
    parser.add_argument("--listen", type=address, metavar="HOST:PORT", help="where /metrics of its serving client is")
    parser.add_argument(
        "--ranking-log",
        type=Path,
        metavar="FILE.parquet",
        help=f"of a feed ({', '.join(FEEDS)}), instead of events: every candidate with features, labels, predictions, "
        "and what is true of it in FILE.truth.parquet",
    )
    parser.add_argument("--json", action="store_true", help="print data instead of text")
    new = parser.add_argument_group("a study file that fits the world")
    new.add_argument("--write-study", type=Path, metavar="FILE", help="write it, and end")
    new.add_argument("--bootstrap", default=Services().bootstrap)
    new.add_argument("--topic", default=Services().topic)
    new.add_argument("--redis-url", default=Services().redis_url)
    new.add_argument("--journal", default=Services().journal, help="WORLD.journal beside the file")
    return parser


class _Teller:
    """One line of progress, kept up to date on a terminal; a summary at the end."""

    def __init__(self, study: str, as_json: bool, aside: bool) -> None:
        self._study, self._json = study, as_json
        self._to = sys.stderr if aside else sys.stdout  # of the summary: standard output may hold the events
        self._began_s = self._told_s = time.monotonic()
        self._last: Progress | None = None
        self._awaited: str | None = None

    def __call__(self, progress: Progress) -> None:
        if progress.awaited is not None:
            if progress.awaited != self._awaited:  # every process tells it
                print(f"waiting for {progress.awaited}", file=sys.stderr, flush=True)
            self._awaited = progress.awaited
            return
        self._last = progress
        terminal = sys.stderr.isatty()
        if terminal or time.monotonic() - self._told_s >= 1.0:
            self._told_s = time.monotonic()
            print(f"\r\033[K{self._line(progress)}" if terminal else self._line(progress),
                  end="" if terminal else "\n", file=sys.stderr, flush=True)  # fmt: skip

    def end(self) -> None:
        """Say how it went."""
        if self._last is None:
            return
        if sys.stderr.isatty():
            print(file=sys.stderr)
        print(json.dumps(self._summary(self._last), indent=2) if self._json else self._line(self._last), file=self._to)

    def _line(self, progress: Progress) -> str:
        summary = self._summary(progress)
        return (
            f"{time.strftime('%a %H:%M', time.gmtime(progress.through_ms / 1000))} UTC   {summary['events']:,} events, "
            f"{summary['events_per_s']:,}/s   stage {summary['stage']}, version {summary['version']}   "
            f"waited {summary['waited_s']} of {summary['seconds']} s"
        )

    def _summary(self, progress: Progress) -> Mapping[str, object]:
        seconds = time.monotonic() - self._began_s
        table = progress.table
        return {
            "study": self._study,
            "through_ms": progress.through_ms,
            "events": progress.events,
            "seconds": round(seconds, 1),
            "events_per_s": int(progress.events / max(seconds, 1e-9)),
            "waited_s": round(progress.waited_s, 1),
            "stage": "no table yet" if table is None else table.stage,
            "version": 0 if table is None else table.version,
            "decided_through_ms": 0 if table is None else table.decided_through_ms,
        }


def _write_study(world: AnyWorld, args: argparse.Namespace) -> int:
    services = Services(args.bootstrap, args.topic, args.redis_url, args.journal)
    try:
        with args.write_study.open("x") as file:
            file.write(study_text(world, services, args.seed))
    except FileExistsError:
        return _say("simulate", f"--write-study {args.write_study}: exists already; name a new file", MISUSED)
    except OSError as error:
        return _say("simulate", f"--write-study {args.write_study}: {error.strerror}", MISUSED)
    try:
        load(args.write_study)  # addresses that cannot be are named at once
    except ConfigError:
        args.write_study.unlink()
        raise
    print(f"{args.write_study}: a study for the world {world.name}")
    return 0


def _faults(parser: argparse.ArgumentParser, asked: Sequence[str], world: AnyWorld) -> list[Fault]:
    try:
        return [parse(text, world) for text in asked]
    except ValueError as error:
        parser.error(f"--fault: {error}")


def _list(as_json: bool) -> None:
    worlds = {name: scenario.summary for name, scenario in PRODUCTS.items()}
    worlds["drawn-N"] = "drawn at random by the number N: other sizes, responses, guardrails and troubles for each"
    faults = {name: summary(name) for name in FAULTS}
    if as_json:
        print(json.dumps({"worlds": worlds, "faults": faults}, indent=2))
        return
    width = max(map(len, (*worlds, *faults)))
    for title, found in (("worlds", worlds), ("faults (--fault NAME:argument=value,...)", faults)):
        print(title, *(f"  {name:<{width}}  {line}" for name, line in found.items()), sep="\n")


def _say(command: str, message: str, status: int) -> int:
    print(f"trimtab {command}: {message}", file=sys.stderr)
    return status


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0.0 < rate < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return rate
