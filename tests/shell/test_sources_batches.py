"""What producers may do to a batch, compress it, is undone by both clients of a real broker."""

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer

from controller.shell.connections import Kafka
from controller.shell.sources import Source
from controller.shell.sources_confluent import ConfluentSource
from controller.shell.sources_kafka import KafkaSource
from tests.services.kafka_broker import MakeTopic
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
