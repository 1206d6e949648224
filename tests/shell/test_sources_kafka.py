"""What `KafkaSource` makes of errors that a real broker raises too rarely to wait for."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaError, KafkaTimeoutError

from controller.shell.connections import Kafka
from controller.shell.sources import Fetched
from controller.shell.sources_kafka import KafkaSource


class Stored(NamedTuple):
    offset: int
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp: int = 0
    timestamp_type: int = 0


class Client:
    """A consumer of a topic whose partitions hold one record each; `fails` holds what its methods raise, once."""

    def __init__(self) -> None:
        self.partitions = {0, 1}
        self.fails: dict[str, KafkaError] = {}
        self.at: dict[Any, int] = {}
        self.end = 1
        self.timestamp_type = 0
        self._cluster = SimpleNamespace(topic_id=lambda topic: None)  # of a broker that tells none

    def _answer(self, name: str) -> None:
        if name in self.fails:
            raise self.fails.pop(name)

    def partitions_for_topic(self, topic: str) -> set[int]:
        self._answer("partitions_for_topic")
        return set(self.partitions)

    def beginning_offsets(self, topic: list[Any], timeout_ms: int) -> dict[Any, int]:
        return dict.fromkeys(topic, 0)

    def end_offsets(self, topic: list[Any], timeout_ms: int) -> dict[Any, int]:
        self._answer("end_offsets")
        return dict.fromkeys(topic, self.end)

    def assign(self, topic: list[Any]) -> None:
        self.at = {at: self.at.get(at, 0) for at in topic}

    def seek(self, at: Any, offset: int) -> None:
        self.at[at] = offset

    def poll(self, timeout_ms: int) -> dict[Any, list[Stored]]:
        records = {
            at: [Stored(0, b"%d" % at.partition, timestamp_type=self.timestamp_type)]
            for at, offset in self.at.items()
            if offset == 0
        }
        self.at = dict.fromkeys(self.at, 1)
        return records

    def position(self, at: Any, timeout_ms: int) -> int:
        self._answer(f"position {at.partition}")
        return self.at[at]

    def close(self, autocommit: bool, timeout_ms: int) -> None:
        self.at = {}


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()
    monkeypatch.setattr("controller.shell.sources_kafka.connect", lambda *_: made)
    return made


@pytest.fixture
def source(client: Client) -> KafkaSource:
    made = KafkaSource(Kafka("nowhere:1", "events"), window_ms=3_600_000, idle_after_s=None)
    made.start(None, "earliest")
    return made


def values(parts: tuple[Fetched, ...]) -> list[bytes]:
    return [record.value for part in parts for record in part.records]


def test_a_position_that_is_not_told_loses_no_other_partition_s_records(source: KafkaSource, client: Client) -> None:
    client.fails["position 1"] = KafkaTimeoutError("no answer")
    assert source.poll(0.0).parts == ()
    assert source.health() is not None
    assert values(source.poll(0.0).parts) == [b"0", b"1"]


def test_no_answer_about_partitions_is_not_caught_up(source: KafkaSource, client: Client) -> None:
    source.poll(0.0)
    assert source.caught_up()
    client.fails["partitions_for_topic"] = KafkaTimeoutError("no answer")
    assert not source.caught_up()
    assert "no answer" in str(source.health())
    assert source.caught_up()


def test_a_new_partition_is_not_caught_up(source: KafkaSource, client: Client) -> None:
    source.poll(0.0)
    client.partitions.add(2)
    assert not source.caught_up()
    assert client.at[TopicPartition("events", 2)] == 0
    assert values(source.poll(0.0).parts) == [b"2"]


@pytest.mark.parametrize(
    ("connection", "told"),
    [(None, "Kafka at nowhere:1 is reached, but tells no offsets: "), ("refused", "no broker answers at nowhere:1: ")],
)
def test_a_partition_without_a_leader_is_told_apart_from_brokers_that_are_away(
    source: KafkaSource, client: Client, monkeypatch: pytest.MonkeyPatch, connection: str | None, told: str
) -> None:
    monkeypatch.setattr("controller.shell.sources_kafka.unreached", lambda _: connection)
    client.fails["end_offsets"] = KafkaTimeoutError("Failed to get offsets")
    source.poll(0.0)
    assert source.health() == f"{told}KafkaTimeoutError: Failed to get offsets (for 0 s)"


def test_the_lag_is_told_while_no_fetch_succeeds(source: KafkaSource, client: Client) -> None:
    client.fails["position 0"] = KafkaTimeoutError("no answer")
    assert source.poll(0.0).behind == {0: 1, 1: 1}


@pytest.mark.parametrize(("timestamp_type", "backlog"), [(0, False), (1, True)])
def test_only_the_broker_s_timestamps_tell_a_backlog(client: Client, timestamp_type: int, backlog: bool) -> None:
    now_s = 0.0
    kafka = Kafka("nowhere:1", "events")
    source = KafkaSource(kafka, window_ms=1000, idle_after_s=None, monotonic=lambda: now_s, now_ms=lambda: 10_000)
    source.start(None, "earliest")
    assert not source.poll(0.0).backlog  # to the end
    now_s, client.end, client.timestamp_type = 5.0, 50, timestamp_type
    client.partitions.add(2)
    assert source.poll(0.0).backlog == backlog
