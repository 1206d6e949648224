import time

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tests.services.__main__ import main
from tests.services.kafka_broker import MakeBroker, MakeTopic
from tests.services.process import ServiceFailed, listens
from tests.services.redis_server import MakeRedis, RedisServer

RECORDS = [b"one", b"two", b"three"]


def produce(bootstrap: str, topic: str, values: list[bytes]) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    try:
        for future in [producer.send(topic, value, partition=0) for value in values]:
            future.get(timeout=30)
    finally:
        producer.close()


def consume(bootstrap: str, topic: str, count: int) -> list[bytes]:
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    try:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        consumer.seek_to_beginning(partition)
        values: list[bytes] = []
        deadline = time.monotonic() + 30
        while len(values) < count and time.monotonic() < deadline:
            values += [record.value for batch in consumer.poll(500).values() for record in batch]
        return values
    finally:
        consumer.close()


def test_the_shared_broker_gives_back_what_it_took(kafka_bootstrap: str, kafka_topic: MakeTopic) -> None:
    topic = kafka_topic(partitions=1)
    produce(kafka_bootstrap, topic, RECORDS)
    assert consume(kafka_bootstrap, topic, 3) == RECORDS


def test_each_topic_is_new_and_has_its_partitions(kafka_bootstrap: str, kafka_topic: MakeTopic) -> None:
    first, second = kafka_topic(partitions=3), kafka_topic(partitions=1)
    consumer = KafkaConsumer(bootstrap_servers=kafka_bootstrap)
    try:
        assert first != second
        assert consumer.partitions_for_topic(first) == {0, 1, 2}
    finally:
        consumer.close()


def test_a_private_broker_keeps_address_and_records_over_restart_and_kill(kafka_broker: MakeBroker) -> None:
    broker = kafka_broker()
    topic, address = broker.create_topic("events", partitions=1), broker.bootstrap
    produce(address, topic, RECORDS)
    broker.restart()
    assert consume(address, topic, 3) == RECORDS
    broker.kill()
    assert not listens(broker.port)
    broker.start()
    assert consume(broker.bootstrap, topic, 3) == RECORDS
    assert broker.bootstrap == address


@pytest.mark.parametrize("turn", ["first", "second"])
def test_each_test_finds_redis_empty(redis_url: str, turn: str) -> None:
    with Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set(f"left behind by the {turn}", "value")


def test_redis_keeps_what_it_took_when_asked_to(redis_server: MakeRedis) -> None:
    server = redis_server(keep_data=True)
    put(server, b"kept")
    server.kill()
    server.start()
    assert get(server) == b"kept"


def test_redis_forgets_at_a_restart_by_default(redis_server: MakeRedis) -> None:
    server = redis_server()
    put(server, b"lost")
    server.restart()
    assert get(server) is None


def test_a_stopped_redis_refuses_and_a_paused_one_hangs(redis_server: MakeRedis) -> None:
    server = redis_server()
    server.pause()
    with Redis.from_url(server.url, socket_timeout=0.2, retry=None) as client:
        with pytest.raises(RedisTimeoutError):
            client.ping()
        server.unpause()
    server.stop()
    with Redis.from_url(server.url, retry=None) as client, pytest.raises(RedisConnectionError):
        client.ping()


def test_a_server_that_cannot_start_says_why(redis_server: MakeRedis) -> None:
    with pytest.raises(ServiceFailed, match="Bad directive"):
        redis_server(arguments=("--no-such-option", "1"))


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "")
    assert main() == 1
    assert "no redis-server on the PATH; `make services` installs" in capsys.readouterr().err


def put(server: RedisServer, value: bytes) -> None:
    with Redis.from_url(server.url) as client:
        client.set("key", value)


def get(server: RedisServer) -> object:
    with Redis.from_url(server.url) as client:
        return client.get("key")
