"""Metrics: the share of a daemon's time that Prometheus metrics take at full event rate.

Claim: under 2 %, with a scrape every second (a usual interval is 15 s). A real daemon reads a file of events as fast as
it can: decode, windows, decisions, journal with its flushes. Every call into the metrics, and every scrape, is measured
in the very run whose time it is a share of, by the processor time of the thread.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from rich.console import Console
from rich.table import Table

from controller import assignment
from controller.core.plan import Plan
from controller.shell.board import Board
from controller.shell.daemon import Daemon, readiness_log
from controller.shell.fingerprint import single_threaded
from controller.shell.health import Health
from controller.shell.journal import Journal
from controller.shell.metrics import Metrics, OfStudy
from controller.shell.publisher import MemoryPublisher
from controller.shell.recorder import Recorder
from controller.shell.sources_ndjson import NdjsonSource
from simulators.arguments import positive
from simulators.catalog import world_named
from simulators.closed_loop import START_MS
from simulators.events import exposures, population
from simulators.serving import served
from simulators.study import study_of
from simulators.wire import json_events

CLAIM = 0.02
HOURS = 3  # of events; a table of the first one is valid in all of them
SCRAPE_EVERY_S = 1.0
CALLS = ("polled", "stepped", "committed", "published", "show")


class Measure(msgspec.Struct, frozen=True):
    """One run; all times in s of the daemon thread's processor time."""

    events: int
    total_s: float
    metrics_s: float
    scrapes: int
    scrapes_s: float

    @property
    def share(self) -> float:
        """Of the whole that the metrics take, scrapes included."""
        return (self.metrics_s + self.scrapes_s) / self.total_s


def main(argv: Sequence[str]) -> int:
    """Measure and print; status 1 where the claim does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks metrics", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--events", type=positive, default=400_000)
    parser.add_argument("--rounds", type=positive, default=3)
    options = parser.parse_args(argv)
    with single_threaded():
        runs = [measure(options.events) for _ in range(options.rounds)]
    share = statistics.median(run.share for run in runs)
    if options.json:
        print(msgspec.json.encode({"share": share, "claim": CLAIM, "runs": runs}).decode())
    else:
        _print(runs, share)
    return int(share > CLAIM)


def measure(events: int) -> Measure:
    """One daemon from its start to the end of the file."""
    world = msgspec.structs.replace(world_named("feed"), events_per_hour=events / HOURS, volume_swing=1.0)
    plan = study_of(world).plan
    with tempfile.TemporaryDirectory() as folder, Journal.open(Path(folder) / "feed.journal", plan.study) as journal:
        shelf = MemoryPublisher()
        recorder, state = Recorder.take_over(plan, journal, shelf, 0, "events")
        recorder.publish(0)
        assert shelf.table is not None
        people = population(world, 0, plan.salt, 1)
        serving = served(world, assignment.decode(shelf.table), START_MS)
        rows = exposures(world, people, serving, START_MS, START_MS + HOURS * 3_600_000)
        path = Path(folder) / "events.ndjson"
        path.write_bytes(b"\n".join(json_events(world, people, rows)) + b"\n")
        registry, metrics, spent = _timed_metrics(plan, Path(folder) / "feed.journal")
        daemon = Daemon(
            plan, NdjsonSource(str(path)), journal, recorder, state,
            clock="events", start_at="earliest", health=Health(readiness_log(metrics)), metrics=metrics,
            board=Board(plan, "events"),
        )  # fmt: skip
        return _run(daemon, registry, len(rows), spent)


def _timed_metrics(plan: Plan, journal: Path) -> tuple[CollectorRegistry, Metrics, list[float]]:
    """Metrics as a daemon has them, whose calls add what they take to the list."""
    own, registry, spent = CollectorRegistry(), CollectorRegistry(), list[float]()
    registry.register(OfStudy(own, plan.study))
    metrics = Metrics(own, plan, {"version": "benchmark", "code": ""}, "events")
    metrics.journal(journal)
    inside = [0]  # one call may make another, whose time is its own already

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*args: Any) -> Any:
            began_s = time.thread_time()
            inside[0] += 1
            try:
                return call(*args)
            finally:
                inside[0] -= 1
                if not inside[0]:
                    spent.append(time.thread_time() - began_s)

        return measured

    for name in CALLS:
        setattr(metrics, name, timed(getattr(metrics, name)))
    return registry, metrics, spent


def _run(daemon: Daemon, registry: CollectorRegistry, events: int, spent: list[float]) -> Measure:
    scrapes: list[float] = []
    began_s, due_s = time.thread_time(), time.monotonic()
    while daemon.turn() != "quiet":
        if time.monotonic() >= due_s:
            due_s += SCRAPE_EVERY_S
            scrape_s = time.thread_time()
            generate_latest(registry)
            scrapes.append(time.thread_time() - scrape_s)
    daemon.finish()
    total_s = time.thread_time() - began_s
    return Measure(events, total_s, sum(spent), len(scrapes), sum(scrapes))


def _print(runs: Sequence[Measure], share: float) -> None:
    table = Table("events", "events/cpu-s", "all, s", "metrics, s", "scrapes", "scrapes, s", "share")
    for run in runs:
        table.add_row(
            f"{run.events:,}", f"{run.events / run.total_s:,.0f}", f"{run.total_s:.2f}", f"{run.metrics_s:.4f}",
            str(run.scrapes), f"{run.scrapes_s:.4f}", f"{run.share:.2%}",
        )  # fmt: skip
    table.caption = f"median {share:.2%}; claim: under {CLAIM:.0%}"
    Console(width=120).print(table)
