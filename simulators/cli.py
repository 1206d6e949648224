"""`trimtab demo` and `trimtab simulate`."""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, start_http_server
from rich.console import Console

from controller.cli import address
from controller.serving import Client, wall_clock_ms
from controller.serving_metrics import ServingCollector
from controller.shell import publisher
from controller.shell.config import Study, load
from controller.shell.connections import password
from controller.shell.journal_file import JournalError
from simulators import closed_loop, produce, view
from simulators.catalog import WORLDS, world_named
from simulators.events import Delivery
from simulators.optimum import best_feasible
from simulators.produce import NoAnswer, Product, Progress
from simulators.report import Report, report, report_lines
from simulators.sinks import KafkaSink, NdjsonSink, Sink, SinkFailed
from simulators.study import Services, mismatches, study_of, study_text
from simulators.worlds import World

FAILED, MISUSED = 1, 2
POLL_S = 0.5  # how often the table is read besides its announcements


def demo(argv: list[str]) -> int:
    """Watch the closed loop tune a simulated feed; no services needed."""
    parser = argparse.ArgumentParser(prog="trimtab demo", description=demo.__doc__)
    parser.add_argument("--hours", type=_count, default=72, metavar="N", help="simulated hours (72)")
    parser.add_argument("--seed", type=_seed, default=0, help="of the world and of the study (0)")
    parser.add_argument("--world", choices=list(WORLDS), default="feed")
    parser.add_argument("--journal", type=Path, metavar="PATH", help="a new file (one in a new temporary folder)")
    parser.add_argument("--json", action="store_true", help="print data instead of text")
    parser.add_argument("--plain", action="store_true", help="a line a window instead of the live view")
    args = parser.parse_args(argv)
    world = world_named(args.world)
    journal = args.journal or Path(tempfile.mkdtemp(prefix="trimtab-demo-")) / f"{world.name}.journal"
    if journal.exists():
        return _say("demo", f"--journal {journal}: exists already; name a new file", MISUSED)
    try:
        found = _closed_loop(world, args.seed, args.hours, journal, plain=args.plain, quiet=args.json)
    except (JournalError, OSError) as error:
        return _say("demo", str(error), FAILED)
    print(json.dumps(msgspec.to_builtins(found), indent=2) if args.json else "\n".join(report_lines(found)))
    return 0


def simulate(argv: list[str]) -> int:
    """Produce a world's events to Kafka, served by the table in Redis."""
    parser = _simulate_parser()
    args = parser.parse_args(argv)
    if args.list:
        _list(args.json)
        return 0
    if args.world is None:
        parser.error(f"name a WORLD: {', '.join(WORLDS)}")
    world = WORLDS[args.world]
    if args.events_per_hour:
        world = msgspec.structs.replace(world, events_per_hour=args.events_per_hour)
    if args.write_study:
        return _write_study(world, args)
    if args.study is None:
        parser.error("--study STUDY.toml is needed (--write-study FILE makes one that fits the world)")
    study = load(args.study)
    wrong = mismatches(world, study)
    if wrong:
        return _say("simulate", f"{args.study} does not fit the world {world.name}:\n  " + "\n  ".join(wrong), MISUSED)
    try:
        return _simulate(world, study, args)
    except (NoAnswer, SinkFailed, ValueError) as error:
        return _say("simulate", str(error), FAILED)


def _closed_loop(world: World, seed: int, windows: int, journal: Path, *, plain: bool, quiet: bool) -> Report:
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
        shown = view.Screen(plan, world, windows, Console())
    last: list[closed_loop.Turn] = []

    def watch(turn: closed_loop.Turn) -> None:
        last[:] = [turn]
        shown(turn)

    began_s = time.monotonic()
    with shown:
        closed_loop.run(plan, world, windows, seed, journal, watch)
    spent_s = time.monotonic() - began_s
    return report(world, seed, windows, last[0], spent_s, best_feasible(world), str(journal), str(study))


def _simulate_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="trimtab simulate", description=simulate.__doc__)
    parser.add_argument("world", nargs="?", choices=list(WORLDS), metavar="WORLD", help=", ".join(WORLDS))
    parser.add_argument("--list", action="store_true", help="say what worlds there are")
    parser.add_argument("--study", type=Path, metavar="STUDY.toml", help="whose topic and table are used")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--lockstep", action="store_true", help="wait for every decision: days in minutes (default)")
    mode.add_argument("--realtime", action="store_true", help="traffic on the wall clock")
    parser.add_argument("--hours", type=_count, default=72, metavar="N", help="how much traffic (72)")
    parser.add_argument("--start-ms", type=int, metavar="MS", help="begin of the first window, in lockstep")
    parser.add_argument("--events-per-hour", type=float, metavar="N", help="mean over the day (the world's)")
    parser.add_argument("--events-per-record", type=_count, default=20, metavar="N", help="newline-separated (20)")
    parser.add_argument("--seed", type=_seed, default=0, help="of the world (0)")
    parser.add_argument("--partitions", type=_count, default=4, metavar="N", help="of a topic that is made new (4)")
    parser.add_argument("--wait", type=float, default=120.0, metavar="S", help="seconds to wait for a decision (120)")
    parser.add_argument(
        "--ndjson",
        metavar="FILE",
        help="write lines to a file (- is stdout), not to Kafka; served by the table in Redis all the same",
    )
    parser.add_argument("--listen", type=address, metavar="HOST:PORT", help="where /metrics of its serving client is")
    parser.add_argument("--json", action="store_true", help="print data instead of text")
    new = parser.add_argument_group("a study file that fits the world")
    new.add_argument("--write-study", type=Path, metavar="FILE", help="write it, and end")
    new.add_argument("--bootstrap", default=Services().bootstrap)
    new.add_argument("--topic", default=Services().topic)
    new.add_argument("--redis-url", default=Services().redis_url)
    new.add_argument("--journal", default=Services().journal, help="WORLD.journal beside the file")
    return parser


def _simulate(world: World, study: Study, args: argparse.Namespace) -> int:
    sink = _sink(study, args)
    redis = publisher.connect(study.redis.url, password(os.environ, "redis"), study.redis.tls)
    baseline = {weight.name: weight.baseline for weight in world.weights}
    tell = _Teller(study, args.json)
    try:
        clock = wall_clock_ms if args.realtime else tell.now_ms
        with Client(study.plan.study, redis, baseline, form=study.plan.form, poll_s=POLL_S, clock=clock) as tables:
            if args.listen is not None:
                _show_metrics(tables, *args.listen)
            product = Product(
                study.plan, world, sink, args.seed, events_per_record=args.events_per_record, delivery=Delivery()
            )
            if args.realtime:
                until_ms = time.time_ns() // 1_000_000 + args.hours * 3_600_000
                produce.realtime(product, tables, until_ms, tell)
            else:
                windows = -(-args.hours * 3_600_000 // study.plan.window.length_ms)
                produce.lockstep(study.plan, product, tables, args.start_ms, windows, args.wait, tell)
    except NoAnswer as error:
        unread = tables.status()
        if unread.connected or unread.last_error is None:
            raise
        raise NoAnswer(f"Redis at {study.redis.url} does not answer: {unread.last_error}") from error
    except KeyboardInterrupt:
        tell.end()
        return 130
    finally:
        sink.close()
    tell.end()
    return 0


def _sink(study: Study, args: argparse.Namespace) -> Sink:
    if args.ndjson is not None:
        return NdjsonSink(args.ndjson)
    return KafkaSink(study.kafka, args.partitions, password(os.environ, "kafka"))


def _show_metrics(client: Client, host: str, port: int) -> None:
    registry = CollectorRegistry()
    registry.register(ServingCollector(client))
    try:
        start_http_server(port, host, registry)
    except OSError as error:
        raise ValueError(f"cannot listen on {host}:{port}: {error.strerror}; give another --listen") from error


class _Teller:
    """One line of progress, kept up to date on a terminal; a summary at the end."""

    def __init__(self, study: Study, as_json: bool) -> None:
        self._study, self._json = study, as_json
        self._began_s = self._told_s = time.monotonic()
        self._last: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        self._last = progress
        terminal = sys.stderr.isatty()
        if terminal or time.monotonic() - self._told_s >= 1.0:
            self._told_s = time.monotonic()
            print(f"\r\033[K{self._line(progress)}" if terminal else self._line(progress),
                  end="" if terminal else "\n", file=sys.stderr, flush=True)  # fmt: skip

    def now_ms(self) -> int:
        """The time that the traffic has reached, which is the daemon's clock in lockstep."""
        return 0 if self._last is None else self._last.through_ms

    def end(self) -> None:
        """Say how it went."""
        if self._last is None:
            return
        if sys.stderr.isatty():
            print(file=sys.stderr)
        print(json.dumps(self._summary(self._last), indent=2) if self._json else self._line(self._last))

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
            "study": self._study.plan.study,
            "through_ms": progress.through_ms,
            "events": progress.events,
            "seconds": round(seconds, 1),
            "events_per_s": int(progress.events / max(seconds, 1e-9)),
            "waited_s": round(progress.waited_s, 1),
            "stage": "no table yet" if table is None else table.stage,
            "version": 0 if table is None else table.version,
            "decided_through_ms": 0 if table is None else table.decided_through_ms,
        }


def _write_study(world: World, args: argparse.Namespace) -> int:
    services = Services(args.bootstrap, args.topic, args.redis_url, args.journal)
    try:
        with args.write_study.open("x") as file:
            file.write(study_text(world, services, args.seed))
    except FileExistsError:
        return _say("simulate", f"--write-study {args.write_study}: exists already; name a new file", MISUSED)
    except OSError as error:
        return _say("simulate", f"--write-study {args.write_study}: {error.strerror}", MISUSED)
    load(args.write_study)  # addresses that cannot be are named at once
    print(f"{args.write_study}: a study for the world {world.name}")
    return 0


def _list(as_json: bool) -> None:
    if as_json:
        print(json.dumps({name: world.summary for name, world in WORLDS.items()}, indent=2))
        return
    width = max(map(len, WORLDS))
    print("\n".join(f"{name:<{width}}  {world.summary}" for name, world in WORLDS.items()))


def _say(command: str, message: str, status: int) -> int:
    print(f"trimtab {command}: {message}", file=sys.stderr)
    return status


def _count(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdigit() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^63 - 1")
    return int(text)
