"""A small world's events for daemons that run in this process, without any service."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from controller import assignment
from controller.core.clock import Clock
from controller.core.plan import Plan
from controller.shell.board import Board
from controller.shell.daemon import Daemon, Turn, readiness_log
from controller.shell.dead_letters import DeadLetter, DeadLetters, DeadLettersUnavailable
from controller.shell.health import Health
from controller.shell.journal import Journal, Recorded
from controller.shell.metrics import Metrics
from controller.shell.publisher import MemoryPublisher, Publisher
from controller.shell.recorder import Recorder
from controller.shell.sources import At, Source
from simulators.catalog import world_named
from simulators.events import Population, exposures, heartbeats, population
from simulators.serving import served
from simulators.study import study_of
from simulators.wire import by_partition, json_events
from tests.memory_source import MemorySource, MemoryTopic

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
        self.serve_until(self.now_ms + int(hours * HOUR_MS))

    def serve_until(self, end_ms: int) -> None:
        table = None if self.publisher.table is None else assignment.decode(self.publisher.table)
        serving = served(WORLD, table, self.now_ms)
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
        self.serve_until(self.now_ms // HOUR_MS * HOUR_MS + HOUR_MS + PLAN.window.grace_ms)


class Hand:
    """A clock in seconds that is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Rig:
    """A daemon with all that belongs to it; its clock moves with its turns."""

    daemon: Daemon
    journal: Journal
    recorder: Recorder
    health: Health
    registry: CollectorRegistry
    clock: Hand
    board: Board
    metrics: Metrics

    def turn(self, seconds: float = 0.25) -> Turn:
        """A turn of the daemon's loop, so long after the one before that it looks into its inbox."""
        self.clock.now_s += seconds
        return self.daemon.turn()

    def settle(self) -> None:
        """Turn until there is nothing new, and once more to publish."""
        for _ in range(1000):
            if self.turn() == "quiet":
                self.turn()
                return
        raise AssertionError(f"the daemon does not come to rest: {self.health.faults}")

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"trimtab_{name}", labels)

    def total(self, name: str) -> float:
        """Over all labels."""
        families = self.registry.collect()
        return sum(s.value for family in families for s in family.samples if s.name == f"trimtab_{name}")

    def drop(self) -> None:
        """As the process that is killed: nothing is committed any more."""
        self.journal.close()


def daemon_of(
    path: Path,
    source: Source,
    publisher: Publisher,
    *,
    plan: Plan = PLAN,
    clock: Clock = "events",
    start_at: At = "earliest",
    dead_letters: DeadLetters | None = None,
    now_ms: int = START_MS,
) -> Rig:
    """A daemon on a journal at `path`."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, plan, {"version": "test", "code": "test"}, clock)
    health = Health(readiness_log(metrics))
    journal = Journal.open(path, plan.study)
    hand, board = Hand(), Board(plan, clock)
    try:
        recorder, state = Recorder.take_over(plan, journal, publisher, now_ms, clock)
    except BaseException:
        journal.close()
        raise
    board.recall(journal)
    daemon = Daemon(
        plan, source, journal, recorder, state,
        clock=clock, start_at=start_at, health=health, metrics=metrics, board=board, dead_letters=dead_letters,
        monotonic=hand, wall_ms=lambda: now_ms + int(hand.now_s * 1000),
    )  # fmt: skip
    return Rig(daemon, journal, recorder, health, registry, hand, board, metrics)


def entries(path: Path, *kinds: str) -> list[Recorded]:
    """The ledger's entries, of these kinds or all."""
    with Journal.read_only(path) as journal:
        return list(journal.entries(kinds or None))


class World:
    """A study's files and services, which outlive its daemons."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "quick.journal"
        self.topic = MemoryTopic(PARTITIONS)
        self.publisher = MemoryPublisher()
        self.product = Product(self.publisher, self.topic)
        self.rigs: list[Rig] = []

    def start(self, max_records: int = 1_000_000, **options: Any) -> Rig:
        source = MemorySource(self.topic, max_records=max_records)
        rig = daemon_of(self.path, source, self.publisher, **options)
        self.rigs.append(rig)
        return rig

    @property
    def table(self) -> assignment.Assignment:
        assert self.publisher.table is not None
        return assignment.decode(self.publisher.table)

    def kinds(self) -> list[str]:
        return [entry.kind for entry in entries(self.path)]

    def last(self, kind: str) -> dict[str, Any]:
        return entries(self.path, kind)[-1].body

    def records(self) -> dict[int, list[tuple[int, bytes]]]:
        return {p: [(record.offset, record.value) for record in log] for p, log in self.topic.logs.items()}


class Letters:
    """Dead letters in a list, unless there is a fault."""

    def __init__(self) -> None:
        self.sent: list[DeadLetter] = []
        self.fault: str | None = None

    def send(self, letters: Sequence[DeadLetter]) -> None:
        if self.fault is not None:
            raise DeadLettersUnavailable(self.fault)
        self.sent += letters

    def close(self) -> None:
        pass
