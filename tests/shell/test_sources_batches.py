"""What producers may do with batches, compress or abort them, and what both clients of a real broker make of it."""

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer
from kafka import KafkaProducer

from controller.shell.connections import Kafka
from controller.shell.sources import ARROW, Record, Source
from controller.shell.sources_confluent import ConfluentSource
from controller.shell.sources_kafka import KafkaSource
from tests.services.kafka_broker import MakeTopic, wait_for_transactions
from tests.waiting import wait_until

CLIENTS: dict[str, Callable[..., Source]] = {"kafka-python": KafkaSource, "confluent": ConfluentSource}
each_client = pytest.mark.parametrize("kind", CLIENTS.values(), ids=CLIENTS)


def producer(bootstrap: str, **settings: Any) -> Producer:
    names = {name.replace("_", "."): value for name, value in settings.items()}
    return Producer({"bootstrap.servers": bootstrap, "linger.ms": 50, **names})


@each_client
@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_every_codec_is_read(
    kind: Callable[..., Source], codec: str, kafka_bootstrap: str, kafka_topic: MakeTopic
) -> None:
    topic = kafka_topic(partitions=1)
    sent = [b'{"id": "%d"}' % n * 20 for n in range(50)]
    writer = producer(kafka_bootstrap, compression_type=codec)
    for value in sent:
        writer.produce(topic, value)
    writer.flush()
    source = kind(Kafka(kafka_bootstrap, topic), window_ms=3_600_000, idle_after_s=None)
    source.start(None, "earliest")
    came: list[bytes] = []

    def all_came() -> bool:
        came.extend(record.value for part in source.poll(0.1).parts for record in part.records)
        return len(came) >= len(sent)

    wait_until(all_came, f"records in {codec}")
    source.close()
    assert came == sent


class NotUtf8(str):
    """A header's name that a client in another language may send."""

    def encode(self, *_: object) -> bytes:
        return b"\xff\xfe"


def test_a_header_whose_name_is_not_utf8_ends_no_reader(kafka_bootstrap: str, kafka_topic: MakeTopic) -> None:
    topic = kafka_topic(partitions=1)
    writer = KafkaProducer(bootstrap_servers=kafka_bootstrap)
    for _ in range(100):  # so that the interpreter has warmed up in between
        writer.send(topic, b"sound", headers=[("content-type", ARROW)])
        writer.send(topic, b"odd", headers=[("content-type", ARROW), (NotUtf8("name"), b"")])
    writer.close()
    source = ConfluentSource(Kafka(kafka_bootstrap, topic), window_ms=3_600_000, idle_after_s=None)
    source.start(None, "earliest")
    came: list[Record] = []

    def all_came() -> bool:
        came.extend(record for part in source.poll(0.1).parts for record in part.records)
        return len(came) >= 200

    wait_until(all_came, "records")
    source.close()
    assert [record[1:] for record in came] == [(b"sound", True), (b"odd", False)] * 100


def test_the_record_that_kafka_python_cannot_read_is_named(kafka_bootstrap: str, kafka_topic: MakeTopic) -> None:
    topic = kafka_topic(partitions=2)
    writer = KafkaProducer(bootstrap_servers=kafka_bootstrap)
    for headers in ([], [], [(NotUtf8("name"), b"")], []):
        writer.send(topic, b"value", headers=headers, partition=1)
    writer.close()
    source = KafkaSource(Kafka(kafka_bootstrap, topic), window_ms=3_600_000, idle_after_s=None)
    source.start(None, "earliest")

    def ails() -> bool:
        source.poll(0.1)
        return source.health() is not None

    wait_until(ails, "the record is found")
    told = (
        f"Kafka at {kafka_bootstrap}, partition 1, offset 2: found a record with a header whose name is not UTF-8, "
        'which kafka-python cannot read; set kafka.client = "confluent", which can, and mend the producer'
    )
    assert source.health() == told
    for _ in range(3):  # a new client comes to the same
        assert ails()
    assert source.health() == told
    source.close()


def transactional(bootstrap: str, topic: str) -> Producer:
    made = producer(bootstrap, transactional_id=topic)
    made.init_transactions()
    return made


@each_client
def test_what_a_transaction_aborts_never_comes(
    kind: Callable[..., Source], kafka_bootstrap: str, kafka_topic: MakeTopic
) -> None:
    topic = kafka_topic(partitions=1)
    writer = transactional(kafka_bootstrap, topic)
    for value, end in (
        (b"aborted", writer.abort_transaction),
        (b"committed", writer.commit_transaction),
        (b"aborted too", writer.abort_transaction),
    ):
        writer.begin_transaction()
        writer.produce(topic, value)
        writer.flush()
        end()
    wait_for_transactions(kafka_bootstrap, topic)
    source = kind(Kafka(kafka_bootstrap, topic), window_ms=3_600_000, idle_after_s=None)
    source.start(None, "earliest")
    assert read(source) == [b"committed"]
    source.close()


@each_client
def test_an_open_transaction_is_beyond_the_end(
    kind: Callable[..., Source], kafka_bootstrap: str, kafka_topic: MakeTopic
) -> None:
    topic = kafka_topic(partitions=1)
    plain, writer = producer(kafka_bootstrap), transactional(kafka_bootstrap, topic)
    plain.produce(topic, b"before")
    plain.flush()
    writer.begin_transaction()
    writer.produce(topic, b"in it")
    writer.flush()
    plain.produce(topic, b"behind it")
    plain.flush()
    source = kind(Kafka(kafka_bootstrap, topic), window_ms=3_600_000, idle_after_s=None)
    assert source.start(None, "latest") == {0: 1}
    source.start(None, "earliest")
    assert read(source) == [b"before"]
    assert source.poll(0.1).behind == {0: 0}
    writer.commit_transaction()
    wait_for_transactions(kafka_bootstrap, topic)
    assert read(source) == [b"in it", b"behind it"]
    source.close()


def read(source: Source) -> list[bytes]:
    """Everything up to the end."""
    came: list[bytes] = []

    def ended() -> bool:
        came.extend(record.value for part in source.poll(0.1).parts for record in part.records)
        return source.caught_up()

    wait_until(ended, "the end")
    return came
