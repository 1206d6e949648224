"""A small world's events for daemons that run in this process, without any service."""

from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry

from controller import assignment
from controller.core.plan import Plan
from controller.core.step import State
from controller.shell.admin import Health
from controller.shell.daemon import Clock, Daemon, readiness_log
from controller.shell.dead_letters import DeadLetters
from controller.shell.journal import Journal
from controller.shell.metrics import Metrics
from controller.shell.publisher import MemoryPublisher, Publisher
from controller.shell.recorder import Recorder
from controller.shell.sources import Source
from controller.shell.sources_memory import MemoryTopic
from simulators.catalog import world_named
from simulators.events import Population, exposures, heartbeats, population
from simulators.serving import served
from simulators.study import study_of
from simulators.wire import by_partition, json_events

HOUR_MS = 3_600_000
START_MS = 1_699_920_000_000
WORLD = world_named("quick")
PLAN: Plan = study_of(WORLD).plan
PARTITIONS = 2


class Product:
    """A recommender that serves from what a `MemoryPublisher` holds and writes its events to a topic."""

    def __init__(self, publisher: MemoryPublisher, topic: MemoryTopic) -> None:
        self.publisher, self.topic = publisher, topic
        self.people: Population = population(WORLD, 1, PLAN.salt, PARTITIONS)
        self.now_ms = START_MS

    def serve(self, hours: float) -> None:
        """Produce the exposures of the next hours, all served by the table of now, and pass every watermark."""
        table = None if self.publisher.table is None else assignment.decode(self.publisher.table)
        serving = served(WORLD, table, self.now_ms)
        end_ms = self.now_ms + int(hours * HOUR_MS)
        for rows in (
            exposures(WORLD, self.people, serving, self.now_ms, end_ms),
            heartbeats(WORLD, self.people, serving, end_ms, PARTITIONS),
        ):
            for partition, part in enumerate(by_partition(self.people, rows, PARTITIONS)):
                for value in json_events(WORLD, self.people, part):
                    self.topic.append(partition, value)
        self.now_ms = end_ms

    def settle_window(self) -> None:
        """Serve to the end of the open window and its grace."""
        grace = PLAN.window.grace_ms
        end_ms = (self.now_ms - grace) // HOUR_MS * HOUR_MS + HOUR_MS + grace
        self.serve((end_ms - self.now_ms) / HOUR_MS)


def daemon_of(
    path: Path,
    source: Source,
    publisher: Publisher,
    *,
    plan: Plan = PLAN,
    clock: Clock = "events",
    dead_letters: DeadLetters | None = None,
    now_ms: int = START_MS,
) -> tuple[Daemon, Journal, Health]:
    """A daemon on a journal at `path`; the journal is the caller's to close."""
    metrics = Metrics(CollectorRegistry(), plan, {"version": "test"})
    health = Health(readiness_log(metrics))
    journal = Journal.open(path, plan.study)
    recorder, state = Recorder.take_over(plan, journal, publisher, now_ms, clock)
    daemon = Daemon(
        plan, source, journal, recorder, state,
        clock=clock, health=health, metrics=metrics, dead_letters=dead_letters,
    )  # fmt: skip
    return daemon, journal, health


def bucket_counts(state: State) -> np.ndarray:
    """Accepted events per bucket of everything that is not sealed."""
    return np.sum([cell.events.sum(axis=0) for cell in state.windows.cells.values()], axis=0)
