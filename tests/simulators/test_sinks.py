"""One suite for both sinks: a file, and a topic of a real broker."""

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

from controller.shell.connections import Kafka
from simulators.sinks import KafkaSink, NdjsonSink, Sink, SinkFailed
from tests.services.kafka_broker import MakeBroker, MakeTopic
from tests.services.process import free_port
from tests.waiting import wait_until

RECORDS = [b'{"n":%d}' % n for n in range(2_000)]
Read = Callable[[int], list[bytes]]

# kafka-python leaves the socket of a refused connection to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(autouse=True)
def _collect_sockets(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """While their warning is ignored, not in some later test; a kept log record would keep one alive."""
    caplog.set_level(logging.CRITICAL, "kafka")
    yield
    gc.collect()


def read_topic(bootstrap: str, topic: str, partition: int) -> list[bytes]:
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    place = TopicPartition(topic, partition)
    consumer.assign([place])
    consumer.seek_to_beginning(place)
    found: list[bytes] = []
    end = consumer.end_offsets([place])[place]
    while consumer.position(place) < end:
        found += [record.value for records in consumer.poll(500).values() for record in records]
    consumer.close()
    return found


@pytest.fixture(params=["ndjson", "kafka"])
def sink_and_reader(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Sink, Read]:
    if request.param == "ndjson":
        path = tmp_path / "events.ndjson"
        return NdjsonSink(str(path)), lambda partition: path.read_bytes().splitlines()
    bootstrap: str = request.getfixturevalue("kafka_bootstrap")
    make: MakeTopic = request.getfixturevalue("kafka_topic")
    topic = make(2)
    return KafkaSink(Kafka(bootstrap, topic), 7), lambda partition: read_topic(bootstrap, topic, partition)


def test_what_was_flushed_is_stored_in_order(sink_and_reader: tuple[Sink, Read]) -> None:
    sink, read = sink_and_reader
    last = sink.partitions - 1
    sink.send(last, RECORDS[:1_500])
    sink.send(last, RECORDS[1_500:])
    sink.flush()
    try:
        assert read(last) == RECORDS
    finally:
        sink.close()


def test_a_topic_that_is_not_there_is_made(kafka_bootstrap: str, kafka_topic: MakeTopic) -> None:
    topic = f"{kafka_topic(1)}-new"
    for asked in (3, 5):
        sink = KafkaSink(Kafka(kafka_bootstrap, topic), asked)
        assert sink.partitions == 3
        sink.close()


def test_a_new_topic_has_as_many_replicas_as_its_cluster_gives(
    kafka_bootstrap: str, kafka_topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = f"{kafka_topic(1)}-new"
    asked: list[NewTopic] = []

    create = KafkaAdminClient.create_topics

    def kept(admin: Any, topics: list[NewTopic], **settings: Any) -> Any:
        asked.extend(topics)
        return create(admin, topics, **settings)

    monkeypatch.setattr(KafkaAdminClient, "create_topics", kept)
    KafkaSink(Kafka(kafka_bootstrap, topic), 1).close()
    assert [new.replication_factor for new in asked] == [-1]  # the broker's default.replication.factor


def test_no_broker_is_an_error_that_names_the_address() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(SinkFailed, match=f"topic 'events': no broker is of use: {address}: no connection"):
        KafkaSink(Kafka(address, "events"), 1, answer_s=0.3)


def test_a_broker_that_is_away_for_too_long_is_an_error(kafka_broker: MakeBroker) -> None:
    threads = threading.active_count()
    broker = kafka_broker()
    broker.create_topic("events", partitions=2)
    sink = KafkaSink(Kafka(broker.bootstrap, "events"), 2, answer_s=1.0, stored_s=4.0)
    sink.send(0, RECORDS[:10])
    sink.flush()
    broker.pause()  # it takes what comes and does not answer
    sink.send(0, RECORDS[:10])
    sink.send(1, [bytes(100_000)] * 12)
    hang_up = threading.Timer(3.0, broker.kill)
    hang_up.start()
    with pytest.raises(SinkFailed, match="topic 'events' at 127"):
        sink.flush()
    hang_up.join()
    sink.close()
    wait_until(lambda: threading.active_count() <= threads, "the client's threads end")


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SinkFailed, match="absent/x: No such file or directory"):
        NdjsonSink(str(tmp_path / "absent/x"))
