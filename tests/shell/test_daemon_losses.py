import threading
from collections.abc import Mapping, Sequence

import msgspec
import pytest

from controller.core.clock import Clock
from controller.core.events import MAX_REJECTED
from controller.core.operate import Command
from controller.core.rows import MAX_TOLD
from controller.shell.daemon import COMMIT_S, LAST_BACKOFF_S
from controller.shell.dead_letters import MAX_CHUNK, MAX_LETTERS, DeadLetter, DeadLettersUnavailable
from controller.shell.sources import At, OffsetLost
from tests.memory_source import MemorySource, MemoryTopic
from tests.shell.loop import PARTITIONS, START_MS, Letters, Rig, World, daemon_of

# --- offsets that are gone


@pytest.mark.parametrize("when", ["poll", "start"])
def test_lost_records_freeze_the_study_and_reading_goes_on(world: World, when: str) -> None:
    rig = world.start()
    rig.settle()
    world.product.settle_window()
    rig.settle()
    if when == "start":
        rig.drop()
    world.product.serve(0.2)
    end = world.topic.latest[1]
    world.topic.trim(1, end - 3)
    world.topic.append(1, world.topic.logs[1][-1].value)
    if when == "start":
        rig = world.start()
    rig.settle()
    frozen, lost = world.last("operator"), world.last("offsets_lost")
    assert frozen["order"]["command"] == "freeze"
    assert "partition 1" in frozen["order"]["why"]
    assert (lost["partition"], lost["earliest"]) == (1, end - 3)
    assert world.table.stage == "paused"
    assert {arm.arm for arm in world.table.arms} == {"control"}
    assert world.kinds().count("offsets_lost") == 1, "it does not go round in circles"
    before = rig.total("events_total")
    world.product.serve(0.2)
    rig.settle()
    assert rig.total("events_total") > before, "reading goes on"
    assert rig.health.faults == {}


def test_a_topic_that_was_made_anew_is_read_from_its_beginning(world: World) -> None:
    rig = world.start()
    rig.settle()
    world.product.settle_window()
    rig.settle()
    accepted = rig.metric("events_total", result="accepted")
    old = world.topic.logs
    world.topic.logs = {p: [] for p in old}
    world.topic.earliest = dict.fromkeys(old, 0)
    world.topic.latest = dict.fromkeys(old, 0)
    for partition, log in old.items():
        for record in log[-100:]:
            world.topic.append(partition, record.value)
    rig.settle()
    assert world.kinds().count("offsets_lost") == PARTITIONS
    assert rig.metric("events_total", result="duplicate") == 100 * PARTITIONS, "what was counted is not counted twice"
    assert rig.metric("events_total", result="accepted") == accepted


@pytest.mark.parametrize("when", ["poll", "start"])
def test_a_longer_topic_under_the_same_name_is_read_from_its_beginning(world: World, when: str) -> None:
    world.topic.id = "first"
    rig = world.start()
    rig.settle()
    world.product.settle_window()
    rig.settle()
    old = world.topic.logs
    if when == "start":
        rig.turn(COMMIT_S)
        rig.drop()
    world.topic.replace("second")
    for partition, log in old.items():
        for record in (*log[-100:], *log):
            world.topic.append(partition, record.value)
    world.topic.append(1, b"nothing else of this topic is new")
    if when == "start":
        rig = world.start()
    rig.settle()
    assert world.kinds().count("topic_replaced") == 1
    assert world.last("topic_replaced") == {"before": "first", "topic": "second"}
    assert "its id was first and is second" in world.last("operator")["order"]["why"]
    assert world.table.stage == "paused"
    read = sum(len(log) for log in world.topic.logs.values())
    again = rig.metric("events_total", result="duplicate") or 0.0
    late = rig.metric("events_total", result="expired") or 0.0
    assert again + late + 1 == read, "all of it was read, none of it counts twice"
    assert rig.health.faults == {}
    rig.drop()
    world.start().settle()
    assert world.kinds().count("topic_replaced") == 1, "it is known from then on"


def test_a_journal_that_knows_no_topic_id_takes_the_first_that_it_is_told(world: World) -> None:
    world.start().settle()
    world.rigs[-1].drop()
    world.topic.id = "first"
    world.start().settle()
    world.rigs[-1].drop()
    world.topic.id = ""  # a broker that tells none, meanwhile
    world.start().settle()
    assert "topic_replaced" not in world.kinds()
    world.rigs[-1].drop()
    world.topic.id = "second"
    world.start().settle()
    assert world.last("topic_replaced") == {"before": "first", "topic": "second"}


def test_the_partitions_of_a_topic_that_was_made_anew_are_found_out_turn_by_turn(world: World) -> None:
    partitions = 24
    world.topic = MemoryTopic(partitions)
    for partition in range(partitions):
        world.topic.append(partition, b"{}")
        world.topic.append(partition, b"{}")
    rig = world.start()
    rig.settle()
    world.topic.logs = {p: [] for p in range(partitions)}
    world.topic.latest = dict.fromkeys(range(partitions), 0)
    turns = 0
    while world.kinds().count("offsets_lost") < partitions:
        rig.turn(0.01)
        turns += 1
        assert turns <= 2 * partitions, "none of them waits for a service"
    rig.settle()
    assert rig.health.faults == {}


def test_a_loss_that_nobody_can_say_more_of_is_looked_at_ever_more_rarely(world: World) -> None:
    class Mute(MemorySource):
        def start(self, offsets: Mapping[int, int] | None, at: At, log: str = "") -> dict[int, int]:
            raise OffsetLost(0, 7, -1, -1)

    rig = daemon_of(world.path, Mute(world.topic), world.publisher)
    world.rigs.append(rig)
    for _ in range(100):
        rig.turn(0.1)
    assert 4 <= world.kinds().count("offsets_lost") <= 7


def test_a_partition_that_is_gone_does_not_hold_the_study_back(world: World) -> None:
    rig = world.start()
    rig.settle()
    world.product.settle_window()
    rig.settle()
    rig.drop()
    for bounds in (world.topic.logs, world.topic.earliest, world.topic.latest):
        del bounds[1]
    rig = world.start()
    rig.settle()
    assert rig.health.faults == {}
    assert world.kinds().count("offsets_lost") == 2
    resumed(rig)
    event = msgspec.json.decode(world.topic.logs[0][-1].value)
    world.topic.append(0, msgspec.json.encode(event | {"id": "next", "ts_ms": event["ts_ms"] + 3_600_000}))
    rig.settle()
    assert world.last("decided")["window_end_ms"] == START_MS + 2 * 3_600_000


def resumed(rig: Rig) -> None:
    rig.journal.send(Command("resume", "me"), START_MS)
    rig.turn()


# --- dead letters


def test_dead_letters_are_sent_with_their_reason_before_the_offsets_move(world: World) -> None:
    letters = Letters()
    rig = world.start(dead_letters=letters)
    rig.settle()
    offset = world.topic.append(1, b"no event")
    world.topic.append(1, b'{"id": "a"}')
    rig.turn()
    assert [(letter.partition, letter.offset, letter.data) for letter in letters.sent] == [
        (1, offset, b"no event"),
        (1, offset + 1, b'{"id": "a"}'),
    ]
    assert [letter.reason for letter in letters.sent] == ["malformed", "no_ts_ms"]


def test_an_event_refused_by_the_clock_is_a_dead_letter_too(world: World) -> None:
    letters = Letters()
    rig = world.start(dead_letters=letters, clock="wall")
    rig.settle()
    world.product.serve(0.001)
    event = msgspec.json.decode(world.topic.logs[0][-1].value)
    value = msgspec.json.encode(event | {"id": "future", "ts_ms": START_MS + 3_600_000})
    world.topic.append(0, value)
    rig.settle()
    assert [(letter.reason, letter.data) for letter in letters.sent] == [("future", value)]
    assert rig.metric("events_total", result="future") == 1


def test_rows_of_one_record_that_the_clock_refuses_are_a_letter_each(world: World) -> None:
    """Not the record for each: an hour of a producer's wrong clock would be sent as the square of its size."""
    letters = Letters()
    rig = world.start(dead_letters=letters, clock="wall")
    rig.settle()
    world.product.serve(0.001)
    event = msgspec.json.decode(world.topic.logs[0][-1].value)
    far = event | {"ts_ms": START_MS + 3_600_000}
    rows = [msgspec.json.encode(far | {"id": f"future {k}", "more": "x" * MAX_REJECTED}) for k in range(2)]
    rows += [msgspec.json.encode(far | {"id": f"future {k}"}) for k in range(2, MAX_TOLD + 300)]
    good = [msgspec.json.encode(event | {"id": f"good {k}"}) for k in range(3)]
    offset = world.topic.append(0, b"\n".join([good[0], b"junk", rows[0], good[1], *rows[1:], good[2]]))
    rig.settle()
    junk, *told, more = letters.sent
    assert (junk.reason, junk.data) == ("malformed", b"junk")
    assert told == [DeadLetter(0, offset, "future", row[:MAX_REJECTED]) for row in rows[:MAX_TOLD]]
    assert more == DeadLetter(0, offset, "future", b"", 300)
    assert rig.metric("events_total", result="future") == MAX_TOLD + 300


@pytest.mark.parametrize("restart", [False, True])
def test_the_letter_of_an_event_that_was_held_has_the_event(world: World, restart: bool) -> None:
    letters = Letters()
    rig = world.start(dead_letters=letters)
    world.product.serve(0.001)
    rig.settle()
    event = msgspec.json.decode(world.topic.logs[0][-1].value)
    far = msgspec.json.encode(event | {"id": "far", "ts_ms": event["ts_ms"] + 48 * 3_600_000})
    near = msgspec.json.encode(event | {"id": "near"})
    offset = world.topic.append(0, b"\n".join([near, far]))
    rig.settle()
    rig.turn(COMMIT_S)
    if restart:
        rig.drop()
        rig = world.start(dead_letters=letters)
    assert letters.sent == []
    world.topic.append(0, msgspec.json.encode(event | {"id": "next"}))
    rig.settle()
    assert letters.sent == [DeadLetter(0, offset, "future", far)]


def test_while_dead_letters_wait_nothing_is_polled_and_nothing_is_lost(world: World) -> None:
    letters = Letters()
    rig = world.start(dead_letters=letters)
    rig.settle()
    letters.fault = "topic gone"
    world.product.serve(0.1)
    world.topic.append(0, b"junk")
    world.product.serve(0.1)
    for _ in range(8):
        assert rig.turn() == "waiting"
    assert rig.health.faults == {"dead letters": "topic gone"}
    assert rig.total("events_total") == 0
    order = rig.journal.send(Command("pause", "me"), START_MS)
    rig.turn()
    assert rig.journal.applied(order) is not None, "commands are obeyed meanwhile"
    rig.turn()
    assert world.table.stage == "paused"
    rig.drop()  # killed now: what was polled is polled again

    letters.fault = None
    rig = world.start(dead_letters=letters)
    rig.settle()
    assert [letter.data for letter in letters.sent] == [b"junk"]
    assert rig.total("events_total") == sum(world.topic.latest.values()) - 1, "every row, the command's commit or not"
    assert rig.health.faults == {}


def test_letters_that_come_through_late_are_sent_once_and_counted_once(world: World) -> None:
    letters = Letters()
    rig = world.start(dead_letters=letters)
    rig.settle()
    letters.fault = "slow"
    world.topic.append(0, b"junk")
    for _ in range(5):
        rig.turn()
    letters.fault = None
    rig.turn(LAST_BACKOFF_S)
    rig.settle()
    assert len(letters.sent) == 1
    assert rig.metric("events_rejected_total", reason="malformed") == 1


class Slow(Letters):
    """Stores the first `most` letters and says that it did not store the others; sets `called`."""

    def __init__(self, most: int, called: threading.Event | None = None) -> None:
        super().__init__()
        self.most, self.called = most, called

    def send(self, letters: Sequence[DeadLetter]) -> None:
        self.sent += letters[: self.most]
        if self.called is not None:
            self.called.set()
        if len(letters) > self.most:
            raise DeadLettersUnavailable("slow", stored=self.most)


@pytest.mark.parametrize("clock", ["events", "wall"])
def test_letters_come_in_chunks_and_a_retry_goes_on_where_the_last_stopped(world: World, clock: Clock) -> None:
    letters = Slow(400)
    rig = world.start(dead_letters=letters, clock=clock)
    rig.settle()
    junk = [b"junk %d" % k for k in range(2500)]
    if clock == "wall":  # rows that only the step refuses
        world.product.serve(0.001)
        event = msgspec.json.decode(world.topic.logs[0][-1].value) | {"ts_ms": START_MS + 3_600_000}
        junk = [msgspec.json.encode(event | {"id": f"future {k}"}) for k in range(2500)]
    for record in junk:
        world.topic.append(0, record)
    for _ in range(20):
        rig.turn(LAST_BACKOFF_S)
    assert [letter.data for letter in letters.sent] == junk, "in order, each once"
    assert rig.health.faults == {}
    refused = rig.metric("events_total", result="future") if clock == "wall" else rig.total("events_rejected_total")
    assert refused == 2500


def test_however_many_letters_there_are_stop_and_commands_are_looked_at_between_chunks(world: World) -> None:
    stop = threading.Event()
    letters = Slow(MAX_CHUNK, called=stop)
    rig = world.start(dead_letters=letters)
    rig.settle()
    for _ in range(3 * MAX_CHUNK):
        world.topic.append(0, b"junk")
    rig.daemon.run(stop)
    assert len(letters.sent) == MAX_CHUNK
    assert rig.total("events_rejected_total") == 0, "the poll is left to the next start, with all its letters"


def test_letters_of_a_poll_beyond_the_first_are_counted(world: World) -> None:
    letters = Letters()
    rig = world.start(dead_letters=letters)
    rig.settle()
    first = [world.topic.append(1, b"junk") for _ in range(MAX_LETTERS + 300)][MAX_LETTERS]
    rig.settle()
    assert len(letters.sent) == MAX_LETTERS + 1
    assert letters.sent[-1] == DeadLetter(1, first, "malformed", b"", 300)
    assert rig.total("events_rejected_total") == MAX_LETTERS + 300
