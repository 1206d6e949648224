"""The contract of a source, on the one in memory, a file, and both clients of a real broker."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient

from controller.shell.connections import Kafka
from controller.shell.sources import ARROW, OffsetLost, Record, Source, SourceUnavailable, TopicReplaced
from controller.shell.sources_confluent import ConfluentSource
from controller.shell.sources_kafka import KafkaSource
from controller.shell.sources_ndjson import NdjsonSource
from tests.memory_source import MemorySource, MemoryTopic
from tests.services.kafka_broker import MakeTopic, create_topic, delete_topics, wait_for_transactions
from tests.shell.reading import Clock, drain, until, values

HEADERS = [("trace", b""), ("content-type", ARROW)]


class Log(Protocol):
    """Something that a source reads, from the producers' side."""

    partitions: int

    def append(self, partition: int, *values: bytes | None, arrow: bool = False) -> None: ...
    def source(self, *, idle_after_s: float | None = None, clock: Callable[[], float] = ...) -> Source: ...


class Memory:
    partitions = 3

    def __init__(self) -> None:
        self.topic = MemoryTopic(self.partitions)
        self.topic.id = "first"

    def append(self, partition: int, *values: bytes | None, arrow: bool = False) -> None:
        for value in values:
            self.topic.append(partition, value, arrow=arrow)

    def gap(self, partition: int) -> None:
        self.topic.skip(partition)

    def trim(self, partition: int, before: int) -> None:
        self.topic.trim(partition, before)

    def add_partition(self) -> None:
        self.topic.add_partition()

    def replace(self) -> None:
        self.topic.replace(f"{self.topic.id}+")

    def source(self, *, idle_after_s: float | None = None, clock: Callable[[], float] = time.monotonic) -> Source:
        return MemorySource(self.topic, idle_after_s=idle_after_s, monotonic=clock)


class File:
    partitions = 1

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def append(self, partition: int, *values: bytes | None, arrow: bool = False) -> None:
        with self.path.open("ab") as file:
            file.writelines((value or b"") + b"\n" for value in values)

    def source(self, *, idle_after_s: float | None = None, clock: Callable[[], float] = time.monotonic) -> Source:
        return NdjsonSource(str(self.path), monotonic=clock)


class Broker:
    """A topic on the shared broker; every `append` of `transactional` ends with a marker that is no record."""

    partitions = 3

    def __init__(self, kind: Callable[..., Source], bootstrap: str, topic: str) -> None:
        self.kind = kind
        self.bootstrap = bootstrap
        self.topic = topic
        self.producer = KafkaProducer(bootstrap_servers=bootstrap)

    def append(self, partition: int, *values: bytes | None, arrow: bool = False) -> None:
        headers = HEADERS if arrow else [("content-type", b"application/json")]
        for value in values:
            self.producer.send(self.topic, value, partition=partition, headers=headers, key=b"k")
        self.producer.flush()

    def gap(self, partition: int) -> None:
        """A transaction without records that the log keeps: its marker alone takes an offset."""
        writer = KafkaProducer(bootstrap_servers=self.bootstrap, transactional_id=f"{self.topic}-{partition}")
        writer.init_transactions()
        writer.begin_transaction()
        writer.send(self.topic, b"in a transaction", partition=partition)
        writer.commit_transaction()
        writer.close()
        wait_for_transactions(self.bootstrap, self.topic, partition)

    def trim(self, partition: int, before: int) -> None:
        self._admin(lambda admin, at: admin.delete_records({at: before}), partition)

    def add_partition(self) -> None:
        self._admin(lambda admin, _: admin.create_partitions({self.topic: self.partitions + 1}), 0)

    def replace(self) -> None:
        delete_topics(self.bootstrap, [self.topic])
        create_topic(self.bootstrap, self.topic, self.partitions)

    def _admin(self, act: Callable[[Any, Any], object], partition: int) -> None:
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            act(admin, TopicPartition(self.topic, partition))
        finally:
            admin.close()

    def source(self, *, idle_after_s: float | None = None, clock: Callable[[], float] = time.monotonic) -> Source:
        return source_of(self.kind, self.bootstrap, self.topic, idle_after_s=idle_after_s, monotonic=clock)

    def close(self) -> None:
        self.producer.close()


def source_of(kind: Callable[..., Source], bootstrap: str, topic: str, **options: Any) -> Source:
    settings = {"window_ms": 3_600_000, "idle_after_s": None, "refresh_s": 0.2, "answer_s": 30.0} | options
    return kind(Kafka(bootstrap, topic), **settings)


CLIENTS: dict[str, Callable[..., Source]] = {"kafka-python": KafkaSource, "confluent": ConfluentSource}


def make_log(kind: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    if kind == "memory":
        yield Memory()
    elif kind == "file":
        yield File(request.getfixturevalue("tmp_path") / "events.ndjson")
    else:
        topic: MakeTopic = request.getfixturevalue("kafka_topic")
        broker = Broker(CLIENTS[kind], request.getfixturevalue("kafka_bootstrap"), topic(partitions=Broker.partitions))
        yield broker
        broker.close()


def kinds(*names: str) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.kafka if name in CLIENTS else ()) for name in names]


@pytest.fixture(params=kinds("memory", "file", *CLIENTS))
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    yield from make_log(request.param, request)


@pytest.fixture(params=kinds("memory", *CLIENTS))
def topic(request: pytest.FixtureRequest) -> Iterator[Any]:
    yield from make_log(request.param, request)


@pytest.fixture
def opened() -> Iterator[Callable[[Source], Source]]:
    """Closes what a test opened."""
    sources: list[Source] = []

    def note(source: Source) -> Source:
        sources.append(source)
        return source

    yield note
    for source in sources:
        source.close()


def test_start_resolves_offsets_and_fetches_nothing(log: Log, opened: Any) -> None:
    log.append(0, b"one", b"two")
    source = opened(log.source())
    beginning = source.start(None, "earliest")
    assert beginning == dict.fromkeys(range(log.partitions), 0)
    end = source.start(None, "latest")
    assert end[0] > 0
    assert source.start({0: end[0]}, "earliest") == {**beginning, 0: end[0]}
    log.append(0, b"three")
    assert values(drain(source)[0][0]) == [b"three"]


def test_records_come_in_offset_order_and_once(log: Log, opened: Any) -> None:
    sent = [json.dumps({"n": n}).encode() for n in range(500)]
    log.append(0, *sent[:300])
    source = opened(log.source())
    source.start(None, "earliest")
    records, ahead = drain(source)
    assert values(records[0]) == sent[:300]
    offsets = [record.offset for record in records[0]]
    assert offsets == sorted(set(offsets))
    assert ahead[0] > offsets[-1]
    log.append(0, *sent[300:])
    assert values(drain(source)[0][0]) == sent[300:]
    assert source.health() is None


def test_every_offset_is_a_place_to_go_on_from(log: Log, opened: Any) -> None:
    log.append(0, b"one", b"two", b"three")
    source = opened(log.source())
    source.start(None, "earliest")
    records = drain(source)[0][0]
    for n, record in enumerate(records):
        source.start({0: record.offset}, "latest")
        assert drain(source)[0][0] == records[n:]


def test_an_offset_beyond_the_end_is_lost(log: Log, opened: Any) -> None:
    log.append(0, b"one")
    source = opened(log.source())
    end = source.start(None, "latest")[0]
    with pytest.raises(OffsetLost, match=rf"partition 0: offset {end + 7} .* holds 0 to {end}") as caught:
        source.start({0: end + 7}, "earliest")
    assert (caught.value.partition, caught.value.asked, caught.value.earliest, caught.value.latest) == (
        0,
        end + 7,
        0,
        end,
    )
    with pytest.raises(OffsetLost, match="partition 9: offset 3 "):
        source.start({9: 3}, "earliest")
    assert source.start(None, "earliest")[0] == 0


def test_caught_up_asks_anew(log: Log, opened: Any) -> None:
    source = opened(log.source())
    source.start(None, "earliest")
    drain(source)
    log.append(0, b"one")
    assert not source.caught_up()
    assert values(drain(source)[0][0]) == [b"one"]
    assert until(source, lambda poll: not poll.parts).behind[0] == 0


def test_partitions_headers_and_records_without_a_value(topic: Any, opened: Any) -> None:
    topic.append(1, b"json")
    topic.append(1, b"stream", arrow=True)
    topic.append(2, None)
    source = opened(topic.source())
    source.start(None, "earliest")
    records, ahead = drain(source)
    assert records == {1: [Record(0, b"json", False), Record(1, b"stream", True)], 2: [Record(0, b"", False)]}
    assert ahead == {1: 2, 2: 1}


def test_the_next_offset_is_beyond_gaps(topic: Any, opened: Any) -> None:
    topic.append(0, b"before")
    topic.gap(0)
    source = opened(topic.source())
    source.start(None, "earliest")
    records, ahead = drain(source)
    assert records[0][0] == Record(0, b"before", False)
    assert ahead[0] > records[0][-1].offset + 1
    topic.append(0, b"after")
    assert drain(source)[0][0] == [Record(ahead[0], b"after", False)]


def test_deleted_records_are_an_error_and_no_jump(topic: Any, opened: Any) -> None:
    topic.append(0, b"one", b"two", b"three")
    source = opened(topic.source())
    source.start({0: 0}, "earliest")
    other = opened(topic.source())
    topic.trim(0, 2)
    with pytest.raises(OffsetLost, match=r"partition 0: offset 1 .* holds 2 to 3"):
        other.start({0: 1}, "earliest")
    assert other.start(None, "earliest")[0] == 2
    assert values(drain(other)[0][0]) == [b"three"]
    with pytest.raises(OffsetLost, match=r"partition 0: offset 0 .* holds 2 to 3"):
        until(source, lambda poll: bool(poll.parts))


def test_a_topic_that_was_made_anew_is_another_however_long_it_is(topic: Any, opened: Any) -> None:
    topic.append(0, b"one", b"two")
    source, other = opened(topic.source()), opened(topic.source())
    assert source.log == "", "unknown before it starts"
    source.start(None, "earliest")
    before = source.log
    assert before
    assert values(drain(source)[0][0]) == [b"one", b"two"]
    assert source.start({0: 2}, "earliest", before)[0] == 2
    topic.replace()
    topic.append(0, *(b"other %d" % n for n in range(5)))
    with pytest.raises(TopicReplaced, match=f"its id was {before} and is "):
        until(source, lambda poll: False)
    with pytest.raises(TopicReplaced) as replaced:
        other.start({0: 2}, "earliest", before)
    assert other.start({0: 2}, "earliest")[0] == 2, "who knows no id is not stopped"
    assert replaced.value.log == other.log != before
    assert other.start({0: 0}, "earliest", replaced.value.log)[0] == 0
    assert len(drain(other)[0][0]) == 5


@pytest.mark.kafka
def test_both_clients_tell_the_same_id(kafka_bootstrap: str, kafka_topic: MakeTopic, opened: Any) -> None:
    for _ in range(8):  # every other id has a character that base64 writes in two ways
        name = kafka_topic(partitions=1)
        sources = [opened(source_of(kind, kafka_bootstrap, name)) for kind in CLIENTS.values()]
        for source in sources:
            source.start(None, "latest")
        assert sources[0].log == sources[1].log


def test_a_new_partition_starts_at_its_beginning(topic: Any, opened: Any) -> None:
    source = opened(topic.source())
    source.start(None, "latest")
    topic.add_partition()
    topic.append(3, b"first", b"second")
    poll = until(source, lambda poll: bool(poll.parts) and bool(poll.parts[0].records))
    assert [(part.partition, values(part.records)) for part in poll.parts] == [(3, [b"first", b"second"])]
    topic.append(0, b"the others go on")
    assert values(drain(source)[0][0]) == [b"the others go on"]


def test_a_partition_is_idle_after_a_while_at_its_end(topic: Any, opened: Any) -> None:
    clock = Clock()
    source = opened(topic.source(idle_after_s=60.0, clock=clock))
    topic.append(0, b"one")
    source.start(None, "earliest")
    drain(source)
    assert source.poll(0.05).idle == frozenset()
    clock.now += 59.0
    assert source.poll(0.05).idle == frozenset()
    clock.now += 1.5
    assert source.poll(0.05).idle == {0, 1, 2}
    topic.append(1, b"two")
    until(source, lambda poll: bool(poll.parts))
    clock.now += 30.0
    assert source.poll(0.05).idle == {0, 2}
    clock.now += 60.0
    assert source.poll(0.05).idle == {0, 1, 2}


def test_nothing_is_idle_on_the_events_clock(topic: Any, opened: Any) -> None:
    clock = Clock()
    source = opened(topic.source(idle_after_s=None, clock=clock))
    source.start(None, "earliest")
    drain(source)
    clock.now += 1e6
    assert source.poll(0.05).idle == frozenset()


@pytest.mark.parametrize("kind", CLIENTS.values(), ids=CLIENTS)
def test_a_topic_that_is_not_there(kind: Callable[..., Source], kafka_bootstrap: str) -> None:
    source = source_of(kind, kafka_bootstrap, "no-such-topic")
    with pytest.raises(SourceUnavailable, match=r"Kafka at .* has no topic 'no-such-topic'"):
        source.start(None, "earliest")
    source.close()


@pytest.mark.parametrize("kind", CLIENTS.values(), ids=CLIENTS)
def test_a_backlog_is_more_than_a_window_left_to_read(
    kind: Callable[..., Source],
    kafka_bootstrap: str,
    kafka_topic: MakeTopic,
    opened: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Records of an hour ago with more behind them are a backlog; the last poll of them is not."""
    monkeypatch.setattr("controller.shell.sources_confluent._MOST_RECORDS", 1)
    name = kafka_topic(partitions=1)
    producer = KafkaProducer(bootstrap_servers=kafka_bootstrap)
    for minute in range(3):
        producer.send(name, b"event", timestamp_ms=minute * 60_000)
    producer.close()
    source = opened(source_of(kind, kafka_bootstrap, name, window_ms=60_000, now_ms=lambda: 150_000))
    if isinstance(source, KafkaSource):
        source._options["max_poll_records"] = 1
    source.start(None, "earliest")
    first = until(source, lambda poll: bool(poll.parts))
    assert first.behind[0] > 0
    assert first.backlog
    last = until(source, lambda poll: poll.behind[0] == 0)
    assert last.parts
    assert not last.backlog


def test_a_memory_topic_that_is_down_and_comes_back() -> None:
    topic = MemoryTopic()
    source = MemorySource(topic, idle_after_s=1.0, monotonic=Clock())
    topic.stop("gone fishing")
    with pytest.raises(SourceUnavailable, match="gone fishing"):
        source.start(None, "earliest")
    topic.resume()
    source.start(None, "earliest")
    topic.stop("gone fishing")
    assert source.poll(0).parts == ()
    assert source.health() == "gone fishing (for 0 s)"
    assert not source.caught_up()
    topic.resume()
    topic.append(0, b"one")
    assert values(source.poll(0).parts[0].records) == [b"one"]
    assert source.health() is None
