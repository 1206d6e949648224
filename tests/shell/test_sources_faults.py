"""What a source of a real broker does when the broker goes away, hangs, comes back, or stores a damaged batch."""

import gc
import logging
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from operator import itemgetter
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import Consumer as ConfluentConsumer
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from controller.shell.connections import Kafka
from controller.shell.dead_letters import DeadLetter, DeadLettersUnavailable, KafkaDeadLetters
from controller.shell.sources import Source, SourceUnavailable
from controller.shell.sources_confluent import ConfluentSource
from controller.shell.sources_kafka import KafkaSource
from tests.services.kafka_broker import KafkaBroker, MakeBroker, MakeTopic, delete_topics
from tests.services.process import free_port
from tests.waiting import wait_until

CLIENTS: dict[str, Callable[..., Source]] = {"kafka-python": KafkaSource, "confluent": ConfluentSource}
each_client = pytest.mark.parametrize("kind", CLIENTS.values(), ids=CLIENTS)

# kafka-python leaves the socket of a refused connection to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(autouse=True)
def _collect_sockets(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """While their warning is ignored, not in some later test; a kept log record would keep one alive."""
    caplog.set_level(logging.CRITICAL, "kafka")
    yield
    gc.collect()


class Reader:
    """Polls a source and keeps what came."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.values: list[bytes] = []
        self.longest_s = 0.0
        self.idle: frozenset[int] = frozenset()

    def poll(self) -> None:
        began = time.monotonic()
        poll = self.source.poll(0.1)
        self.longest_s = max(self.longest_s, time.monotonic() - began)
        self.idle = poll.idle
        for part in poll.parts:
            self.values.extend(record.value for record in part.records)

    def has(self, count: int) -> bool:
        self.poll()
        return len(self.values) >= count

    def ails(self) -> bool:
        self.poll()
        return self.source.health() is not None

    def is_well(self) -> bool:
        self.poll()
        return self.source.health() is None


@pytest.fixture(scope="module")
def broker(kafka_broker: MakeBroker) -> KafkaBroker:
    return kafka_broker()


@pytest.fixture
def reader(request: pytest.FixtureRequest, broker: KafkaBroker) -> Iterator[Callable[..., Reader]]:
    sources: list[Source] = []

    def make(kind: Callable[..., Source], topic: str) -> Reader:
        kafka = Kafka(broker.bootstrap, topic)
        source = kind(kafka, window_ms=3_600_000, idle_after_s=0.5, refresh_s=0.2, answer_s=5.0)
        source.start(None, "earliest")
        sources.append(source)
        return Reader(source)

    yield make
    for source in sources:
        source.close()


def produce(bootstrap: str, topic: str, *values: bytes) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for value in values:
        producer.send(topic, value, partition=0)
    producer.close()


@each_client
def test_a_broker_that_stops_and_comes_back(
    kind: Callable[..., Source], broker: KafkaBroker, reader: Callable[..., Reader]
) -> None:
    topic = broker.create_topic(f"restart-{kind.__name__}", partitions=2)
    read = reader(kind, topic)
    produce(broker.bootstrap, topic, b"one", b"two")
    wait_until(lambda: read.has(2), "the first records")
    broker.stop()
    wait_until(read.ails, "the outage is noticed")
    assert read.idle == frozenset()
    assert str(broker.bootstrap) in str(read.source.health())
    assert not read.source.caught_up()
    broker.start()
    produce(broker.bootstrap, topic, b"three")
    wait_until(lambda: read.has(3), "the record after the restart")
    wait_until(read.is_well, "the end of the outage is noticed")
    assert read.values == [b"one", b"two", b"three"]
    assert read.longest_s < 4.0


@each_client
def test_a_broker_that_hangs_holds_nobody_up(
    kind: Callable[..., Source], broker: KafkaBroker, reader: Callable[..., Reader]
) -> None:
    topic = broker.create_topic(f"hang-{kind.__name__}", partitions=1)
    read = reader(kind, topic)
    produce(broker.bootstrap, topic, b"one")
    wait_until(lambda: read.has(1) and bool(read.idle), "the record, and idleness")
    broker.pause()
    try:
        wait_until(read.ails, "the silence is noticed")
        assert read.idle == frozenset()
        assert read.longest_s < 4.0
    finally:
        broker.unpause()
    wait_until(read.is_well, "the answer")
    produce(broker.bootstrap, topic, b"two")
    wait_until(lambda: read.has(2), "the next record")
    assert read.values == [b"one", b"two"]


@each_client
def test_a_topic_that_is_gone_is_told_apart_from_a_broker_that_is(
    kind: Callable[..., Source], broker: KafkaBroker, reader: Callable[..., Reader]
) -> None:
    topic = broker.create_topic(f"gone-{kind.__name__}", partitions=1)
    read = reader(kind, topic)
    produce(broker.bootstrap, topic, b"one")
    wait_until(lambda: read.has(1), "the record")
    delete_topics(broker.bootstrap, [topic])
    wait_until(lambda: read.ails() and f"has no topic '{topic}'" in str(read.source.health()), "its absence is told")


@each_client
def test_a_damaged_batch_is_neither_skipped_nor_read(
    kind: Callable[..., Source],
    broker: KafkaBroker,
    reader: Callable[..., Reader],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    topic = broker.create_topic(f"damaged-{kind.__name__}", partitions=1)
    produce(broker.bootstrap, topic, b"sound")
    produce(broker.bootstrap, topic, b"to be damaged")
    produce(broker.bootstrap, topic, b"behind it")
    broker.stop()
    for segment in tmp_path_factory.getbasetemp().glob(f"kafka*/broker/data/{topic}-0/*.log"):
        segment.write_bytes(segment.read_bytes().replace(b"to be damaged", b"to bX damaged"))
    broker.start()
    read = reader(kind, topic)
    wait_until(lambda: read.has(1) and read.source.health() is not None, "the damage is noticed")
    for _ in range(20):
        assert read.ails()
    assert read.values == [b"sound"]
    assert not read.source.caught_up()


@each_client
def test_no_broker_at_the_start(kind: Callable[..., Source]) -> None:
    threads = threading.active_count()
    address = f"127.0.0.1:{free_port()}"
    source = kind(Kafka(address, "events"), window_ms=1000, idle_after_s=None, answer_s=0.3)
    with pytest.raises(SourceUnavailable, match=rf"no Kafka broker is of use within 0\.3 s: {address}: "):
        source.start(None, "earliest")
    source.close()
    wait_until(lambda: threading.active_count() <= threads, "the client's threads end")


@each_client
def test_a_server_that_hangs_is_passed_over_at_the_start(
    kind: Callable[..., Source], kafka_bootstrap: str, kafka_topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = SimpleNamespace(choice=itemgetter(0), uniform=random.uniform, shuffle=random.shuffle)
    monkeypatch.setattr("kafka.net.manager.random", first)  # kafka-python tries a server at random
    with socket.create_server(("127.0.0.1", 0)) as hung:  # connections are taken, and nothing is answered
        address = f"127.0.0.1:{hung.getsockname()[1]},{kafka_bootstrap}"
        source = kind(Kafka(address, kafka_topic()), window_ms=1000, idle_after_s=None, answer_s=6.0)
        assert len(source.start(None, "earliest")) == 4
        source.close()


class Fenced(AdminClient):
    """It holds a leader that is none any more, until it is asked for the topic's partitions."""

    fenced = False

    def list_offsets(self, *args: Any, **settings: Any) -> Any:
        if self.fenced:
            raise KafkaException(KafkaError(KafkaError.FENCED_LEADER_EPOCH))
        return super().list_offsets(*args, **settings)

    def list_topics(self, *args: Any, **settings: Any) -> Any:
        type(self).fenced = False
        return super().list_topics(*args, **settings)


def test_a_leader_that_moved_is_asked_for_at_once(
    kafka_bootstrap: str, kafka_topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.shell.sources_confluent.admin", SimpleNamespace(AdminClient=Fenced))
    seconds = map(float, count())  # the end offsets are due at every look
    source = ConfluentSource(
        Kafka(kafka_bootstrap, kafka_topic()),
        window_ms=3_600_000, idle_after_s=None, refresh_s=3600.0, monotonic=lambda: next(seconds),
    )  # fmt: skip
    source.start(None, "latest")
    monkeypatch.setattr(Fenced, "fenced", True)
    source.poll(0.05)
    assert f"Kafka at {kafka_bootstrap} is reached, but tells no offsets" in str(source.health())
    source.poll(0.05)
    assert source.health() is None
    source.close()


def test_confluent_looks_for_leaders_by_itself(
    kafka_bootstrap: str, kafka_topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader that hangs keeps its connection: without this its partition is read on by the next after a minute."""
    given: dict[str, Any] = {}

    def consumer(settings: dict[str, Any]) -> ConfluentConsumer:
        given.update(settings)
        return ConfluentConsumer(settings)

    monkeypatch.setattr("controller.shell.sources_confluent.confluent_kafka.Consumer", consumer)
    source = ConfluentSource(Kafka(kafka_bootstrap, kafka_topic()), window_ms=1000, idle_after_s=None)
    source.start(None, "latest")
    source.close()
    assert given["topic.metadata.refresh.interval.ms"] == 10_000


class Hushed(AdminClient):
    """It answers no question about a topic's partitions while it is told so; about offsets it does, and counts them."""

    hushed = False
    asked = 0

    def list_offsets(self, *args: Any, **settings: Any) -> Any:
        type(self).asked += 1
        return super().list_offsets(*args, **settings)

    def list_topics(self, *args: Any, **settings: Any) -> Any:
        if self.hushed:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return super().list_topics(*args, **settings)


def test_no_answer_about_partitions_is_not_caught_up(
    kafka_bootstrap: str, kafka_topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.shell.sources_confluent.admin", SimpleNamespace(AdminClient=Hushed))
    source = ConfluentSource(Kafka(kafka_bootstrap, kafka_topic()), window_ms=3_600_000, idle_after_s=None)
    source.start(None, "latest")
    assert source.caught_up()
    monkeypatch.setattr(Hushed, "hushed", True)
    assert not source.caught_up()
    assert source.health() is not None
    monkeypatch.setattr(Hushed, "hushed", False)
    assert source.caught_up()
    source.close()


def test_a_poll_waits_for_no_second_answer_where_the_first_did_not_come(
    kafka_bootstrap: str, kafka_topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.shell.sources_confluent.admin", SimpleNamespace(AdminClient=Hushed))
    seconds = map(float, count())  # so slow that all is due again at every look
    source = ConfluentSource(
        Kafka(kafka_bootstrap, kafka_topic()),
        window_ms=3_600_000, idle_after_s=None, refresh_s=0.5, monotonic=lambda: next(seconds),
    )  # fmt: skip
    source.start(None, "latest")
    for hushed, more in ((False, 1), (True, 0), (False, 1)):
        monkeypatch.setattr(Hushed, "hushed", hushed)
        before = Hushed.asked
        source.poll(0.05)
        assert (Hushed.asked - before, source.health() is not None) == (more, hushed)
    source.close()


def test_dead_letters_keep_the_event_and_why_it_was_refused(kafka_bootstrap: str, kafka_topic: MakeTopic) -> None:
    topic = kafka_topic(partitions=1)
    letters = KafkaDeadLetters(Kafka(kafka_bootstrap, "events"), topic)
    letters.send([])
    letters.send([DeadLetter(3, 41, "malformed", b"\xff{"), DeadLetter(0, 7, "negative", b"", 250)])
    letters.close()
    events = {"topic": b"events"}
    assert stored(kafka_bootstrap, topic) == [
        (b"\xff{", events | {"reason": b"malformed", "partition": b"3", "offset": b"41", "rows": b"1"}),
        (b"", events | {"reason": b"negative", "partition": b"0", "offset": b"7", "rows": b"250"}),
    ]


def test_dead_letters_that_cannot_be_stored(kafka_bootstrap: str) -> None:
    threads = threading.active_count()
    letter = DeadLetter(0, 1, "malformed", b"x")
    nowhere = KafkaDeadLetters(Kafka(f"127.0.0.1:{free_port()}", "events"), "letters", answer_s=0.3)
    with pytest.raises(
        DeadLettersUnavailable, match=r"topic 'letters' at 127.*: no connection \(.* refused\)"
    ) as unreached:
        nowhere.send([letter])
    assert re.search(r"(\w+): \1", str(unreached.value)) is None, "an error's name is said once"
    nowhere.close()
    kafka = Kafka(kafka_bootstrap, "events", dead_letter_topic="no-such-topic")
    absent = KafkaDeadLetters(kafka, "no-such-topic", answer_s=1.0)
    wanted = f"Kafka at {kafka_bootstrap} has no topic 'no-such-topic': make it, or mend kafka.dead_letter_topic"

    def named() -> bool:
        with pytest.raises(DeadLettersUnavailable) as found:
            absent.send([letter])
        return str(found.value) == wanted

    wait_until(named, "what is wrong, by a broker that may be too busy to answer in a second")
    absent.close()
    wait_until(lambda: threading.active_count() <= threads, "the client's threads end")


def test_dead_letters_that_came_through_before_one_that_did_not_are_told(
    kafka_bootstrap: str, kafka_topic: MakeTopic
) -> None:
    topic = kafka_topic(partitions=1)
    letters = KafkaDeadLetters(Kafka(kafka_bootstrap, "events"), topic)
    good = DeadLetter(0, 1, "malformed", b"x")
    with pytest.raises(DeadLettersUnavailable, match="MessageSizeTooLarge") as failed:
        letters.send([good, good, good._replace(data=bytes(2 << 20)), good])
    assert failed.value.stored == 2
    letters.close()


def test_dead_letters_come_through_again_after_the_broker_was_away_for_longer_than_they_wait(
    kafka_broker: MakeBroker,
) -> None:
    broker = kafka_broker()
    broker.create_topic("letters", partitions=1)
    letters = KafkaDeadLetters(Kafka(broker.bootstrap, "events"), "letters", answer_s=1.0)

    def stores() -> bool:
        try:
            letters.send([DeadLetter(0, 1, "malformed", b"x")])
        except DeadLettersUnavailable:
            return False
        return True

    assert stores()
    broker.pause()  # it takes a letter and does not answer
    assert not stores()
    broker.kill()
    assert not stores()
    broker.start()
    wait_until(stores, "a letter is stored", 20)
    broker.kill()
    assert not stores()
    letters.close()  # what is left in the client is no error


def stored(bootstrap: str, topic: str) -> list[tuple[bytes, dict[str, bytes]]]:
    consumer: Any = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    consumer.assign([TopicPartition(topic, 0)])
    found: list[Any] = []

    def both() -> bool:
        for records in consumer.poll(100).values():
            found.extend(records)
        return len(found) >= 2

    wait_until(both, "both letters")
    consumer.close()
    return [(record.value, dict(record.headers)) for record in found]
