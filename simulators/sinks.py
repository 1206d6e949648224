"""Where a simulation's events go: a Kafka topic, or a file."""

import sys
from collections.abc import Sequence
from typing import IO, Any, Protocol

from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from controller.shell.connections import Kafka
from controller.shell.kafka_diagnosis import diagnosed
from controller.shell.kafka_python import client_options, connect

ANSWER_S = 10.0
_NEW_TOPIC_S = 30


class SinkFailed(Exception):
    """Events were not stored; which of the last ones were is not known."""


class Sink(Protocol):
    """Takes events in the order of each partition."""

    @property
    def partitions(self) -> int:
        """Number of partitions, 0..n-1."""
        ...

    def send(self, partition: int, records: Sequence[bytes]) -> None:
        """Hand records over; raises `SinkFailed`."""
        ...

    def flush(self) -> None:
        """Return when all that was sent is stored; raises `SinkFailed`."""
        ...

    def close(self) -> None:
        """Let go of connections and files."""
        ...


class KafkaSink:
    """A topic, made with `partitions` partitions when it does not exist. Raises `SinkFailed`."""

    def __init__(self, kafka: Kafka, partitions: int, password: str | None = None, answer_s: float = ANSWER_S) -> None:
        self._topic, self._bootstrap = kafka.topic, kafka.bootstrap
        options = client_options(kafka, password)
        # Idempotent by default: a retry after a broker's restart neither repeats nor reorders.
        batching = {"acks": "all", "linger_ms": 20, "batch_size": 256 * 1024, "allow_auto_create_topics": False}
        try:
            self._producer = connect(KafkaProducer, options | batching, answer_s)
        except KafkaError as error:
            raise SinkFailed(f"topic {self._topic!r}: no broker is of use: {diagnosed(kafka)}") from error
        try:
            _make_topic(options, kafka.topic, partitions)
            self._partitions = len(self._producer.partitions_for(kafka.topic))
        except KafkaError as error:
            self.close()
            raise self._failed(error) from error
        self._sent: list[Any] = []

    @property
    def partitions(self) -> int:
        """Of the topic as it is."""
        return self._partitions

    def send(self, partition: int, records: Sequence[bytes]) -> None:
        """See `Sink.send`."""
        send, topic = self._producer.send, self._topic
        try:
            self._sent.extend([send(topic, record, partition=partition) for record in records])
        except KafkaError as error:
            raise self._failed(error) from error

    def flush(self) -> None:
        """See `Sink.flush`."""
        try:
            self._producer.flush()
            for future in self._sent:
                if future.failed():
                    future.get(timeout=0)
        except KafkaError as error:
            raise self._failed(error) from error
        self._sent.clear()

    def close(self) -> None:
        """See `Sink.close`."""
        self._producer.close(timeout=ANSWER_S)

    def _failed(self, error: Exception) -> SinkFailed:
        return SinkFailed(f"topic {self._topic!r} at {self._bootstrap}: {type(error).__name__}: {error}")


class NdjsonSink:
    """Lines of a file, or of standard output ("-"): one partition, in the order sent."""

    partitions = 1

    def __init__(self, path: str) -> None:
        try:
            self._file: IO[bytes] = sys.stdout.buffer if path == "-" else open(path, "wb")  # noqa: SIM115  # closed below
        except OSError as error:
            raise SinkFailed(f"{path}: {error.strerror}") from error

    def send(self, partition: int, records: Sequence[bytes]) -> None:
        """See `Sink.send`."""
        self._file.writelines(record + b"\n" for record in records)

    def flush(self) -> None:
        """See `Sink.flush`."""
        self._file.flush()

    def close(self) -> None:
        """See `Sink.close`."""
        if self._file is not sys.stdout.buffer:
            self._file.close()


def _make_topic(options: dict[str, Any], topic: str, partitions: int) -> None:
    admin = connect(KafkaAdminClient, options, ANSWER_S)
    try:
        if topic not in admin.list_topics():
            admin.create_topics([NewTopic(topic, partitions, 1)], timeout_ms=_NEW_TOPIC_S * 1000)
    except TopicAlreadyExistsError:
        pass  # made by another process in this moment
    finally:
        admin.close()
