"""`trimtab replay` and `trimtab ope`: worlds from logs."""

import argparse
import json
import os
import sys
import time
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

import msgspec

from controller.shell.config import load
from controller.shell.connections import password
from simulators import ope
from simulators.arguments import positive
from simulators.ope import Estimate, Log, Weights
from simulators.recorded import NotReplayable, Replayed, merged, replay
from simulators.reward_log import Columns, LogError, column, read_logs
from simulators.sinks import KafkaSink, NdjsonSink, Sink, SinkFailed

FAILED = 1


def replay_command(argv: list[str]) -> int:
    """Send recorded events again, in the order of their times: to a study's topic, or as NDJSON."""
    parser = argparse.ArgumentParser(prog="trimtab replay", description=replay_command.__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="NDJSON, Parquet or Arrow, also gzipped")
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--study", type=Path, metavar="STUDY.toml", help="whose topic they go to")
    place.add_argument("--out", metavar="FILE", help="NDJSON instead (.gz: gzipped; - is stdout)")
    parser.add_argument("--speed", type=_speed, metavar="X", help="1 is real time, 60 an hour a minute (the fastest)")
    parser.add_argument("--now", action="store_true", help="move all times so that the first event happens now")
    parser.add_argument("--partitions", type=positive, default=4, metavar="N", help="of a topic that is made new (4)")
    parser.add_argument("--json", action="store_true", help="print data instead of text")
    args = parser.parse_args(argv)
    tell = _Teller(sys.stderr if args.out == "-" else sys.stdout, args.json)
    try:
        found = merged(args.files)
        first = list(islice(found, 1))  # files that hold no events are refused before a topic is made
        sink = _sink(args)
        try:
            shift_to_ms = time.time_ns() // 1_000_000 if args.now else None
            sent = replay(chain(first, found), sink, args.speed, tell, shift_to_ms=shift_to_ms)
            tell.end(sent)
        finally:
            sink.close()
    except (NotReplayable, SinkFailed) as error:
        return _say("replay", str(error))
    except KeyboardInterrupt:
        return 130
    return 0


def ope_command(argv: list[str]) -> int:
    """Estimate from a log with propensities what another policy would have earned."""
    parser = argparse.ArgumentParser(prog="trimtab ope", description=ope_command.__doc__)
    parser.add_argument("log", type=Path, metavar="LOG", help="CSV, Parquet, Arrow or NDJSON, also gzipped")
    target = parser.add_mutually_exclusive_group()
    target.add_argument(
        "--target-log",
        type=Path,
        metavar="FILE",
        help="the policy of another log with the same columns: how often it took each action in each context, all "
        "hours together; what it earned is shown beside. Default: every action alike",
    )
    target.add_argument(
        "--target-column", metavar="NAME", help="column with the target's probability of the logged action: no dr"
    )
    parser.add_argument(
        "--on-policy", type=Path, metavar="FILE", help="a log of the target itself: what it earned is shown beside"
    )
    for name, default in (("reward", "reward"), ("propensity", "propensity"), ("action", "action")):
        parser.add_argument(f"--{name}", default=default, metavar="NAME", help=f"the column ({default})")
    parser.add_argument("--context", action="append", default=[], metavar="NAME", help="a column; repeatable")
    parser.add_argument("--level", type=float, default=0.95, help="of the intervals (0.95)")
    parser.add_argument("--json", action="store_true", help="print data instead of text")
    args = parser.parse_args(argv)
    if not 0.0 < args.level < 1.0:
        parser.error(f"--level {args.level}: expected a number between 0 and 1")
    if args.target_log and args.on_policy:
        parser.error("--on-policy: what the policy of --target-log earned is shown already; give one of them")
    try:
        _print(args, *_evaluated(args))
    except LogError as error:
        return _say("ope", str(error))
    return 0


def _evaluated(args: argparse.Namespace) -> tuple[Log, list[Estimate], Weights]:
    """The log; its own value, the estimates of the target's, and what the target earned; the weights."""
    columns = Columns(args.reward, args.propensity, args.action, tuple(args.context))
    other = args.target_log or args.on_policy
    logs = read_logs([args.log, *([other] if other else [])], columns)
    log = logs[0]
    if args.target_column:
        w = column(args.log, args.target_column) / log.propensity
        about = ope.weights(w)
        _refuse_nothing(about)
        found = [ope.ips(log.reward, w, args.level), ope.snips(log.reward, w, args.level)]
    else:
        target = ope.allocation(logs[1]) if args.target_log else ope.uniform(log)
        _refuse_nothing(ope.weights(target[log.context, log.action] / log.propensity))
        found, about = ope.evaluate(log, target, args.level)
    logged = msgspec.structs.replace(ope.on_policy(log.reward, args.level), name="logged")
    return log, [logged, *found, *(ope.on_policy(each.reward, args.level) for each in logs[1:])], about


def _refuse_nothing(about: Weights) -> None:
    if not about.effective:
        raise LogError("the target never does what the log shows in the same context: the log says nothing of it")


def _print(args: argparse.Namespace, log: Log, found: list[Estimate], about: Weights) -> None:
    if args.json:
        told = msgspec.json.encode({"weights": about, "estimates": found, "enough": about.enough})
        print(msgspec.json.format(told, indent=2).decode())  # what is no number is null
        return
    print(f"{about.n:,} rows, {log.actions} actions, {log.contexts} contexts")
    print(f"weights     {about.effective:,.0f} effective rows, mean {about.mean:.3f}, largest {about.largest:,.1f}")
    print(f"{'':<11}{'value':>11}{'s.e.':>11}   {args.level:.0%} interval")
    for each in found:
        print(f"{each.name:<11}{each.value:>11.5f}{each.se:>11.5f}   {each.low:.5f} to {each.high:.5f}")
    if about.effective < ope.FEW:
        print(f"fewer than {ope.FEW} effective rows: this log cannot speak for that policy, whatever the intervals say")
    elif not about.enough:
        never = f"; {about.missed:.1%} of what it does the log never shows in the same context"
        unseen = never if about.missed else ""
        print(
            f"the mean weight is {about.mean:.3f} +- {about.mean_se:.3f}, not 1{unseen}: propensities are wrong, or "
            "the log cannot speak for that policy, whatever the intervals say"
        )


def _sink(args: argparse.Namespace) -> Sink:
    if args.out is not None:
        return NdjsonSink(args.out)
    return KafkaSink(load(args.study).kafka, args.partitions, password(os.environ, "kafka"))


class _Teller:
    """One line of progress a second on a terminal, a summary at the end."""

    def __init__(self, to: TextIO, as_json: bool) -> None:
        self._to, self._json = to, as_json
        self._began_s = self._told_s = time.monotonic()

    def __call__(self, state: Replayed) -> None:
        if sys.stderr.isatty() and time.monotonic() - self._told_s >= 1.0:
            self._told_s = time.monotonic()
            print(f"\r\033[K{self._line(state)}", end="", file=sys.stderr, flush=True)

    def end(self, state: Replayed) -> None:
        """Say how it went."""
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)
        print(json.dumps(msgspec.to_builtins(state)) if self._json else self._line(state), file=self._to)

    def _line(self, state: Replayed) -> str:
        if not state.events:
            return "no events: there is none to replay"
        seconds = max(time.monotonic() - self._began_s, 1e-9)
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(state.through_ms / 1000))
        unreadable = f", {state.unreadable:,} of them unreadable" if state.unreadable else ""
        return f"{state.events:,} events{unreadable}, through {at} UTC, {state.events / seconds:,.0f}/s"


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0.0 < speed < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number above 0 nor max")
    return speed


def _say(command: str, message: str) -> int:
    print(f"trimtab {command}: {message}", file=sys.stderr)
    return FAILED
