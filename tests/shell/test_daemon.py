import json
import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from controller import assignment
from controller.core.operate import Command
from controller.shell.daemon import CHECK_S, FIRST_BACKOFF_S, LAST_BACKOFF_S, Backoff, Every
from controller.shell.dead_letters import DeadLetter, DeadLettersUnavailable
from controller.shell.journal import Journal, check_chain
from controller.shell.journal_file import Fenced, JournalFailed
from controller.shell.publisher import MemoryPublisher
from controller.shell.recorder import Superseded
from tests.memory_source import MemorySource
from tests.shell.loop import START_MS, Hand, Letters, Rig, World, daemon_of, entries
from tests.waiting import wait_until

# --- the order of things


def test_a_table_is_there_before_any_event_is_read(world: World) -> None:
    class Watched(MemorySource):
        def poll(self, timeout_s: float) -> Any:
            seen.append((world.publisher.stored(), dict(offsets())))
            return super().poll(timeout_s)

    def offsets() -> dict[int, int]:
        with Journal.read_only(world.path) as journal:
            from controller.core import checkpoint

            parts = checkpoint.restore(journal.checkpoint()).windows.partitions
            return {p: part.next_offset for p, part in parts.items()}

    seen: list[tuple[Any, dict[int, int]]] = []
    world.product.serve(0.1)
    start = dict(world.topic.latest)
    rig = daemon_of(world.path, Watched(world.topic), world.publisher, start_at="latest")
    world.rigs.append(rig)
    rig.turn()
    assert seen[0] == ((1_000_001, 1), start), "the table is out and the start offsets are in the journal"


def test_decisions_are_published_and_readiness_follows(world: World) -> None:
    rig = world.start()
    assert rig.health.faults.keys() == {"start"}
    rig.settle()
    assert rig.health.faults == {}
    assert rig.metric("ready") == 1
    for _ in range(3):
        world.product.settle_window()
        rig.settle()
    assert world.last("decided")["window_end_ms"] == world.table.decided_through_ms
    assert world.table.version == 1_000_004
    assert len(world.table.arms) == 5
    tables = [entry.body["table"] for entry in entries(world.path) if entry.body.get("table")]
    published = [entry.body for entry in entries(world.path, "published")]
    assert [json_version(table) for table in tables] == [answer["version"] for answer in published]
    assert all(answer["accepted"] for answer in published)


def json_version(table: str) -> int:
    return assignment.decode(table.encode()).version


def test_a_journal_that_fails_ends_the_daemon_before_it_publishes(world: World) -> None:
    rig = world.start()
    rig.settle()
    world.product.settle_window()
    world.path.rename(world.path.with_suffix(".moved"))
    with pytest.raises(JournalFailed, match="removed or replaced"):
        rig.settle()
    assert world.publisher.announced == [1_000_001]


def test_without_redis_decisions_go_on_and_the_newest_alone_is_published(world: World) -> None:
    rig = world.start()
    rig.settle()
    world.publisher.fault = "no route to host"
    for _ in range(3):
        world.product.settle_window()
        rig.settle()
    assert len(entries(world.path, "decided")) == 3
    assert rig.health.faults == {"redis": "no route to host"}
    assert world.publisher.announced == [1_000_001]
    world.publisher.fault = None
    rig.turn(LAST_BACKOFF_S)
    assert world.publisher.announced == [1_000_001, 1_000_004]
    assert rig.health.faults == {}
    failures = rig.metric("publish_failures_total")
    assert failures is not None
    assert failures >= 3


def test_a_quiet_daemon_stays_unready_until_redis_answers(world: World) -> None:
    rig = world.start()
    rig.settle()
    world.publisher.fault = "down"
    rig.turn(CHECK_S)
    for _ in range(20):
        rig.turn(FIRST_BACKOFF_S)
        assert rig.health.faults == {"redis": "down"}, "no news from Redis is no good news"
    world.publisher.fault, world.publisher.table = None, None
    rig.turn(LAST_BACKOFF_S)
    assert rig.health.faults == {}
    assert world.publisher.announced == [1_000_001, 1_000_001], "it had come back empty"


def test_redis_is_asked_now_and_then_only(world: World) -> None:
    asked: list[float] = []

    class Counting(MemoryPublisher):
        def stored(self) -> tuple[int, int] | None:
            asked.append(rig.clock.now_s if world.rigs else 0.0)
            return super().stored()

    world.publisher = Counting()
    rig = world.start()
    rig.settle()
    del asked[:]
    for _ in range(100):
        rig.turn(0.25)
    assert 4 <= len(asked) <= 25.0 / CHECK_S + 1


@pytest.mark.parametrize("emptied", [True, False])
def test_a_table_lost_or_replaced_by_an_older_one_is_put_again(world: World, emptied: bool) -> None:
    rig = world.start()
    rig.settle()
    older = world.publisher.table
    world.product.settle_window()
    rig.settle()
    newest = world.publisher.table
    world.publisher.table = None if emptied else older
    rig.turn(CHECK_S)
    assert world.publisher.table == newest


# --- two daemons


def test_the_older_of_two_daemons_on_a_journal_ends(world: World) -> None:
    older = world.start()
    older.settle()
    newer = world.start()
    newer.settle()
    with pytest.raises(Fenced, match=r"another process took it over"):
        older.turn(CHECK_S)
    assert world.table.epoch == 2


def test_the_older_of_two_daemons_on_one_redis_ends(world: World, tmp_path: Path) -> None:
    older = world.start()
    older.settle()
    world.path = tmp_path / "other.journal"
    newer = world.start()
    newer.settle()
    with pytest.raises(Superseded, match="another daemon has taken the study over"):
        older.turn(CHECK_S)
    assert world.table.epoch == 2
    newer.turn(CHECK_S)


# --- commands


def test_commands_take_effect_once_at_the_next_look(world: World) -> None:
    rig = world.start()
    rig.settle()
    for verb, stage in (("pause", "paused"), ("resume", "explore"), ("rollback", "rolled_back"), ("resume", "explore")):
        id_ = rig.journal.send({"command": verb, "who": "me"}, START_MS)
        rig.turn()
        rig.turn()
        assert world.table.stage == stage
        assert rig.journal.applied(id_) is not None
    rig.turn()
    orders = [entry.body["order"]["command"] for entry in entries(world.path, "operator")]
    assert orders == ["pause", "resume", "rollback", "resume"]
    assert rig.journal.inbox() == ()


def test_a_command_obeyed_before_a_kill_is_not_obeyed_again(world: World) -> None:
    rig = world.start()
    rig.settle()
    rig.journal.send(Command("pause", "me"), START_MS)
    rig.turn()
    rig.drop()  # committed, but neither published nor answered
    rig = world.start()
    rig.settle()
    assert len(entries(world.path, "operator")) == 1
    assert world.table.stage == "paused"


def test_a_command_that_waited_for_a_daemon_is_obeyed_at_its_start(world: World) -> None:
    world.start().drop()
    with Journal.open(world.path, None) as journal:
        journal.send(Command("pause", "me"), START_MS)
    world.topic.stop()
    rig = world.start()
    rig.turn()
    rig.turn()
    assert world.table.stage == "paused", "also while Kafka is down"


@pytest.mark.parametrize(
    "command", [{}, {"command": "explode", "who": "me"}, {"command": "pause"}, {"command": "pause", "who": 7}]
)
def test_a_malformed_command_is_refused_and_recorded(world: World, command: dict[str, object]) -> None:
    rig = world.start()
    rig.settle()
    id_ = rig.journal.send(command, START_MS)
    rig.turn()
    assert rig.journal.applied(id_) is not None
    refused = world.last("operator_refused")
    assert refused["order"] == command
    assert refused["said"].startswith("refused: ")
    assert world.table.stage == "explore"


@pytest.mark.parametrize("order", ["[]", "7", "null", '"pause"'])
def test_an_order_that_is_no_object_is_refused_as_any_other(world: World, order: str) -> None:
    rig = world.start()
    rig.settle()
    with closing(sqlite3.connect(world.path)) as db, db:
        db.execute("INSERT INTO inbox(at_ms, command) VALUES (?, ?)", (START_MS, order))
    id_ = rig.journal.send(Command("pause", "me", "after it"), START_MS)
    rig.turn()
    assert rig.journal.applied(id_) is not None, "the daemon goes on"
    assert world.last("operator_refused")["order"] == json.loads(order)
    assert check_chain(world.path) is None
    rig.drop()
    world.start().settle()
    assert world.kinds().count("operator_refused") == 1


def test_approve_is_refused_where_nothing_awaits_it(world: World) -> None:
    rig = world.start()
    rig.settle()
    rig.journal.send(Command("approve", "me"), START_MS)
    rig.turn()
    assert world.last("operator")["said"].startswith("refused: nothing awaits approval")


# --- start, end, waiting


def test_kafka_down_at_the_start_is_waited_for(world: World) -> None:
    world.topic.stop("connection refused")
    rig = world.start()
    for _ in range(4):
        assert rig.turn() == "waiting"
    assert rig.health.faults["source"] == "connection refused"
    assert world.publisher.announced == [1_000_001], "a table is there all the same"
    world.topic.resume()
    rig.turn(LAST_BACKOFF_S)
    rig.settle()
    assert rig.health.faults == {}


def test_kafka_down_later_makes_it_unready_until_it_is_back(world: World) -> None:
    rig = world.start()
    rig.settle()
    world.topic.stop()
    rig.turn()
    assert rig.health.faults["source"].startswith("the broker is down")
    world.topic.resume()
    rig.turn()
    assert rig.health.faults == {}


def test_a_partition_that_was_added_is_read_from_its_beginning(world: World) -> None:
    rig = world.start(start_at="latest")
    rig.settle()
    world.product.serve(0.1)
    value = world.topic.logs[0][-1].value
    added = world.topic.add_partition()
    world.topic.append(added, value.replace(b'"id":"', b'"id":"x'))
    rig.settle()
    assert rig.total("events_total") == sum(world.topic.latest.values())


@contextmanager
def ticking(rig: Rig) -> Iterator[None]:
    """Time goes by, a hundred times as fast."""
    done = threading.Event()

    def tick() -> None:
        while not done.wait(0.01):
            rig.clock.now_s += 1.0

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_until_idle_ends_and_leaves_nothing_uncommitted(world: World) -> None:
    world.product.settle_window()
    rig = world.start()
    with ticking(rig):
        rig.daemon.run(threading.Event(), until_idle_s=5.0)
    assert rig.total("events_total") == sum(world.topic.latest.values())
    rig.drop()
    again = world.start()
    again.settle()
    assert again.total("events_total") == 0, "nothing was left to read"


def test_letters_that_wait_keep_a_replay_from_ending(world: World) -> None:
    stop = threading.Event()

    class Failing(Letters):
        def send(self, letters: Sequence[DeadLetter]) -> None:
            self.sent += letters
            if len(self.sent) > 4:  # the longer waits between them are beyond what makes a replay idle
                stop.set()
            raise DeadLettersUnavailable("down")

    world.topic.append(0, b"junk")
    rig = world.start(dead_letters=Failing())
    with ticking(rig):
        rig.daemon.run(stop, until_idle_s=1.0)
    assert stop.is_set(), "it ended because it was told to"
    assert rig.health.faults == {"dead letters": "down"}


def test_told_to_stop_it_commits_what_it_has_read(tmp_path: Path) -> None:
    world = World(tmp_path)
    stop = threading.Event()
    failed: list[BaseException] = []

    def work() -> None:
        rig = world.start()  # a journal belongs to its thread
        ready.append(rig)
        try:
            rig.daemon.run(stop)
        except BaseException as error:  # noqa: BLE001  handed to the test's thread
            failed.append(error)
        finally:
            rig.drop()

    ready: list[Rig] = []
    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: bool(ready) and not ready[0].health.faults, "the daemon is ready")
    world.product.serve(0.2)
    rows = sum(world.topic.latest.values())
    wait_until(lambda: ready[0].total("events_total") == rows, "everything is read")
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    assert failed == []
    again = world.start()
    again.settle()
    assert again.total("events_total") == 0
    again.drop()


def test_readiness_is_logged_when_it_changes(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="trimtab"):
        rig = world.start()
        rig.settle()
        world.publisher.fault = "down"
        for _ in range(5):
            rig.turn(CHECK_S)
        world.publisher.fault = None
        rig.turn(LAST_BACKOFF_S)
    told = [message for message in caplog.messages if "ready" in message]
    assert told == ["ready", "not ready: redis: down", "ready"]
    assert "reading from partition 0 offset 0, partition 1 offset 0" in caplog.messages


# --- clocks of its own


def test_every_is_due_at_first_and_then_once_a_period() -> None:
    hand = Hand()
    every = Every(2.0, hand)
    seen = []
    for now in (0.0, 0.5, 1.9, 2.0, 3.9, 10.0, 10.1):
        hand.now_s = now
        seen.append(every())
    assert seen == [True, False, False, True, False, True, False]


def test_backoff_doubles_up_to_its_longest_wait_and_begins_again() -> None:
    hand = Hand()
    backoff = Backoff(hand)
    waits = []
    for _ in range(9):
        assert backoff.due()
        backoff.failed()
        begun = hand.now_s
        while not backoff.due():
            hand.now_s += 0.05
        waits.append(hand.now_s - begun)
    assert waits[:4] == pytest.approx([0.2, 0.4, 0.8, 1.6], abs=0.06)
    assert max(waits) == pytest.approx(LAST_BACKOFF_S, abs=0.06)
    backoff.failed()
    backoff.succeeded()
    assert backoff.due()
